"""The page log's file: rights, strangers, damage, full disks, kills, and who may write."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import IO

import pytest

import ingest
from ingest.errors import IngestError, StagingConflict, Stop, UsageError
from ingest.staging import SqlitePageLog
from ingest.types import Envelope, Request, Walk

#: long enough for a slow machine; only a hang reaches it
PATIENCE = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirror.db.pages"


@pytest.fixture
async def log(path: Path) -> AsyncIterator[SqlitePageLog]:
    async with await SqlitePageLog.open(path) as opened:
        yield opened


def noise(size: int, seed: int) -> bytes:
    """A body that does not compress."""
    return random.Random(seed).randbytes(size)


async def append(log: SqlitePageLog, body: bytes, *, partition: str = "{}", after: int = 0) -> int:
    envelope = Envelope(
        run="run-1",
        source="tms",
        stream="messages",
        stream_hash="hash",
        partition=partition,
        walk=Walk(id="walk-1", kind="full"),
        request=Request(path="/messages"),
        digest=hashlib.sha256(body).hexdigest(),
    )
    return await log.append(envelope, body, after=after)


async def opened(path: Path, *, readonly: bool = False) -> None:
    """Open and close: what should have been refused must not be left open, or the tests hang at exit."""
    async with await SqlitePageLog.open(path, readonly=readonly):
        pass


async def filled(path: Path, *, pages: int, size: int = 3000) -> None:
    async with await SqlitePageLog.open(path) as log:
        await asyncio.gather(*(append(log, noise(size, n), partition=str(n)) for n in range(pages)))


def sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def shell(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as another program sees it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


# -- the file ------------------------------------------------------------------------------------------


async def test_only_the_owner_may_read_the_log_and_what_lies_beside_it(path: Path) -> None:
    before = os.umask(0)
    try:
        async with await SqlitePageLog.open(path) as log:
            await append(log, b"one")
            files = sorted(path.parent.iterdir())
    finally:
        os.umask(before)
    assert [file.name.removeprefix(path.name) for file in files] == ["", "-lock", "-shm", "-wal"]
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}


async def test_the_folder_is_made_when_it_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b?c#d%20" / "log"
    await filled(path, pages=1)
    assert path.is_file()


async def test_one_file_under_two_names_is_one_log(path: Path, log: SqlitePageLog) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(StagingConflict):
        await opened(link)
    assert log.path == path


async def test_a_draft_that_was_interrupted_is_made_anew(path: Path) -> None:
    sibling(path, "-new").write_bytes(b"half a log")
    await filled(path, pages=1)
    assert not sibling(path, "-new").exists()


async def test_a_reader_does_not_make_a_log(path: Path) -> None:
    with pytest.raises(UsageError, match="no page log"):
        await opened(path, readonly=True)
    assert list(path.parent.iterdir()) == []


# -- strangers -----------------------------------------------------------------------------------------


def somebodys_database(path: Path) -> None:
    with shell(path) as connection:
        connection.execute("CREATE TABLE page (stamp INTEGER PRIMARY KEY)")


def somebodys_notes(path: Path) -> None:
    path.write_text("buy milk\n" * 1000)


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("make", [somebodys_database, somebodys_notes])
async def test_a_file_that_is_no_page_log_is_refused_and_left_alone(
    path: Path, make: object, readonly: bool
) -> None:
    assert callable(make)
    make(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="not a page log") as caught:
        await opened(path, readonly=readonly)
    assert caught.value.hint
    assert path.read_bytes() == before


async def test_a_folder_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(UsageError, match="not a file"):
        await opened(path)


async def test_a_file_where_a_folder_should_be_is_told(path: Path) -> None:
    path.write_text("")
    with pytest.raises(Stop, match="cannot be opened"):
        await opened(path / "log")


async def test_a_newer_format_is_refused(path: Path) -> None:
    await filled(path, pages=1)
    with shell(path) as connection:
        connection.execute("UPDATE log SET format = 2")
    with pytest.raises(UsageError, match="format 2") as caught:
        await opened(path)
    assert caught.value.hint == "upgrade ingest"


# -- damage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("share", [0, 0.0001, 0.003, 0.01, 0.1, 0.5, 0.9, 0.9999])
async def test_a_truncated_file_is_refused(path: Path, share: float, readonly: bool) -> None:
    await filled(path, pages=40)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises((Stop, UsageError), match=r"page log") as caught:
        await opened(path, readonly=readonly)
    assert caught.value.hint


async def examined(path: Path) -> None:
    async with await SqlitePageLog.open(path) as log:
        await log.quick_check()
        await log.read()


async def test_an_empty_file_is_a_damaged_log_and_not_a_new_one(path: Path) -> None:
    path.touch()
    with pytest.raises(Stop, match="is empty"):
        await opened(path)
    assert path.read_bytes() == b""


def damage_block(path: Path, table: str) -> None:
    """Overwrite the block that a table begins with."""
    with shell(path) as connection:
        (block,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((block - 1) * 4096)
        file.write(noise(4096, 1))


@pytest.mark.parametrize("part", range(16))
async def test_overwritten_blocks_are_told_wherever_they_are(path: Path, part: int) -> None:
    await filled(path, pages=40)
    blocks = path.stat().st_size // 4096
    with path.open("r+b") as file:
        file.seek(blocks * part // 16 * 4096)
        file.write(noise(4096, part))
    with pytest.raises(IngestError, match=r"damaged|not a page log"):
        await examined(path)


async def test_a_block_cut_by_an_interrupted_copy_is_mended_from_the_write_ahead_log(path: Path) -> None:
    with child(path, HOLDING) as process:
        lines(process, 1)
        process.kill()
        process.wait(PATIENCE)
    with path.open("ab") as file:
        file.write(b"the beginning of a block")
    async with await SqlitePageLog.open(path) as log:
        assert [page.body for page in await log.read()] == [b"one"]
        await log.quick_check()


@pytest.mark.parametrize("table", ["log", "page", "body"])
async def test_a_log_without_its_tables_is_refused(path: Path, table: str) -> None:
    await filled(path, pages=1)
    with shell(path) as connection:
        connection.execute(f"DROP TABLE {table}")
    with pytest.raises(Stop, match="lost"):
        await opened(path)


async def test_a_log_without_its_identity_is_refused(path: Path) -> None:
    await filled(path, pages=1)
    with shell(path) as connection:
        connection.execute("DELETE FROM log")
    with pytest.raises(Stop, match="identity"):
        await opened(path)


async def test_a_write_ahead_log_without_its_file_is_not_swallowed(path: Path) -> None:
    sibling(path, "-wal").write_bytes(b"pages of a log that was moved away")
    with pytest.raises(Stop, match="not the log itself"):
        await opened(path)
    sibling(path, "-wal").write_bytes(b"")
    await filled(path, pages=1)


async def test_an_unreadable_envelope_is_named_by_its_stamp(path: Path) -> None:
    await filled(path, pages=2)
    with shell(path) as connection:
        connection.execute("UPDATE page SET walk = '{' WHERE stamp = 2")
    async with await SqlitePageLog.open(path) as log:
        with pytest.raises(Stop, match="envelope of page 2"):
            await log.read()
        with pytest.raises(Stop, match="envelope of page 2"):
            assert [each async for each in log.envelopes()] == []


@pytest.mark.parametrize("readonly", [False, True])
async def test_what_is_derived_is_rebuilt_when_it_is_absent(path: Path, readonly: bool) -> None:
    async with await SqlitePageLog.open(path) as log:
        first = await append(log, b"one")
        second = await append(log, b"two", after=first)
        other = await append(log, b"x", partition="other")
        await log.save_fold("coverage", second, b"state")
    with shell(path) as connection:
        connection.executescript("DROP TABLE head; DROP TABLE fold")
    async with await SqlitePageLog.open(path, readonly=readonly) as log:
        assert await log.head("tms", "messages", "{}") == second
        assert await log.head("tms", "messages", "other") == other
        assert await log.head("tms", "messages", "none") == 0
        assert await log.load_fold("coverage") is None
        await log.quick_check()


async def test_a_head_that_is_not_the_last_page_fails_the_quick_check(path: Path) -> None:
    await filled(path, pages=2)
    with shell(path) as connection:
        connection.execute("UPDATE head SET stamp = 1 WHERE partition = '1'")
    async with await SqlitePageLog.open(path) as log:
        with pytest.raises(Stop, match="wrong head of tms: messages 1"):
            await log.quick_check()


# -- no room -------------------------------------------------------------------------------------------


async def limit_blocks(log: SqlitePageLog, blocks: int) -> None:
    """As many blocks as the file may have; 0 for those it has."""
    assert log._writer is not None
    await log._writer._connection.execute_fetchall(f"PRAGMA max_page_count = {blocks or 1}")


async def test_a_full_disk_stops_the_append_and_the_log_goes_on_when_there_is_room(
    log: SqlitePageLog,
) -> None:
    first = await append(log, noise(20_000, 1))
    await limit_blocks(log, 0)
    for _ in range(2):
        with pytest.raises(Stop, match="no room") as caught:
            await append(log, noise(20_000, 2), after=first)
        assert caught.value.hint
    assert await log.top() == first
    assert [page.stamp for page in await log.read()] == [first]
    await limit_blocks(log, 2**30)
    second = await append(log, noise(20_000, 2), after=first)
    assert [page.body for page in await log.read()] == [noise(20_000, 1), noise(20_000, 2)]
    assert await log.top() == second
    await log.quick_check()


async def test_a_full_disk_fails_all_that_waited_together_and_stores_none_of_them(log: SqlitePageLog) -> None:
    await limit_blocks(log, 40)
    tasks = [append(log, noise(20_000, n), partition=str(n)) for n in range(20)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, Stop) for outcome in outcomes)
    assert await log.read() == []
    assert await log.head("tms", "messages", "0") == 0
    await append(log, noise(20_000, 0), partition="0")
    await log.quick_check()


async def test_pruning_makes_room_on_a_full_disk(log: SqlitePageLog) -> None:
    first = await append(log, noise(200_000, 1))
    await limit_blocks(log, 0)
    with pytest.raises(Stop, match="no room"):
        await append(log, noise(100_000, 2), after=first)
    assert await log.prune([first]) == 1
    assert await append(log, noise(100_000, 2), after=first) > first


# -- other processes -----------------------------------------------------------------------------------

PRELUDE = """
import asyncio, os, resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from ingest.errors import IngestError, Stop
from ingest.staging import SqlitePageLog
from tests.unit.test_staging_sqlite import append, noise

