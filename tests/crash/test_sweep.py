"""Crashed at every durable write, in every way and at any moment of a command's life, it comes to the same.

The cases are run by `sweep`, in a process that forks one child after the other. Kills come from above SQLite,
before and after every statement that writes durably; and from below it, where disks fail as well: before,
after and in the middle of every call that writes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from ingest.ledger import LEDGER
from tests.crash.disk import needs_a_shim
from tests.crash.sweep import Case, Order

ROOT = Path(__file__).parents[2]
#: cases of each scenario, more where there is more to reach: in CI, and in the long form
CASES = {
    "backfill": (360, 1600),
    "incremental": (240, 1600),
    "bulk": (370, 1600),
    "recovery": (230, 1600),
    "rebuild": (180, 1000),
    "rejection": (360, 1000),
    "dead letters": (180, 1000),
    "migration": (160, 800),
}
#: tables of listings that sweep, which no scenario has
UNREACHED = {"ingest_listings", "ingest_sweeps"}
#: kills in one long backfill, at most
KILLS = 10
#: seconds that one case may take on a busy machine
PATIENCE = 3.0

pytestmark = needs_a_shim

Told: TypeAlias = Callable[[str], None]


def swept(shim: Path, order: Order) -> tuple[list[str], list[Case]]:
    """The failpoints of a scenario, and what became of its cases."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.crash.sweep", msgspec.json.encode(order).decode()],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(shim)},
        stdout=subprocess.PIPE,
        timeout=PATIENCE * (300 + order.count),
        check=True,
    ).stdout.splitlines()
    return msgspec.json.decode(said[0], type=list[str]), [
        msgspec.json.decode(line, type=Case) for line in said[1:]
    ]


def complaints(case: Case) -> list[str]:
    """What is wrong with a case."""
    found = list(case.faults)
    lines = [line for line in case.said.splitlines() if line.startswith("ingest: ")]
    if case.fault in ("EIO", "EIO_ON", "ENOSPC"):
        if case.failed == 0:
            found.append("nothing failed")
        # what fails when all is done, or need not be done, is nobody's concern
        if (1 if case.status == 1 else 0 if case.certified else None) != len(lines):
            found.append("it did not say in one line what it failed of")
    elif case.status != -9:
        found.append("it did not die")
    if "Traceback" in case.said:
        found.append("it failed with a traceback")
    return [f"{case.failpoint} ({case.occurrence}), {case.fault}: {one}\n{case.said}" for one in found]


def _crash(shim: Path, folder: Path, scenario: str, count: int, count_told: Told) -> None:
    failpoints, cases = swept(shim, Order(scenario=scenario, folder=str(folder), count=count))
    wrong = [line for case in cases for line in complaints(case)]
    assert wrong == [], "\n".join(wrong[:10])
    reached = Counter(case.failpoint for case in cases)
    assert set(failpoints) <= set(reached), sorted(set(failpoints) - set(reached))
    assert len({(case.failpoint, case.occurrence, case.fault) for case in cases}) == len(cases) >= count
    assert sum(case.twice for case in cases) > count // 5
    faults = Counter(case.fault for case in cases)
    told = ", ".join(f"{count} {name}" for name, count in sorted(faults.items()))
    lines = [f"{scenario}: {len(cases)} crash points ({told}) at {len(reached)} failpoints"]
    count_told("\n".join([*lines, *(f"  {many:4d} {name}" for name, many in sorted(reached.items()))]))


@pytest.mark.sweep
@pytest.mark.parametrize("scenario", CASES)
def test_crashed_at_any_durable_write_it_goes_on_and_comes_to_the_same(
    shim: Path, folder: Path, scenario: str, count_told: Told
) -> None:
    _crash(shim, folder, scenario, CASES[scenario][0], count_told)


@pytest.mark.nightly
@pytest.mark.parametrize("scenario", CASES)
def test_crashed_at_ten_thousand_points_it_goes_on_and_comes_to_the_same(
    shim: Path, folder: Path, scenario: str, count_told: Told
) -> None:
    _crash(shim, folder, scenario, CASES[scenario][1], count_told)


def test_there_are_as_many_crash_points_as_promised() -> None:
    assert sum(few for few, _ in CASES.values()) >= 2000
    assert sum(many for _, many in CASES.values()) >= 10_000


@pytest.mark.sweep
def test_every_table_that_is_kept_is_written_at_a_failpoint(shim: Path, folder: Path) -> None:
    found: set[str] = set()
    for scenario in CASES:
        where = folder / scenario
        where.mkdir()
        found |= set(swept(shim, Order(scenario=scenario, folder=str(where), count=0, every=False))[0])
    unreached = {table for table in LEDGER.tables if not any(_writes(name, table) for name in found)}
    assert unreached == UNREACHED
    for table in ("page", "body", "head", "fold"):
        assert f"mirror.db.pages: INSERT INTO {table}, before" in found
    for what in ("lock SET holder", "lock SET window", "lock SET epoch", "runs SET ended"):
        assert f"mirror.db: UPDATE ingest_{what}, after" in found
    for what in ("DROP INDEX", "CREATE INDEX of files", "ALTER TABLE rooms", "DROP TABLE messages"):
        assert f"mirror.db: {what}, before" in found


def _writes(failpoint: str, table: str) -> bool:
    return any(failpoint.startswith(f"mirror.db: {verb} {table}") for verb in ("INSERT INTO", "UPDATE"))


def _kill_often(shim: Path, folder: Path, wanted: int, count_told: Told) -> None:
    # some come to their end before
    backfills = wanted // KILLS + wanted // (10 * KILLS)
    order = Order(scenario="long", folder=str(folder), count=backfills, kills=KILLS)
    _, cases = swept(shim, order)
    assert [line for case in cases for line in case.faults] == []
    kills = sum(case.occurrence for case in cases)
    assert len(cases) == backfills
    assert kills >= wanted
    count_told(f"{kills} kills in {backfills} backfills")


@pytest.mark.sweep
def test_a_long_backfill_that_is_killed_again_and_again_comes_to_the_same(
    shim: Path, folder: Path, count_told: Told
) -> None:
    _kill_often(shim, folder, 100, count_told)


@pytest.mark.nightly
def test_a_thousand_kills_in_long_backfills_are_survived(shim: Path, folder: Path, count_told: Told) -> None:
    _kill_often(shim, folder, 1000, count_told)


@pytest.mark.parametrize("file", ["mirror.db", "mirror.db.pages"])
def test_without_room_it_stops_with_one_line_and_goes_on_when_there_is_some(
    shim: Path, folder: Path, file: str
) -> None:
    where = Order(
        scenario="bulk",
        folder=str(folder),
        count=6,
        fault="ENOSPC",
        failpoint=f"{file}-wal: write",
        every=False,
    )
    _, cases = swept(shim, where)
    assert [line for case in cases for line in complaints(case)] == []
    stopped = [case for case in cases if case.status == 1]
    # where a sync fails for want of room, SQLite says that the disk failed
    told = [case for case in stopped if "full" in case.said and "hint: make room" in case.said]
    assert len(told) >= 3
    assert any(f"{file}: " in case.said for case in told)
    assert all("hint: " in case.said for case in stopped)
