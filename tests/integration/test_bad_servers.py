"""Servers that lie, drip, change their mind or never end: loaded exactly, or told with its reason."""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.load.batch import Batch
from ingest.load.decode import Decoder
from ingest.report import DeadLetter
from ingest.source import Source
from ingest.types import Page
from tests.integration.jobs import Setup, cli
from tests.integration.jobs import replace as replace_in
from tests.integration.story import LATER, bump, rooms, say
from tests.upstream import Faults, Truth, Upstream, example, generate
from tests.upstream.faults import Fault, Scene, cut_body, deny, drip, instead
from tests.upstream.wire import Answer

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

ROWS = {
    "users": 40,
    "tags": 25,
    "conversations": 4,
    "conversation_tags": 6,
    "messages": 60,
    "attachments": 12,
}


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=7, rows=ROWS)


def stream(name: str, **stated: Any) -> dict[str, Any]:
    """The example's streams, with one of them stated otherwise."""
    return {**example.STREAMS, name: {**example.STREAMS[name], **stated}}


# -- totals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [0, 1, 12, 20, 26])
async def test_a_total_that_is_a_little_wrong_costs_requests_and_nothing_else(
    tmp_path: Path, truth: Truth, said: int
) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    faults = Faults().always(deny("total", said), path="/tags")
    async with Upstream(setup.source, truth, faults=faults) as up:
        for _ in range(2):
            certificate = await setup.sync(up)
            assert (certificate.exit, certificate.fetch.failures) == (0, ())
        assert setup.differences(truth) == []
        assert len(up.asked("tags")) <= 2 * 4


async def test_a_number_of_pages_that_is_too_low_loses_no_row(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(
        setup.source, truth, faults=Faults().always(deny("meta.pages", 1), path="/users")
    ) as up:
        assert (await setup.sync(up)).exit == 0
        assert setup.differences(truth) == []


async def test_a_total_without_end_is_a_failure_with_a_gap_and_keeps_what_came(
    tmp_path: Path, truth: Truth
) -> None:
    tags = example.STREAMS["tags"]
    setup = Setup(tmp_path, stream("tags", paginate={**tags["paginate"], "max_idle": 10}))
    faults = Faults().always(deny("total", 10**9), path="/tags")
    async with Upstream(setup.source, truth, faults=faults) as up:
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "sync", "--json")
        assert ran.status == 3
        (failure,) = ran.proof.fetch.failures
        assert (failure.stream, "10 pages in a row" in failure.cause) == ("tags", True)
        assert len(up.asked("tags")) < 20
        assert setup.differences(truth) == []
        gaps = await cli(setup.config_file, "gaps", "--json")
        assert "a walk has not come to its end" in gaps.out
        faults.clear()
        assert (await setup.sync(up)).exit == 0


# -- filters -------------------------------------------------------------------------------------------


