"""A warm process that forks one child after the other and has each of them crash: one scenario's sweep.

    python -m tests.crash.sweep '{"scenario": …}'    under LD_PRELOAD of the shim

It only imports, and runs everything once, without a thread: so it can be forked. A case goes so:

    prepared ──▶ command, crashed ──▶ the same, crashed once more (a third of the cases)
                                  └──▶ the same to its end ──▶ sync, verify, digest, accounts

It writes one line of JSON per case, and asserts nothing: that is `test_sweep`'s.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import alembic.command
import anyio._backends._asyncio
import msgspec
import sqlalchemy.dialects.sqlite.aiosqlite

import ingest.cli.render
import ingest.log
from ingest import pipeline
from ingest.catalog import read_catalog
from ingest.cli.main import main
from ingest.config import import_package, read_config
from ingest.engines import engine_for
from ingest.fetch import fetcher
from ingest.mirror import attach
from ingest.pipeline import Job
from ingest.pipeline import limits as thresholds
from ingest.report import Certificate
from ingest.staging import SqlitePageLog
from tests import inline
from tests.crash import disk, statements
from tests.crash.asking import known, unfinished
from tests.crash.disk import Fault
from tests.crash.world import SCENARIOS, SYNC, Step, World

WARM = (alembic.command, anyio._backends._asyncio, ingest.cli.render, ingest.log, sqlalchemy.dialects.sqlite)
#: ways to be killed by a call to the disk
KILLS = (Fault.KILL, Fault.KILL_AFTER, Fault.TEAR)
#: a case in so many is crashed a second time
TWICE = 3
#: and at the end of one in so many every row is verified, which is about the ledger where the digest is right
VERIFIED = 3


class Point(NamedTuple):
    """A place to crash at, and how."""

    #: the name of a statement or of a call to the disk
    failpoint: str
    #: the how-manieth of this name
    occurrence: int
    fault: Fault
    #: the how-manieth of all statements, or of all calls
    number: int
    above: bool


class Case(msgspec.Struct, kw_only=True):
    """What became of one case."""

    scenario: str
    failpoint: str
    occurrence: int
    fault: str
    #: the exit status of what was crashed, -9 when it was killed
    status: int
    #: calls that failed
    failed: int = 0
    #: what it said before it ended
    said: str = ""
    #: whether its recovery was crashed as well
    twice: bool = False
    #: whether `verify` was run at its end, beside the digest
    verified: bool = False
    #: what is wrong with it
    faults: list[str] = []

    @property
    def certified(self) -> bool:
        """Whether it came to its end."""
        return self.status in SCENARIOS[self.scenario].exits


class Order(msgspec.Struct, kw_only=True):
    """What a sweep is asked to do."""

    scenario: str
    folder: str
    count: int
    seed: int = 0
    #: only crashes of this kind, and at this failpoint
    fault: str | None = None
    failpoint: str | None = None
    #: each case is killed so many times, at random
    kills: int = 0
    #: every failpoint with every fault at least once, even if that makes more cases
    every: bool = True


class Sweep:
    """One scenario, crashed again and again."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.folder = Path(order.folder)
        self.world = World(self.folder, SCENARIOS[order.scenario])
        self._pick = random.Random(f"{order.scenario} {order.seed}")
        self._reached: list[str] = []
        #: the statement to die at, by its number or by its name
        self._kill_at = 0
        self._cut: tuple[str, int] | None = None
        #: the files as they were when the trace began
        self.begun = self.folder / "begun"
        self._output, self._told = self.folder / "output", self.folder / "told"
        self._config = self.world.setup.config_file

    # -- getting ready -----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Everything as it is before the crash, and this process warm."""
        inline.install()
        statements.watch(self._statement)
        _tell_what_is_staged()
        # a handful of pages is worth a snapshot here
        fetcher.SNAPSHOT_PAGES = 4
        self.world.connect()
        self._remember()
        scenario = self.world.scenario
        if scenario.migrated:
            self._child(self._write_first_revision)
        self.world.case.mkdir()
        for step in scenario.before:
            cut = scenario.cut if step is scenario.before[-1] else None
            status = self._child(lambda step=step, cut=cut: self._prepared(step, cut))
            assert status == (-signal.SIGKILL if cut else status), self._output.read_text()
        scenario.changes(self.world.truth)
        self.world.release()
        self.world.case.rename(self.world.prepared)
        self._warm()

    def _remember(self) -> None:
        """Catalogs and engines are made once: so what was compiled for them stays compiled."""
        job = sys.modules[pipeline.open_job.__module__]
        catalogs: dict[tuple[Any, ...], Any] = {}

        def catalog(modules: Iterable[Any]) -> Any:
            key = tuple(modules)
            if key not in catalogs:
                catalogs[key] = read_catalog(key)
            return catalogs[key]

        job.read_catalog = catalog
        job.engine_for = functools.cache(engine_for)

    def _write_first_revision(self) -> int:
        module = import_package("chat", self._config.parent)
        base = __import__("chat.models").models.Base
        attach(base.metadata)
        self.world.write_first_revision(base.metadata.sorted_tables)
        return 0 if module else 1

    def _prepared(self, step: Step, cut: tuple[str, int] | None) -> int:
        self._cut = cut
        self._reached.clear()
        return self._run(step)

    def _warm(self) -> None:
        self.world.reset()
        for step in (self.world.scenario.crashed, SYNC):
            self._run(step)
        asyncio.run(self._audit())
        assert threading.active_count() == 1
        self.world.up.requests.clear()
        gc.collect()
        gc.freeze()

    # -- the sweep ---------------------------------------------------------------------------------

    def trace(self) -> tuple[list[str], list[disk.Call]]:
        """The failpoints of a command that nobody disturbs, above SQLite and below; and its digest."""
        self.world.reset()
        names, record = self.folder / "names", self.folder / "record"
        shutil.rmtree(self.begun, ignore_errors=True)

        def run() -> int:
            self._know()
            self._reached.clear()
            shutil.copytree(self.world.case, self.begun)
            disk.arm(self.world.case, record=record)
            status = self._run(self.world.scenario.crashed)
            disk.disarm()
            names.write_text(json.dumps(self._reached))
            return status

        status = self._child(run)
        assert status in self.world.scenario.exits, self._output.read_text()
        self._ended()
        self.wanted = self._heard["digest"]
        assert not self._heard["faults"], self._heard
        calls = list(disk.recorded(record))
        self._calls = sum(call.op != "mark" for call in calls)
        return json.loads(names.read_text()), calls

    def points(self) -> list[Point]:
        """Every place to crash at."""
        names, recorded = self.trace()
        calls = [call for call in recorded if call.op != "mark"]
        seen: Counter[str] = Counter()
        found = []
        for number, name in enumerate(names, 1):
            seen[name] += 1
            found.append(Point(name, seen[name], Fault.KILL, number, above=True))
        for number, call in enumerate(calls, 1):
            seen[call.name] += 1
            found += [
                Point(call.name, seen[call.name], fault, number, above=False)
                for fault in Fault
                if fault is not Fault.NOTHING and fault.strikes(call.op)
            ]
        return found

    def chosen(self, points: list[Point]) -> list[Point]:
        """So many of them, and every failpoint with every fault once."""
        self._pick.shuffle(points)
        points = [
            one
            for one in points
            if self.order.fault in (None, one.fault.name) and self.order.failpoint in (None, one.failpoint)
        ]
        if not self.order.every:
            return points[: self.order.count]
        firsts = {(one.failpoint, one.fault): one for one in points}
        first = list(firsts.values())
        taken = set(first)
        return (first + [one for one in points if one not in taken])[: max(self.order.count, len(first))]

    def crash(self, point: Point) -> Case:
        """One case."""
        self.world.reset()
        again = self._pick.randrange(TWICE) == 0
        at = self._pick.randint(1, self._calls)
        status = self._child(lambda: self._crashed(point))
        heard = self._heard
        case = Case(
            scenario=self.order.scenario,
            failpoint=point.failpoint,
            occurrence=point.occurrence,
            fault=point.fault.name,
            status=status,
            failed=heard.get("failed", 0),
            said=self._output.read_text(),
            twice=again,
            verified=self._pick.randrange(VERIFIED) == 0,
            faults=heard.get("faults", []),
        )
        if again:
            second = Point("", 0, self._pick.choice(KILLS), at, above=False)
            self._child(lambda: self._crashed(second))
        self._ended(verify=case.verified)
        case.faults += self._heard["faults"]
        if self._heard["digest"] != self.wanted:
            case.faults.append("another digest")
        return case

    def kill_often(self) -> Case:
        """One run, killed again and again wherever it has got to."""
        self.world.reset()
        case = Case(
            scenario=self.order.scenario,
            failpoint="any call",
            occurrence=0,
            fault="KILL",
            status=-signal.SIGKILL,
        )
        while case.status == -signal.SIGKILL and case.occurrence < self.order.kills:
            # a part of the way, so that there is something left to be killed in
            at = self._pick.randint(1, self._calls // 3)
            point = Point("", 0, self._pick.choice(KILLS), at, above=False)
            case.status = self._child(lambda point=point: self._crashed(point))
            case.occurrence += case.status == -signal.SIGKILL
        self._ended()
        case.faults += self._heard["faults"]
        if self._heard["digest"] != self.wanted:
            case.faults.append("another digest")
        return case

    # -- in a child --------------------------------------------------------------------------------

    def _crashed(self, point: Point) -> int:
        self._know()
        self._kill_at = point.number if point.above else 0
        self._reached.clear()
        if not point.above:
            disk.arm(self.world.case, point.fault, point.number)
        status = self._run(self.world.scenario.crashed)
        disk.disarm()
        self._tell(failed=disk.failed())
        return status

    def _ended(self, *, verify: bool = True) -> None:
        status = self._child(lambda: self._finish(verify=verify))
        if status != 0:
            self._heard = {"digest": None, "faults": [f"ended with {status}: {self._output.read_text()}"]}

    def _finish(self, *, verify: bool) -> int:
        """Go on where it was, to its end, and look at everything."""
        self._know()
        faults, digest = asyncio.run(self._audit(verify=verify))
        asked = {value for seen in self.world.up.requests for name, value in seen.query if name == "cursor"}
        faults += [f"not gone on from {cursor}" for cursor in self._unfinished - asked]
        self._tell(digest=digest, faults=faults + self._again())
        return 0

    async def _audit(self, *, verify: bool = True) -> tuple[list[str], str]:
        faults = []
        config = read_config(self._config)
        async with pipeline.open_job(config) as job:
            for way in (*self.world.scenario.resumed, *([Job.verify] if verify else [])):
                ended = await way(job)
                if isinstance(ended, Certificate) and ended.exit not in self.world.scenario.exits:
                    faults.append(f"{way.__name__} ended with {ended}")
            digest = await job.digest()
        with (
            closing(sqlite3.connect(config.log_path)) as log,
            closing(sqlite3.connect(self._mirror)) as mirror,
        ):
            (pages,) = log.execute("SELECT count(*) FROM page").fetchone()
            marks = mirror.execute(
                "SELECT count(*), count(DISTINCT stamp) FROM ingest_pages WHERE state = 'loaded'"
            ).fetchone()
            sums = mirror.execute(
                "SELECT sum(pages), sum(records), sum(written + kept + rejected) FROM ingest_loads"
            ).fetchone()
            left = mirror.execute("SELECT holder, window FROM ingest_lock").fetchone()
            # Alembic writes the foreign keys of a table that is made anew in any order
            made = [
                (name, sorted(line.strip(" ,") for line in (sql or "").splitlines()))
                for name, sql in mirror.execute("SELECT name, sql FROM sqlite_master ORDER BY name")
            ]
            for name, one in (("page log", log), ("database", mirror)):
                said = one.execute("PRAGMA integrity_check").fetchall()
                faults += [] if said == [("ok",)] else [f"{name}: {said}"]
        if (*marks, sums[0]) != (pages, pages, pages) or sums[1] != sums[2]:
            faults.append(f"{pages} pages, marked {marks}, counted {sums}")
        if left != (None, None):
            faults.append(f"left behind: {left}")
        # an index that did not come back is none of the digest's
        return faults, f"{digest} {hashlib.sha256(repr(made).encode()).hexdigest()}"

    @property
    def _mirror(self) -> Path:
        return self.world.case / "mirror.db"

    def _know(self) -> None:
        """What is staged need not be asked for."""
        staged = asyncio.run(self._staged())
        wanted = self.world.scenario.wanted_again
        self.world.staged = frozenset(
            one for one in known(staged) if wanted is None or not one.path.startswith(wanted)
        )
        self._unfinished = unfinished(staged)

    async def _staged(self) -> list[tuple[int, Any]]:
        path = Path(f"{self._mirror}.pages")
        if not path.exists():
            return []
        log = await SqlitePageLog.open(path, readonly=True)
        try:
            return [(stamp, envelope) async for stamp, _, envelope in log.envelopes()]
        finally:
            await log.close()

    def _again(self) -> list[str]:
        again = self.world.again
        return [f"asked for again: {one}" for one in again.read_text().splitlines()] if again.exists() else []

    def _run(self, step: Step) -> int:
        for name, value in {**_LIMITS, **step.limits}.items():
            setattr(thresholds, name, value)
        return main(["--config", str(self._config), *step.command])

    def _statement(self, name: str) -> None:
        self._reached.append(name)
        if len(self._reached) == self._kill_at or (name, self._reached.count(name)) == self._cut:
            os.kill(os.getpid(), signal.SIGKILL)

    # -- children ----------------------------------------------------------------------------------

    def _child(self, work: Callable[[], int]) -> int:
        """Do something in a child: its exit status, -9 when it was killed. What it tells is `_heard`."""
        self._told.unlink(missing_ok=True)
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            status = 70
            gc.disable()
            try:
                to = os.open(self._output, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND, 0o600)
                os.dup2(to, 1)
                os.dup2(to, 2)
                sys.stdout = io.TextIOWrapper(
                    os.fdopen(1, "wb", 0, closefd=False), "utf-8", write_through=True
                )
                sys.stderr = io.TextIOWrapper(
                    os.fdopen(2, "wb", 0, closefd=False), "utf-8", write_through=True
                )
                status = work()
            except BaseException:
                disk.disarm()
                traceback.print_exc()
            finally:
                os._exit(status)
        _, waited = os.waitpid(process, 0)
        self._heard: dict[str, Any] = json.loads(self._told.read_text()) if self._told.exists() else {}
        return os.waitstatus_to_exitcode(waited)

    def _tell(self, **what: Any) -> None:
        self._told.write_text(json.dumps(what))


_LIMITS = {name: getattr(thresholds, name) for name in ("BULK", "BACKLOG", "BATCH")}


def _tell_what_is_staged() -> None:
    """Have the record say which pages were acknowledged, and when."""
    append = SqlitePageLog.append

    async def told(self: SqlitePageLog, *values: Any, **named: Any) -> int:
        stamp = await append(self, *values, **named)
        disk.mark(f"staged {stamp}")
        return stamp

    SqlitePageLog.append = told  # type: ignore[method-assign]


def swept(order: Order) -> Iterator[Any]:
    """What the sweep has to say: its failpoints first, then its cases."""
    sweep = Sweep(order)
    sweep.prepare()
    points = sweep.points()
    yield sorted({one.failpoint for one in points})
    if order.kills:
        yield from (sweep.kill_often() for _ in range(order.count))
    else:
        yield from (sweep.crash(point) for point in sweep.chosen(points))


def told_to(descriptor: int) -> Callable[[Any], None]:
    """Writes lines of JSON there; what else this process prints goes nowhere."""
    out = os.fdopen(descriptor, "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def tell(line: Any) -> None:
        out.write(msgspec.json.encode(line) + b"\n")
        out.flush()

    return tell


if __name__ == "__main__":
    tell = told_to(os.dup(1))
    for line in swept(msgspec.json.decode(sys.argv[1], type=Order)):
        tell(line)
