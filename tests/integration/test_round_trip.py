"""Truth, told by an upstream, fetched, loaded and reconciled, is the truth again: first, later and after changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ingest.pipeline import open_job
from ingest.report import Certificate
from tests.integration.jobs import Setup
from tests.upstream import Dialect, Faults, Paging, Truth, Upstream, example, generate
from tests.upstream.faults import cut_body, cut_gzip, disconnect, error_in_200, status, too_many, zipped

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

#: later than every time in a generated truth
LATER = datetime(2025, 6, 1, tzinfo=UTC)
ROWS = {
    "users": 23,
    "tags": 12,
    "conversations": 9,
    "conversation_tags": 20,
    "messages": 90,
    "attachments": 40,
    "poll_options": 30,
}
#: what was deleted, for APIs that say so
DELETED = {
    "deleted_users": {"path": "/deleted/users", "records": "data", "entity": "User", "deletes": True},
    "deleted_messages": {"path": "/deleted/messages", "records": "data", "entity": "Message", "deletes": True},
}
KINDS: dict[str, dict[str, Any]] = {
    "page, by pages": {"kind": "page", "pages": "meta.pages", "limit": 7},
    "page, until empty": {"kind": "page", "end": "empty", "limit": 7, "param": "p", "first": 0},
    "offset, by total": {"kind": "offset", "total": "total", "limit": 7},
    "offset, by the next": {"kind": "offset", "next": "next_offset", "limit": 7},
    "cursor": {"kind": "cursor", "next": "meta.next", "limit": 7},
    "cursor and a flag": {"kind": "cursor", "next": "meta.next", "more": "meta.more", "limit": 7},
    "header": {"kind": "header", "next": "X-Next", "param": "after", "limit": 7},
    "link": {"kind": "link", "limit": 7},
    "url": {"kind": "url", "next": "links.next", "limit": 7},
    "keyset": {"kind": "keyset", "param": "beyond", "end": "empty", "limit": 7},
    "continue": {"kind": "continue", "limit": 7},
}


def paged(kind: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The example's streams, all of them paginated in one way."""
    streams = {name: {**stream, "paginate": dict(kind)} for name, stream in example.STREAMS.items()}
    if kind["kind"] == "keyset":
        for name, key in (("users", "id"), ("tags", "id"), ("conversations", "id"), ("messages", "created_at")):
            streams[name]["paginate"]["key"] = key
    return {**streams, **DELETED, **changes}


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=4, rows=ROWS)


def assert_adds_up(certificate: Certificate) -> None:
    load = certificate.load
    assert load.records == load.written + load.kept + load.rejected
    assert (certificate.exit, certificate.remarks) == (0, ())
    assert not any(one.dangling for one in certificate.references)
    assert not any(one.wrong for one in certificate.derived)
    assert certificate.missing == {}


# -- what changes upstream -----------------------------------------------------------------------------


def say(truth: Truth, conversation: int, number: int, at: datetime, **stated: Any) -> int:
    """A new message."""
    key = 10**17 + number
    sender = truth.rows("users")[number % 5]["id"]
    truth.upsert(
        "messages",
        {
            "id": key,
            "conversation_id": conversation,
            "sender_id": sender,
            "text": f"new {number}",
            "created_at": at,
            "updated_at": at,
            **stated,
        },
    )
    return key


def bump(truth: Truth, at: datetime, *conversations: int) -> None:
    """The API tells changed conversations by their time of change."""
    for key in conversations:
        truth.upsert("conversations", {"id": key, "updated_at": at})


def rooms(truth: Truth) -> list[int]:
    return sorted(row["id"] for row in truth.rows("conversations"))


def grow(truth: Truth) -> None:
    """New rows everywhere: messages that answer old ones and each other, with what hangs on them."""
    first, second, third, *_ = rooms(truth)
    guest = {**truth.rows("users")[0], "id": UUID(int=77), "email": None, "invited_by_id": UUID(int=78)}
    truth.upsert("users", {**guest, "id": UUID(int=78), "invited_by_id": UUID(int=77), "name": "two who"})
    truth.upsert("users", guest)
    truth.upsert("tags", {"id": "brand/new?", "colour": "#fff"})
    truth.upsert(
        "conversations", {"id": 5, "title": "new", "owner_id": guest["id"], "updated_at": LATER}
    )
    truth.upsert("conversation_tags", {"conversation_id": 5, "tag_id": "brand/new?"})
    old = sorted(row["id"] for row in truth.rows("messages"))
    for number in range(24):
        key = say(
            truth,
            (first, second, 5)[number % 3],
            number,
            LATER + timedelta(minutes=number),
            reply_to_id=old[number] if number % 2 else None,
        )
        attached = {"id": UUID(int=1000 + number), "message_id": key, "name": "file", "size": number % 11}
        truth.upsert("attachments", attached)
        for position in range(number % 3):
            truth.upsert("poll_options", {"message_id": key, "position": position, "label": f"{position}"})
    say(truth, first, 30, LATER + timedelta(hours=1), reply_to_id=10**17 + 3)
    bump(truth, LATER + timedelta(hours=2), first, second, third, 5)


