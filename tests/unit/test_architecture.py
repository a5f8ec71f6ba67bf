"""The floors: what may import what, who may print, and who may name a database.

    cli
    pipeline  replay  testing  log
    fetch   staging   load   reconcile       never each other; fetch uses staging's protocol
    engines  ledger  keys  withheld  leaving  lock  database  digest  heal  migrate
    catalog  config  source  form
    errors  types  report  paths  clock  credential
    mirror                                   all that `schema` may import

Every rule reads one file's syntax tree and says what breaks it; each is also shown a planted fault.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent

FLOORS = (
    {"mirror"},
    {"errors", "types", "report", "paths", "clock", "credential"},
    {"source", "config", "catalog", "form"},
    {
        "engines",
        "ledger",
        "keys",
        "withheld",
        "leaving",
        "lock",
        "window",
        "database",
        "digest",
        "heal",
        "migrate",
        "migrations",
    },
    {"fetch", "staging", "load", "reconcile"},
    {"pipeline", "replay", "testing", "log"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
#: rooms that meet in the page log and the tables, and nowhere else
SIBLINGS = FLOORS[4]
DRIVERS = {"aiomysql", "aiosqlite", "asyncmy", "asyncpg", "psycopg", "sqlite3", "sqlalchemy.dialects"}
DATABASES = re.compile(
    r"\b(aiosqlite|asyncmy|asyncpg|mariadb|mysql|postgres|postgresql|sqlite)\b", re.IGNORECASE
)
#: what makes `ingest --help` slow
HEAVY = {"aiosqlite", "alembic", "httpx", "sqlalchemy", "structlog"}
#: what the import name of a distribution is, where it is another
IMPORTED_AS = {"sqlalchemy[asyncio]": "sqlalchemy"}


class Import(NamedTuple):
    """One imported name, `ingest.types.Rank`, and how it is reached."""

    name: str
    #: inside a function
    lazy: bool
    #: under `if TYPE_CHECKING`
    typing: bool

    @property
    def room(self) -> str:
        parts = self.name.split(".")
        return parts[1] if parts[0] == "ingest" and len(parts) > 1 else ""

    def is_of(self, package: str) -> bool:
        return self.name == package or self.name.startswith(package + ".")


class Module(NamedTuple):
    """One file: its path from the root, and its syntax tree."""

    path: str
    tree: ast.Module

    @property
    def room(self) -> str:
        parts = Path(self.path).with_suffix("").parts
        return parts[1] if parts[0] == "ingest" and parts[1] != "__init__" else ""

    def lies_in(self, *folders: str) -> bool:
        return self.path.startswith(tuple(f"{folder}/" for folder in folders))


Rule = Callable[[Module], Iterator[str]]


@cache
def modules() -> list[Module]:
    """Every file of the project."""
    files = sorted(file for top in ("ingest", "schema", "tests") for file in (ROOT / top).rglob("*.py"))
    return [
        Module(file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8")))
        for file in files
    ]


def imports(module: Module) -> list[Import]:
    """Everything a file imports, by its full name."""
    return list(_imports(module.tree, module.path, lazy=False, typing=False))


def _imports(node: ast.AST, path: str, *, lazy: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, lazy, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            origin = _origin(child, path)
            yield from (Import(f"{origin}.{alias.name}", lazy, typing) for alias in child.names)
        elif isinstance(child, ast.Call) and _called(child) in (
            "importlib.import_module",
            "import_module",
            "__import__",
        ):
            named = child.args[0] if child.args else None
            if isinstance(named, ast.Constant) and isinstance(named.value, str):
                yield Import(named.value, lazy, typing)
        inner = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checking = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        yield from _imports(child, path, lazy=inner, typing=typing or checking)


def _origin(node: ast.ImportFrom, path: str) -> str:
    if not node.level:
        return node.module or ""
    folder = Path(path).parts[: -node.level]
    return ".".join([*folder, *filter(None, [node.module])])


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def _texts(module: Module) -> Iterator[str]:
    """Every text in a file that is not a docstring."""
    bare = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


# -- the rules -----------------------------------------------------------------------------------------


def imports_go_down(module: Module) -> Iterator[str]:
    """A room imports what lies below it, or beside it where that is no sibling."""
    if not module.lies_in("ingest") or module.path == "ingest/__init__.py":
        return
    if module.room not in FLOOR:
        yield f"{module.room} has no floor"
        return
    for used in imports(module):
        if used.room in FLOOR and FLOOR[used.room] > FLOOR[module.room]:
            yield f"imports {used.name}, which lies above it"


def siblings_do_not_meet(module: Module) -> Iterator[str]:
    """fetch, staging, load and reconcile never import each other, but for the page log's protocol."""
    for used in imports(module):
        if module.room in SIBLINGS and used.room in SIBLINGS - {module.room}:
            if module.room == "fetch" and used.is_of("ingest.staging.protocol"):
                continue
            yield f"imports {used.name}, a sibling"


