"""Hostile pages: a page's records, body and delivery, each spoiled in one of many ways by a seed.

    case = Case.of(seed, number)       the same for the same two
    case.wire                          what the server writes, head and all
    case.body                          what it says by that; None where it says nothing whole

What a page is worth is not asked of `ingest`: `case.body` is read by the standard library.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

#: ids of one page's records: its number times this, and on
IDS = 1000
#: bytes of one body that the job allows, and of a bomb that has more
CAP = 256 * 1024
BOMB = 2 * 2**20

_JSON = "Content-Type: application/json"


@dataclass(kw_only=True)
class Draft:
    """A page in the making: records as bytes, what stands around them, and how they are sent."""

    random: Random
    ids: list[int]
    records: list[bytes]
    before: bytes = b'{"data":['
    after: bytes = b'],"next":null}'
    body: bytes = b""
    #: header lines of the answer
    head: list[str] = field(default_factory=lambda: [_JSON])
    status: int = 200
    #: what is sent in the body's place, once it is encoded
    sent: bytes | None = None
    #: it cannot arrive whole, however it is read
    damaged: bool = False
    #: the server closes the connection after it, or without an answer
    closes: bool = False
    silent: bool = False

    def any_record(self) -> int:
        return self.random.randrange(len(self.records))

    def stated(self, index: int) -> dict[str, Any]:
        """A record that may have been spoiled before; then a new one."""
        try:
            value = json.loads(self.records[index])
        except (ValueError, RecursionError):
            value = None
        return value if isinstance(value, dict) else good(self.random, self.ids[index])

    def restate(self, index: int, **values: Any) -> None:
        self.records[index] = _dumped({**self.stated(index), **values})

    def insert(self, index: int, raw: bytes) -> None:
        """More members, before all others of a record."""
        self.records[index] = b"{" + raw + b"," + _dumped(self.stated(index))[1:]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One page as a server sends it."""

    number: int
    #: what was done to it
    ways: tuple[str, ...]
    wire: bytes
    #: what arrives; None where nothing whole does
    body: bytes | None
    #: the records as they were before anything was done to them
    good: dict[int, dict[str, Any]]
    closes: bool

    @classmethod
    def of(cls, seed: int, number: int, ways: tuple[str, ...] = ()) -> Case:
        """The page with this number; spoiled in these ways, or in one or two that chance has chosen."""
        random = Random(f"{seed}:{number}")
        ids = [number * IDS + index for index in range(random.randint(1, 6))]
        stated = {id: good(random, id) for id in ids}
        draft = Draft(random=random, ids=ids, records=[_dumped(stated[id]) for id in ids])
        chosen = ways or _choice(random)
        for stage in (RECORDS, BODIES, DELIVERIES):
            if stage is BODIES:
                draft.body = draft.before + b",".join(draft.records) + draft.after
            for way in chosen:
                if way in stage:
                    stage[way](draft)
        if draft.sent is None:
            draft.sent = draft.body
        whole = not draft.damaged and not draft.silent and len(draft.body) <= CAP
        return cls(
            number=number,
            ways=chosen,
            wire=b"" if draft.silent else _written(draft),
            body=draft.body if whole else None,
            good=stated,
            closes=draft.closes or draft.silent,
        )


def good(random: Random, id: int) -> dict[str, Any]:
    """A record of which every column can be stored."""
    return {
        "id": id,
        "name": random.choice(["Ada", "Łódź", "e\u0301", "\U0001f511", "", 'a"b\\c/d', None]),
        "score": random.choice([0, -1, 2**31 - 1, -(2**31), 7, None]),
        "ratio": random.choice([0.5, -1e-9, 1e300, 3, None]),
        "active": random.random() < 0.5,
        "seen_at": random.choice(["2024-02-29T12:00:00Z", "1970-01-01T00:00:00.000001+02:00", None]),
        "data": random.choice([{}, [], {"a": [1, None, "x"]}, "text", 5, [2**53 + 1]]),
    }


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _choice(random: Random) -> tuple[str, ...]:
    known = [*RECORDS, *BODIES, *DELIVERIES]
    first, second = random.sample(known, 2)
    # a page arrives in one way
    alone = random.random() < 0.6 or {first, second} <= {*DELIVERIES}
    return (first,) if alone else (first, second)


