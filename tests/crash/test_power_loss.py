"""Whatever a disk holds after the power went, no acknowledged page is lost and nothing is damaged.

A kill leaves what was written; a power cut only what was synced, and any part of the rest. `power` makes such
images of the page log and of the database together.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.crash.disk import needs_a_shim
from tests.crash.power import Image, PowerOrder
from tests.crash.test_sweep import PATIENCE, ROOT, Told

pytestmark = needs_a_shim

#: images of each scenario in CI, and of these run to their end
IMAGES, RESUMED = 700, 60
#: and in the long form
MANY_IMAGES, MANY_RESUMED = 34_000, 400
RUNS = ("long", "incremental", "rebuild")


def images(shim: Path, order: PowerOrder) -> list[Image]:
    said = subprocess.run(
        [sys.executable, "-m", "tests.crash.power", msgspec.json.encode(order).decode()],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(shim)},
        stdout=subprocess.PIPE,
        timeout=60 + 0.1 * order.count + PATIENCE * order.resumed,
        check=True,
    )
    return [msgspec.json.decode(line, type=Image) for line in said.stdout.splitlines()]


def _cut(shim: Path, folder: Path, scenario: str, count: int, resumed: int, count_told: Told) -> None:
    made = images(shim, PowerOrder(scenario=scenario, folder=str(folder), count=count, resumed=resumed))
    wrong = [f"{one.last}, call {one.calls}: {fault}" for one in made for fault in one.faults]
    assert wrong == [], "\n".join(wrong[:10])
    assert (len(made), sum(one.resumed for one in made)) == (count, resumed)
    # an image of which nothing is in doubt proves nothing
    assert sum(one.in_doubt for one in made) > count * 0.9
    if scenario != "rebuild":
        assert sum(one.acknowledged > 0 for one in made) > count // 4
    count_told(f"{scenario}: {count} images of a power cut, {resumed} of them run to their end")


@pytest.mark.sweep
@pytest.mark.parametrize("scenario", RUNS)
def test_when_the_power_goes_at_any_moment_no_acknowledged_page_is_lost(
    shim: Path, folder: Path, scenario: str, count_told: Told
) -> None:
    _cut(shim, folder, scenario, IMAGES, RESUMED, count_told)


@pytest.mark.nightly
@pytest.mark.parametrize("scenario", RUNS)
def test_when_the_power_goes_a_hundred_thousand_times_no_acknowledged_page_is_lost(
    shim: Path, folder: Path, scenario: str, count_told: Told
) -> None:
    _cut(shim, folder, scenario, MANY_IMAGES, MANY_RESUMED, count_told)


def test_there_are_as_many_images_as_promised() -> None:
    assert IMAGES * len(RUNS) >= 2000
    assert MANY_IMAGES * len(RUNS) >= 100_000


def test_when_the_power_goes_in_a_first_run_it_begins_where_it_was(
    shim: Path, folder: Path, count_told: Told
) -> None:
    _cut(shim, folder, "backfill", 60, 4, count_told)
