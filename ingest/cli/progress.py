"""A run on a terminal: one line a stream while it is fetched, then one for what goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ingest.cli.render import plain
from ingest.log import Redactor

#: drawings a second; each costs a few milliseconds
REFRESH = 8


class _Rate(ProgressColumn):
    """Records a second since the stream's first page."""

    def render(self, task: Task) -> Text:
        """The rate, once there is one to speak of."""
        records, elapsed = task.fields["records"], task.elapsed
        if not elapsed or not records:
            return Text("")
        return Text(f"{records / elapsed:,.0f}/s", style="dim")


class Watch:
    """An observer that draws what it is told; a context in which the terminal is its own."""

    def __init__(
        self, out: Console, redactor: Redactor, *, get_time: Callable[[], float] | None = None
    ) -> None:
        self._redactor = redactor
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}", markup=False),
            _Rate(),
            TimeRemainingColumn(compact=True),
            console=out,
            get_time=get_time,
            refresh_per_second=REFRESH,
            transient=True,
        )
        self._streams: dict[str, _Stream] = {}
        self._step: TaskID | None = None

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Draw an event; those without a picture are not drawn."""
        drawing = _DRAWINGS.get(event)
        if drawing is not None:
            drawing(self, fields)

    def say(self, text: str, style: str = "") -> None:
        """A line that stays, above what moves."""
        self._progress.console.print(Text(self._redactor.text(text), style=style), soft_wrap=True)

    def print_now(self) -> None:
        """The picture as it stands, once."""
        self._progress.console.print(self._progress.get_renderable())

    def _page(self, fields: dict[str, Any]) -> None:
        name = f"{fields.get('source', '')}.{fields.get('stream', '')}"
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = _Stream()
            stream.task = self._progress.add_task(plain(name), total=None, **_NOTHING)
        stream.add(fields)
        # a total that is no longer known has to be taken back by hand: update(total=None) changes nothing
        next(task for task in self._progress.tasks if task.id == stream.task).total = stream.total
        self._progress.update(stream.task, completed=stream.pages, told=stream.told(), records=stream.records)

    def _gave_up(self, fields: dict[str, Any]) -> None:
        where = f"{fields.get('source', '')}.{fields.get('stream', '')} {fields.get('partition', '')}"
        self.say(plain(f"gave up  {where}: {fields.get('cause', '')}"), "yellow")

    def _retry(self, fields: dict[str, Any]) -> None:
        asked = f"{fields.get('source', '')} {fields.get('request', '')}: {fields.get('reason', '')}"
        self._going_on(f"{asked}; again in {fields.get('wait') or 0:.0f} s")

    def _load_started(self, fields: dict[str, Any]) -> None:
        for stream in self._streams.values():
            self._progress.update(stream.task, total=stream.pages, completed=stream.pages)
        self._going_on(f"loading {plain(fields.get('pages', 0))} pages")

    def _load_finished(self, fields: dict[str, Any]) -> None:
        self._going_on(f"loaded {_counts(fields)}")

    def _step_finished(self, fields: dict[str, Any]) -> None:
        counts = {name: value for name, value in fields.items() if name != "step"}
        self._going_on(f"{plain(fields.get('step', 'reconcile'))} {_counts(counts)}")

    def _heal_asked(self, fields: dict[str, Any]) -> None:
        self._going_on(f"asking for {plain(fields.get('wanted', 0))} missing parents")

    def _window_opened(self, _fields: dict[str, Any]) -> None:
        self.say("the integrity window is open: references hold again when this run ends", "yellow")

    def _window_open(self, _fields: dict[str, Any]) -> None:
        self.say("an earlier run left the integrity window open; the next run closes it first", "yellow")

    def _going_on(self, text: str) -> None:
        if self._step is None:
            self._step = self._progress.add_task("", total=None, **_NOTHING)
        self._progress.update(self._step, description=plain(text))


_NOTHING: dict[str, Any] = {"told": "", "records": 0}
_DRAWINGS: dict[str, Callable[[Watch, dict[str, Any]], None]] = {
    "page": Watch._page,
    "gave_up": Watch._gave_up,
    "retry": Watch._retry,
    "load.started": Watch._load_started,
    "load.finished": Watch._load_finished,
    "step.finished": Watch._step_finished,
    "heal.asked": Watch._heal_asked,
    "window.opened": Watch._window_opened,
    "window.open": Watch._window_open,
}


class _Stream:
    """What has been staged of one stream, and how much there will be, where every partition says so."""

    def __init__(self) -> None:
        self.task = TaskID(0)
        self.pages = 0
        self.records = 0
        self._totals: dict[str, int | None] = {}

    def add(self, fields: dict[str, Any]) -> None:
        """Count a page."""
        self.pages += 1
        self.records += fields.get("records") or 0
        partition = str(fields.get("partition", ""))
        self._totals[partition] = fields.get("total_pages") or self._totals.get(partition)

    @property
    def total(self) -> int | None:
        """Pages there are to fetch; None while a partition does not say."""
        known = [total for total in self._totals.values() if total is not None]
        return max(self.pages, sum(known)) if len(known) == len(self._totals) else None

    def told(self) -> str:
        """Pages and records, in words."""
        of = f" of {self.total:,}" if self.total is not None else ""
        pages = "page" if self.pages == 1 and not of else "pages"
        return f"{self.pages:,}{of} {pages}  {self.records:,} records"


def _counts(counts: dict[str, Any]) -> str:
    said = ", ".join(
        f"{value:,} {name}" for name, value in counts.items() if isinstance(value, int) and value
    )
    return said or "nothing to do"
