"""SQLite without threads: what aiosqlite gives to a thread is done where it is asked for.

A process that has no thread can be forked at any time, and what runs in it goes the same way every time. What
threads change is left to `test_kill`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiosqlite.core


class NoThread:
    """What is started and never runs."""

    daemon = True

    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        pass


class AtOnce:
    """A queue that does what is put into it."""

    @staticmethod
    def put_nowait(job: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        future, work = job
        try:
            result = work()
        except Exception as error:
            if future is not None:
                future.set_exception(error)
        else:
            if future is not None:
                future.set_result(result)


async def _to_thread(work: Callable[..., Any], *values: Any, **named: Any) -> Any:
    return work(*values, **named)


def install() -> None:
    """From now on, in this process."""
    aiosqlite.core.Thread = NoThread  # type: ignore[attr-defined]
    aiosqlite.core.SimpleQueue = AtOnce  # type: ignore[attr-defined,misc]
    asyncio.to_thread = _to_thread