path = Path({path!r})

def say(*words):
    print(*words, flush=True)
"""


@contextmanager
def child(path: Path, program: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs `async def main()` of the program; killed at the end if it still runs."""
    root = Path(ingest.__file__).parents[1]
    prelude = PRELUDE.format(root=str(root), path=str(path))
    script = f"{prelude}\n{program}\nasyncio.run(main())"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    output: IO[str] = process.stdout
    return [output.readline().strip() for _ in range(count)]


APPENDING = """
async def main():
    log = await SqlitePageLog.open(path)
    async def fetch(partition):
        after = 0
        while True:
            after = await append(log, noise(5000, after), partition=partition, after=after)
            say(partition, after)
    await asyncio.gather(*(fetch(name) for name in "abcd"))
"""


@pytest.mark.parametrize("acknowledged", [1, 30, 600])
async def test_every_acknowledged_page_survives_a_kill(path: Path, acknowledged: int) -> None:
    with child(path, APPENDING) as process:
        said = lines(process, acknowledged)
        process.kill()
        assert process.stdout is not None
        said += process.stdout.read().splitlines()
    heads: dict[str, int] = {}
    async with await SqlitePageLog.open(path) as log:
        pages = await log.read(limit=100_000)
        for page in pages:
            assert page.after == heads.get(page.envelope.partition, 0)
            assert page.body == noise(5000, page.after)
            heads[page.envelope.partition] = page.stamp
        stored = {f"{page.envelope.partition} {page.stamp}" for page in pages}
        # a line cut off by the kill is an acknowledgement nobody heard
        assert {line for line in said[:-1] if line} <= stored
        assert said[0] in stored
        assert {name: await log.head("tms", "messages", name) for name in heads} == heads
        await log.quick_check()
        assert await append(log, b"next", partition="a", after=heads.get("a", 0)) == pages[-1].stamp + 1