async def test_a_filter_that_the_server_ignores_loses_nothing_and_ends(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    unfiltered = {key: value for key, value in example.STREAMS["conversations"].items() if key != "since"}
    served = msgspec.convert({"streams": {**example.STREAMS, "conversations": unfiltered}}, Source)
    async with Upstream(served, truth) as up:
        for run in range(3):
            before = len(up.asked("conversations"))
            assert (await setup.sync(up)).exit == 0
            assert setup.differences(truth) == []
            assert len(up.asked("conversations")) - before == 1
            assert (up.asked("conversations")[-1].param("updated_after") is None) == (run == 0)
            bump(truth, LATER + timedelta(days=run), rooms(truth)[run])


# -- sizes and speeds ----------------------------------------------------------------------------------


async def test_pages_over_the_bound_come_in_halves(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, example.STREAMS, transport={"max_body": 4000})
    async with Upstream(setup.source, truth) as up:
        certificate = await setup.sync(up)
        assert (certificate.exit, certificate.fetch.failures) == (0, ())
        assert setup.differences(truth) == []
        assert {"10", "5"} <= {seen.param("limit") for seen in up.asked("messages")}


async def test_a_record_over_the_bound_stops_its_partition_alone_until_the_bound_is_raised(
    tmp_path: Path, truth: Truth
) -> None:
    setup = Setup(tmp_path, example.STREAMS, transport={"max_body": 4000})
    room, *others = rooms(truth)
    key = say(truth, room, 500, LATER - timedelta(days=3650), text="x" * 4000)
    async with Upstream(setup.source, truth) as up:
        certificate = await setup.sync(up)
        assert certificate.exit == 3
        (failure,) = certificate.fetch.failures
        assert (failure.stream, str(room) in failure.partition) == ("messages", True)
        assert "larger than 4000 bytes" in failure.cause
        assert "transport.max_body" in failure.cause
        there = {room for (room,) in setup.ask("SELECT DISTINCT conversation_id FROM messages")}
        assert {*others} <= there
        replace_in(setup.folder / setup.name / "source.toml", "max_body = 4000", "max_body = 40000")
        assert (await setup.sync(up)).exit == 0
        assert setup.ask("SELECT length(text) FROM messages WHERE id = ?", key) == [(4000,)]
        assert setup.differences(truth) == []


async def test_a_drip_feed_ends_its_partition_within_the_deadline(tmp_path: Path, truth: Truth) -> None:
    bounds = {"deadline": "300ms", "timeout": "30s", "attempts": 1}
    setup = Setup(tmp_path, example.STREAMS, transport=bounds)
    async with Upstream(setup.source, truth, faults=Faults().always(drip(1, 0.05), path="/tags")) as up:
        certificate = await setup.sync(up)
        (failure,) = certificate.fetch.failures
        assert (certificate.exit, failure.stream) == (3, "tags")
        assert "no whole answer within 300ms" in failure.cause
        assert {said.partition(" ")[0] for said in setup.differences(truth)} <= {"tags"}
        up.faults.clear()
        assert (await setup.sync(up)).exit == 0
        assert setup.differences(truth) == []


# -- memory --------------------------------------------------------------------------------------------


class Short:
    """A machine whose memory does not suffice for the pages with a word in them, `times` each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, word: bytes, *, times: int) -> None:
        self.tries: Counter[int] = Counter()
        #: pages that were beside others when it was too much
        self.crowded: list[int] = []
        whole = Decoder.decode

        def decode(decoder: Decoder, page: Page, batch: Batch) -> None:
            before = batch.records
            whole(decoder, page, batch)  # and part of it stays in the batch
            if word in (page.body or b"") and self.tries[page.stamp] < times:
                self.tries[page.stamp] += 1
                self.crowded += [page.stamp] if before else []
                raise MemoryError

        monkeypatch.setattr(Decoder, "decode", decode)


async def test_a_page_that_fails_for_memory_once_comes_again_alone_and_loads(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth.upsert("tags", {"id": "heavy", "colour": "#1"})
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth) as up:
        short = Short(monkeypatch, b"heavy", times=1)
        certificate = await setup.sync(up)
        assert short.crowded
        assert (certificate.exit, certificate.load.quarantined) == (0, 0)
        assert certificate.load.pages == certificate.fetch.pages
        assert setup.differences(truth) == []


async def test_a_page_that_fails_for_memory_twice_is_quarantined_with_its_bytes_and_takes_none_along(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth.upsert("tags", {"id": "heavy", "colour": "#1"})
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth) as up:
        with monkeypatch.context() as lasting:
            short = Short(lasting, b"heavy", times=100)
            setup.configure(up.base_url)
            ran = await cli(setup.config_file, "sync", "--json")
        assert {*short.tries.values()} == {2}
        assert (ran.status, ran.proof.load.quarantined) == (3, len(short.tries))
        letters = msgspec.json.decode(
            (await cli(setup.config_file, "dead-letters", "--json")).out, type=list[DeadLetter]
        )
        assert len(letters) == len(short.tries)
        assert all("heavy" in letter.raw and "memory" in letter.reason for letter in letters)
        assert {said.partition(" ")[0] for said in setup.differences(truth)} == {"tags"}
        assert (await cli(setup.config_file, "dead-letters", "retry")).status == 0
        assert setup.differences(truth) == []


# -- answers that change -------------------------------------------------------------------------------


async def test_of_a_page_that_changes_between_two_tries_the_whole_answer_is_taken(
    tmp_path: Path, truth: Truth
) -> None:
    setup = Setup(tmp_path, example.STREAMS, transport={"attempts": 40})
    changed: list[str] = []

    def change(answer: Answer, scene: Scene) -> Answer:
        """The answer is cut, and the next one says something else and has other records."""
        changed.append(f"new {len(changed)}")
        (tag,) = truth.keys("tags")[len(changed)]
        truth.upsert("tags", {"id": tag, "colour": f"#{len(changed)}"})
        truth.upsert("tags", {"id": changed[-1], "colour": "#fff"})
        return cut_body(0.9).change(answer, scene)

    faults = Faults().first(3, Fault(name="changes", change=change), path="/tags")
    async with Upstream(setup.source, truth, faults=faults) as up:
        certificate = await setup.sync(up)
        assert (certificate.exit, certificate.fetch.retries) == (0, len(changed))
        up.faults.clear()
        assert (await setup.sync(up)).exit == 0
        assert setup.differences(truth) == []


@pytest.mark.parametrize("records", ["$", "items"])
async def test_an_error_in_a_200_that_nobody_described_is_no_empty_page(
    tmp_path: Path, truth: Truth, records: str
) -> None:
    """Where the whole answer is the list, it is taken for a record, and set aside with its bytes."""
    setup = Setup(tmp_path, stream("tags", records=records, paginate={"kind": "link", "limit": 10}))
    error = b'{"error":"try later","code":500}'
    async with Upstream(setup.source, truth, faults=Faults().always(instead(error), path="/tags")) as up:
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "sync", "--json")
        assert ran.status == 3
        letters = await cli(setup.config_file, "dead-letters", "--json")
        told = [letter.raw for letter in msgspec.json.decode(letters.out, type=list[DeadLetter])]
        if records == "$":
            assert told == [error.decode()]
        else:
            assert [failure.stream for failure in ran.proof.fetch.failures] == ["tags"]
        up.faults.clear()
        await setup.sync(up)
        assert setup.differences(truth) == []


# -- charsets ------------------------------------------------------------------------------------------


def recoded(says: str, encoding: str) -> Fault:
    """A body that says it is in one charset, and is in another."""

    def change(answer: Answer, _: Scene) -> Answer:
        kind = (("Content-Type", f"application/json; charset={says}"),)
        body = answer.body.decode().encode(encoding, "replace")
        return dataclasses.replace(answer, body=body, headers=kind)

    return Fault(name=f"{encoding} as {says}", change=change)


@pytest.mark.parametrize(
    ("says", "encoding"),
    [
        ("iso-8859-1", "utf-8"),
        ("utf-16", "utf-8"),
        ("klingon", "utf-8-sig"),
        ("utf-8", "iso-8859-1"),
        ("iso-8859-1", "iso-8859-1"),
        ("utf-16", "utf-16"),
        ("utf-8", "utf-16-be"),
        ("utf-32", "utf-32"),
    ],
)
async def test_text_is_utf_8_whatever_is_said_of_it_or_not_taken_at_all(
    tmp_path: Path, truth: Truth, says: str, encoding: str
) -> None:
    truth.upsert("tags", {"id": "café", "colour": "ÿ"})
    setup = Setup(tmp_path, example.STREAMS)
    faults = Faults().always(recoded(says, encoding), path="/tags")
    async with Upstream(setup.source, truth, faults=faults) as up:
        certificate = await setup.sync(up)
        if encoding.startswith("utf-8"):
            assert certificate.exit == 0
            assert setup.differences(truth) == []
            return
        (failure,) = certificate.fetch.failures
        assert (certificate.exit, failure.stream, "not JSON" in failure.cause) == (3, "tags", True)
        assert {said.partition(" ")[0] for said in setup.differences(truth)} == {"tags"}
