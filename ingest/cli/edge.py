"""Where the synchronous world meets the asynchronous one: signals, faults and exit statuses.

work ──ends──────────────────────────▶ its result
 │ │
 │ └─SIGINT, SIGTERM, SIGHUP──▶ cancelled at a safe point ──▶ Interrupted   exit 130
 │                                      │ the same again
 │                                      └──▶ the process ends at once       exit 130
 └─raises─▶ told in a line and a hint, or, when it is our own mistake, with its traceback
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NamedTuple, NoReturn, TypeVar

from ingest.errors import IngestError

T = TypeVar("T")

INTERRUPTED = 130
#: what every exit status means
EXITS = {
    0: "Certified: every reference, pointer and counter that was checked holds.",
    1: "Failed: the run could not go on. Nothing that was staged is lost.",
    2: "The command line, the configuration or the models cannot be used as they are.",
    3: "Certified but incomplete: a partition gave up, new dead letters, or deletes held back.",
    4: "Integrity not proven: a reference dangles, or a pointer or counter is wrong.",
    INTERRUPTED: "Interrupted; the same command goes on where it was.",
}
GO_ON = "nothing that was staged is lost; run the command again to go on"
#: a progress bar hides it
SHOW_CURSOR = b"\x1b[?25h"
#: what asks a run to stop
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(Exception):
    """A signal asked the run to stop, and it did."""


class Told(NamedTuple):
    """What a person is told of a fault, and the status to exit with."""

    lines: list[str]
    exit: int


def run_until_asked_to_stop(work: Coroutine[Any, Any, T], say: Callable[[str], None]) -> T:
    """The work's result; Interrupted when a signal asked it to stop and it stopped at a safe point."""
    return asyncio.run(_until_asked_to_stop(work, say))


async def _until_asked_to_stop(work: Coroutine[Any, Any, T], say: Callable[[str], None]) -> T:
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    asked: list[int] = []

    def stop() -> None:
        say("stopping at a safe point; once more to stop at once")
        task.cancel()

    def ask(number: int, _frame: FrameType | None) -> None:
        if asked:
            _end_at_once()
        asked.append(number)
        loop.call_soon_threadsafe(stop)

    with _handled(ask):
        try:
            return await task
        except asyncio.CancelledError:
            if asked:
                raise Interrupted from None
            raise


def _end_at_once() -> NoReturn:
    """What is staged and committed stays: a kill is as safe as a stop."""
    with suppress(OSError, ValueError):
        if os.isatty(sys.stderr.fileno()):
            os.write(sys.stderr.fileno(), SHOW_CURSOR)
    os._exit(INTERRUPTED)


@contextmanager
def _handled(ask: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals go to `ask`, and not by the event loop: that may be busy for seconds with one transaction."""
    before = {}
    # a signal that the shell told us to ignore (nohup, a job in the background) stays ignored
    for number in (number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN):
        with suppress(ValueError):  # only the main thread may
            before[number] = signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def told(error: BaseException) -> Told:
    """What to say of a fault: a line and a hint for what a person or a server can cause, else a traceback."""
    faults = [_explained(leaf) for leaf in _leaves(error)]
    if all(fault is not None for fault in faults):
        known = [fault for fault in faults if fault is not None]
        return Told(list(dict.fromkeys(line for fault in known for line in fault.lines)), known[0].exit)
    said = "".join(traceback.format_exception(error)).splitlines()
    return Told([*said, f"ingest: this is a mistake in ingest: {type(error).__name__}: {error}"], 1)


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors of a group, without those that are only its consequence."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    leaves = [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [leaf for leaf in leaves if not isinstance(leaf, asyncio.CancelledError)] or leaves


def _explained(error: BaseException) -> Told | None:
    if isinstance(error, IngestError):
        where = f"{error.where}: " if error.where else ""
        hint = [f"hint: {error.hint}"] if error.hint else []
        return Told([f"ingest: {where}{error.message}", *hint], error.exit_status)
    if isinstance(error, MemoryError):
        return Told(["ingest: out of memory", f"hint: {GO_ON}"], 1)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return Told([f"ingest: {where}{error.strerror}", f"hint: {GO_ON}"], 1)
    if _is_the_databases(error):
        return Told([f"ingest: database: {getattr(error, 'orig', None) or error}", f"hint: {GO_ON}"], 1)
    return None


def _is_the_databases(error: BaseException) -> bool:
    """Whether the database said it: unreachable, locked, full. SQLAlchemy is looked up, not imported."""
    exc = sys.modules.get("sqlalchemy.exc")
    return exc is not None and isinstance(error, (exc.OperationalError, exc.InterfaceError, exc.TimeoutError))
