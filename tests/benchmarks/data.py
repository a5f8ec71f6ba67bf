"""The benchmarks' data: a chat's history, newest first, so that children come before their parents."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

_START = 1_500_000_000_000  # milliseconds since 1970
#: later than anything was made
_DAY_LATER = "2024-01-01"
#: what messages are made of
_TEXT = """
all any because between bring change come could day even find first give good hand here high house
keep know large last leave light long make mean might move name never next night old only open other
part place point right same school small something start still take thing think under water while
work
"""
_WORDS = _TEXT.split()


def _time(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def _id(milliseconds: int, pick: random.Random) -> int:
    """Ids that rise with time, as many systems give them."""
    return (milliseconds - 1_420_070_400_000) << 22 | pick.getrandbits(22)


def generate(messages: int, *, seed: int = 7) -> dict[str, list[dict[str, Any]]]:
    """Users, conversations and `messages` messages of about 340 bytes, in a real chat's proportions."""
    pick = random.Random(seed)
    users = [_user(index, pick) for index in range(max(20, messages // 100))]
    conversations = [_conversation(index, users, pick) for index in range(max(10, messages // 500))]
    weights = [1 / (rank + 3) ** 0.7 for rank in range(len(conversations))]
    recent: list[list[int]] = [[] for _ in conversations]
    history = []
    for index, where in enumerate(pick.choices(range(len(conversations)), weights, k=messages)):
        at = _START + index * 97 + pick.randrange(90)
        message = _message(at, index, conversations[where]["id"], users, recent[where], pick)
        recent[where].append(message["id"])
        history.append(message)
    history.reverse()
    return {"users": users, "conversations": conversations, "messages": history}


def _user(index: int, pick: random.Random) -> dict[str, Any]:
    at = _START - 10**10 + index * 1000
    return {
        "id": _id(at, pick),
        "username": f"user{index}",
        "email": f"user{index}@example.com",
        "display_name": f"User Number {index}",
        "bot": index % 50 == 0,
        "created_at": _time(at),
        "updated_at": _time(at + 5000),
    }


def _conversation(index: int, users: list[dict[str, Any]], pick: random.Random) -> dict[str, Any]:
    at = _START - 10**9 + index * 1000
    return {
        "id": _id(at, pick),
        "title": f"Conversation {index}",
        "owner_id": pick.choice(users)["id"],
        "kind": "channel",
        "created_at": _time(at),
        "updated_at": _time(at),
    }


def _message(
    at: int,
    index: int,
    conversation: int,
    users: list[dict[str, Any]],
    recent: list[int],
    pick: random.Random,
) -> dict[str, Any]:
    identity = _id(at, pick)
    text = " ".join(pick.choices(_WORDS, k=16)) + (' "quoted" é☃' if index % 37 == 0 else "")
    files = [
        {"id": identity + part, "filename": f"file{part}.png", "size": pick.randrange(10**6)}
        for part in range(pick.choices((0, 1, 2), (85, 10, 5))[0])
    ]
    return {
        "id": identity,
        "conversation_id": conversation,
        "sender_id": pick.choice(users)["id"],
        "reply_to_id": pick.choice(recent[-50:]) if recent and pick.random() < 0.25 else None,
        "content": text,
        "created_at": _time(at),
        "updated_at": _time(at + pick.randrange(10**7)),
        "deleted": pick.random() < 0.02,
        "attachments": files,
    }


def changed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same records a day later: each says something else."""
    return [
        {**one, "updated_at": f"{_DAY_LATER}{one['updated_at'][10:]}", "content": f"{one['content']} edited"}
        for one in records
    ]


def pages(records: list[dict[str, Any]], size: int) -> Iterator[bytes]:
    """The answers of a paginated API."""
    total = -(-len(records) // size)
    for number in range(total):
        data = records[number * size : (number + 1) * size]
        yield msgspec.json.encode({"data": data, "meta": {"page": number + 1, "total_pages": total}})