def schema_knows_only_the_mirror(module: Module) -> Iterator[str]:
    """Models import of `ingest` only `ingest.mirror`, so that users' models can live anywhere."""
    if module.lies_in("schema"):
        yield from (
            f"imports {used.name}"
            for used in imports(module)
            if used.is_of("tests") or (used.is_of("ingest") and not used.is_of("ingest.mirror"))
        )


def the_machine_knows_no_system(module: Module) -> Iterator[str]:
    """`ingest` imports neither `schema` nor `tests`, and names no bundled system."""
    if not module.lies_in("ingest"):
        return
    yield from (
        f"imports {used.name}" for used in imports(module) if used.is_of("schema") or used.is_of("tests")
    )
    systems = {folder.name for folder in (ROOT / "schema").iterdir() if (folder / "source.toml").exists()}
    for text in _texts(module):
        yield from (f"names {system}" for system in systems if re.search(rf"\b{system}\b", text))


def the_simulated_api_shares_no_code_with_its_client(module: Module) -> Iterator[str]:
    """tests/upstream imports nothing of fetch or load: the same mistake on both sides would hide itself."""
    if module.lies_in("tests/upstream"):
        yield from (f"imports {used.name}" for used in imports(module) if used.room in ("fetch", "load"))


def only_engines_know_databases(module: Module) -> Iterator[str]:
    """Drivers and the names of databases stay in engines; the page log is a SQLite file by design."""
    if not module.lies_in("ingest", "schema") or module.lies_in("ingest/engines", "ingest/staging"):
        return
    for used in imports(module):
        yield from (f"imports {used.name}" for driver in DRIVERS if used.is_of(driver))
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and re.search(r"\bdialect\.name$", ast.unparse(node)):
            yield "asks a dialect for its name"
    # a file in a URL is relative to config.toml, and the default is a file
    if module.path != "ingest/config.py":
        yield from (f"names {found[0]}" for text in _texts(module) if (found := DATABASES.search(text)))


def only_the_command_line_prints_or_exits(module: Module) -> Iterator[str]:
    """A library that prints or exits cannot be used by another."""
    if not module.lies_in("ingest", "schema") or module.lies_in("ingest/cli"):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and _called(node) in (
            "print",
            "input",
            "exit",
            "quit",
            "sys.exit",
            "os._exit",
        ):
            yield f"calls {_called(node)}"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr", "sys.stdin"):
            yield f"uses {ast.unparse(node)}"
        if isinstance(node, ast.Name) and node.id == "SystemExit":
            yield "raises SystemExit"


def only_the_clock_tells_time(module: Module) -> Iterator[str]:
    """Order never comes from the wall clock, and tests do not wait: time and sleep are injected."""
    if not module.lies_in("ingest") or module.path == "ingest/clock.py":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and re.fullmatch(
            r"(datetime\.)?datetime\.(now|utcnow|today)|time\.(time|monotonic|perf_counter|sleep)|asyncio\.sleep",
            _called(node),
        ):
            yield f"calls {_called(node)}"


def the_command_line_imports_heavy_things_late(module: Module) -> Iterator[str]:
    """Help and mistakes are answered at once."""
    if module.lies_in("ingest/cli"):
        for used in imports(module):
            if not (used.lazy or used.typing) and (
                used.room == "pipeline" or used.name.split(".")[0] in HEAVY
            ):
                yield f"imports {used.name} at its top"


