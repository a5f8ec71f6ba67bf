"""The second process: what it decodes is what is decoded here, and nothing is lost with it."""

from __future__ import annotations

import asyncio
import os
import pickle
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from ingest.load.batch import Batch
from ingest.load.decoders import Decoders
from ingest.pipeline import feed, limits, open_job
from ingest.pipeline.feed import Feed
from ingest.pipeline.worker import Worker, _without_secrets, unpack
from ingest.types import Page
from tests.integration.jobs import EXAMPLE, Setup
from tests.integration.test_round_trip import ROWS, paged
from tests.upstream import Upstream, example, generate

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

CURSOR = {"kind": "cursor", "next": "meta.next", "limit": 7}
#: a process that has the second one started, says its number, and is killed
ORPHANED = """
import asyncio, os, signal, sys
from pathlib import Path
from ingest.config import read_config
from ingest.pipeline.worker import Worker

async def main():
    worker = Worker(read_config(Path(sys.argv[1])))
    worker.start()
    await worker.ready.wait()
    print(worker._process.pid, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@asynccontextmanager
async def staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: str = EXAMPLE
) -> AsyncIterator[Setup]:
    """A job whose pages are staged, and whose next run has all of them decoded by a second process."""
    setup = Setup(tmp_path, paged(CURSOR), models=models)
    truth = generate(example, seed=11, rows=ROWS)
    async with Upstream(setup.source, truth) as up:
        assert (await setup.sync(up)).exit == 0
    read_on = Feed.read_on

    async def when_ready(one: Feed) -> bool:
        if one.worker._process is not None and not one.worker.ready.is_set() and not ended(one.worker):
            await one.worker.ready.wait()
        return await read_on(one)

    monkeypatch.setattr(limits, "MUCH", 0)
    monkeypatch.setattr("ingest.pipeline.worker._has_room", lambda: True)
    monkeypatch.setattr(Feed, "read_on", when_ready)
    yield setup


def ended(worker: Worker) -> bool:
    return worker._process is not None and worker._process.poll() is not None


class Answers:
    """What the second process answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Callable[[], None] = lambda: None) -> None:
        self.full = self.empty = 0
        self._then = then
        monkeypatch.setattr(feed, "unpack", self._unpack)

        self.here = 0
        add = Decoders.add

        def counted(decoders: Decoders, page: Page, batch: Batch) -> None:
            self.here += 1
            add(decoders, page, batch)

        monkeypatch.setattr(Decoders, "add", counted)

    def _unpack(self, answer: bytes) -> Batch | None:
        if answer:
            self.full += 1
            self._then()
        else:
            self.empty += 1
        return unpack(answer)


async def rebuilt(setup: Setup) -> tuple[str, int]:
    """The digest of a database made anew from the log, and the pages that were loaded into it."""
    async with open_job(setup.configure("http://127.0.0.1:1"), clock=setup.clock) as job:
        before = await job.digest()
        done = await job.replay(None, rebuild=True)
        assert done.exit == 0, done
        assert await job.digest() == before
        return before, done.load.pages


async def test_what_it_decodes_makes_the_same_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "take_back", lambda _: None)
    async with staged(tmp_path, monkeypatch, EXAMPLE + "\nprint('models are read')\n") as setup:
        answers = Answers(monkeypatch)
        _, pages = await rebuilt(setup)
    assert answers.full == pages > 20
    assert (answers.empty, answers.here) == (0, 0)


async def test_while_it_is_waited_for_what_it_has_not_begun_with_is_decoded_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path, monkeypatch) as setup:
        answers = Answers(monkeypatch)
        held, send = Event(), Worker._send
        take_back, taken = Worker.take_back, list[object]()

        def slow(worker: Worker, pipe: Any) -> None:
            # its models, and then nothing until all that can be was taken back
            send_one = worker._line.take

            def take() -> Any:
                if worker._process is not None and worker.ready.is_set():
                    assert held.wait(20)
                return send_one()

            monkeypatch.setattr(worker._line, "take", take)
            send(worker, pipe)

        def taking(worker: Worker) -> Any:
            answer = take_back(worker)
            if answer is None:
                held.set()
            else:
                taken.append(answer)
            return answer

        monkeypatch.setattr(Worker, "_send", slow)
        monkeypatch.setattr(Worker, "take_back", taking)
        _, pages = await rebuilt(setup)
    assert len(taken) == answers.here > 5
    assert answers.full + answers.here == pages
    assert answers.empty == answers.here - len(taken) == 0


async def test_pages_it_takes_to_its_grave_are_decoded_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[Worker] = []
    start = Worker.start

    def noted(worker: Worker) -> None:
        workers.append(worker)
        start(worker)

    def kill() -> None:
        if answers.full == 3:
            process = workers[0]._process
            assert process is not None
            process.kill()
            process.wait()

    monkeypatch.setattr(Worker, "start", noted)
    monkeypatch.setattr(Worker, "take_back", lambda _: None)
    async with staged(tmp_path, monkeypatch) as setup:
        # it is asked for few pages at a time, or all would be answered before it dies
        monkeypatch.setattr(limits, "READ", 4)
        answers = Answers(monkeypatch, kill)
        _, pages = await rebuilt(setup)
    assert answers.full >= 3
    assert answers.empty > 0
    assert answers.full + answers.empty == pages


@pytest.mark.parametrize("why", ["there is no such program", "its models cannot be read"])
async def test_where_it_cannot_be_had_everything_is_decoded_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async with staged(tmp_path, monkeypatch) as setup:
        answers = Answers(monkeypatch)
        if why == "there is no such program":
            monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
        else:
            monkeypatch.setattr("ingest.pipeline.worker._BEGIN", "import sys; sys.exit(1)")
            monkeypatch.setattr(Worker, "start", _and_wait(Worker.start))
        _, pages = await rebuilt(setup)
    assert answers.full == 0
    assert answers.empty == pages


def _and_wait(start: Callable[[Worker], None]) -> Callable[[Worker], None]:
    def started(worker: Worker) -> None:
        start(worker)
        assert worker._process is not None
        worker._process.wait()

    return started


def test_it_is_told_no_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "canary-0123456789")
    setup = Setup(tmp_path, paged(CURSOR), headers={"X-Key": "$CANARY"})
    config = setup.configure(
        "http://canary-0123456789@127.0.0.1:1",
        source={"auth": {"bearer": "$CANARY"}},
        database={"url": "postgresql://user:canary-0123456789@127.0.0.1:1/db"},
    )
    assert b"canary-0123456789" in pickle.dumps(config)
    assert b"canary-0123456789" not in pickle.dumps(_without_secrets(config))


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
async def test_it_does_not_outlive_the_process_that_wanted_it(tmp_path: Path) -> None:
    setup = Setup(tmp_path, paged(CURSOR))
    setup.configure("http://127.0.0.1:1")
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ORPHANED, str(setup.config_file)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    watched = os.pidfd_open(int(await parent.stdout.readline()))
    try:
        parent.stdin.write(b"\n")
        assert await parent.wait() == -signal.SIGKILL
        assert select.select([watched], [], [], 20)[0], "it is still there"
    finally:
        os.close(watched)
