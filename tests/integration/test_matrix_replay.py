"""What a Synapse answered its admin and a user, read again: the mirror is what its database says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ingest.mirror import LEDGER_COLUMNS
from ingest.pipeline import open_job
from ingest.replay import MARKER, Exchange, read_exchanges
from ingest.report import Certificate, MissingParent
from ingest.staging import SqlitePageLog
from ingest.types import Request
from schema.matrix import models
from tests import matrix_lab
from tests.integration.jobs import Clock
from tests.matrix_lab import FOLDER, HOW, LIMITS, SCOPES, Scope, Truth

#: bytes of everything in the folder
SMALL_ENOUGH = 5_000_000
#: what gives a credential away: what a server calls tokens, what asks for them or carries them, and the
#: passwords of a lab
SECRETS = re.compile(
    rb"sy[tlr]_|(?i:access_token|refresh_token|authorization|bearer |/login|password|\bpw-|shared.secret)"
)
RECORDINGS = [
    pytest.param(scope, limit, id=f"{scope.name}-{limit}", marks=pytest.mark.xdist_group(scope.name))
    for scope in SCOPES
    for limit in LIMITS
]
EACH_RECORDING = pytest.mark.parametrize(("scope", "limit"), RECORDINGS)
EACH_SCOPE = pytest.mark.parametrize(
    "scope",
    [pytest.param(one, id=one.name, marks=pytest.mark.xdist_group(one.name)) for one in SCOPES],
)


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What came of reading a recording in two runs."""

    database: Path
    first: Certificate
    again: Certificate
    digests: list[str]
    missing: list[MissingParent]
    #: every request whose answer was staged
    asked: set[Request]

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """What the mirror says, by table, without what the ledger keeps of it and without positions."""
        with closing(sqlite3.connect(self.database)) as connection:
            connection.row_factory = sqlite3.Row
            return {table.name: _rows(connection, table.name) for table in models.Base.metadata.sorted_tables}