HOLDING = """
async def main():
    log = await SqlitePageLog.open(path)
    say(await append(log, b"one"))
    await asyncio.Event().wait()
"""


async def test_a_writer_in_another_process_is_named_and_its_lock_ends_with_it(path: Path) -> None:
    with child(path, HOLDING) as process:
        (stamp,) = lines(process, 1)
        with pytest.raises(StagingConflict, match=f"process {process.pid} on ") as caught:
            await opened(path)
        assert caught.value.hint
        async with await SqlitePageLog.open(path, readonly=True) as reader:
            assert [page.stamp for page in await reader.read()] == [int(stamp)]
        process.kill()
        process.wait(PATIENCE)
    async with await SqlitePageLog.open(path) as log:
        assert await log.top() == int(stamp)


async def test_a_reader_leaves_the_file_and_its_write_ahead_log_as_they_are(path: Path) -> None:
    with child(path, HOLDING) as process:
        lines(process, 1)
        process.kill()
        process.wait(PATIENCE)
    before = path.read_bytes(), sibling(path, "-wal").read_bytes()
    assert before[1]
    async with await SqlitePageLog.open(path, readonly=True) as reader:
        assert [page.body for page in await reader.read()] == [b"one"]
        await reader.quick_check()
    assert (path.read_bytes(), sibling(path, "-wal").read_bytes()) == before


