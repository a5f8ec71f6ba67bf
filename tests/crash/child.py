"""A process that runs one command line and dies by SIGKILL, or is asked to stop, at a moment given in words.

page 3                 right after the third page of this run was made durable
lost 2                 with the second answer in hand, before it is staged
sql 1 INTO messages    before the first statement to the database that holds this text
commit 4               before the fourth transaction of the database is committed
event 2 load.finished  when the run tells of such an event for the second time; of a step by its name as well
window 2               before the second commit after the integrity window was opened
term 1 INTO messages   as sql, but asked to stop by SIGTERM instead
stop 1 INTO messages   as sql, but suspended by SIGSTOP instead, until somebody sends SIGCONT
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ingest import pipeline
from ingest.cli.main import main
from ingest.pipeline import limits as thresholds
from ingest.report import Observer
from ingest.staging import SqlitePageLog

#: what comes instead of SIGKILL
SIGNALS = {"term": signal.SIGTERM, "stop": signal.SIGSTOP}


def die(by: signal.Signals = signal.SIGKILL) -> None:
    """What a power cut, or somebody with `kill -9`, does."""
    os.kill(os.getpid(), by)


def run(arguments: list[str], moment: str | None, output: Path, limits: dict[str, int]) -> None:
    """Run a command line, its output in a file; `limits` are thresholds of the pipeline."""
    # who runs the tests in the background has told them to ignore these
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with output.open("w") as stream:
        sys.stdout = sys.stderr = stream
        for name, value in limits.items():
            setattr(thresholds, name, value)
        if moment is not None:
            _lie_in_wait(*moment.split(" ", 2))
        status = main(arguments)
        stream.flush()
        # not sys.exit: nothing that a dying process leaves undone may be done here either
        os._exit(status)


def _lie_in_wait(kind: str, number: str, text: str = "") -> None:
    countdown = Countdown(int(number), SIGNALS.get(kind, signal.SIGKILL))
    if kind in ("page", "lost"):
        _around_append(countdown, before=kind == "lost")
    elif kind in ("sql", *SIGNALS):
        sa.event.listen(sa.Engine, "before_cursor_execute", on_statement(countdown.tick, text))
    elif kind == "event":
        _on_event(countdown.tick, text)
    elif kind == "commit":
        sa.event.listen(sa.Engine, "commit", lambda _: countdown.tick())
    else:
        opened: list[bool] = []
        note = on_statement(lambda: opened.append(True), "SET window=")
        sa.event.listen(sa.Engine, "before_cursor_execute", note)
        # the first commit is that of the window itself
        countdown.left += 1
        sa.event.listen(sa.Engine, "commit", lambda _: countdown.tick() if opened else None)


class Countdown:
    """Dies when it has counted down."""

    def __init__(self, left: int, by: signal.Signals) -> None:
        self.left, self.by = left, by

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            die(self.by)


def on_statement(do: Callable[[], Any], text: str) -> Callable[..., None]:
    """A listener to SQLAlchemy's "before_cursor_execute" that does something at statements with this text."""

    def listener(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        # names are quoted where they are words of SQL's own
        if text in statement.replace('"', "").replace("`", ""):
            do()

    return listener


def _on_event(do: Callable[[], Any], text: str) -> None:
    opened = pipeline.open_job

    def watched(*values: Any, observe: Observer, **named: Any) -> Any:
        def told(event: str, /, **fields: Any) -> None:
            observe(event, **fields)
            if text in (event, f"{event} {fields.get('step')}"):
                do()

        return opened(*values, observe=told, **named)

    pipeline.open_job = watched


def _around_append(countdown: Countdown, *, before: bool) -> None:
    append = SqlitePageLog.append

    async def watched(self: SqlitePageLog, *values: Any, **named: Any) -> int:
        if before:
            countdown.tick()
        stamp = await append(self, *values, **named)
        if not before:
            countdown.tick()
        return stamp

    SqlitePageLog.append = watched  # type: ignore[method-assign]