def what_is_imported_is_declared(module: Module) -> Iterator[str]:
    """Every distribution that `ingest` and `schema` import is among the dependencies in pyproject.toml."""
    if not module.lies_in("ingest", "schema"):
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    drivers = [one for name, extra in extras.items() if name != "test" for one in extra]
    listed = [*project["dependencies"], *drivers]
    if module.room == "testing":  # a plugin of pytest, which only pytest imports
        listed += extras["test"]
    names = (re.split(r"[<>=~! ]", requirement)[0] for requirement in listed)
    known = {*(IMPORTED_AS.get(name, name) for name in names), *sys.stdlib_module_names, "ingest", "schema"}
    yield from (f"imports {used.name}" for used in imports(module) if used.name.split(".")[0] not in known)


RULES: list[Rule] = [
    imports_go_down,
    siblings_do_not_meet,
    schema_knows_only_the_mirror,
    the_machine_knows_no_system,
    the_simulated_api_shares_no_code_with_its_client,
    only_engines_know_databases,
    only_the_command_line_prints_or_exits,
    only_the_clock_tells_time,
    the_command_line_imports_heavy_things_late,
    what_is_imported_is_declared,
]

FAULTS: list[tuple[Rule, str, str]] = [
    (imports_go_down, "ingest/types.py", "from ingest.ledger import RUNS"),
    (imports_go_down, "ingest/mirror.py", "from ingest import errors"),
    (imports_go_down, "ingest/catalog.py", "def f():\n    import ingest.load.loader"),
    (imports_go_down, "ingest/load/loader.py", "from ..pipeline import open_job"),
    (imports_go_down, "ingest/pipeline.py", "import_module('ingest.cli.render')"),
    (imports_go_down, "ingest/unheard_of.py", ""),
    (siblings_do_not_meet, "ingest/load/loader.py", "from ingest.staging import open_log"),
    (siblings_do_not_meet, "ingest/load/loader.py", "from ingest.staging.protocol import PageLog"),
    (siblings_do_not_meet, "ingest/fetch/walk.py", "from ingest.staging.sqlite import SqliteLog"),
    (siblings_do_not_meet, "ingest/reconcile/references.py", "import ingest.load.merge as merge"),
    (siblings_do_not_meet, "ingest/staging/queue.py", "from ingest import fetch"),
    (schema_knows_only_the_mirror, "schema/chat/models.py", "from ingest.types import Rank"),
    (schema_knows_only_the_mirror, "schema/chat/queries.py", "import ingest"),
    (the_machine_knows_no_system, "ingest/pipeline.py", "from schema.chat import models"),
    (the_machine_knows_no_system, "ingest/pipeline.py", "import tests.upstream"),
    (
        the_simulated_api_shares_no_code_with_its_client,
        "tests/upstream/api.py",
        "from ingest.load import decode",
    ),
    (
        the_simulated_api_shares_no_code_with_its_client,
        "tests/upstream/api.py",
        "import ingest.fetch.paginate",
    ),
    (only_engines_know_databases, "ingest/load/store.py", "import sqlite3"),
    (
        only_engines_know_databases,
        "ingest/load/store.py",
        "from sqlalchemy.dialects.postgresql import insert",
    ),
    (only_engines_know_databases, "ingest/ledger.py", "if engine.dialect.name == kind: pass"),
    (only_engines_know_databases, "ingest/ledger.py", "quick = {'postgresql': 1}"),
    (only_engines_know_databases, "ingest/pipeline.py", "url = f'sqlite+aiosqlite:///{path}'"),
    (only_the_command_line_prints_or_exits, "ingest/fetch/walk.py", "print('page')"),
    (only_the_command_line_prints_or_exits, "ingest/pipeline.py", "import sys\nsys.exit(1)"),
    (only_the_command_line_prints_or_exits, "ingest/pipeline.py", "raise SystemExit(1)"),
    (only_the_command_line_prints_or_exits, "ingest/log.py", "import sys\nstream = sys.stderr"),
    (only_the_clock_tells_time, "ingest/fetch/rate.py", "import time\ntime.monotonic()"),
    (
        only_the_clock_tells_time,
        "ingest/fetch/rate.py",
        "import asyncio\nasync def f(): await asyncio.sleep(1)",
    ),
    (
        only_the_clock_tells_time,
        "ingest/load/store.py",
        "from datetime import datetime, UTC\ndatetime.now(UTC)",
    ),
    (the_command_line_imports_heavy_things_late, "ingest/cli/main.py", "import sqlalchemy as sa"),
    (
        the_command_line_imports_heavy_things_late,
        "ingest/cli/main.py",
        "from ingest.pipeline import open_job",
    ),
    (
        the_command_line_imports_heavy_things_late,
        "ingest/cli/main.py",
        "try:\n    import httpx\nfinally:\n    pass",
    ),
    (what_is_imported_is_declared, "ingest/fetch/rate.py", "import aiolimiter"),
    (what_is_imported_is_declared, "schema/chat/models.py", "from pydantic import BaseModel"),
    (what_is_imported_is_declared, "ingest/replay.py", "import respx"),
]

