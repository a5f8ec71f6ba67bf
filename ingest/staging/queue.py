"""Everything that is written goes through one task, in order; what waits together is committed together.

    append ─┐                  ┌─ commit([a, b, c])  one transaction, one fsync
    append ─┼─▶ jobs ─▶ task ──┤
    append ─┘                  └─ work()             a generation, a snapshot, pruning

A caller only waits for its answer. When it is cancelled, what it asked for is dropped if it has not
begun and finished if it has, so no transaction is ever left half done by a cancelled task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from ingest.errors import Stop

Item = TypeVar("Item")
Result = TypeVar("Result")
Answer = TypeVar("Answer")

#: items in one transaction: past this an fsync weighs little, and a failure would cost much
MAX_GROUP: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class _Job(Generic[Item]):
    """Something to write and who waits for it: an item for the next group, or work that runs alone."""

    future: asyncio.Future[Any]
    item: Item | None = None
    work: Callable[[], Awaitable[Any]] | None = None


class WriteQueue(Generic[Item, Result]):
    """Runs writes one after the other, grouping the items that wait."""

    def __init__(self, commit: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]]) -> None:
        #: commits a group and says of each item what became of it; raises when nothing was committed
        self._commit = commit
        self._jobs: deque[_Job[Item]] = deque()
        self._woken = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="page log writer")

    async def add(self, item: Item) -> Result:
        """Commit an item in the next group, and return or raise what became of it."""
        result: Result = await self._answer(_Job(_future(), item=item))
        return result

    async def alone(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Run other work between two groups, and return its answer."""
        answer: Answer = await self._answer(_Job(_future(), work=work))
        return answer

    async def close(self) -> None:
        """Finish what is waiting, and end the task."""
        self._closing = True
        self._woken.set()
        await self._task

    async def _answer(self, job: _Job[Item]) -> Any:
        if self._closing or self._task.done():
            raise Stop("the page log is closed")
        self._jobs.append(job)
        self._woken.set()
        return await job.future

    async def _run(self) -> None:
        try:
            while await self._waited():
                group = self._next_group()
                try:
                    await self._settle(group)
                finally:
                    _cancel(group)
        finally:
            _cancel(self._jobs)

    async def _waited(self) -> bool:
        """Whether there is another job; False once everything is done and the log is closing."""
        while not self._jobs:
            if self._closing:
                return False
            self._woken.clear()
            await self._woken.wait()
        return True

    def _next_group(self) -> list[_Job[Item]]:
        group: list[_Job[Item]] = []
        while self._jobs and len(group) < MAX_GROUP:
            if self._jobs[0].work is not None and group:
                break
            job = self._jobs.popleft()
            if job.future.cancelled():
                continue
            group.append(job)
            if job.work is not None:
                break
        return group

    async def _settle(self, group: list[_Job[Item]]) -> None:
        """Give every waiter of a group its answer.

        A Stop is the log's own trouble and everybody's. Any other failure is of one item, so each is
        tried alone and only the one at fault fails.
        """
        try:
            results = await self._results(group)
        except Exception as error:
            if len(group) > 1 and not isinstance(error, Stop):
                for job in group:
                    await self._settle([job])
                return
            results = [error] * len(group)
        for job, result in zip(group, results, strict=True):
            _resolve(job.future, result)

    async def _results(self, group: list[_Job[Item]]) -> Sequence[Any]:
        if group and (work := group[0].work) is not None:
            return [await work()]
        return await self._commit([job.item for job in group if job.item is not None]) if group else []


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _cancel(jobs: Sequence[_Job[Any]] | deque[_Job[Any]]) -> None:
    for job in jobs:
        job.future.cancel()
