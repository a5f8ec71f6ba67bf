"""Whatever an API is like and whatever happens in it, the mirror is the truth in the end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest

from ingest.pipeline import limits
from tests.integration.jobs import Setup
from tests.integration.story import LATER, bump, rooms, say
from tests.integration.test_round_trip import KINDS, TROUBLE, paged
from tests.upstream import Dialect, Faults, Paging, Truth, Upstream, example, generate
from tests.upstream.faults import cut_body, disconnect, status, too_many

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

TOKENS = ("cursor", "header", "link", "url", "continue")
#: the share of requests before which something happens, where things happen while a run reads
MEANWHILE = 0.06


class Story:
    """Changes at random of which an API tells: a changed conversation has a new message and a new time."""

    def __init__(self, truth: Truth, random: Random, pace: timedelta) -> None:
        """`pace`: the most that lies between two things."""
        self.truth, self.random, self.pace = truth, random, pace
        self.now = LATER
        self._number = 0
        self._written: list[int] = []
        self._kinds: list[Callable[[int], set[int]]] = [
            self._edit,
            self._move,
            self._hide,
            self._attachments,
            self._options,
            self._tag,
            self._title,
            self._user,
            self._newcomer,
            self._leave,
            self._delete,
        ]

    def happen(self) -> None:
        """A few changes, and the time that tells of them."""
        touched: set[int] = set()
        for _ in range(self.random.randint(1, 12)):
            room = self.random.choice(rooms(self.truth))
            touched |= {room} | self.random.choice(self._kinds)(room)
        for room in sorted(touched):
            self._write(room)
        bump(self.truth, self._tick(), *touched)
        self.now += timedelta(milliseconds=1)

    def _tick(self) -> Any:
        self.now += self.pace * self.random.choice((0, 0, 0.01, 1)) + timedelta(milliseconds=1)
        return self.now

    def _write(self, room: int) -> None:
        random, truth = self.random, self.truth
        self._number += 1
        others = [None, *(key for (key,) in truth.keys("messages"))]
        key = say(truth, room, self._number, self._tick(), reply_to_id=random.choice(others))
        for name in "ab"[: random.choice((0, 0, 1, 2))]:
            attached = {"id": UUID(int=random.getrandbits(64)), "message_id": key, "name": name}
            truth.upsert("attachments", {**attached, "size": random.randint(0, 10)})
        self._written.append(key)

    def _any(self) -> Any:
        """One of the messages that were written here, and are there still."""
        rows = [row for key in self._written if (row := self.truth.get("messages", key))]
        return self.random.choice(rows) if rows else None

    def _changed(self, **stated: Any) -> set[int]:
        """Change a message; the conversations that tell of it."""
        row = self._any()
        if row is None:
            return set()
        self.truth.upsert("messages", {"id": row["id"], "updated_at": self._tick(), **stated})
        return {row["conversation_id"]}

    def _edit(self, _: int) -> set[int]:
        return self._changed(text=self.random.choice((None, f"edited {self.now}")))

    def _move(self, room: int) -> set[int]:
        return self._changed(conversation_id=room)

    def _hide(self, _: int) -> set[int]:
        return self._changed(deleted_at=self.random.choice((None, self.now)))

    def _attachments(self, _: int) -> set[int]:
        row = self._any()
        for one in self.truth.matching("attachments", ("message_id",), (row["id"],))[:1] if row else ():
            self.truth.delete("attachments", one["id"])
            self.truth.upsert("messages", {"id": row["id"], "updated_at": self._tick()})
        return {row["conversation_id"]} if row else set()

    def _options(self, _: int) -> set[int]:
        row = self._any()
        if row is None:
            return set()
        options = self.truth.matching("poll_options", ("message_id",), (row["id"],))
        if options and self.random.random() < 0.5:
            self.truth.delete("poll_options", (row["id"], len(options) - 1))
        else:
            new = {"message_id": row["id"], "position": len(options), "label": f"{self._number}"}
            self.truth.upsert("poll_options", new)
        self.truth.upsert("messages", {"id": row["id"], "updated_at": self._tick()})
        return {row["conversation_id"]}

    def _tag(self, room: int) -> set[int]:
        link = (room, self.random.choice(self.truth.keys("tags"))[0])
        if self.truth.get("conversation_tags", link):
            self.truth.delete("conversation_tags", link)
        else:
            self.truth.upsert("conversation_tags", {"conversation_id": link[0], "tag_id": link[1]})
        return set()

    def _title(self, room: int) -> set[int]:
        self.truth.upsert("conversations", {"id": room, "title": f"title {self._number}"})
        return set()

    def _user(self, _: int) -> set[int]:
        (user,) = self.random.choice(self.truth.keys("users"))
        self.truth.upsert(
            "users", {"id": user, "name": f"{self._number}", "score": self.random.choice((None, 1.5))}
        )
        return set()

    def _newcomer(self, _: int) -> set[int]:
        (inviting,) = self.random.choice(self.truth.keys("users"))
        new = {"id": UUID(int=self.random.getrandbits(100)), "email": None, "invited_by_id": inviting}
        self.truth.upsert("users", {**self.truth.rows("users")[0], **new})
        return set()

    def _leave(self, _: int) -> set[int]:
        owners = {row["owner_id"] for row in self.truth.rows("conversations")}
        guests = [key for (key,) in self.truth.keys("users") if key not in owners]
        if guests and self.random.random() < 0.4:
            self.truth.delete("users", self.random.choice(guests))
        return set()

    def _delete(self, _: int) -> set[int]:
        keys = self.truth.keys("messages")
        if keys and self.random.random() < 0.6:
            self.truth.delete("messages", self.random.choice(keys))
        return set()


def any_truth(random: Random) -> Truth:
    most = {
        "users": (4, 25),
        "tags": (2, 12),
        "conversations": (2, 9),
        "conversation_tags": (2, 20),
        "messages": (5, 80),
        "attachments": (0, 40),
        "poll_options": (0, 30),
    }
    rows = {table: random.randint(*bounds) for table, bounds in most.items()}
    return generate(example.Base, seed=random.randrange(10**6), rows=rows)


def any_streams(random: Random, kind: str) -> dict[str, Any]:
    streams = paged({**KINDS[kind], "limit": random.randint(2, 9)})
    if random.random() < 0.3:
        del streams["conversations"]["since"]
    return streams


def any_dialect(random: Random) -> Dialect:
    return Dialect(
        parents=random.choice(("flat", "nested", "both")),
        lists=random.choice(("needed", "all")),
        positions=random.choice(("stated", "index")),
        derived=random.random() < 0.3,
        big_integers=random.choice(("number", "string")),
        zones=random.choice(("Z", "mixed")),
    )


def any_paging(random: Random, kind: str) -> Paging:
    tokened = kind in TOKENS
    return Paging(
        duplicates=random.choice((0, 0.3)),
        end=random.choice(("absent", "null")),
        empty_pages=random.choice((0, 0.3)) if tokened else 0,
        trailing_empty=tokened and random.random() < 0.3,
    )


SEEDS = [
    *range(3),
    *(pytest.param(seed, marks=pytest.mark.sweep) for seed in range(3, 15)),
    *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(15, 150)),
]


@pytest.mark.parametrize("meanwhile", [False, True], ids=["between runs", "during runs"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_in_the_end_the_mirror_is_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, meanwhile: bool
) -> None:
    random = Random(seed)
    kind, truth = random.choice(list(KINDS)), any_truth(random)
    setup = Setup(tmp_path, any_streams(random, kind), **TROUBLE)
    setup.tables["fetch"] = {"concurrency": random.choice((1, 2, 8))}
    if random.random() < 0.3:
        for name, value in (("BULK", 20), ("BATCH", 15), ("BACKLOG", 80)):
            monkeypatch.setattr(limits, name, value)
    faults = Faults(seed)
    if random.random() < 0.5:
        faults.sometimes(0.2, status(500), too_many(1), cut_body(), disconnect())
    # what happens while a run reads comes within `settle`
    story = Story(truth, random, timedelta(milliseconds=100) if meanwhile else timedelta(hours=1))
    busy = False

    def before(*_: Any) -> None:
        if busy and random.random() < MEANWHILE:
            story.happen()

    async with Upstream(
        setup.source,
        truth,
        dialect=any_dialect(random),
        paging=any_paging(random, kind),
        faults=faults,
        seed=seed,
        order=random.choice(("shuffled", "newest-first", "oldest-first")),
        now=setup.clock.now,
        before=before,
    ) as up:
        await setup.sync(up)
        for _ in range(2):
            story.now += timedelta(minutes=5)
            story.happen()
            busy = meanwhile
            await setup.sync(up)
            busy = False
            if meanwhile:
                # a listing that was read while it changed is read again
                await setup.sync(up)
            assert setup.differences(truth) == []
        again = await setup.sync(up)
        assert (again.exit, again.remarks, again.load.written) == (0, (), 0)