ALLOWED: list[tuple[Rule, str, str]] = [
    (siblings_do_not_meet, "ingest/fetch/walk.py", "from ingest.staging.protocol import PageLog"),
    (imports_go_down, "ingest/config.py", "from ingest import __version__"),
    (only_engines_know_databases, "ingest/engines/postgresql.py", "import asyncpg\nname = 'postgresql'"),
    (only_engines_know_databases, "ingest/load/store.py", "def f():\n    '''On SQLite this is fast.'''"),
    (only_the_command_line_prints_or_exits, "ingest/cli/job.py", "print('done')"),
    (the_command_line_imports_heavy_things_late, "ingest/cli/job.py", "def f():\n    import sqlalchemy"),
    (
        the_command_line_imports_heavy_things_late,
        "ingest/cli/job.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ingest.pipeline import Job",
    ),
]


# -- the tests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_holds_everywhere(rule: Rule) -> None:
    assert [f"{module.path}: {fault}" for module in modules() for fault in rule(module)] == []


@pytest.mark.parametrize(("rule", "path", "code"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_the_rule_finds_a_planted_fault(rule: Rule, path: str, code: str) -> None:
    assert list(rule(Module(path, ast.parse(code))))


@pytest.mark.parametrize(
    ("rule", "path", "code"), ALLOWED, ids=lambda value: getattr(value, "__name__", None)
)
def test_the_rule_lets_through_what_is_meant_to_be(rule: Rule, path: str, code: str) -> None:
    assert list(rule(Module(path, ast.parse(code)))) == []


def test_every_rule_is_shown_a_fault() -> None:
    assert {rule for rule, _, _ in FAULTS} == set(RULES)


def test_the_machine_names_a_system_only_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "schema" / "chat").mkdir(parents=True)
    (tmp_path / "schema" / "chat" / "source.toml").touch()
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    planted = Module("ingest/pipeline.py", ast.parse("if source == 'chat': pass"))
    assert list(the_machine_knows_no_system(planted)) == ["names chat"]


def test_no_modules_import_each_other_in_a_ring() -> None:
    assert _ring({module.path: module for module in modules() if module.lies_in("ingest")}) == []


def test_a_planted_ring_is_found() -> None:
    planted = {
        path: Module(path, ast.parse(code))
        for path, code in {
            "ingest/source.py": "from ingest.config import Secret",
            "ingest/config.py": "def late():\n    from ingest import source",
        }.items()
    }
    assert set(_ring(planted)) == set(planted)


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, ingest.cli.main; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(loaded.stdout.split()) & (HEAVY | {"ingest.pipeline", "ingest.config"}) == set()


def _ring(files: dict[str, Module]) -> list[str]:
    """The files of a ring of imports, if there is one; what only types need is no import."""
    known = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in files}
    needs = {
        path: {known[name] for used in imports(module) if not used.typing and (name := _file_of(used, known))}
        for path, module in files.items()
    }
    try:
        TopologicalSorter({path: others - {path} for path, others in needs.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _file_of(used: Import, known: dict[str, str]) -> str:
    name = used.name
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name