def _rows(connection: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    hidden = {*LEDGER_COLUMNS, "position"}
    found = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
    said = [{name: value for name, value in row.items() if name not in hidden} for row in found]
    return sorted(said, key=json.dumps)


async def replay(folder: Path, scope: Scope, limit: int) -> Replayed:
    """Read a recording into a database in this folder: one run, and one without news."""
    recording = str(FOLDER / f"{scope.name}-{limit}")
    config = matrix_lab.configure(folder, scope, limit, base_url="https://matrix.example", replay=recording)
    certificates, digests = [], []
    for _ in range(2):
        # a job for each run: the second knows what is stored, and nothing else
        async with open_job(config, clock=Clock()) as job:
            certificates.append(await job.sync())
            digests.append(await job.digest())
            missing = await job.missing()
    log = await SqlitePageLog.open(config.log_path, readonly=True)
    try:
        asked = {envelope.request async for _, _, envelope in log.envelopes()}
    finally:
        await log.close()
    first, again = certificates
    return Replayed(
        database=folder / "mirror.db",
        first=first,
        again=again,
        digests=digests,
        missing=missing,
        asked=asked,
    )


Replays: TypeAlias = Callable[[Scope, int], Replayed]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Replays:
    """Reads a recording when it is first wanted."""
    read: dict[tuple[Scope, int], Replayed] = {}

    def once(scope: Scope, limit: int) -> Replayed:
        if (scope, limit) not in read:
            folder = tmp_path_factory.mktemp(f"{scope.name}-{limit}")
            read[scope, limit] = asyncio.run(replay(folder, scope, limit))
        return read[scope, limit]

    return once


def recorded_truth(scope: Scope) -> Truth:
    """The oracle's answer that was recorded, whatever the environment names."""
    return Truth.read(FOLDER / "truth" / f"{scope.name}.json")


# -- what was recorded, read again ---------------------------------------------------------------------


@EACH_RECORDING
def test_the_mirror_of_a_recording_is_what_the_server_had_in_its_own_database(
    replayed: Replays, scope: Scope, limit: int
) -> None:
    made = replayed(scope, limit)
    assert recorded_truth(scope).differences(made.database) == []
    assert (made.first.exit, made.first.remarks, made.first.dead_letters, made.first.gaps) == (0, (), 0, 0)
    load = made.first.load
    assert load.records == load.written + load.kept + load.rejected
    assert load.rejected == 0


@EACH_RECORDING
def test_the_parents_that_are_missing_are_those_that_exist_nowhere(
    replayed: Replays, scope: Scope, limit: int
) -> None:
    made = replayed(scope, limit)
    missing = {
        json.loads(one.key)[0]: (one.table, one.state) for one in made.missing if one.state != "fetched"
    }
    assert missing == dict.fromkeys(recorded_truth(scope).missing(), ("events", "gone"))
    assert len(missing) == {"admin": 3, "user": 8}[scope.name]


@EACH_RECORDING
def test_a_second_run_writes_nothing(replayed: Replays, scope: Scope, limit: int) -> None:
    made = replayed(scope, limit)
    assert (made.again.exit, made.again.remarks) == (0, ())
    assert made.again.load.written == sum(one.written for one in made.again.tables) == 0
    assert made.digests[0] == made.digests[1]


@EACH_RECORDING
def test_the_two_runs_ask_for_everything_that_was_recorded(
    replayed: Replays, scope: Scope, limit: int
) -> None:
    assert replayed(scope, limit).asked == {exchange.request for exchange in exchanges(scope, limit)}


@EACH_SCOPE
def test_the_size_of_the_pages_shows_in_no_row(replayed: Replays, scope: Scope) -> None:
    one, other = (replayed(scope, limit).rows() for limit in LIMITS)
    assert one == other
    assert all(len(one[table]) > 5 for table in ("events", "memberships", "rooms", "users"))


# -- the files -----------------------------------------------------------------------------------------


def exchanges(scope: Scope, limit: int) -> list[Exchange]:
    return read_exchanges(FOLDER / f"{scope.name}-{limit}")


def test_the_recordings_are_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < SMALL_ENOUGH


@EACH_RECORDING
def test_pages_were_asked_for_at_the_size_they_are_named_after(scope: Scope, limit: int) -> None:
    sizes = {dict(one.request.query).get("limit") for one in exchanges(scope, limit) if one.request.query}
    # the context of one event has none around it
    assert sizes - {None, "0"} == {str(limit)}


def test_no_token_no_login_and_no_password_was_recorded() -> None:
    telling = []
    for file in sorted(FOLDER.rglob("*")):
        if file.suffix in (".json", ".jsonl"):
            found = SECRETS.search(file.read_bytes())
            telling += [f"{file.relative_to(FOLDER)}: {found[0]!r}"] if found else []
            # what is taken out of an answer is no longer what the server said
            assert MARKER.encode() not in file.read_bytes(), file
    for scope in SCOPES:
        telling += [f"{scope.name}: {found[0]!r}" for found in SECRETS.finditer(recorded_truth(scope).events)]
    assert telling == []


@EACH_RECORDING
def test_every_line_names_a_request_of_its_own_and_a_body_of_its_own(scope: Scope, limit: int) -> None:
    folder = FOLDER / f"{scope.name}-{limit}"
    lines = exchanges(scope, limit)
    files = {line.file for line in lines}
    assert len({line.request for line in lines}) == len(files) == len(lines)
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert there == files | {"pages.jsonl"}


# -- a server that runs --------------------------------------------------------------------------------


@pytest.mark.synapse
@pytest.mark.skipif(bool(matrix_lab.lacking(os.environ)), reason=HOW)
@pytest.mark.parametrize("limit", [*LIMITS, 1000])
@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.name)
async def test_the_mirror_of_a_running_server_is_what_it_has_in_its_own_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: Scope, limit: int
) -> None:
    monkeypatch.setenv("MATRIX_PASSWORD", "")  # live() sets it, and it goes when the test ends
    config, truth = matrix_lab.live(tmp_path, scope, limit), Truth.read(scope.truth)
    first = await matrix_lab.sync(config)
    assert (first.exit, first.remarks) == (0, ())
    assert truth.differences(tmp_path / "mirror.db") == []
    again = await matrix_lab.sync(config)
    assert (again.exit, again.load.written) == (0, 0)
    assert truth.differences(tmp_path / "mirror.db") == []