Way: TypeAlias = Callable[[Draft], None]

# -- records -------------------------------------------------------------------------------------------

COLUMNS = ("id", "name", "score", "ratio", "active", "seen_at", "data")
#: values that are wrong in most columns, and some that are only unusual
ODD_VALUES: list[Any] = [
    None, True, 0, 1, -1, 1.5, -0.0, "", "x", "7", "007", " 7", "\u0667", "1e3", "true", [], [1], {},
    {"id": 1},
    10**12, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**19, 10**40, 1e308, "2024-13-45", "yesterday",
    "0001-01-01T00:00:00", "9999-12-31T23:59:59+00:00", "2024-02-29", "a\0b", "\0", "x" * 20, "x" * 21,
    "\U0001f511" * 21, "\ufeff", "\u202e", [[["deep"]]], {"": {"": ""}}, "[1]", "null",
]  # fmt: skip
#: bytes that stand for a value, and are none in JSON, or none that every database has
RAW_VALUES = [
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b'"\\ud800"', b'"\\udc00\\ud800"', 
    b'"\\ud83d\\ude00"',
    b'"\\u0000"', b'"a\0b"', b'"\x01"', b'"tab\there"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b"01",
    b"+1",
    b".5", b"5.", b"0x10", b"1_000", b"'single'", b"undefined", b"True", b"None", b"", b"1" + b"0" * 400,
    b"1" * 5000, b"1." + b"1" * 400, b"1e-400", b"-0", b'{"a":NaN}', b'["\\ud800"]', b'{"\\ud800":1}',
    b'{"a":1,"a":2}', b"/* comment */ 1", b"[1,]", b'{"a":1,}', b'"\\x41"', b'"unterminated',
]  # fmt: skip


def _wrong_value(draft: Draft) -> None:
    draft.restate(draft.any_record(), **{draft.random.choice(COLUMNS): draft.random.choice(ODD_VALUES)})


def _raw_value(draft: Draft) -> None:
    index, column = draft.any_record(), draft.random.choice(COLUMNS)
    mark = f"mark-{draft.random.random()}"
    draft.restate(index, **{column: mark})
    draft.records[index] = draft.records[index].replace(_dumped(mark), draft.random.choice(RAW_VALUES))


def _missing_key(draft: Draft) -> None:
    index = draft.any_record()
    value = draft.stated(index)
    value.pop(draft.random.choice(COLUMNS), None)
    draft.records[index] = _dumped(value)


def _unknown_key(draft: Draft) -> None:
    odd = draft.random.choice(
        ["extra", "ID", "", "id ", "$", "a.b", "x" * 600, "\u202e", "__class__", "null"]
    )
    draft.restate(draft.any_record(), **{odd: draft.random.choice(ODD_VALUES)})


def _duplicate_key(draft: Draft) -> None:
    column = draft.random.choice(COLUMNS)
    draft.insert(draft.any_record(), b'"%s":%s' % (column.encode(), _dumped(draft.random.choice(ODD_VALUES))))


def _escaped_key(draft: Draft) -> None:
    index = draft.any_record()
    draft.records[index] = draft.records[index].replace(b'"id"', b'"\\u0069\\u0064"')


def _no_object(draft: Draft) -> None:
    odd = [b"null", b"[]", b"{}", b'"text"', b"5", b"true", b'[{"id":1}]', b'{"data":[]}', b"[[[]]]"]
    draft.records[draft.any_record()] = draft.random.choice(odd)


def _told_twice(draft: Draft) -> None:
    index = draft.any_record()
    again = draft.stated(index)
    if draft.random.random() < 0.5:
        again["name"] = "again"
    draft.records.append(_dumped(again))


def _deep_value(draft: Draft) -> None:
    depth = draft.random.choice([10, 100, 500, 900, 1000, 1100, 5000, 20_000])
    left, right = draft.random.choice([(b"[", b"]"), (b'{"a":', b"}")])
    index, column = draft.any_record(), draft.random.choice(["data", "data", "extra", "name", "id"])
    draft.insert(index, b'"%s":%s1%s' % (column.encode(), left * depth, right * depth))


