"""Commands in processes of their own, which can be killed, suspended and woken at a moment given in words."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ingest.config import read_config
from ingest.pipeline import open_job
from ingest.report import Status
from ingest.staging import SqlitePageLog
from ingest.types import Envelope
from tests.crash import child
from tests.crash.asking import Asked, asked_of
from tests.integration.jobs import Setup
from tests.upstream import Upstream

#: seconds that a command, or what it is waited for, may take on a busy machine
LIMIT = 60
#: a child starts with everything imported; importing is what takes its time
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    [
        "tests.crash.child",
        "alembic.command",
        "anyio._backends._asyncio",
        "httpcore",
        "ingest.cli.render",
        "ingest.log",
        "ingest.engines.mariadb",
        "ingest.engines.postgresql",
        "asyncmy",
        "asyncpg",
        "sqlalchemy.dialects.mysql.asyncmy",
        "sqlalchemy.dialects.postgresql.asyncpg",
        "sqlalchemy.dialects.sqlite.aiosqlite",
    ]
)


class Command:
    """One command line against a job, in a process of its own, which does not outlive the context."""

    def __init__(self, setup: Setup, *arguments: str, moment: str | None = None, **limits: int) -> None:
        """`moment` is one of `tests.crash.child`'s; `limits` are thresholds of the pipeline."""
        number = len(list(setup.folder.glob("output*")))
        self.output = setup.folder / f"output{number}"
        self.output.touch()
        command = ["--config", str(setup.config_file), *arguments]
        self._process: ForkServerProcess = CHILDREN.Process(
            target=child.run, args=(command, moment, self.output, limits)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        # asleep or hanging: a process that is left would be waited for when the tests end
        if self._process.exitcode is None:
            self.kill()
            self._process.join(LIMIT)

    @property
    def said(self) -> str:
        """What it wrote so far, to stdout and stderr."""
        return self.output.read_text()

    async def ended(self) -> int:
        """Its exit status, -9 when it was killed."""
        await asyncio.to_thread(self._process.join, LIMIT)
        status = self._process.exitcode
        assert status is not None, f"it goes on and on: {self.said}"
        return status

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    async def suspended(self) -> None:
        """Wait until it has stopped by SIGSTOP; it runs again when it is sent SIGCONT."""
        stat = Path(f"/proc/{self.pid}/stat")
        await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


async def until(true: Callable[[], object]) -> None:
    """Wait for what nobody tells of, while the upstream goes on answering."""
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0)


async def ran(setup: Setup, *arguments: str, moment: str | None = None, **limits: int) -> tuple[int, str]:
    """Run a command to its end: its exit status and what it said."""
    with Command(setup, *arguments, moment=moment, **limits) as command:
        return await command.ended(), command.said


def asked_since(up: Upstream, before: int) -> list[Asked]:
    """What was asked for since there were so many requests."""
    return asked_of(up.requests[before:])


async def staged(setup: Setup) -> list[tuple[int, Envelope]]:
    """Every page in the job's log."""
    path = read_config(setup.config_file).log_path
    if not path.exists():
        return []
    log = await SqlitePageLog.open(path, readonly=True)
    try:
        return [(stamp, envelope) async for stamp, _, envelope in log.envelopes()]
    finally:
        await log.close()


async def status(setup: Setup) -> Status:
    async with open_job(read_config(setup.config_file), write=False) as job:
        return await job.status()


async def digest(setup: Setup) -> str:
    async with open_job(read_config(setup.config_file), write=False) as job:
        return await job.digest()
