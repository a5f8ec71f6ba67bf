"""A job as a user sets it up: a package with models.py and source.toml, and a config.toml beside it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from ingest.cli.main import main
from ingest.config import Config, read_config
from ingest.pipeline import open_job
from ingest.report import Certificate
from ingest.source import Source
from tests.upstream import Truth, Upstream, example

#: models.py of the example system: a copy, so that the mirror's models are not the upstream's objects
EXAMPLE = Path(example.__file__).read_text()
#: what a client of ours that waits for nobody speaks through, by kind of database
CLIENTS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}


class Clock:
    """A clock that only sleeping moves, and that takes no time to sleep."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.start, self.slept = start, 0.0

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.slept)

    def monotonic(self) -> float:
        return self.slept

    async def sleep(self, seconds: float) -> None:
        self.slept += max(0.0, seconds)
        await asyncio.sleep(0)


class Setup:
    """A job's folder, and what stands in it."""

    def __init__(
        self,
        folder: Path,
        streams: Mapping[str, Any],
        *,
        models: str = EXAMPLE,
        package: str = "chat",
        url: str | None = None,
        **source: Any,
    ) -> None:
        """`streams` and `source` are what source.toml states, `models` is the text of models.py.

        `url` is the database's; when absent, it is a file in the folder.
        """
        self.folder, self.name = folder, package
        self.url = url or f"sqlite:///{self.database}"
        self.stated = {"streams": dict(streams), **source}
        self.settings: dict[str, Any] = {}
        self.tables: dict[str, Any] = {} if url is None else {"database": {"url": url}}
        self.clock = Clock()
        home = folder / package
        home.mkdir(parents=True)
        (home / "__init__.py").touch()
        (home / "models.py").write_text(models)
        (home / "source.toml").write_text(toml(self.stated))

    @property
    def source(self) -> Source:
        """What the source.toml says."""
        return msgspec.convert(self.stated, Source)

    @property
    def config_file(self) -> Path:
        return self.folder / "config.toml"

    @property
    def database(self) -> Path:
        return self.folder / "mirror.db"

    def configure(self, base_url: str, *, source: Mapping[str, Any] | None = None, **tables: Any) -> Config:
        """Write config.toml and read it as the command line does; `source` adds settings of the source."""
        stated = {"models": self.name, "base_url": base_url, **self.settings, **(source or {})}
        self.config_file.write_text(toml({"sources": {"api": stated}, **self.tables, **tables}))
        return read_config(self.config_file)

    async def sync(self, up: Upstream) -> Certificate:
        """One run against the upstream."""
        async with open_job(self.configure(up.base_url), clock=self.clock) as job:
            return await job.sync()

    def differences(self, truth: Truth, *, ignoring: Collection[str] = ()) -> list[str]:
        """In what the mirror is not the truth."""
        return differences(self.url, truth, ignoring=ignoring)

    def ask(self, query: str | sa.Select[Any], *values: Any) -> list[tuple[Any, ...]]:
        """What the database answers: SQLite in stored form, others as their drivers read it.

        A query of Core's asks for stored form on every one of them, by `ingest.keys.raw`.
        """
        with client(self.url) as connection:
            if isinstance(query, str):
                marks = query if not values or self.url.startswith("sqlite") else query.replace("?", "%s")
                return [tuple(row) for row in connection.exec_driver_sql(marks, values)]
            return [tuple(row) for row in connection.execute(query)]


class Ran(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def proof(self) -> Certificate:
        return msgspec.json.decode(self.out, type=Certificate)


async def cli(file: Path, *arguments: str, may_crash: bool = False) -> Ran:
    """Run the command line, as a shell would; `may_crash`: a traceback is what the test is about."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()

    def run() -> int:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return main(["--config", str(file), *arguments])

    gc.disable()  # pytest's hook fails, and says so, in a collection at the bottom of a deep recursion
    try:
        code = await asyncio.to_thread(run)
    finally:
        gc.enable()
    out.flush()
    assert may_crash or "Traceback" not in err.getvalue(), err.getvalue()
    return Ran(code, out.buffer.getvalue().decode(), err.getvalue())


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def forget(package: str) -> None:
    """As a new process would not know the models of the old one."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def differences(database: Path | str, truth: Truth, *, ignoring: Collection[str] = ()) -> list[str]:
    """In what the mirror in this file, or at this URL, is not the truth."""
    with client(database if isinstance(database, str) else f"sqlite:///{database}") as connection:
        return truth.differences(connection, ignoring=ignoring)


@contextlib.contextmanager
def client(url: str) -> Iterator[sa.Connection]:
    """A connection of another program's to the database at this URL, for as long as the context lasts."""
    parsed = sa.make_url(url)
    kind = parsed.get_backend_name()
    # or every connection to MariaDB reads the machine's certificates: 20 ms
    arguments = {"ssl_disabled": True} if kind == "mariadb" else {}
    engine = sa.create_engine(
        parsed.set(drivername=CLIENTS[kind]), poolclass=NullPool, connect_args=arguments
    )
    with engine.connect() as connection:
        yield connection


def toml(tables: Mapping[str, Any]) -> str:
    """Nested mappings as TOML: tables of tables by name, everything below inline."""
    lines = [
        f"{_key(key)} = {_inline(value)}" for key, value in tables.items() if not isinstance(value, dict)
    ]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += _table((name,), table)
    return "\n".join(lines) + "\n"


def _table(path: tuple[str, ...], table: Mapping[str, Any]) -> list[str]:
    if table and len(path) == 1 and all(isinstance(value, dict) for value in table.values()):
        return [line for name, inner in table.items() for line in _table((*path, name), inner)]
    lines = [f"{_key(key)} = {_inline(value)}" for key, value in table.items() if value is not None]
    return [f"[{'.'.join(map(_key, path))}]", *lines]


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_inline(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def _key(text: str) -> str:
    return text if text.replace("_", "").replace("-", "").isalnum() and text.isascii() else json.dumps(text)