FULL = """
async def main():
    async with await SqlitePageLog.open(path) as log:
        stamp = await append(log, noise(20_000, 0))
        limit = path.with_name(path.name + "-wal").stat().st_size + 100_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            while True:
                stamp = await append(log, noise(20_000, stamp), after=stamp)
        except Stop as error:
            say(stamp, bool(error.hint))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        say(await append(log, noise(20_000, stamp), after=stamp))
"""


async def test_a_write_that_fails_in_the_system_stops_the_append_and_no_more(path: Path) -> None:
    with child(path, FULL) as process:
        failed, after = lines(process, 2)
        assert process.wait(PATIENCE) == 0
    assert failed.endswith(" True")
    last = int(failed.split()[0])
    assert last > 1
    assert int(after) == last + 1
    async with await SqlitePageLog.open(path) as log:
        assert [page.stamp for page in await log.read()] == list(range(1, last + 2))
        await log.quick_check()


CLOSING = """
async def main():
    async with await SqlitePageLog.open(path) as log:
        await append(log, noise(200_000, 0))
        await log.read()
"""
REFUSED = """
async def main():
    try:
        await SqlitePageLog.open(path)
    except IngestError as error:
        say(type(error).__name__)
"""
ABANDONED = """
async def main():
    async with await SqlitePageLog.open(path) as log:
        tasks = [asyncio.create_task(append(log, b"x", partition=str(n))) for n in range(50)]
        await asyncio.sleep(0)
        raise SystemExit(7)
"""


@pytest.mark.parametrize(
    ("program", "status"), [(CLOSING, 0), (ABANDONED, 7)], ids=["in order", "with work in hand"]
)
def test_a_process_that_used_a_log_ends_by_itself(path: Path, program: str, status: int) -> None:
    with child(path, program) as process:
        assert process.wait(PATIENCE) == status
    assert not sibling(path, "-wal").exists()  # copied back: the log was closed


@pytest.mark.parametrize(
    ("damage", "outcome"),
    [
        ("strange", "UsageError"),
        ("cut", "Stop"),
        ("pages", "Stop"),
        ("no heads", "Stop"),
        ("held", "StagingConflict"),
    ],
)
async def test_a_process_that_was_refused_a_log_ends_by_itself(path: Path, damage: str, outcome: str) -> None:
    await filled(path, pages=4)
    if damage == "strange":
        path.write_text("buy milk")
    if damage == "cut":
        os.truncate(path, path.stat().st_size - 1)
    if damage == "no heads":  # so that a connection fails while it is prepared
        with shell(path) as connection:
            connection.execute("DROP TABLE head")
    if damage in ("pages", "no heads"):
        damage_block(path, "page")
    async with await SqlitePageLog.open(path) if damage == "held" else nullcontext():
        with child(path, REFUSED) as process:
            assert process.wait(PATIENCE) == 0
            assert lines(process, 1) == [outcome]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13])
async def test_a_cancelled_close_still_lets_go_of_the_log_and_of_who_waits(path: Path, steps: int) -> None:
    log = await SqlitePageLog.open(path)
    appends = [asyncio.create_task(append(log, b"x", partition=str(n))) for n in range(600)]
    await asyncio.sleep(0)
    closing_task = asyncio.create_task(log.close())
    for _ in range(steps):
        await asyncio.sleep(0)
    closing_task.cancel()
    await asyncio.gather(closing_task, return_exceptions=True)
    async with asyncio.timeout(PATIENCE):
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
    async with await SqlitePageLog.open(path) as again:
        stored = {page.stamp for page in await again.read()}
        assert {outcome for outcome in outcomes if isinstance(outcome, int)} <= stored
        await again.quick_check()
