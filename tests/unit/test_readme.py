"""README says what the code says: generated sections, examples and commands."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

from ingest import config, source
from ingest.config import read_config
from ingest.errors import IngestError, SetAside
from tests import readme
from tests.readme import JOB, PAGINATION, README, SOURCE

TEXT = README.read_text(encoding="utf-8")
#: what stands for a table of the file, and not for one of its keys
OUTER = {"_Strict", "_Paged", "_File", "Config", "ConfiguredSource", "EntityBy"}


@pytest.mark.parametrize("name", ["commands", "config", "errors", "exits", "source"])
def test_a_generated_section_is_up_to_date(name: str) -> None:
    assert readme.sections(TEXT)[name] == readme.generated()[name], "run python -m tests.readme"


def test_renewing_changes_only_what_is_out_of_date() -> None:
    assert readme.renewed(TEXT) == TEXT
    stale = TEXT.replace("| `ingest gaps` |", "| `ingest holes` |")
    assert stale != TEXT
    assert readme.renewed(stale) == TEXT


def test_every_table_of_the_configuration_is_explained() -> None:
    explained = {*JOB.values(), *SOURCE.values(), *PAGINATION}
    defined = {
        kind
        for module in (config, source)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
    }
    assert {kind.__name__ for kind in defined - explained} == OUTER


@pytest.mark.parametrize("struct", [*JOB.values(), *SOURCE.values()], ids=lambda struct: struct.__name__)
def test_every_key_is_explained(struct: type[msgspec.Struct]) -> None:
    assert [key for key, _, _, meaning in readme.keys(struct) if not meaning] == []


def test_every_exit_status_of_an_error_is_explained() -> None:
    def below(kind: type[IngestError]) -> set[type[IngestError]]:
        return {kind}.union(*(below(inner) for inner in kind.__subclasses__()))

    statuses = {f"| {kind.exit_status} |" for kind in below(IngestError)}
    assert SetAside in below(IngestError)
    assert [status for status in statuses if status not in readme.sections(TEXT)["exits"]] == []


@pytest.mark.usefixtures("imports_are_forgotten")
def test_the_example_of_ones_own_system_can_be_read(tmp_path: Path) -> None:
    from ingest.catalog import read_catalog

    files = readme.examples(TEXT)
    package = tmp_path / "systems" / "chat"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in ("models.py", "source.toml"):
        (package / name).write_text(files[name], encoding="utf-8")
    (tmp_path / "config.toml").write_text(files["config.toml"], encoding="utf-8")

    chat = read_config(tmp_path / "config.toml").sources["chat"]
    catalog = read_catalog([import_module("systems.chat.models")])
    named = {name for stream in chat.source.streams.values() for name in stream.entities.default}
    assert named == {"Room", "Message"}
    assert set(catalog.tables) == {"rooms", "messages", "users"}


def test_the_commands_to_type_are_each_one_line() -> None:
    typed = readme.commands(TEXT)
    assert set(typed) == {"run", "test"}
    assert all("\n" not in line for line in typed.values())


def test_each_guarantee_says_what_is_not_promised_and_names_tests_that_are_there() -> None:
    section = TEXT.partition("## Guarantees\n")[2].partition("\n## ")[0]
    guarantees = re.split(r"(?m)^\d\. ", section)[1:]
    assert len(guarantees) == 9
    for one in guarantees:
        promised, _, shown = one.partition("   - *Shown by* ")
        assert "   - *Not promised:* " in promised
        named = re.findall(r"`(tests/[\w/]+\.py)`", shown)
        assert named
        assert [name for name in named if not (README.parent / name).is_file()] == []
