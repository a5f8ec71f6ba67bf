"""Every planted bug is caught by the tests that say they catch it.

    a copy ──▶ its tests pass ──▶ plant one ──▶ each of its tests fails ──▶ dig it up ──▶ the next

The tests run in a child, in a copy: the tree itself is never touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.planted.bugs import BUGS, OFTEN, SELDOM, Bug

ROOT = Path(__file__).parents[2]
#: what the tests need of the project
COPIED = ("ingest", "schema", "tests", "pyproject.toml", "config.toml")
#: seconds for the tests of one bug
LONGEST = 120
#: pytest's exit status where tests ran, and some failed
FAILED = 1

ids = [bug.name for bug in BUGS]


@pytest.mark.parametrize("bug", BUGS, ids=ids)
def test_a_planted_bug_has_its_place(bug: Bug) -> None:
    found = (ROOT / bug.file).read_text(encoding="utf-8").count(bug.source)
    assert found == 1, f"{bug.name}: what it replaces stands {found} times in {bug.file}: {bug.source!r}"
    assert bug.source != bug.planted
    assert bug.tests


def test_every_planted_bug_has_a_name_of_its_own() -> None:
    assert len(set(ids)) == len(BUGS) >= 40
    assert len(OFTEN) == 10


class Copy:
    """The project once more, to plant bugs in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: every change has a time of its own, or what was compiled before would be taken
        self._times = count(1_700_000_000)
        for name in COPIED:
            copy, ignored = folder / name, shutil.ignore_patterns("__pycache__", "*.db", "*.pages")
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy, ignore=ignored)
            else:
                shutil.copy2(ROOT / name, copy)

    def run(self, *tests: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run tests of the copy in a child of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
        # `-m` puts the copy before whatever is installed under its name
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-o"]
        return subprocess.run(
            [*command, "addopts=--import-mode=importlib --strict-markers", "-rA", *tests],
            cwd=self.folder,
            env={
                **kept,
                "PYTHONPATH": str(self.folder),
                "PYTHONPYCACHEPREFIX": str(self.folder / "compiled"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )

    @contextmanager
    def planted(self, bug: Bug) -> Iterator[None]:
        """The bug stands in its place for as long as the context lasts."""
        file = self.folder / bug.file
        before = file.read_text(encoding="utf-8")
        if before.count(bug.source) != 1:
            pytest.fail(f"{bug.name}: its place in {bug.file} is gone")
        self._write(file, before.replace(bug.source, bug.planted))
        try:
            yield
        finally:
            self._write(file, before)

    def _write(self, file: Path, text: str) -> None:
        file.write_text(text, encoding="utf-8")
        time = next(self._times)
        os.utime(file, (time, time))


def each_fails(bug: Bug, output: str) -> list[str]:
    """The tests of a bug that did not fail, of those it names."""
    failed = re.findall(r"^FAILED (\S+)", output, re.MULTILINE)
    return [test for test in bug.tests if not any(one.partition("[")[0] == test for one in failed)]


def catch(copy: Copy, *bugs: Bug) -> None:
    """Plant one after the other; fail with all that were not caught."""
    tests = sorted({test for bug in bugs for test in bug.tests})
    sound = copy.run(*tests, seconds=LONGEST * 3)
    assert sound.returncode == 0, f"these must pass where nothing is planted:\n{sound.stdout[-4000:]}"
    missed = []
    for bug in bugs:
        with copy.planted(bug):
            try:
                ran = copy.run(*bug.tests, seconds=LONGEST)
            except subprocess.TimeoutExpired:
                missed.append(f"{bug.name}: {bug.tests} did not end")
                continue
        if ran.returncode != FAILED:
            missed.append(f"{bug.name}: pytest ended with {ran.returncode}:\n{ran.stdout[-600:]}")
        else:
            missed += [f"{bug.name}: {test} passes" for test in each_fails(bug, ran.stdout)]
    assert not missed, "\n".join(missed)


@pytest.mark.sweep
def test_ten_planted_bugs_are_caught_by_the_tests_they_name(tmp_path: Path) -> None:
    catch(Copy(tmp_path / "copy"), *OFTEN)


@pytest.mark.nightly
def test_all_other_planted_bugs_are_caught_by_the_tests_they_name(tmp_path: Path) -> None:
    catch(Copy(tmp_path / "copy"), *SELDOM)


@pytest.mark.sweep
def test_a_bug_that_no_test_notices_is_named(tmp_path: Path) -> None:
    tame = OFTEN[0]._replace(name="tame", planted=f"{OFTEN[0].source}  # the same")
    with pytest.raises(AssertionError, match="tame: pytest ended with 0"):
        catch(Copy(tmp_path / "copy"), tame)
