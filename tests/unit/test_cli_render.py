"""Reports on a terminal and in a file."""

from __future__ import annotations

import io
import re
from typing import Any

import msgspec
import pytest

from ingest.cli import render
from ingest.report import (
    Certificate,
    DerivedProof,
    Failure,
    FetchReport,
    Preview,
    PreviewTable,
    ReferenceProof,
    Status,
    TableReport,
)
from ingest.types import LoadCounts

GOOD = Certificate(
    run="01a",
    command="sync",
    started="2026-03-01T10:00:00.500+00:00",
    ended="2026-03-01T10:00:04+00:00",
    exit=0,
    scope="touched",
    fetch=FetchReport(requests=1300, pages=1250, records=52000, bytes=9_000_000, retries=1, skipped=3),
    load=LoadCounts(pages=1250, records=52000, written=51000, kept=1000),
    tables=(
        TableReport(table="messages", rows=51234, written=50990),
        TableReport(table="users", rows=10, written=10),
    ),
    references=(
        ReferenceProof(table="messages", columns=("sender_id",), target="users", dangling=0),
        ReferenceProof(table="messages", columns=("room_id", "no"), target="rooms", dangling=0),
    ),
    derived=(
        DerivedProof(table="rooms", column="last_message_id", kind="pointer", set=40, wrong=0),
        DerivedProof(table="rooms", column="message_count", kind="counter", set=1, wrong=0),
    ),
    missing={"gone": 1, "forbidden": 2, "wanted": 0},
    healed=7,
    withheld={"missing": 3},
    tombstones=4,
)
BAD = msgspec.structs.replace(
    GOOD,
    exit=4,
    scope="whole",
    fetch=FetchReport(
        failures=(Failure(source="chat", stream="messages", partition='{"rooms.id":3}', cause="HTTP 500"),),
        unseen=("chat.messages: edits older than 7d",),
    ),
    load=LoadCounts(pages=1, records=1, rejected=1, quarantined=1),
    references=(ReferenceProof(table="messages", columns=("room_id", "no"), target="rooms", dangling=12),),
    derived=(DerivedProof(table="rooms", column="message_count", kind="counter", set=0, wrong=5),),
    dead_letters=1,
    unmapped=tuple(f"messages: key{number}" for number in range(12)),
    gaps=2,
    remarks=("1 partition gave up",),
)


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def drawn(draw: Any, *values: Any, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    draw(render.console(stream), *values)
    return stream.getvalue()


def test_a_good_certificate_shows_what_was_done_and_proven() -> None:
    lines = [line.rstrip() for line in drawn(render.certificate, GOOD).splitlines()]
    assert lines == [
        "table       rows  written",
        "messages  51,234   50,990",
        "users         10       10",
        "",
        "fetched       1,250 pages in 1,300 requests, 9,000,000 bytes, 1 retry, 3 partitions unchanged",
        "loaded        1,250 pages, 0 quarantined",
        "records       52,000 = 51,000 written + 1,000 kept + 0 rejected",
        "references    2 foreign keys checked, 0 dangling",
        "parents       7 healed, 3 (forbidden 2, gone 1) missing",
        "derived       40 pointers and 1 counter set, 0 wrong",
        "withheld      3 (missing 3)",
        "deleted       4 rows upstream",
        "dead letters  0",
        "gaps          0",
        "",
        "certified: 2 foreign keys checked over every row that may have changed, 0 dangling; "
        "2 pointers and counters, 0 wrong (sync, run 01a, 3.5 s)",
    ]


def test_a_bad_certificate_names_everything_that_is_wrong() -> None:
    text = drawn(render.certificate, BAD)
    expected = [
        "dangling      messages(room_id, no) -> rooms: 12",
        "wrong         rooms.message_count: 5",
        'gave up       chat.messages {"rooms.id":3}: HTTP 500',
        "not seen      chat.messages: edits older than 7d",
        "unmapped      messages: key9",
        "unmapped      and 2 more; --json lists all",
        "remark        1 partition gave up",
        "records       1 = 0 written + 0 kept + 1 rejected",
        "gaps          2",
        "NOT PROVEN: 1 foreign key checked over every row, 12 dangling; 1 pointer or counter, 5 wrong",
    ]
    assert [line for line in expected if line not in text] == []
    assert "key10" not in text


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (0, "certified: "),
        (1, "failed: "),
        (3, "certified, but incomplete: "),
        (4, "NOT PROVEN: "),
        (9, "exit 9: "),
    ],
)
def test_the_last_line_says_whether_the_mirror_may_be_relied_upon(status: int, word: str) -> None:
    assert render.verdict(msgspec.structs.replace(GOOD, exit=status)).startswith(word)


