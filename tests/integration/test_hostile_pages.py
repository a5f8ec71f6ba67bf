"""Pages spoiled in every way by a seed: each is loaded exactly, or set aside or refused with its reason.

What a page says is read by the standard library, and compared with what a whole job has made of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import math
import multiprocessing
import re
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from ingest.pipeline import open_job
from ingest.report import Certificate, DeadLetter, Failure
from ingest.staging import SqlitePageLog
from tests.hostile import BODIES, CAP, DELIVERIES, RECORDS, Case
from tests.integration.jobs import Setup
from tests.upstream.wire import read_request

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

MODELS = """
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.mirror import UtcDateTime


class Base(DeclarativeBase):
    pass


class Page(Base):
    __tablename__ = "pages"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    page_id: Mapped[int] = mapped_column(ForeignKey("pages.id"))
    name: Mapped[str | None] = mapped_column(String(20))
    score: Mapped[int | None]
    ratio: Mapped[float | None]
    active: Mapped[bool]
    seen_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    data: Mapped[Any | None] = mapped_column(JSON)
"""
STREAMS: dict[str, Any] = {
    "pages": {"path": "/pages", "records": "$", "entity": "Page"},
    "things": {
        "each": "pages",
        "path": "/pages/{pages.id}",
        "records": "data",
        "entity": "Thing",
        "set": {"page_id": "$partition.pages.id"},
    },
}
#: pages in one job
MANY = 150


class Aftermath(NamedTuple):
    """What a job has made of some pages."""

    certificate: Certificate
    #: failed partitions, and the bodies and stamps of staged ones, by the number of the page
    failures: dict[int, Failure]
    staged: dict[int, tuple[int, bytes]]
    rows: dict[int, dict[str, Any]]
    #: keys of rows that are kept aside
    withheld: frozenset[int]
    letters: dict[int, list[DeadLetter]]


@contextlib.asynccontextmanager
async def served(cases: list[Case]) -> AsyncIterator[str]:
    """A server of these pages, at this URL."""
    wires = {f"/pages/{case.number}": case for case in cases}
    listing = json.dumps([{"id": case.number} for case in cases]).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while request := await read_request(reader):
                case = wires.get(request.path)
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(listing)
                writer.write(case.wire if case is not None else head + listing)
                await writer.drain()
                if case is not None and case.closes:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def aftermath(folder: Path, cases: list[Case], *, looked_into: bool, allowed: int = CAP) -> Aftermath:
    """One job over these pages, and what it left; `looked_into`: fetching reads the records too."""
    streams = {**STREAMS, "things": {**STREAMS["things"], **({"key": "seen_at"} if looked_into else {})}}
    bounds = {"attempts": 1, "max_body": allowed}
    setup = Setup(folder, streams, models=MODELS, package="hostile", transport=bounds)
    async with served(cases) as url, open_job(setup.configure(url), clock=setup.clock) as job:
        certificate = await job.sync()
        letters = await job.dead_letters()
        assert (await job.verify()).exit in (0, 3)
    staged = {}
    log = await SqlitePageLog.open(folder / "mirror.db.pages", readonly=True)
    try:
        for page in await log.read(0, limit=10_000):
            if page.envelope.stream == "things":
                assert page.body is not None
                staged[_number(page.envelope.partition)] = page.stamp, page.body
    finally:
        await log.close()
    names = ["id", "page_id", "name", "score", "ratio", "active", "seen_at", "data"]
    rows = setup.ask(f"SELECT {', '.join(names)} FROM things")
    withheld = setup.ask("SELECT key FROM ingest_withheld WHERE \"table\" = 'things'")
    by_stamp = {stamp: number for number, (stamp, _) in staged.items()}
    by_page: dict[int, list[DeadLetter]] = defaultdict(list)
    for letter in letters:
        by_page[by_stamp[letter.stamp]].append(letter)
    return Aftermath(
        certificate,
        {_number(one.partition): one for one in certificate.fetch.failures},
        staged,
        {row[0]: dict(zip(names, row, strict=True)) for row in rows},
        frozenset(msgspec.json.decode(key)[0] for (key,) in withheld),
        by_page,
    )


def _number(partition: str) -> int:
    return int(json.loads(partition)["pages.id"])


# -- what a page says, by the standard library ---------------------------------------------------------------


class Unreadable(ValueError):
    """The page says nothing."""


class TooDeep(ValueError):
    """The standard library cannot say what the page says."""


@contextlib.contextmanager
def _digits_without_end() -> Iterator[None]:
    """Python reads and writes integers of any length."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def said(body: bytes | None) -> list[Any]:
    """The records a body states."""
    if body is None:
        raise Unreadable("it did not arrive")
    try:
        value = json.loads(body.removeprefix(b"\xef\xbb\xbf").decode())
    except RecursionError:
        raise TooDeep from None
    except ValueError as error:
        raise Unreadable(str(error)) from error
    if not isinstance(value, dict) or "data" not in value:
        raise Unreadable("it has no place for records")
    found = value["data"] if isinstance(value["data"], list) else [value["data"]]
    return [one for one in found if one is not None]


