"""A row goes away only where something proves that it was deleted, and not too many at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ingest.pipeline import Job, limits, open_job
from ingest.pipeline.run import Run
from ingest.report import Certificate
from tests.integration import deletes_models
from tests.integration.jobs import Setup, cli
from tests.upstream import Truth, Upstream
from tests.upstream.faults import status

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

MODELS = Path(deletes_models.__file__).read_text()
CURSOR = {"kind": "cursor", "next": "next", "param": "cursor", "limit": 10}
BY_ID = {"path": "/people/{id}"}
ROOMS = {"path": "/rooms", "records": "data", "entity": "Room", "paginate": CURSOR, "sweep": True}
PEOPLE = {**ROOMS, "path": "/people", "entity": "Person", "sweep": False, "by_id": BY_ID}
MESSAGES = {**ROOMS, "path": "/messages", "entity": "Message", "sweep": False}
OF_A_ROOM = {
    **MESSAGES,
    "path": "/rooms/{rooms.id}/messages",
    "each": "rooms",
    "set": {"room_id": "$partition.rooms.id"},
    "sweep": True,
}


BY_ID_ONLY = {"entity": "Person", "by_id": BY_ID}


class Mirrored:
    """An upstream, a job that mirrors it, and what is to be seen of it."""

    def __init__(self, folder: Path, truth: Truth, **streams: Any) -> None:
        self.setup = Setup(folder, streams, models=MODELS)
        self.truth = truth
        self.up = Upstream(self.setup.source, truth)

    @asynccontextmanager
    async def job(self, *, write: bool = True) -> AsyncIterator[Job]:
        config = self.setup.configure(self.up.base_url)
        async with open_job(config, clock=self.setup.clock, write=write) as job:
            yield job

    async def sync(self, *, allow: bool = False) -> Certificate:
        self.setup.clock.slept += 60
        async with self.job() as job:
            if allow:
                job.allow_deletes()
            return await job.sync()

    def keys(self, table: str) -> list[int]:
        return [row[0] for row in self.setup.ask(f"SELECT id FROM {table} ORDER BY id")]

    def differences(self) -> list[str]:
        return self.setup.differences(self.truth)

    def delete(self, table: str, keys: Iterable[int]) -> None:
        for key in keys:
            self.truth.delete(table, key)


def rooms(many: int) -> list[dict[str, Any]]:
    return [{"id": id, "title": f"room {id}"} for id in range(1, many + 1)]


def messages(*rooms: int, author: int | None = None, each: int = 1) -> list[dict[str, Any]]:
    return [
        {"id": room * 1000 + at, "text": f"{at}", "room_id": room, "author_id": author}
        for room in rooms
        for at in range(each)
    ]


def truth(many: int, *said: dict[str, Any], people: int = 0) -> Truth:
    persons = [{"id": id, "name": f"person {id}"} for id in range(1, people + 1)]
    return Truth(deletes_models, {"people": persons, "rooms": rooms(many), "messages": said})


# -- sweeps --------------------------------------------------------------------------------------------


async def test_what_a_complete_listing_leaves_out_goes_and_comes_back_with_its_children(
    tmp_path: Path,
) -> None:
    it = Mirrored(tmp_path, truth(25, *messages(3, 4)), rooms=ROOMS, messages=MESSAGES)
    async with it.up:
        assert (await it.sync()).exit == 0
        again = await it.sync()
        assert (again.exit, again.load.written) == (0, 0)

        it.delete("rooms", [3])
        gone = await it.sync()
        assert (gone.exit, gone.withheld) == (0, {"deleted": 1, "cascade": 1})
        assert it.differences() == []
        assert 3 not in it.keys("rooms")
        still = await it.sync()
        assert (still.exit, still.load.written) == (0, 0)

        it.truth.upsert("rooms", {"id": 3, "title": "room 3, once more"})
        back = await it.sync()
        assert (back.exit, back.withheld) == (0, {})
        assert it.keys("messages") == [3000, 4000]


async def test_a_listing_of_one_partition_says_nothing_of_the_others(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(3, *messages(1, 2, 3, each=12)), rooms=ROOMS, messages=OF_A_ROOM)
    async with it.up:
        assert (await it.sync()).exit == 0
        it.delete("messages", [2000, 2011])
        assert (await it.sync()).exit == 0
        assert it.differences() == []
        assert len(it.keys("messages")) == 34


async def test_without_sweep_nothing_that_is_left_out_goes(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(25), rooms={**ROOMS, "sweep": False})
    async with it.up:
        await it.sync()
        it.delete("rooms", [3])
        await it.sync()
        assert 3 in it.keys("rooms")


async def test_a_walk_that_was_broken_off_is_one_listing_when_it_ends(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(45), rooms=ROOMS)
    async with it.up:
        await it.sync()
        it.delete("rooms", [3, 44])
        it.up.faults.after(len(it.up.requests) + 2, status(500))
        broken = await it.sync()
        assert broken.exit == 3
        assert len(it.keys("rooms")) == 45
        it.up.faults.clear()
        pages = len(it.up.requests)
        assert (await it.sync()).exit == 0
        assert it.differences() == []
        assert len(it.up.requests) - pages == 3, "what was staged was asked for again"


async def test_a_walk_that_stops_at_its_limit_proves_nothing(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(25), rooms={**ROOMS, "paginate": {**CURSOR, "max_pages": 2}})
    async with it.up:
        while (await it.sync()).gaps:
            pass
        it.delete("rooms", [3])
        assert (await it.sync()).gaps == 1
        assert len(it.keys("rooms")) == 25
        # the walk goes on, and is whole now
        assert (await it.sync()).gaps == 0
        assert 3 not in it.keys("rooms")


async def test_a_listing_with_a_dead_letter_in_it_proves_nothing(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(25), rooms=ROOMS)
    async with it.up:
        await it.sync()
        it.delete("rooms", [3])
        it.truth.upsert("rooms", {"id": 5, "title": "\x00"})
        broken = await it.sync()
        assert (broken.exit, broken.dead_letters) == (3, 1)
        assert {3, 5} <= set(it.keys("rooms"))
        it.truth.upsert("rooms", {"id": 5, "title": "sound"})
        await it.sync()
        assert 3 not in it.keys("rooms")
        assert 5 in it.keys("rooms")


# -- the budget ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [False, True], ids=["in one transaction", "in windows"])
async def test_too_many_deletes_are_held_until_somebody_allows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: bool
) -> None:
    it = Mirrored(tmp_path, truth(100, *messages(3)), rooms=ROOMS, messages=MESSAGES)
    if windows:
        monkeypatch.setattr(limits, "BATCH", 15)
        monkeypatch.setattr(limits, "BULK", 15)
    async with it.up:
        await it.sync()
        it.delete("rooms", range(1, 31))
        held = await it.sync()
        assert (held.exit, len(it.keys("rooms")), it.keys("messages")) == (3, 100, [3000])
        (one,) = held.held
        assert (one.table, one.rows, one.of, one.cascades) == ("rooms", 30, 100, {"messages": 1})
        assert any("30 of 100 rows of rooms" in remark for remark in held.remarks)
        assert "--allow-deletes" in " ".join(held.remarks)
        again = await it.sync()
        assert (again.exit, again.held, len(it.keys("rooms"))) == (3, held.held, 100)
        assert windows or again.load.written == 0
        async with it.job(write=False) as job:
            assert (await job.status()).held == held.held
        allowed = await it.sync(allow=True)
        assert (allowed.exit, allowed.held) == (0, ())
        assert it.differences() == []
        assert (await it.sync()).exit == 0


async def test_held_deletes_are_void_when_the_rows_come_back(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(100), rooms=ROOMS)
    async with it.up:
        await it.sync()
        it.delete("rooms", range(1, 31))
        assert (await it.sync()).exit == 3
        for room in rooms(30):
            it.truth.upsert("rooms", room)
        mended = await it.sync()
        assert (mended.exit, mended.held) == (0, ())
        assert it.differences() == []
        # nothing of it is left for who allows deletes
        assert (await it.sync(allow=True)).exit == 0
        assert it.differences() == []


async def test_few_rows_are_never_held(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(24), rooms=ROOMS)
    async with it.up:
        await it.sync()
        it.delete("rooms", range(1, 21))
        assert (await it.sync()).exit == 0
        assert it.differences() == []


async def test_what_would_go_with_a_few_rows_counts_too(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(3, *messages(1, 2, each=30)), rooms=ROOMS, messages=MESSAGES)
    async with it.up:
        await it.sync()
        it.delete("rooms", [1])
        held = await it.sync()
        assert held.exit == 3
        (one,) = held.held
        assert (one.table, one.rows, one.cascades) == ("rooms", 1, {"messages": 30})
        assert (it.keys("rooms"), len(it.keys("messages"))) == ([1, 2, 3], 60)
        assert (await it.sync(allow=True)).exit == 0
        assert it.differences() == []


async def test_a_run_that_was_killed_counts_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = messages(99, author=1)
    it = Mirrored(tmp_path, truth(100, *said, people=1), rooms=ROOMS, people=BY_ID_ONLY, messages=MESSAGES)
    monkeypatch.setattr(limits, "BATCH", 15)
    monkeypatch.setattr(limits, "BULK", 15)
    async with it.up:
        await it.sync()
        it.delete("rooms", range(1, 16))
        it.truth.upsert("people", {"id": 2, "name": "new"})
        it.truth.upsert("messages", {**said[0], "author_id": 2})

        async def killed(*_: Any) -> None:
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            # what is deleted by then is committed, within the window
            patch.setattr(Run, "_heal", killed)
            with pytest.raises(RuntimeError, match="killed"):
                await it.sync()
        assert len(it.keys("rooms")) == 85
        it.delete("rooms", range(16, 31))
        held = await it.sync()
        assert (held.exit, [one.rows for one in held.held]) == (3, [15])
        assert len(it.keys("rooms")) == 85
        assert (await it.sync(allow=True)).exit == 0
        assert it.differences() == []
        # from that certificate on it is counted anew
        it.delete("rooms", range(31, 46))
        assert (await it.sync()).exit == 0
        assert it.differences() == []


async def test_the_bounds_are_what_the_job_says(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(10), rooms=ROOMS)
    it.setup.tables["deletes"] = {"rows": 1, "percent": 25}
    async with it.up:
        await it.sync()
        it.delete("rooms", [1, 2])
        assert (await it.sync()).exit == 0
        it.delete("rooms", [3, 4, 5])
        assert (await it.sync()).exit == 3
        assert it.keys("rooms") == list(range(3, 11))


async def test_rows_that_nobody_has_seen_are_never_held(tmp_path: Path) -> None:
    gone = {"path": "/rooms/deleted", "records": "data", "entity": "Room", "deletes": True}
    it = Mirrored(tmp_path, truth(100), rooms={**ROOMS, "sweep": False}, gone=gone)
    it.setup.tables["deletes"] = {"rows": 0, "percent": 0}
    async with it.up:
        first = await it.sync()
        assert first.exit == 0
        it.delete("rooms", [1])
        assert (await it.sync()).exit == 3
        # a database that is made anew from the log has never shown them
        it.setup.database.unlink()
        assert (await it.sync()).held == ()
        assert it.differences() == []


async def test_a_rebuild_holds_what_is_held_and_lets_go_what_was_allowed(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(200), rooms=ROOMS)
    async with it.up:
        await it.sync()
        it.delete("rooms", range(1, 31))
        await it.sync(allow=True)
        it.delete("rooms", range(31, 61))
        assert (await it.sync()).exit == 3
        before = it.keys("rooms")
        assert len(before) == 170
        async with it.job() as job:
            rebuilt = await job.replay(None, rebuild=True)
        assert rebuilt.exit == 3
        assert it.keys("rooms") == before
        assert [(one.table, one.rows) for one in rebuilt.held] == [("rooms", 30)]
        async with it.job() as job:
            job.allow_deletes()
            await job.recover()
        assert it.differences() == []


async def test_the_command_line_allows_deletes_and_says_what_is_held(tmp_path: Path) -> None:
    it = Mirrored(tmp_path, truth(100), rooms=ROOMS)
    async with it.up:
        await it.sync()
        it.delete("rooms", range(1, 31))
        ran = await cli(it.setup.config_file, "sync")
        assert ran.status == 3
        assert "deletes held" in ran.out
        ran = await cli(it.setup.config_file, "status")
        assert "30 of 100 rows of rooms" in ran.out
        ran = await cli(it.setup.config_file, "recover", "--allow-deletes")
        assert ran.status == 0, ran.out
        assert it.differences() == []