@pytest.mark.parametrize(
    ("ended", "took"),
    [("2026-03-01T10:00:00.500+00:00", "0.0 s"), ("2026-03-01T11:00:00+00:00", "60 min"), ("", "-")],
)
def test_a_run_says_how_long_it_took_if_it_ended(ended: str, took: str) -> None:
    assert render.verdict(msgspec.structs.replace(GOOD, ended=ended)).endswith(f"{took})")


@pytest.mark.parametrize("setting", ["FORCE_COLOR", "CLICOLOR_FORCE", "GITHUB_ACTIONS"])
def test_there_are_escape_codes_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1m" in drawn(render.certificate, GOOD, stream=Terminal())
    monkeypatch.setenv(setting, "1")
    assert "\x1b" not in drawn(render.certificate, GOOD)


def test_a_narrow_terminal_folds_a_table_and_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    row = {"table": "a" * 40, "rows": 12}
    text = re.sub(r"\x1b\[[0-9;]*m", "", drawn(render.table, [row], stream=Terminal()))
    assert text.count("a") >= 40 + 1  # the heading has one of its own
    assert max(map(len, text.splitlines())) <= 30


def test_lines_in_a_file_are_never_wrapped() -> None:
    assert drawn(render.lines, [("name", "x" * 500)]).splitlines() == ["name  " + "x" * 500]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("[bold]not markup[/bold] :smile:", "[bold]not markup[/bold] :smile:"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("two\nlines\r", r"two\nlines\r"),
        ("left\u202eright", r"left\u202eright"),
        ("half \ud800", r"half \ud800"),
        ("café 👍", "café 👍"),
        (None, "-"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (1.5, "1.5"),
        ({"a": [1]}, '{"a":[1]}'),
    ],
)
def test_text_from_upstream_is_shown_and_not_obeyed(value: Any, text: str) -> None:
    assert drawn(render.table, [{"value": value}]).splitlines()[1].rstrip() == text.rstrip()
    assert drawn(render.lines, [("value", render.plain(value))]) == f"value  {text}\n"


STATUS = Status(
    database="/srv/m.db",
    log="/srv/m.db.pages",
    log_id="ab12",
    top_stamp=9,
    loaded_pages=7,
    pending_pages=1,
    pending_records=40,
    holder="host:7",
    since="2026-03-01",
    window="run 01a is loading",
    last=[GOOD],
    rows={"rooms": 3, "users": 1200},
    dead_letters=2,
    unmapped=["chat.rooms: colour"],
)


def test_the_status_says_what_is_pending_and_open() -> None:
    lines = [line.rstrip() for line in drawn(render.status, STATUS).splitlines()]
    assert lines == [
        "database          /srv/m.db",
        "page log          /srv/m.db.pages (ab12, 7 pages loaded)",
        "pending           1 page, 40 records",
        "lock              held by host:7 since 2026-03-01",
        "integrity window  OPEN: run 01a is loading",
        "dead letters      2",
        "unmapped          chat.rooms: colour",
        f"last run          {render.verdict(GOOD)}",
        "",
        "table   rows",
        "rooms      3",
        "users  1,200",
    ]


def test_a_mirror_at_rest_says_so() -> None:
    text = drawn(
        render.status, msgspec.structs.replace(STATUS, holder=None, window=None, last=[], unmapped=[])
    )
    assert "lock              free" in text
    assert "integrity window  closed" in text
    assert "last run" not in text


def test_a_preview_shows_the_first_rows_side_by_side_and_what_is_left_over() -> None:
    rows: list[dict[str, Any]] = [
        {"id": number * 10**6, "text": "x" * 100, "at": None} for number in range(1, 6)
    ]
    page = Preview(
        request="GET /messages",
        records=5,
        tables=(
            PreviewTable(table="messages", rows=tuple(rows)),
            PreviewTable(table="users", rows=({"id": 7},)),
        ),
        unmapped=("fyp.flags",),
        rejected=("no id",),
    )
    lines = [line.rstrip() for line in drawn(render.preview, page).splitlines()]
    assert lines[:2] == ["asked    GET /messages", "records  5"]
    assert lines[3] == "messages: 5 rows"
    assert lines[4].split() == ["column", "row", "1", "row", "2", "row", "3"]
    assert lines[5].split() == ["id", "1000000", "2000000", "3000000"]
    assert lines[6].split() == ["text", *["x" * 29 + "..."] * 3]
    assert lines[7].split() == ["at", "-", "-", "-"]
    assert lines[9:12] == ["users: 1 row", "column  row 1", "id      7"]
    assert lines[-2:] == ["unmapped  fyp.flags", "rejected  no id"]
