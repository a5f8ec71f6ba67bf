"""What every page log promises; each implementation brings the few things only it can know."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
import zstandard

from ingest.errors import IngestError, StagingConflict, Stop
from ingest.staging import PageLog, SqlitePageLog
from ingest.staging import connection as staging_connection
from ingest.types import GENERATION, Child, Covered, Envelope, Page, Request, Walk, canonical

#: seconds; only a hang reaches it
PATIENCE = 60


class Logs(Protocol):
    """One stored log: opened as often as a test likes, and looked at from outside."""

    async def open(self) -> PageLog: ...

    async def open_to_read(self) -> PageLog: ...

    def commits(self) -> int:
        """Transactions that reached the disk since the log was opened."""

    def replace_body(self, stamp: int, stored: bytes) -> None:
        """Change what is stored of a body, while the log is closed; its old bytes may well stay."""

    def reading(self) -> AbstractContextManager[None]:
        """Another program is in the middle of reading all that there is."""


class SqliteLogs:
    def __init__(self, folder: Path, resources: AsyncExitStack) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "mirror.db.pages"
        #: closes what was opened, since a test that fails before it closes a log would hang at exit
        self._resources = resources

    async def open(self) -> PageLog:
        return await self._resources.enter_async_context(await SqlitePageLog.open(self.path))

    async def open_to_read(self) -> PageLog:
        opened = await SqlitePageLog.open(self.path, readonly=True)
        return await self._resources.enter_async_context(opened)

    def commits(self) -> int:
        wal = self.path.with_name(self.path.name + "-wal").read_bytes()
        size, salts = int.from_bytes(wal[8:12], "big"), wal[16:24]
        frames = (wal[at : at + 24] for at in range(32, len(wal), 24 + size))
        return sum(frame[8:16] == salts and frame[4:8] != bytes(4) for frame in frames)

    def replace_body(self, stamp: int, stored: bytes) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("PRAGMA secure_delete = OFF")  # it is on in some builds
            connection.execute("UPDATE body SET zstd = ? WHERE stamp = ?", (stored, stamp))

    @contextmanager
    def reading(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM page").fetchone()
            yield


@pytest.fixture(params=[SqliteLogs])
async def both(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Logs, Logs]]:
    """Two stored logs of one implementation."""
    async with AsyncExitStack() as resources:
        yield request.param(tmp_path / "one", resources), request.param(tmp_path / "other", resources)


@pytest.fixture
def logs(both: tuple[Logs, Logs]) -> Logs:
    return both[0]


@pytest.fixture
async def log(logs: Logs) -> PageLog:
    return await logs.open()


@pytest.fixture
async def other(both: tuple[Logs, Logs]) -> PageLog:
    return await both[1].open()


def envelope(
    body: bytes,
    *,
    partition: str = "{}",
    source: str = "tms",
    stream: str = "messages",
    label: int = 0,
) -> Envelope:
    return Envelope(
        run="run-1",
        source=source,
        stream=stream,
        stream_hash="hash",
        partition=partition,
        walk=Walk(id="walk-1", kind="full"),
        request=Request(path="/messages"),
        label=label,
        digest=hashlib.sha256(body).hexdigest(),
    )


async def append(log: PageLog, body: bytes, *, after: int = 0, partition: str = "{}") -> int:
    return await log.append(envelope(body, partition=partition), body, after=after)


async def append_partitions(log: PageLog, count: int) -> list[int]:
    """One page in each of `count` partitions, asked for at the same time."""
    return await asyncio.gather(*(append(log, b"%d" % n, partition=str(n)) for n in range(count)))


# -- order ---------------------------------------------------------------------------------------------


async def test_a_new_log_is_empty(log: PageLog) -> None:
    assert await log.top() == 0
    assert await log.read() == []
    assert await log.page(1) is None
    assert await log.head("tms", "messages", "{}") == 0
    assert [each async for each in log.envelopes()] == []


async def test_pages_are_read_in_the_order_of_their_stamps_with_what_was_appended(log: PageLog) -> None:
    first = await append(log, b"one")
    second = await append(log, b"two", after=first)
    third = await append(log, b"three", after=second)
    assert 0 < first < second < third == await log.top()
    assert [(page.stamp, page.after, page.body) for page in await log.read()] == [
        (first, 0, b"one"),
        (second, first, b"two"),
        (third, second, b"three"),
    ]


async def test_every_field_of_an_envelope_comes_back(log: PageLog) -> None:
    body = bytes(range(256)) * 1000
    full = Envelope(
        run="run-2",
        source="tms",
        stream="messages",
        stream_hash="hash",
        partition=canonical({"conversation": "ü\x00'\"\U0001f600"}),
        walk=Walk(id="w", kind="gap", start="a", until="b", since="c", unchanged='"d"'),
        asked=7,
        request=Request(method="POST", path="/m", query=(("a", "1"), ("a", "2")), body='{"b":[]}'),
        status=410,
        label=2**62,
        next="cursor\x00",
        covered=Covered(low="1", high="2", ids=("x", "y"), seam=0),
        children=(Child(stream="s", partition="{}", unchanged="1", closed=True, start="t", until="u"),),
        records=1000,
        digest=hashlib.sha256(body).hexdigest(),
    )
    stamp = await log.append(full, body, after=0)
    assert await log.read() == [Page(stamp=stamp, after=0, envelope=full, body=body)]
    assert [each async for each in log.envelopes()] == [(stamp, 0, full)]


async def test_an_empty_body_is_a_body(log: PageLog) -> None:
    stamp = await append(log, b"")
    page = await log.page(stamp)
    assert page is not None
    assert page.body == b""


async def test_reading_goes_on_from_a_stamp_and_stops_at_the_limit(log: PageLog) -> None:
    stamps = await append_partitions(log, 5)
    assert [page.stamp for page in await log.read(limit=2)] == stamps[:2]
    assert [page.stamp for page in await log.read(stamps[1], limit=2)] == stamps[2:4]
    assert [page.stamp for page in await log.read(stamps[3], limit=2)] == stamps[4:]
    assert await log.read(stamps[4]) == []


async def test_one_page_is_found_by_its_stamp(log: PageLog) -> None:
    stamps = await append_partitions(log, 3)
    page = await log.page(stamps[1])
    assert page is not None
    assert (page.stamp, page.body, page.envelope.partition) == (stamps[1], b"1", "1")
    assert await log.page(stamps[2] + 1) is None


# -- compare and append --------------------------------------------------------------------------------


@pytest.mark.parametrize("guess", [0, -1, 99])
async def test_a_page_that_does_not_follow_the_last_of_its_partition_is_refused(
    log: PageLog, guess: int
) -> None:
    stamp = await append(log, b"one")
    with pytest.raises(StagingConflict, match="messages"):
        await append(log, b"two", after=guess)
    assert [page.body for page in await log.read()] == [b"one"]
    assert await append(log, b"two", after=stamp) > stamp


async def test_a_first_page_that_claims_to_follow_another_is_refused(log: PageLog) -> None:
    with pytest.raises(StagingConflict):
        await append(log, b"one", after=1)
    assert await log.read() == []


async def test_of_two_fetchers_of_one_partition_one_is_refused(log: PageLog) -> None:
    outcomes = await asyncio.gather(append(log, b"mine"), append(log, b"yours"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(StagingConflict) == 1
    assert [page.stamp for page in await log.read()] == [each for each in outcomes if isinstance(each, int)]


async def test_heads_are_kept_for_each_source_stream_and_partition(log: PageLog) -> None:
    places = [("a", "s", "{}"), ("b", "s", "{}"), ("a", "t", "{}"), ("a", "s", '{"id":1}')]
    stamps = {}
    for source, stream, partition in places:
        page = envelope(b"x", source=source, stream=stream, partition=partition)
        stamps[source, stream, partition] = await log.append(page, b"x", after=0)
    assert {place: await log.head(*place) for place in places} == stamps
    assert await log.head("b", "t", "{}") == 0


async def test_a_digest_that_is_not_the_bodys_is_refused(log: PageLog) -> None:
    with pytest.raises(Stop, match="digest"):
        await log.append(envelope(b"asked"), b"answered", after=0)
    assert await log.read() == []


# -- grouped commits -----------------------------------------------------------------------------------


async def test_appends_that_wait_together_are_committed_together(logs: Logs, log: PageLog) -> None:
    before = logs.commits()
    stamps = await append_partitions(log, 50)
    assert stamps == sorted(set(stamps))
    assert logs.commits() - before == 1


async def test_appends_one_after_the_other_are_each_durable_on_return(logs: Logs, log: PageLog) -> None:
    before, stamp = logs.commits(), 0
    for number in range(1, 6):
        stamp = await append(log, b"%d" % number, after=stamp)
        assert logs.commits() - before == number


async def test_a_refused_append_does_not_fail_those_it_waited_with(log: PageLog) -> None:
    outcomes = await asyncio.gather(
        append(log, b"a", partition="a"),
        append(log, b"b", partition="b", after=99),
        append(log, b"c", partition="c"),
        return_exceptions=True,
    )
    assert [isinstance(outcome, StagingConflict) for outcome in outcomes] == [False, True, False]
    assert [page.body for page in await log.read()] == [b"a", b"c"]


async def test_a_page_that_cannot_be_stored_does_not_fail_those_it_waited_with(log: PageLog) -> None:
    impossible = envelope(b"b", partition="b", label=2**70)
    outcomes = await asyncio.gather(
        append(log, b"a", partition="a"),
        log.append(impossible, b"b", after=0),
        append(log, b"c", partition="c"),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], Stop)
    assert [page.body for page in await log.read()] == [b"a", b"c"]
    assert [outcomes[0], outcomes[2]] == [page.stamp for page in await log.read()]


async def test_an_append_cancelled_before_it_began_leaves_nothing(log: PageLog) -> None:
    cancelled, kept = (asyncio.create_task(append(log, b"x", partition=name)) for name in "ab")
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    stamp = await kept
    assert [page.stamp for page in await log.read()] == [stamp]
    assert await log.head("tms", "messages", "a") == 0


async def test_an_append_cancelled_at_any_step_leaves_head_and_pages_in_agreement(log: PageLog) -> None:
    stored = set()
    for steps in range(12):
        partition = str(steps)
        task = asyncio.create_task(append(log, b"x", partition=partition))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        follower = await append(log, b"y", partition=partition, after=await settled_head(log, partition))
        pages = [page for page in await log.read() if page.envelope.partition == partition]
        assert [page.stamp for page in pages][-1] == follower
        assert [page.after for page in pages] == [0, *[page.stamp for page in pages[:-1]]]
        stored.add(len(pages))
    assert stored == {1, 2}  # both a dropped and a stored append were seen
    await log.quick_check()


async def settled_head(log: PageLog, partition: str) -> int:
    """The head once everything that was being written has been."""
    await log.save_fold("settled", 0, b"")
    return await log.head("tms", "messages", partition)


# -- closing and opening again -------------------------------------------------------------------------


async def test_a_reopened_log_goes_on_where_it_was(logs: Logs) -> None:
    log = await logs.open()
    identity, stamp = log.identity, await append(log, b"one")
    await log.close()
    log = await logs.open()
    assert log.identity == identity
    assert await log.top() == stamp
    assert await log.head("tms", "messages", "{}") == stamp
    assert await append(log, b"two", after=stamp) > stamp
    assert [page.body for page in await log.read()] == [b"one", b"two"]


async def test_two_logs_have_two_identities(log: PageLog, other: PageLog) -> None:
    assert other.identity.id != log.identity.id


async def test_closing_finishes_what_is_being_written(logs: Logs) -> None:
    log = await logs.open()
    tasks = [asyncio.create_task(append(log, b"x", partition=str(n))) for n in range(600)]
    await asyncio.sleep(0)
    await log.close()
    stamps = await asyncio.gather(*tasks)
    log = await logs.open()
    assert [page.stamp for page in await log.read()] == stamps


async def test_a_closed_log_says_so_and_may_be_closed_again(logs: Logs) -> None:
    log = await logs.open()
    await log.close()
    await log.close()
    for attempt in (append(log, b"x"), log.read(), log.head("a", "b", "c"), log.save_fold("a", 0, b"")):
        with pytest.raises(Stop, match="closed"):
            await asyncio.wait_for(attempt, PATIENCE)


async def test_a_second_writer_is_refused_and_told_who_writes(logs: Logs, log: PageLog) -> None:
    stamp = await append(log, b"one")
    with pytest.raises(StagingConflict, match=r"process \d+ on "):
        await logs.open()
    await append(log, b"two", after=stamp)
    await log.close()
    await (await logs.open()).close()


# -- readers -------------------------------------------------------------------------------------------


async def test_a_reader_sees_what_is_written_while_it_reads(logs: Logs, log: PageLog) -> None:
    first = await append(log, b"one")
    reader = await logs.open_to_read()
    assert reader.identity == log.identity
    assert [page.body for page in await reader.read()] == [b"one"]
    second = await append(log, b"two", after=first)
    assert await reader.top() == second
    assert await reader.head("tms", "messages", "{}") == second
    assert [page.body for page in await reader.read(first)] == [b"two"]


async def test_a_reader_in_the_middle_of_its_envelopes_does_not_hold_up_the_writer(
    logs: Logs, log: PageLog
) -> None:
    first = await append(log, b"one")
    reader = await logs.open_to_read()
    stream = reader.envelopes()
    assert (await anext(stream))[0] == first
    second = await append(log, b"two", after=first)
    assert [stamp async for stamp, _, _ in stream] == [second]


async def test_a_reader_may_not_write(logs: Logs, log: PageLog) -> None:
    page = Page(stamp=9, after=0, envelope=envelope(b"x"), body=b"x")
    reader = await logs.open_to_read()
    writes = (
        append(reader, b"x"),
        reader.adopt(page),
        reader.prune([1]),
        reader.save_fold("position", 0, b""),
        reader.new_generation(0),
    )
    for write in writes:
        with pytest.raises(Stop, match="reading only"):
            await write
    assert await log.read() == []


# -- envelopes and folds -------------------------------------------------------------------------------


async def test_envelopes_come_in_order_from_a_stamp_and_of_one_source(log: PageLog) -> None:
    stamps = {}
    for number, source in enumerate("abab"):
        page = envelope(b"x", source=source, partition=str(number))
        stamps[number] = await log.append(page, b"x", after=0)
    assert [stamp async for stamp, _, _ in log.envelopes()] == list(stamps.values())
    assert [stamp async for stamp, _, _ in log.envelopes(stamps[1])] == [stamps[2], stamps[3]]
    assert [stamp async for stamp, _, _ in log.envelopes(source="b")] == [stamps[1], stamps[3]]
    assert [stamp async for stamp, _, _ in log.envelopes(stamps[1], source="b")] == [stamps[3]]


async def test_thousands_of_envelopes_come_once_each(log: PageLog) -> None:
    stamps = await append_partitions(log, 2100)
    assert [stamp async for stamp, _, _ in log.envelopes()] == stamps


async def test_a_fold_is_kept_until_the_next_of_its_name(logs: Logs, log: PageLog) -> None:
    stamp = await append(log, b"one")
    assert await log.load_fold("coverage") is None
    await log.save_fold("coverage", 0, b"old")
    await log.save_fold("coverage", stamp, b"\x00new")
    await log.save_fold("children", stamp, b"other")
    await log.close()
    log = await logs.open()
    assert await log.load_fold("coverage") == (stamp, b"\x00new")
    assert await log.load_fold("children") == (stamp, b"other")


async def test_a_fold_of_more_than_the_log_holds_is_not_given_out(log: PageLog) -> None:
    stamp = await append(log, b"one")
    await log.save_fold("coverage", stamp + 1, b"from another log")
    assert await log.load_fold("coverage") is None


# -- generations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("above", "generation"),
    [(0, 1), (1, 1), (GENERATION, 2), (7 * GENERATION + 5, 8), (8 * GENERATION - 1, 8), (8 * GENERATION, 9)],
)
async def test_a_generation_begins_above_what_the_ledger_has_seen(
    logs: Logs, log: PageLog, above: int, generation: int
) -> None:
    first = await append(log, b"one")
    identity = await log.new_generation(above)
    assert identity == log.identity == (identity.id, generation)
    await log.close()
    log = await logs.open()
    assert log.identity == identity
    assert await log.top() == first
    second = await append(log, b"two", after=first)
    assert second > max(above, first)
    assert second // GENERATION == generation


async def test_every_new_generation_is_another(log: PageLog) -> None:
    generations = [(await log.new_generation(0)).generation for _ in range(3)]
    assert generations == sorted(set(generations))


# -- adopting ------------------------------------------------------------------------------------------


def recorded(stamp: int, *, after: int = 0, body: bytes | None = b"recorded", partition: str = "{}") -> Page:
    return Page(stamp=stamp, after=after, envelope=envelope(body or b"", partition=partition), body=body)


async def test_an_adopted_page_keeps_its_stamp_and_the_next_goes_above(log: PageLog) -> None:
    pages = [recorded(5), recorded(9, after=5), recorded(12, body=None, partition="pruned")]
    for page in pages:
        await log.adopt(page)
    assert await log.read() == pages
    assert await log.top() == 12
    assert await append(log, b"next", after=9) == 13


@pytest.mark.parametrize("stamp", [0, 4, 5])
async def test_a_page_that_is_not_above_the_top_is_not_adopted(log: PageLog, stamp: int) -> None:
    await log.adopt(recorded(5))
    with pytest.raises(StagingConflict, match=f"page {stamp} "):
        await log.adopt(recorded(stamp, partition="other"))
    assert await log.top() == 5
    assert len(await log.read()) == 1


async def test_a_page_of_an_earlier_generation_is_not_adopted(log: PageLog) -> None:
    await log.new_generation(100)
    with pytest.raises(StagingConflict):
        await log.adopt(recorded(101))


async def test_a_page_of_a_later_generation_takes_the_log_there(logs: Logs, log: PageLog) -> None:
    await log.adopt(recorded(3 * GENERATION + 7))
    assert log.identity.generation == 3
    await log.close()
    log = await logs.open()
    assert log.identity.generation == 3
    assert await append(log, b"next", partition="other") == 3 * GENERATION + 8


async def test_an_adopted_body_must_match_its_digest(log: PageLog) -> None:
    with pytest.raises(Stop, match="digest"):
        await log.adopt(Page(stamp=1, after=0, envelope=envelope(b"asked"), body=b"answered"))


async def test_a_copied_log_holds_the_same_pages(log: PageLog, other: PageLog) -> None:
    await append_partitions(log, 3)
    await log.new_generation(50)
    await append(log, b"later", partition="0", after=await log.head("tms", "messages", "0"))
    await log.prune([2])
    for page in await log.read():
        await other.adopt(page)
    assert await other.read() == await log.read()
    assert await other.head("tms", "messages", "0") == await log.top() == await other.top()


# -- pruning and damage --------------------------------------------------------------------------------


async def test_pruning_drops_bodies_and_keeps_envelopes(logs: Logs, log: PageLog) -> None:
    stamps = await append_partitions(log, 4)
    kept = [each async for each in log.envelopes()]
    assert await log.prune([stamps[0], stamps[2], 999]) == 2
    assert await log.prune([stamps[0]]) == 0
    await log.close()
    log = await logs.open()
    assert [page.body for page in await log.read()] == [None, b"1", None, b"3"]
    assert await log.pruned() == [stamps[0], stamps[2]]
    assert await log.pruned(stamps[0]) == [stamps[2]]
    assert [each async for each in log.envelopes()] == kept
    assert await log.head("tms", "messages", "0") == stamps[0]


async def test_pruning_takes_any_number_of_stamps(log: PageLog) -> None:
    stamps = await append_partitions(log, 1200)
    assert await log.prune(iter(stamps[:-1])) == 1199
    assert [page.stamp for page in await log.read(limit=2000) if page.body is not None] == stamps[-1:]


async def test_a_body_is_rewritten_and_its_envelope_knows(logs: Logs, log: PageLog) -> None:
    stamps = await append_partitions(log, 4)
    before = [each async for each in log.envelopes()]
    await log.prune([stamps[3]])
    await log.rewrite({stamps[1]: b"another", stamps[2]: b"", stamps[3]: b"pruned", 999: b"nothing"})
    await log.close()
    log = await logs.open()
    assert [page.body for page in await log.read()] == [b"0", b"another", b"", None]
    after = [each async for each in log.envelopes()]
    digests = [envelope.digest for _, _, envelope in after]
    # of a page without a body it stays what it was
    assert digests == [hashlib.sha256(body).hexdigest() for body in (b"0", b"another", b"", b"3")]
    assert [
        (stamp, previous, msgspec.structs.replace(envelope, digest="")) for stamp, previous, envelope in after
    ] == [
        (stamp, previous, msgspec.structs.replace(envelope, digest=""))
        for stamp, previous, envelope in before
    ]
    assert await append(log, b"more", partition="1", after=stamps[1]) > stamps[3]
    await log.quick_check()


async def test_what_was_rewritten_or_dropped_cannot_be_read_from_its_files(log: PageLog) -> None:
    # too short and too varied to be compressed
    first, second, third = (hashlib.sha256(b"%d" % number).hexdigest().encode() for number in range(3))
    stamps = [await append(log, body, partition=body.decode()[:4]) for body in (first, second, third)]
    stored = [await log.stored(stamp) for stamp in stamps]

    def there() -> list[bool]:
        blob = b"".join(path.read_bytes() for path in log.files if path.exists())
        return [body is not None and body in blob for body in stored]

    assert there() == [True, True, True]
    await log.rewrite({stamps[0]: b"another"})
    await log.prune([stamps[1]])
    assert there() == [True, True, True]
    await log.compact()
    assert there() == [False, False, True]
    assert [page.body for page in await log.read()] == [b"another", None, third]
    assert await log.stored(stamps[1]) is None
    await log.quick_check()
    assert await append(log, b"more", partition="new") > stamps[2]


async def test_what_was_left_in_the_files_by_others_goes_too(logs: Logs, log: PageLog) -> None:
    long = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(1000))
    stamp = await append(log, long)
    piece = (await log.stored(stamp) or b"")[20_000:20_050]
    await log.close()
    logs.replace_body(stamp, zstandard.compress(b"short"))
    log = await logs.open()
    assert piece in log.files[0].read_bytes()
    await log.compact()
    assert piece not in b"".join(path.read_bytes() for path in log.files if path.exists())


async def test_a_reader_that_keeps_what_was_dropped_is_told_of(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_connection, "BUSY_TIMEOUT", 0.05)
    log = await logs.open()
    stamps = await append_partitions(log, 2)
    with logs.reading():
        await log.prune([stamps[0]])
        with pytest.raises(Stop, match="another program reads the page log"):
            await log.compact()
    await log.compact()


async def test_only_who_writes_the_log_rewrites_it(logs: Logs, log: PageLog) -> None:
    (stamp,) = await append_partitions(log, 1)
    reader = await logs.open_to_read()
    with pytest.raises(Stop, match="reading only"):
        await reader.rewrite({stamp: b"another"})
    with pytest.raises(Stop, match="reading only"):
        await reader.compact()
    assert (await log.read())[0].body == b"0"


@pytest.mark.parametrize(
    "stored", [b"not a frame", zstandard.compress(b"another body")], ids=["frame", "content"]
)
async def test_a_rotten_body_is_named_by_its_stamp_and_never_handed_out(logs: Logs, stored: bytes) -> None:
    log = await logs.open()
    stamps = await append_partitions(log, 3)
    await log.close()
    logs.replace_body(stamps[1], stored)
    log = await logs.open()
    for reading in (log.read(), log.page(stamps[1])):
        with pytest.raises(Stop, match=f"page {stamps[1]} is damaged"):
            await reading
    assert [page.body for page in await log.read(stamps[1])] == [b"2"]
    assert len([each async for each in log.envelopes()]) == 3


async def test_a_sound_log_passes_the_quick_check(log: PageLog) -> None:
    stamps = await append_partitions(log, 20)
    await append(log, b"more", partition="3", after=stamps[3])
    await log.prune(stamps[:5])
    await log.quick_check()


async def test_what_goes_wrong_is_told_with_what_to_do(log: PageLog) -> None:
    await append(log, b"one")
    with pytest.raises(IngestError) as caught:
        await append(log, b"two")
    assert caught.value.hint
    assert caught.value.where == "tms: messages"