def _giant_text(draft: Draft) -> None:
    size = draft.random.choice([1000, 60_000, CAP - 2000, CAP, 2 * CAP])
    column = draft.random.choice(["name", "data", "extra", "seen_at"])
    draft.restate(draft.any_record(), **{column: draft.random.choice("xé\U0001f511") * (size // 4)})


def _reordered(draft: Draft) -> None:
    draft.random.shuffle(draft.records)


def _many_keys(draft: Draft) -> None:
    draft.restate(draft.any_record(), **{f"key{number}": number for number in range(2000)})


RECORDS: dict[str, Way] = {
    "a wrong value": _wrong_value,
    "a wrong value, once more": _wrong_value,
    "raw bytes for a value": _raw_value,
    "raw bytes for a value, once more": _raw_value,
    "a missing key": _missing_key,
    "an unknown key": _unknown_key,
    "a duplicate key": _duplicate_key,
    "an escaped key": _escaped_key,
    "no object": _no_object,
    "told twice": _told_twice,
    "a deep value": _deep_value,
    "a giant text": _giant_text,
    "another order": _reordered,
    "many keys": _many_keys,
}

# -- bodies --------------------------------------------------------------------------------------------


def _cut(draft: Draft) -> None:
    draft.body = draft.body[: draft.random.randrange(len(draft.body) or 1)]


def _padded(draft: Draft) -> None:
    junk = draft.random.choice(
        [b" ", b"\n\r\t ", b"\0", b"x", b"{}", b"]", b"\xef\xbb\xbf", b"\x00\x00", b","]
    )
    draft.body = draft.body + junk if draft.random.random() < 0.5 else junk + draft.body


def _flipped(draft: Draft) -> None:
    body = bytearray(draft.body)
    for _ in range(draft.random.randint(1, 3)):
        if body:
            body[draft.random.randrange(len(body))] = draft.random.randrange(256)
    draft.body = bytes(body)


def _recoded(draft: Draft) -> None:
    encoding = draft.random.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
    draft.body = draft.body.decode("utf-8", "replace").encode(encoding, "replace")


def _no_list(draft: Draft) -> None:
    odd = [b"{}", b"null", b"5", b'"text"', b"true", b"[[]]", b"[null,null]", b'{"id":1}', b"[[[1]]]", b'""']
    draft.body = b'{"data":%s}' % draft.random.choice(odd)


def _no_data(draft: Draft) -> None:
    odd = [
        b"{}",
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b'{"items":[]}',
        b'{"error":"try later"}',
        b'[{"data":[]}]',
    ]
    draft.body = draft.random.choice(odd)


def _list_twice(draft: Draft) -> None:
    draft.body = b'{"data":%s,' % draft.random.choice([b"[]", b"null", b'[{"id":1}]', b"5"]) + draft.body[1:]


def _html(draft: Draft) -> None:
    draft.body = b"<!doctype html><title>Just a moment</title>"
    draft.head[0] = "Content-Type: text/html"


def _empty(draft: Draft) -> None:
    draft.body = draft.random.choice([b"", b" ", b"\n", b"\xef\xbb\xbf"])


def _brackets(draft: Draft) -> None:
    depth = draft.random.choice([500, 1100, 50_000])
    draft.body = b'{"data":' + b"[" * depth + b"]" * draft.random.choice([depth, 0]) + b"}"


def _bomb(draft: Draft) -> None:
    draft.body = b" " * BOMB + draft.body


BODIES: dict[str, Way] = {
    "cut": _cut,
    "padded": _padded,
    "bytes flipped": _flipped,
    "another encoding": _recoded,
    "no list": _no_list,
    "no records": _no_data,
    "the list twice": _list_twice,
    "HTML": _html,
    "empty": _empty,
    "brackets": _brackets,
    "a bomb": _bomb,
}

# -- delivery ------------------------------------------------------------------------------------------


def _gzip(draft: Draft) -> None:
    draft.head.append("Content-Encoding: gzip")
    half = len(draft.body) // 2
    parts = draft.random.choice([[draft.body], [draft.body[:half], draft.body[half:]]])
    draft.sent = b"".join(gzip.compress(part, 1, mtime=0) for part in parts)


def _deflate(draft: Draft) -> None:
    draft.head.append("Content-Encoding: deflate")
    bare = zlib.compressobj(wbits=-15)
    draft.sent = draft.random.choice([zlib.compress(draft.body), bare.compress(draft.body) + bare.flush()])


def _gzip_twice(draft: Draft) -> None:
    draft.head.append("Content-Encoding: gzip, gzip")
    draft.sent = gzip.compress(gzip.compress(draft.body, 1, mtime=0), 1, mtime=0)


def _cut_gzip(draft: Draft) -> None:
    draft.head.append("Content-Encoding: gzip")
    whole = gzip.compress(draft.body, 1, mtime=0)
    # the trailer is what nobody misses
    least = len(whole) - 8 if draft.random.random() < 0.5 else 0
    draft.sent = whole[: draft.random.randrange(least, len(whole))]
    draft.damaged = True


def _spoiled_gzip(draft: Draft) -> None:
    draft.head.append("Content-Encoding: gzip")
    whole = bytearray(gzip.compress(draft.body, 1, mtime=0))
    whole[draft.random.randrange(len(whole) - 8, len(whole))] ^= 1 + draft.random.randrange(255)
    draft.sent = bytes(whole)
    draft.damaged = True


def _no_gzip(draft: Draft) -> None:
    draft.head.append(f"Content-Encoding: {draft.random.choice(['gzip', 'br', 'zstd', 'gzip, gzip, gzip'])}")
    draft.damaged = True


def _short_of_its_length(draft: Draft) -> None:
    draft.head.append(f"Content-Length: {len(draft.body) + draft.random.randint(1, 100)}")
    draft.sent, draft.damaged, draft.closes = draft.body, True, True


def _beyond_its_length(draft: Draft) -> None:
    """What is said to be all of it is; the rest is no one's."""
    length = draft.random.randrange(len(draft.body) + 1)
    draft.head.append(f"Content-Length: {length}")
    draft.sent, draft.body, draft.closes = draft.body, draft.body[:length], True


def _bad_length(draft: Draft) -> None:
    draft.head.append(f"Content-Length: {draft.random.choice(['-1', 'many', '1, 2', '9' * 30])}")
    draft.sent, draft.damaged, draft.closes = draft.body, True, True


def _chunked(draft: Draft) -> None:
    draft.head.append("Transfer-Encoding: chunked")
    size = draft.random.choice([1 + len(draft.body) // 7, 100_000])
    parts = [draft.body[start : start + size] for start in range(0, len(draft.body), size)]
    draft.sent = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def _cut_chunks(draft: Draft) -> None:
    _chunked(draft)
    assert draft.sent is not None
    draft.sent = draft.sent[: draft.random.randrange(max(1, len(draft.sent) - 5))]
    draft.damaged = draft.closes = True


def _until_closed(draft: Draft) -> None:
    draft.head.append("Connection: close")
    draft.sent, draft.closes = draft.body, True


def _disconnected(draft: Draft) -> None:
    draft.silent = True


def _lying_charset(draft: Draft) -> None:
    draft.head[0] += f"; charset={draft.random.choice(['latin-1', 'utf-16', 'klingon', ''])}"


DELIVERIES: dict[str, Way] = {
    "gzip": _gzip,
    "deflate": _deflate,
    "gzip twice": _gzip_twice,
    "cut gzip": _cut_gzip,
    "spoiled gzip": _spoiled_gzip,
    "no gzip": _no_gzip,
    "short of its length": _short_of_its_length,
    "beyond its length": _beyond_its_length,
    "a bad length": _bad_length,
    "chunks": _chunked,
    "cut chunks": _cut_chunks,
    "until closed": _until_closed,
    "disconnected": _disconnected,
    "a lying charset": _lying_charset,
}


def _written(draft: Draft) -> bytes:
    assert draft.sent is not None
    delimited = draft.closes or any(line.startswith(("Content-Length", "Transfer")) for line in draft.head)
    length = [] if delimited else [f"Content-Length: {len(draft.sent)}"]
    lines = [f"HTTP/1.1 {draft.status} OK", *draft.head, *length]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + draft.sent