def is_sound(value: Any) -> bool:
    """Nothing in it that JSON has no word for."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(is_sound(part) for pair in value.items() for part in pair)
    return all(map(is_sound, value)) if isinstance(value, list) else True


def _integer(said: Any, bits: int) -> int | None:
    if type(said) is str and said.isascii() and said.removeprefix("-").isdecimal():
        said = int(said)
    return said if type(said) is int and -(2**bits) <= said < 2**bits else None


def key_of(record: Any) -> int | None:
    """The key a record states."""
    return _integer(record.get("id"), 63) if isinstance(record, dict) else None


def states(column: str, record: dict[str, Any], stored: Any) -> bool:
    """A column holds exactly what the record says of it."""
    value = record.get(column)
    if not is_sound(value):
        return False
    if column == "data" and type(stored) in (int, float):
        return bool(type(value) in (int, float) and value == stored)  # SQLite keeps a lone number as one
    if column == "data":
        return json.dumps(json.loads(stored or "null"), sort_keys=True) == json.dumps(value, sort_keys=True)
    if value is None:
        return stored is None
    if column in ("id", "score"):
        return stored is not None and stored == _integer(value, 63 if column == "id" else 31)
    if column == "name":
        return type(value) in (str, int) and str(value) == stored and len(stored) <= 20 and "\0" not in stored
    if column == "active":
        return type(value) in (bool, int) and stored == value
    if column == "ratio":
        return type(value) in (int, float, str) and float(value) == stored
    return stored is not None and abs(_moment(value) - _moment(stored)) < timedelta(microseconds=1)


def _moment(value: Any) -> datetime:
    if type(value) is str:
        time = datetime.fromisoformat(value)
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    assert type(value) in (int, float)
    for scale in (1, 1000, 10**6):
        if abs(value) < 10**11 * scale:
            break
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(value * (10**6 // scale)))


COLUMNS = ("id", "name", "score", "ratio", "active", "seen_at", "data")


def loaded(record: Any, after: Aftermath) -> bool:
    """The row with the record's key is what the record says; or waits, for it leaves something unsaid."""
    key = key_of(record)
    if key is None:
        return False
    if key not in after.rows:
        return key in after.withheld and "active" not in record
    return all(states(column, record, after.rows[key][column]) for column in COLUMNS)


def told(record: Any, letter: DeadLetter, body: bytes) -> bool:
    """A dead letter holds the record's own bytes."""
    assert letter.reason
    assert letter.raw.encode() in body, "not the bytes that came"
    if letter.raw.encode() not in (body, body.removeprefix(b"\xef\xbb\xbf")):
        return json.dumps(json.loads(letter.raw)) == json.dumps(record)
    return True


# -- the verdict -------------------------------------------------------------------------------------------


def verdict(case: Case, after: Aftermath, rivals: Counter[int | None]) -> str:
    """What became of a page; AssertionError where it is neither there nor told of.

    `rivals`: how many records state a key.
    """
    failure, letters = after.failures.get(case.number), after.letters.get(case.number, [])
    assert (failure is None) != (case.number not in after.staged), "neither failed nor staged, or both"
    try:
        records = said(case.body)
    except Unreadable:
        assert failure is not None, "loaded, though it says nothing"
        assert failure.cause
        assert not any(id in after.rows for id in case.good), "a refused page has rows"
        return "refused"
    except TooDeep:
        assert (failure or letters) or not any(way for way in case.ways if way == "brackets")
        return "too deep to say"
    if failure is not None:
        raise AssertionError(f"refused, though it can be read: {failure.cause}")
    body = after.staged[case.number][1]
    assert body == (case.body or b"").removeprefix(b"\xef\xbb\xbf"), "not the bytes that came"
    for record in records:
        is_told = any(told(record, letter, body) for letter in letters)
        if is_untouched(record, case) and rivals[key_of(record)] == 1:
            assert loaded(record, after), f"not as it was said: {record}"
            assert not is_told, f"told of, though it is good: {record}"
        elif rivals[key_of(record)] > 1 and key_of(record) in (after.rows.keys() | after.withheld):
            continue  # several records have told of this row
        else:
            assert loaded(record, after) != is_told, f"neither loaded nor told of, or both: {record}"
    return "with letters" if letters else "loaded"


def is_untouched(record: Any, case: Case) -> bool:
    """A record that still says what it said before the page was spoiled, and perhaps more."""
    before = case.good.get(key_of(record) or 0)
    if before is None or not is_sound(record):
        return False
    # as text, for to python a float may equal an integer or a truth
    return json.dumps({name: record.get(name) for name in before}) == json.dumps(before)


async def judge(folder: Path, cases: list[Case], *, looked_into: bool) -> Counter[str]:
    """What became of pages, counted."""
    after = await aftermath(folder, cases, looked_into=looked_into)
    with _digits_without_end():
        outcomes = judged(cases, after)
    assert_adds_up(after)
    return outcomes


