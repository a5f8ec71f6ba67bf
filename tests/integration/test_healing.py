"""Missing parents are asked for by id, remembered when they are not to be had, and welcome when they come."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ingest.pipeline import open_job
from ingest.report import Certificate, MissingParent
from tests.answering import Said, answering
from tests.integration import healing_models
from tests.integration.jobs import Setup, cli
from tests.upstream import Truth, Upstream
from tests.upstream.faults import status

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

MODELS = Path(healing_models.__file__).read_text()
NOTES = {"path": "/notes", "records": "data", "entity": "Note", "order": "oldest-first", "key": "id"}
LISTED = {"path": "/people", "records": "data", "entity": "Person"}
SINGLY = {"by_id": {"path": "/people/{id}"}}
IN_BATCHES = {"by_id": {"path": "/people", "param": "ids", "batch": 3, "records": "data"}}
OF_A_NOTE = {"by_id": {"path": "/notes/{referrer.id}/people/{id}"}}


def person(id: int, boss: int | None = None) -> dict[str, Any]:
    return {"id": id, "name": f"person {id}", "boss_id": boss}


def note(id: int, author: int, editor: int | None, owner: int) -> dict[str, Any]:
    return {"id": id, "text": f"note {id}", "author_id": author, "editor_id": editor, "owner_id": owner}


class Healing:
    """An upstream with notes and people, a job that mirrors it, and what the job has to say."""

    def __init__(self, folder: Path, people: dict[str, Any] | None, rows: dict[str, list[Any]]) -> None:
        streams = {"notes": NOTES, **({"people": {"entity": "Person", **people}} if people else {})}
        self.setup = Setup(folder, streams, models=MODELS)
        self.truth = Truth(healing_models, rows)
        self.up = Upstream(self.setup.source, self.truth)

    async def sync(self) -> Certificate:
        certificate = await self.setup.sync(self.up)
        assert (certificate.exit, certificate.remarks) == (0, ())
        return certificate

    @asynccontextmanager
    async def job(self, *, write: bool = False) -> Any:
        async with open_job(
            self.setup.configure(self.up.base_url), clock=self.setup.clock, write=write
        ) as job:
            yield job

    async def missing(self) -> dict[int, MissingParent]:
        """What is missing, by its key."""
        async with self.job() as job:
            found = await job.missing()
        assert {one.table for one in found} <= {"people"}
        return {int(one.key.strip("[]")): one for one in found}

    async def states(self) -> dict[int, str]:
        return {key: one.state for key, one in (await self.missing()).items()}

    def asked(self) -> list[str]:
        """Which people were asked for since this was last called."""
        seen = [
            seen.param("ids") or seen.path.rpartition("/")[2]
            for seen in self.up.requests
            if (seen.stream == "people" and seen.path != "/people") or seen.param("ids")
        ]
        self.up.requests.clear()
        return seen

    def people(self) -> dict[int, Any]:
        return dict(self.setup.ask("SELECT id, name FROM people"))

    def notes(self) -> dict[int, tuple[Any, ...]]:
        rows = self.setup.ask("SELECT id, author_id, editor_id, owner_id FROM notes")
        return {row[0]: tuple(row[1:]) for row in rows}


THREE = {
    "people": [person(1), person(2), person(3), person(4)],
    "notes": [note(10, 1, 2, 3), note(11, 1, None, 1), note(12, 4, 3, 2)],
}


@pytest.mark.parametrize(
    ("people", "wanted"),
    [
        (SINGLY, ["1", "2", "3", "4"]),
        (IN_BATCHES, ["1,2,3", "4"]),
    ],
    ids=["singly", "in batches"],
)
async def test_missing_parents_are_asked_for_by_id_once(
    tmp_path: Path, people: dict[str, Any], wanted: list[str]
) -> None:
    it = Healing(tmp_path, people, THREE)
    async with it.up:
        certificate = await it.sync()
        assert sorted(it.asked()) == wanted
        assert it.setup.differences(it.truth) == []
        assert (certificate.healed, certificate.missing, certificate.withheld) == (4, {}, {})
        again = await it.sync()
        assert (it.asked(), again.load.written, again.healed) == ([], 0, 0)


async def test_a_parent_is_asked_for_by_way_of_the_row_that_refers_to_it(tmp_path: Path) -> None:
    it = Healing(tmp_path, OF_A_NOTE, THREE)
    async with it.up:
        certificate = await it.sync()
        assert it.setup.differences(it.truth) == []
        paths = {seen.path for seen in it.up.requests if seen.stream == "people"}
        assert {path.rpartition("/")[2] for path in paths} == {"1", "2", "3", "4"}
        assert certificate.missing == {}


async def test_a_fetched_parent_may_miss_its_own_and_so_on(tmp_path: Path) -> None:
    chain = [
        person(1, boss=2),
        person(2, boss=3),
        person(3, boss=4),
        person(4),
        person(5, boss=6),
        person(6, boss=5),
    ]
    it = Healing(tmp_path, SINGLY, {"people": chain, "notes": [note(10, 1, None, 1), note(11, 1, 5, 1)]})
    async with it.up:
        certificate = await it.sync()
        assert sorted(it.asked()) == ["1", "2", "3", "4", "5", "6"]
        assert it.setup.differences(it.truth) == []
        assert certificate.healed == 6


async def test_who_is_gone_or_forbidden_is_remembered_and_not_asked_for_again(tmp_path: Path) -> None:
    it = Healing(tmp_path, SINGLY, THREE)
    it.up.hide("people", 2)
    it.up.forbid("people", 3)
    async with it.up:
        certificate = await it.sync()
        assert certificate.missing == {"gone": 1, "forbidden": 1}
        missing = await it.missing()
        assert {key: one.state for key, one in missing.items()} == {2: "gone", 3: "forbidden"}
        assert missing[3].attempts == 1
        # null for the editors, a stub for the owners; the authors were to be had
        assert it.notes() == {10: (1, None, 3), 11: (1, None, 1), 12: (4, None, 2)}
        assert it.people() == {1: "person 1", 2: None, 3: None, 4: "person 4"}
        it.asked()

        again = await it.sync()
        assert (it.asked(), again.load.written, again.missing) == ([], 0, certificate.missing)


async def test_asked_again_on_demand_they_may_be_there(tmp_path: Path) -> None:
    it = Healing(tmp_path, SINGLY, THREE)
    it.up.hide("people", 2)
    it.up.forbid("people", 3)
    async with it.up:
        await it.sync()
        it.up.show("people", 2)
        it.asked()
        async with it.job(write=True) as job:
            assert await job.retry_missing() == 2
        assert await it.states() == {2: "wanted", 3: "wanted"}
        certificate = await it.sync()
        assert sorted(it.asked()) == ["2", "3"]
        assert (certificate.healed, certificate.missing) == (1, {"forbidden": 1})
        assert (await it.missing())[3].attempts == 2
        assert it.people()[2] == "person 2"
        assert it.notes()[10] == (1, 2, 3)


async def test_who_is_gone_is_asked_for_again_later_and_later(tmp_path: Path) -> None:
    it = Healing(tmp_path, SINGLY, THREE)
    it.up.hide("people", 2)
    async with it.up:
        await it.sync()
        began = it.setup.clock.now()
        asked: list[int] = []
        for day in range(12):
            it.asked()
            it.setup.clock.slept = day * 86_400.0 + 60
            await it.sync()
            asked += [day] * len(it.asked())
        # a day after the first time, two days after the second, then four
        assert asked == [1, 3, 7]
        missing = (await it.missing())[2]
        assert (missing.state, missing.attempts) == ("gone", 4)
        assert missing.since is not None
        assert missing.next_try is not None
        assert (datetime.fromisoformat(missing.since), missing.next_try[:10]) == (began, "2026-01-16")
        it.up.show("people", 2)
        it.setup.clock.slept = 15 * 86_400.0 + 120
        assert (await it.sync()).healed == 1
        assert await it.missing() == {}


async def test_retry_asks_at_once(tmp_path: Path) -> None:
    it = Healing(tmp_path, SINGLY, THREE)
    it.up.hide("people", 2)
    async with it.up:
        await it.sync()
        ran = await cli(it.setup.config_file, "missing")
        assert "next try" in ran.out
        ran = await cli(it.setup.config_file, "missing", "--explain")
        assert "wanted since" in ran.out
        assert "asked again" in ran.out
        it.asked()
        async with it.job(write=True) as job:
            await job.retry_missing()
        assert (await it.missing())[2].next_try is None
        await it.sync()
        assert it.asked() == ["2"]


async def test_what_a_nested_author_is_called_is_kept_and_asked_for_all_the_same(tmp_path: Path) -> None:
    models = MODELS.replace("name: Mapped[str | None]", "name: Mapped[str | None]\n    rank: Mapped[int]")
    models = models.replace(
        "    editor_id: Mapped",
        '    author: Mapped[Person] = relationship(foreign_keys="Note.author_id")\n    editor_id: Mapped',
    ).replace("Mapped, mapped_column", "Mapped, mapped_column, relationship")
    notes = {"data": [{"id": 10, "author": {"id": 1, "name": "said in passing"}}]}
    people = {"id": 1, "rank": 3}
    answers: dict[str, Any] = {"/notes": notes}
    streams = {
        "notes": {"path": "/notes", "records": "data", "entity": "Note"},
        "people": {"entity": "Person", **SINGLY},
    }
    setup = Setup(
        tmp_path, streams, models=models.replace("owner_id: Mapped[int]", "owner_id: Mapped[int | None]")
    )

    def answer(path: str, _: dict[str, str]) -> Said:
        return Said(answers[path]) if path in answers else Said({}, 404)

    async with answering(answer) as base_url:

        async def sync() -> Certificate:
            async with open_job(setup.configure(base_url), clock=setup.clock) as job:
                return await job.sync()

        first = await sync()
        assert first.missing == {"gone": 1}
        assert setup.ask("SELECT id FROM notes") == []
        answers["/people/1"] = people
        async with open_job(setup.configure(base_url), clock=setup.clock) as job:
            await job.retry_missing()
        assert (await sync()).missing == {}
        assert setup.ask("SELECT id, name, rank FROM people") == [(1, "said in passing", 3)]
        assert setup.ask("SELECT id, author_id FROM notes") == [(10, 1)]


@pytest.mark.parametrize("batch", [IN_BATCHES])
async def test_of_a_batch_those_that_are_left_out_are_gone(tmp_path: Path, batch: dict[str, Any]) -> None:
    it = Healing(tmp_path, batch, THREE)
    it.up.hide("people", 2)
    async with it.up:
        certificate = await it.sync()
        assert certificate.missing == {"gone": 1}
        assert await it.states() == {2: "gone"}
        assert it.people() == {1: "person 1", 2: None, 3: "person 3", 4: "person 4"}


async def test_who_cannot_be_asked_for_is_external_and_every_policy_is_carried_out(tmp_path: Path) -> None:
    it = Healing(tmp_path, None, {"people": [], "notes": [note(10, 1, 2, 3)]})
    async with it.up:
        await it.sync()
        # the author's note is kept aside whole, and with it what it says of the others
        assert (it.notes(), it.people()) == ({}, {})
        missing = await it.missing()
        assert {key: one.state for key, one in missing.items()} == dict.fromkeys((1, 2, 3), "external")
        assert missing[1].references == 1
        assert "author_id" in missing[1].by


async def test_null_stub_and_park_are_shown_as_they_are_told(tmp_path: Path) -> None:
    it = Healing(tmp_path, LISTED, {"people": [person(1)], "notes": [note(10, 1, 2, 3), note(11, 9, 1, 1)]})
    async with it.up:
        certificate = await it.sync()
        assert it.notes() == {10: (1, None, 3)}
        assert it.people() == {1: "person 1", 3: None}
        assert await it.states() == {2: "external", 3: "external", 9: "external"}
        assert certificate.missing == {"external": 3}
        assert sum(certificate.withheld.values()) == 2


async def test_a_parent_that_turns_up_later_brings_everything_back(tmp_path: Path) -> None:
    it = Healing(tmp_path, LISTED, {"people": [person(1)], "notes": [note(10, 1, 2, 3), note(11, 9, 1, 1)]})
    async with it.up:
        await it.sync()
        before = it.notes()
        assert before != {10: (1, 2, 3), 11: (9, 1, 1)}
        for key in (2, 3, 9):
            it.truth.upsert("people", person(key, boss=1))
        certificate = await it.sync()
        assert it.setup.differences(it.truth) == []
        assert (certificate.missing, certificate.withheld) == ({}, {})
        # of the notes nothing was said again: what had been said was kept
        assert {one.table: one.written for one in certificate.tables}["notes"] == 0


async def test_a_parent_that_changes_its_mind_takes_its_placeholder_along(tmp_path: Path) -> None:
    it = Healing(tmp_path, LISTED, {"people": [person(1)], "notes": [note(10, 1, 2, 3)]})
    async with it.up:
        await it.sync()
        assert it.people() == {1: "person 1", 3: None}
        it.truth.upsert("notes", note(10, 1, None, 1))
        certificate = await it.sync()
        # nobody refers to them any more
        assert it.people() == {1: "person 1"}
        assert (certificate.missing, certificate.withheld) == ({}, {})
        assert it.setup.differences(it.truth) == []


async def test_a_run_asks_for_no_more_than_it_may_and_the_next_goes_on(tmp_path: Path) -> None:
    it = Healing(tmp_path, SINGLY, THREE)
    it.setup.tables["heal"] = {"max_requests": 3}
    async with it.up:
        first = await it.sync()
        assert len(it.asked()) == 3
        assert first.missing == {"wanted": 1}
        second = await it.sync()
        assert len(it.asked()) == 1
        assert second.missing == {}
        assert it.setup.differences(it.truth) == []


async def test_a_server_that_fails_leaves_them_wanted(tmp_path: Path) -> None:
    it = Healing(tmp_path, SINGLY, THREE)
    it.up.faults.always(status(500), path="/people/2")
    async with it.up:
        certificate = await it.setup.sync(it.up)
        assert certificate.exit == 3
        assert [failure.stream for failure in certificate.fetch.failures] == ["people"]
        assert await it.states() == {2: "wanted"}
        it.up.faults.clear()
        it.asked()
        await it.sync()
        assert it.asked() == ["2"]
        assert it.setup.differences(it.truth) == []
