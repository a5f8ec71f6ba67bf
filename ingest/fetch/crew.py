"""Workers over a queue that grows while they work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from ingest.errors import Stop

Job = TypeVar("Job")


class Crew(Generic[Job]):
    """Does jobs, so many at a time, in the order in which they were added; the first error ends it."""

    def __init__(self, workers: int, do: Callable[[Job], Awaitable[None]]) -> None:
        self._workers = workers
        self._do = do
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()

    def add(self, job: Job) -> None:
        """Queue a job; those who work may do so too."""
        self._jobs.put_nowait(job)

    async def work(self, phases: Iterable[Callable[[], Iterable[Job]]]) -> None:
        """For each phase in turn queue what it says then, and go on when everything queued is done."""
        try:
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(self._work()) for _ in range(self._workers)]
                for phase in phases:
                    for job in phase():
                        self.add(job)
                    await self._jobs.join()
                for worker in workers:
                    worker.cancel()
        except BaseExceptionGroup as errors:
            first = _foremost(errors)
            raise first from first.__cause__

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            try:
                await self._do(job)
            finally:
                self._jobs.task_done()


def _foremost(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to tell of several: one that stops the run, before what it brought about in others."""
    found: list[BaseException] = []
    for error in errors.exceptions:
        found.append(_foremost(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in found if isinstance(error, Stop)), found[0])