def judged(cases: list[Case], after: Aftermath) -> Counter[str]:
    """The verdicts on pages, counted; AssertionError that shows the wrong ones."""
    rivals: Counter[int | None] = Counter()
    for case in cases:
        with contextlib.suppress(ValueError):
            rivals.update(map(key_of, said(case.body)))
    outcomes: Counter[str] = Counter()
    wrong = []
    for case in cases:
        try:
            outcomes[verdict(case, after, rivals)] += 1
        except RecursionError:
            outcomes["too deep to say"] += 1
        except AssertionError as error:
            wrong.append(
                f"page {case.number}, {' and '.join(case.ways)}: {str(error)[:300]}\n  {case.wire[:300]!r}"
            )
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong[:12])
    return outcomes


def assert_adds_up(after: Aftermath) -> None:
    """Every page and every record is somewhere, and told of where it is not where it should be."""
    load = after.certificate.load
    assert load.pages == after.certificate.fetch.pages == len(after.staged) + 1
    assert load.records == load.written + load.kept + load.rejected
    assert after.certificate.dead_letters == sum(map(len, after.letters.values()))
    incomplete = bool(after.failures or after.certificate.dead_letters)
    assert after.certificate.exit == (3 if incomplete else 0)


async def test_every_way_of_spoiling_a_page_is_survived_by_itself(tmp_path: Path) -> None:
    ways = [*RECORDS, *BODIES, *DELIVERIES] * 3
    cases = [Case.of(0, number, (way,)) for number, way in enumerate(ways, 1)]
    await judge(tmp_path, cases, looked_into=False)


SEEDS = [
    0,
    *(pytest.param(seed, marks=pytest.mark.sweep) for seed in range(1, 34)),
    *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(34, 334)),
]


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_hostile_page_is_loaded_exactly_or_told_of(tmp_path: Path, seed: int) -> None:
    cases = [Case.of(seed, number) for number in range(1, MANY + 1)]
    outcomes = await judge(tmp_path, cases, looked_into=bool(seed % 2))
    assert {"loaded", "with letters", "refused"} <= {*outcomes}
    assert outcomes["too deep to say"] < MANY // 10


# -- bombs -------------------------------------------------------------------------------------------------

#: bytes that each of the bombs has when it is let off, and that the job allows
EXPLODED, ALLOWED = 200 * 2**20, 32 * 2**20
#: what a process may take beyond one body
BESIDE = 64 * 2**20


def packed(piece: bytes, *, times: int = 1, wbits: int = 31) -> bytes:
    """A bomb of this piece again and again, compressed without ever being there whole."""
    press = zlib.compressobj(1, wbits=wbits)
    block = piece * (2**20 // len(piece))
    bomb = b"".join(press.compress(block) for _ in range(EXPLODED // 2**20)) + press.flush()
    for _ in range(times - 1):
        bomb = gzip.compress(bomb, 9, mtime=0)
    return bomb


def bombs() -> list[Case]:
    """As many at once as a job fetches side by side, and once more."""
    kinds = [
        ("gzip", packed(b" ")),
        ("gzip, gzip", packed(b" ", times=2)),
        ("deflate", packed(b" ", wbits=15)),
        ("gzip", gzip.compress(b'{"data":[{"name":"', mtime=0) + packed(b"x")),
        ("gzip", packed(b"[")),
        ("gzip", packed(b'{"data":[{},')),
    ]
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n"
    return [
        Case(
            number=number,
            ways=(encoding,),
            wire=head % (encoding.encode(), len(bomb)) + bomb,
            body=None,
            good={},
            closes=False,
        )
        for number, (encoding, bomb) in enumerate(kinds * 4, 1)
    ]


def _peak(folder: str, cases: list[Case]) -> tuple[int, int]:
    """How much memory a process takes more at its peak for these pages, and how many it refused."""
    sys.path.insert(0, folder)
    status, again = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def now(what: str) -> int:
        return int(re.search(rf"{what}:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]

    async def run(name: str, cases: list[Case]) -> Aftermath:
        return await aftermath(Path(folder) / name, cases, looked_into=False, allowed=ALLOWED)

    asyncio.run(run("warm", [Case.of(0, number, ("another order",)) for number in range(1, 20)]))
    sys.modules.pop("hostile"), sys.modules.pop("hostile.models")
    again.write_text("5")
    before = now("VmRSS")
    after = asyncio.run(run("bombs", cases))
    return now("VmHWM") - before, len(after.failures)


def test_bombs_take_no_more_memory_than_one_body_and_a_little(tmp_path: Path) -> None:
    cases = bombs()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        peak, refused = process.submit(_peak, str(tmp_path), cases).result()
    assert refused == len(cases)
    assert peak < ALLOWED + BESIDE, f"{peak / 2**20:.0f} MiB"
