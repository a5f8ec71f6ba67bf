"""What happens to the example's truth between runs: rows come, change, move and go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.upstream import Truth, example

#: later than every time in a generated truth
LATER = datetime(2025, 6, 1, tzinfo=UTC)
#: keys of new messages begin here
NEW = 10**17


def say(truth: Truth, conversation: int, number: int, at: datetime, **stated: Any) -> int:
    """A new message."""
    key = NEW + number
    users = truth.rows("users")
    truth.upsert(
        "messages",
        {
            "id": key,
            "conversation_id": conversation,
            "sender_id": users[number % len(users)]["id"],
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
    truth.upsert("conversations", {"id": 5, "title": "new", "owner_id": guest["id"], "updated_at": LATER})
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
    say(truth, first, 30, LATER + timedelta(hours=1), reply_to_id=NEW + 3)
    bump(truth, LATER + timedelta(hours=2), first, second, third, 5)


def edit(truth: Truth) -> None:
    """Updates, tombstone fields, a message that moves, lists that shrink, values that become NULL."""
    first, second, third, *_ = (key for key in rooms(truth) if key != 5)
    at = LATER + timedelta(days=1)
    guest = {
        "id": UUID(int=77),
        "name": "renamed",
        "role": example.Role.ADMIN,
        "seen_at": None,
        "settings": None,
    }
    truth.upsert("users", guest)
    truth.upsert("messages", {"id": NEW, "text": "edited", "updated_at": at})
    truth.upsert("messages", {"id": NEW + 3, "text": None, "reply_to_id": None, "updated_at": at})
    # the last of its conversation goes, and with it the pointer moves back
    truth.upsert("messages", {"id": NEW + 30, "deleted_at": at, "updated_at": at})
    truth.upsert("messages", {"id": NEW + 6, "deleted_at": at, "updated_at": at})
    # from the second conversation to the new one
    truth.upsert("messages", {"id": NEW + 22, "conversation_id": 5, "updated_at": at})
    truth.delete("attachments", UUID(int=1003))
    truth.upsert("attachments", {"id": UUID(int=2000), "message_id": NEW + 3, "name": "other", "size": 1})
    truth.delete("poll_options", (NEW + 23, 1))
    truth.upsert("messages", {"id": NEW + 23, "updated_at": at})
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
    truth.delete("messages", NEW + 23)


#: everything that happens, in order
CHANGES = (grow, edit, remove)
