"""What a complete listing leaves out is deleted, and what is not there when it is asked for by id."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.ledger import DELETES, LISTINGS, SWEEPS
from ingest.source import Source
from ingest.types import Covered, Listing, Page, Walk, canonical
from tests import convergence_models
from tests.harness import Mirrored, mirrored, page

SOURCE = msgspec.convert(
    {
        "streams": {
            "users": {"path": "/users", "entity": "User", "by_id": {"path": "/users/{id}"}},
            "devices": {"path": "/devices", "entity": "Device", "by_id": {"path": "/devices/{id}"}},
            "gone_devices": {"path": "/gone_devices", "entity": "Device", "deletes": True},
            "rooms": {"path": "/rooms", "entity": "Room", "by_id": {"path": "/rooms/{id}"}},
            "messages": {"path": "/messages", "entity": "Message"},
            "all_users": {"path": "/all_users", "entity": "User", "sweep": True},
            "all_devices": {"path": "/all_devices", "entity": "Device", "sweep": True},
            "room_messages": {
                "path": "/rooms/{room}/messages",
                "each": "rooms",
                "entity": "Message",
                "set": {"room_id": "$partition.room"},
                "sweep": True,
            },
        }
    },
    Source,
)


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirrored]:
    async with mirrored(tmp_path, convergence_models, SOURCE) as made:
        await made.open_window()
        yield made


def user(id: int, name: str = "ann") -> dict[str, Any]:
    return {"id": id, "name": name, "email": None}


def listing(first: int, stream: str, *pages: Sequence[dict[str, Any]], **said: Any) -> list[Page]:
    """The pages of a listing that is complete."""
    made = []
    for at, records in enumerate(pages):
        last = at == len(pages) - 1
        proof = Covered(listing=Listing(pages=len(pages), first=first if at else 0)) if last else None
        walk = Walk(id=f"walk {first}", kind="full")
        made.append(
            page(first + at, stream, list(records), asked=first - 1, covered=proof, walk=walk, **said)
        )
    return made


def by_id(stamp: int, stream: str, *keys: int, status: int = 404, records: Any = b"", asked: int = 0) -> Page:
    """What was answered when these keys were asked for."""
    walk = Walk(id=f"by id {stamp}", kind="by_id")
    partition = canonical({"by_id": [str(key) for key in keys]})
    return page(stamp, stream, records, asked=asked, walk=walk, partition=partition, status=status)


async def keys(mirror: Mirrored, table: str = "users") -> list[int]:
    assert (await mirror.settle()).holds
    return sorted(key for (key,) in await mirror.rows(table))


BEFORE = [page(1, "users", [user(1), user(2), user(3)])]
LISTED = listing(5, "all_users", [user(1)], [user(3)])


async def test_a_row_that_a_complete_listing_leaves_out_goes(mirror: Mirrored) -> None:
    await mirror.load([*BEFORE, *LISTED])
    assert await keys(mirror) == [1, 3]
    assert list(await mirror.withheld()) == [("users", (2,), "")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
async def test_in_whatever_order_its_pages_come(mirror: Mirrored, order: tuple[int, ...]) -> None:
    pages = [*BEFORE, *LISTED]
    for at in order:
        await mirror.load([pages[at]], in_order=False)
    assert await keys(mirror) == [1, 3]


async def test_before_all_of_it_is_loaded_nothing_goes(mirror: Mirrored) -> None:
    await mirror.load([*BEFORE, LISTED[1]], in_order=False)
    assert await keys(mirror) == [1, 2, 3]


async def test_a_listing_that_leaves_nothing_out_writes_nothing(mirror: Mirrored) -> None:
    await mirror.load([*BEFORE])
    counts = await mirror.load(listing(5, "all_users", [user(1), user(2)], [user(3)]))
    assert (counts.written, counts.kept) == (0, 3)
    assert await mirror.ledger(LISTINGS) == await mirror.ledger(SWEEPS) == []


@pytest.mark.parametrize("in_order", [False, True], ids=["out of order", "taken in again"])
async def test_late_old_copies_do_not_bring_a_swept_row_back(mirror: Mirrored, in_order: bool) -> None:
    await mirror.load([*BEFORE, *LISTED])
    late = page(3, "users", [user(2, "late"), user(9, "never seen")])
    await mirror.load([late], in_order=in_order)
    assert await keys(mirror) == [1, 3]
    assert {key for _, key, _ in await mirror.withheld()} == {(2,), (9,)}


async def test_a_row_that_is_stated_since_the_listing_began_stays_and_comes_back(mirror: Mirrored) -> None:
    await mirror.load([*BEFORE, LISTED[0]])
    await mirror.load([page(7, "users", [user(2)])])
    last = msgspec.structs.replace(LISTED[1], stamp=8)
    await mirror.load([last])
    assert await keys(mirror) == [1, 2, 3]
    await mirror.load(listing(9, "all_users", [user(1)], [user(3)]))
    assert await keys(mirror) == [1, 3]
    await mirror.load([page(12, "users", [user(2)], asked=11)])
    assert await keys(mirror) == [1, 2, 3]


async def test_an_equal_record_between_the_pages_of_a_listing_keeps_its_row(mirror: Mirrored) -> None:
    await mirror.load(BEFORE)
    await mirror.load([LISTED[0]])
    # says nothing new, and yet when it was said counts
    assert (await mirror.load([by_id(6, "users", 2, status=200, records=[user(2)])])).written == 1
    await mirror.load([msgspec.structs.replace(LISTED[1], stamp=7)])
    assert await keys(mirror) == [1, 2, 3]


async def test_a_mention_does_not_bring_a_swept_row_back(mirror: Mirrored) -> None:
    await mirror.load([*BEFORE, *LISTED])
    message = {"id": 1, "room_id": 1, "device_id": 1, "author": {"id": 2, "name": "bob"}, "author_id": 2}
    await mirror.load([page(9, "rooms", [{"id": 1, "title": "t"}]), page(10, "messages", [message])])
    assert await keys(mirror) == [1, 3]
    assert (await mirror.rows("messages"))[(1,)]["author_id"] is None


async def test_who_was_only_mentioned_since_the_listing_began_stays(mirror: Mirrored) -> None:
    message = {"id": 1, "room_id": 1, "device_id": 1, "author": {"id": 8, "name": "new"}, "author_id": 8}
    await mirror.load([*BEFORE, *LISTED])
    await mirror.load([page(9, "rooms", [{"id": 1, "title": "t"}]), page(10, "messages", [message])])
    assert await keys(mirror) == [1, 3, 8]


async def test_a_listing_with_a_record_that_cannot_be_stored_proves_nothing(mirror: Mirrored) -> None:
    broken = listing(5, "all_users", [user(1), user(2, "x" * 99)], [user(3)])
    await mirror.load([*BEFORE])
    await mirror.load(broken)
    assert await keys(mirror) == [1, 2, 3]
    assert [one["sound"] for one in await mirror.ledger(LISTINGS)] == [1]


async def test_a_listing_of_a_partition_is_of_the_rows_that_are_in_it_now(mirror: Mirrored) -> None:
    def message(id: int, room: int) -> dict[str, Any]:
        return {"id": id, "room_id": room, "device_id": 1}

    await mirror.load([page(1, "rooms", [{"id": 1, "title": "t"}, {"id": 2, "title": "u"}])])
    await mirror.load([page(2, "messages", [message(1, 1), message(2, 1), message(3, 2), message(4, 1)])])
    await mirror.load([page(3, "messages", [message(4, 2)])])
    await mirror.load(listing(5, "room_messages", [message(1, 1)], partition=canonical({"room": 1})))
    assert await keys(mirror, "messages") == [1, 3, 4]


async def test_an_older_version_in_a_listing_says_that_the_row_is_there(mirror: Mirrored) -> None:
    await mirror.load([page(1, "rooms", [{"id": 1, "title": "t"}])])
    new = {"id": 1, "room_id": 1, "device_id": 1, "rev": 5, "text": "new"}
    other = {"id": 2, "room_id": 1, "device_id": 1, "rev": 5}
    await mirror.load([page(2, "messages", [new, other])])
    stale = {**new, "rev": 4, "text": "old"}
    await mirror.load(listing(5, "room_messages", [stale], partition=canonical({"room": 1})))
    assert await keys(mirror, "messages") == [1]
    assert (await mirror.rows("messages"))[(1,)]["text"] == "new"


async def test_a_listing_does_not_take_a_placeholder_that_is_needed(mirror: Mirrored) -> None:
    await mirror.load([page(1, "rooms", [{"id": 1, "title": "t"}])])
    await mirror.load([page(2, "messages", [{"id": 1, "room_id": 1, "device_id": 7}])])
    assert await keys(mirror, "devices") == [7]
    await mirror.load(listing(5, "all_devices", [{"id": 1, "label": "d", "trusted": True}]))
    assert await keys(mirror, "devices") == [1, 7]


async def test_a_tombstone_of_a_placeholder_takes_it_and_what_needs_it(mirror: Mirrored) -> None:
    await mirror.load([page(1, "rooms", [{"id": 1, "title": "t"}])])
    await mirror.load([page(2, "messages", [{"id": 1, "room_id": 1, "device_id": 7}])])
    assert await keys(mirror, "devices") == [7]
    await mirror.load([page(3, "gone_devices", [{"id": 7}], asked=2)])
    assert (await keys(mirror, "devices"), await keys(mirror, "messages")) == ([], [])
    await mirror.load([page(4, "devices", [{"id": 7, "label": "d", "trusted": False}], asked=3)])
    assert (await keys(mirror, "devices"), await keys(mirror, "messages")) == ([7], [1])


# -- asked for by id -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "left"), [(404, [1, 3]), (410, [1, 3]), (403, [1, 2, 3]), (401, [1, 2, 3])]
)
async def test_a_row_that_is_not_there_when_it_is_asked_for_goes(
    mirror: Mirrored, status: int, left: list[int]
) -> None:
    await mirror.load(BEFORE)
    await mirror.load([by_id(4, "users", 2, status=status, asked=3)])
    assert await keys(mirror) == left


async def test_a_row_that_a_batch_leaves_out_goes(mirror: Mirrored) -> None:
    await mirror.load(BEFORE)
    await mirror.load([by_id(4, "users", 1, 2, status=200, records=[user(1)], asked=3)])
    assert await keys(mirror) == [1, 3]


async def test_a_batch_with_a_record_that_cannot_be_stored_leaves_nothing_out(mirror: Mirrored) -> None:
    await mirror.load(BEFORE)
    await mirror.load([by_id(4, "users", 1, 2, status=200, records=[user(1, "x" * 99)], asked=3)])
    assert await keys(mirror) == [1, 2, 3]


async def test_what_was_asked_for_after_that_brings_it_back_and_what_was_not_does_not(
    mirror: Mirrored,
) -> None:
    await mirror.load([*BEFORE, by_id(4, "users", 2, asked=3)])
    await mirror.load([page(5, "users", [user(2)], asked=3)])
    assert await keys(mirror) == [1, 3]
    await mirror.load([page(6, "users", [user(2)], asked=5)])
    assert await keys(mirror) == [1, 2, 3]


async def test_who_was_only_ever_mentioned_is_missing_still(mirror: Mirrored) -> None:
    message = {"id": 1, "room_id": 1, "device_id": 1, "author": {"id": 8, "name": "new"}, "author_id": 8}
    await mirror.load([page(1, "rooms", [{"id": 1, "title": "t"}]), page(2, "messages", [message])])
    await mirror.load([by_id(3, "users", 8, asked=2)])
    assert await keys(mirror) == [8]


async def test_a_parent_that_nobody_ever_stated_is_missing_though_it_is_not_there(mirror: Mirrored) -> None:
    await mirror.load([page(1, "rooms", [{"id": 1, "title": "t"}])])
    await mirror.load([page(2, "messages", [{"id": 1, "room_id": 1, "device_id": 7}])])
    await mirror.load([by_id(3, "devices", 7, asked=2)])
    # a device that is missing has a placeholder; one that was deleted takes its messages along
    assert (await keys(mirror, "devices"), await keys(mirror, "messages")) == ([7], [1])
    await mirror.load([page(4, "devices", [{"id": 7, "label": "old"}], asked=1)], in_order=False)
    assert (await keys(mirror, "devices"), await keys(mirror, "messages")) == ([], [])


# -- held back -----------------------------------------------------------------------------------------


async def test_what_is_held_and_kept_aside_by_its_parent_does_not_come_back_when_it_is_allowed(
    mirror: Mirrored,
) -> None:
    room, message = {"id": 1, "title": "t"}, {"id": 1, "room_id": 1, "device_id": 1}
    await mirror.load([page(1, "rooms", [room]), page(2, "messages", [message])])
    assert await keys(mirror, "messages") == [1]
    await mirror.hold_deletes()
    await mirror.load(listing(5, "room_messages", [], partition=canonical({"room": 1})))
    assert await keys(mirror, "messages") == [1]
    assert [one["state"] for one in await mirror.ledger(DELETES)] == ["held"]
    # the room goes, and what is held in it with it
    await mirror.load([by_id(7, "rooms", 1, asked=6)])
    assert (await mirror.settle(allow=True)).holds
    assert (await mirror.rows("rooms"), await mirror.rows("messages")) == ({}, {})
    await mirror.load([page(8, "rooms", [room], asked=7)])
    assert (await keys(mirror, "rooms"), await keys(mirror, "messages")) == ([1], [])


async def test_deletes_that_nobody_allows_stay_held_and_are_void_when_the_rows_come_back(
    mirror: Mirrored,
) -> None:
    await mirror.load(BEFORE)
    await mirror.hold_deletes()
    await mirror.load(LISTED)
    assert await keys(mirror) == [1, 2, 3]
    await mirror.load(listing(8, "all_users", [user(1), user(3)]))
    assert await keys(mirror) == [1, 2, 3]
    # says nothing new, but that it is there
    await mirror.load(listing(10, "all_users", [user(1), user(2), user(3)]))
    assert (await mirror.settle(allow=True)).holds
    assert await keys(mirror) == [1, 2, 3]
    assert await mirror.ledger(DELETES) == []