def edit(truth: Truth) -> None:
    """Updates, tombstone fields, a message that moves, lists that shrink, values that become NULL."""
    first, second, third, *_ = (key for key in rooms(truth) if key != 5)
    at = LATER + timedelta(days=1)
    guest = {"id": UUID(int=77), "name": "renamed", "role": example.Role.ADMIN, "seen_at": None, "settings": None}
    truth.upsert("users", guest)
    new = 10**17
    truth.upsert("messages", {"id": new, "text": "edited", "updated_at": at})
    truth.upsert("messages", {"id": new + 3, "text": None, "reply_to_id": None, "updated_at": at})
    # the last of its conversation goes, and with it the pointer moves back
    truth.upsert("messages", {"id": new + 30, "deleted_at": at, "updated_at": at})
    truth.upsert("messages", {"id": new + 6, "deleted_at": at, "updated_at": at})
    # from the second conversation to the new one
    truth.upsert("messages", {"id": new + 22, "conversation_id": 5, "updated_at": at})
    truth.delete("attachments", UUID(int=1003))
    truth.upsert("attachments", {"id": UUID(int=2000), "message_id": new + 3, "name": "other", "size": 1})
    truth.delete("poll_options", (new + 23, 1))
    truth.upsert("messages", {"id": new + 23, "updated_at": at})
    link = truth.keys("conversation_tags")[0]
    truth.delete("conversation_tags", link)
    truth.upsert("conversation_tags", {"conversation_id": third, "tag_id": "brand/new?"})
    for number, key in enumerate((second, third, 5)):
        say(truth, key, 40 + number, at + timedelta(minutes=1))
    bump(truth, at + timedelta(hours=1), first, second, third, 5, link[0])


def remove(truth: Truth) -> None:
    """Rows that go away, and what their going does to those that refer to them."""
    owners = {row["owner_id"] for row in truth.rows("conversations")}
    counts = {
        row["id"]: sum(one["sender_id"] == row["id"] for one in truth.rows("messages"))
        for row in truth.rows("users")
        if row["id"] not in owners
    }
    truth.delete("users", max(counts, key=lambda key: (counts[key], key)))
    answered = next(row["reply_to_id"] for row in truth.rows("messages") if row["reply_to_id"] is not None)
    truth.delete("messages", answered)
    truth.delete("messages", 10**17 + 23)


# -- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_the_mirror_is_the_truth_again_after_every_change(tmp_path: Path, truth: Truth, kind: str) -> None:
    setup = Setup(tmp_path, paged(KINDS[kind]))
    async with Upstream(setup.source, truth, paging=Paging(duplicates=0.2, end="null"), seed=2) as up:
        assert up.untold() == {}
        assert_adds_up(await setup.sync(up))
        assert setup.differences(truth) == []
        for change in (grow, edit, remove):
            change(truth)
            assert_adds_up(await setup.sync(up))
            assert setup.differences(truth) == [], change.__name__


@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_run_writes_nothing_and_asks_only_where_something_may_have_changed(
    tmp_path: Path, truth: Truth, kind: str
) -> None:
    setup = Setup(tmp_path, paged(KINDS[kind]))
    async with Upstream(setup.source, truth) as up:
        await setup.sync(up)
        first = len(up.requests)
        again = await setup.sync(up)
        assert_adds_up(again)
        assert again.load.written == 0
        assert sum(one.written for one in again.tables) == 0
        last = {str(key) for (key,), row in truth.derived("conversations").items() if row["last_message_id"]}
        asked = [seen.path.split("/")[2] for seen in up.requests[first:] if seen.stream == "messages"]
        assert not last & set(asked)
        # the lists without a `since` are read again, the one with it is asked for what is new
        assert len(up.requests) - first - len(asked) <= 4 + 3 + 2 + len(DELETED)
        assert setup.differences(truth) == []
