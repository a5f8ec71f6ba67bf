"""The picture of a run on a terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest

from ingest.cli.progress import Watch
from ingest.cli.render import console
from ingest.log import Redactor


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def picture(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What stands on the terminal after these events, a second apart."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")

    def draw(*events: tuple[str, dict[str, Any]]) -> str:
        now = [0.0]
        out = Terminal()
        watch = Watch(console(out), Redactor(["hunter2"]), get_time=lambda: now[0])
        for event, fields in events:
            watch(event, **fields)
            now[0] += 1
        watch.print_now()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())

    return draw


def staged(
    stream: str = "messages", partition: str = "{}", records: int = 100, **fields: Any
) -> tuple[str, Any]:
    return "page", {
        "source": "chat",
        "stream": stream,
        "partition": partition,
        "records": records,
        **fields,
    }


def line(picture: str, name: str) -> str:
    return next(line for line in picture.splitlines() if name in line)


def test_pages_records_and_their_rate_are_counted_by_stream(picture: Callable[..., str]) -> None:
    text = picture(staged(), staged("users", records=5), staged(), staged(records=50))
    assert "3 pages  250 records" in line(text, "chat.messages")
    assert "62/s" in line(text, "chat.messages")
    assert "1 page  5 records" in line(text, "chat.users")


def test_there_is_an_end_in_sight_where_the_server_names_a_total(picture: Callable[..., str]) -> None:
    text = picture(*[staged(total_pages=10)] * 4)
    assert "4 of 10 pages" in text
    assert re.search(r"\d:\d\d", text)


def test_there_is_none_while_a_partition_does_not_name_one(picture: Callable[..., str]) -> None:
    text = picture(staged(partition="1", total_pages=10), staged(partition="2"))
    assert " of " not in text
    assert not re.search(r"\d:\d\d", text)


def test_totals_of_partitions_add_up(picture: Callable[..., str]) -> None:
    assert "2 of 13 pages" in picture(
        staged(partition="1", total_pages=10), staged(partition="2", total_pages=3)
    )


@pytest.mark.parametrize(
    ("event", "fields", "text"),
    [
        ("load.started", {"pages": 1200}, "loading 1,200 pages"),
        ("load.finished", {"written": 7, "rejected": 0}, "loaded 7 written"),
        ("step.finished", {"step": "references", "nulled": 3, "stubs": 0}, "references 3 nulled"),
        ("step.finished", {"step": "derived"}, "derived nothing to do"),
        ("heal.asked", {"wanted": 12}, "asking for 12 missing parents"),
        (
            "retry",
            {"source": "chat", "request": "GET /a", "reason": "[red]503", "wait": 2.4},
            "chat GET /a: [red]503; again in 2 s",
        ),
        ("window.opened", {}, "the integrity window is open"),
        ("window.open", {}, "an earlier run left the integrity window open"),
        (
            "gave_up",
            {"source": "chat", "stream": "a", "partition": "{}", "cause": "hunter2 [bold]\x1b[2J"},
            r"gave up  chat.a {}: [masked] [bold]\x1b[2J",
        ),
    ],
)
def test_an_event_is_told_in_words(
    picture: Callable[..., str], event: str, fields: dict[str, Any], text: str
) -> None:
    assert text in picture((event, fields))


def test_an_event_without_a_picture_draws_nothing(picture: Callable[..., str]) -> None:
    assert picture(("run.started", {"run": "1"})).strip() == ""


def test_the_display_ends_with_its_context_and_gives_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    with Watch(console(out), Redactor()) as watch:
        watch("load.started", pages=1)
        assert "\x1b[?25l" in out.getvalue()
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")
