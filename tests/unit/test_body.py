"""Bodies: decompressed within bounds, proven whole, decoded strictly."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ingest.errors import BadAnswer
from ingest.fetch.body import (
    CHUNK,
    EXCERPT,
    UNSOUND,
    Body,
    NotJson,
    Wire,
    decode,
    excerpt,
    read_body,
    shortened,
)
from ingest.fetch.retry import Unready
from ingest.types import is_sound

TEXT = b'{"data": [' + b", ".join(b'{"id": %d}' % n for n in range(5000)) + b"]}"
LIMIT = 2**20


class Chunks(httpx.AsyncByteStream):
    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._data), self._size):
            self.taken += self._size
            yield self._data[at : at + self._size]


async def read(data: bytes, encoding: str = "", limit: int = LIMIT, size: int = 1000, **headers: str) -> Body:
    stated = {"content-encoding": encoding} if encoding else {}
    stated |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await read_body(httpx.Response(200, headers=stated, stream=Chunks(data, size)), limit, Wire())


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("", TEXT),
        ("identity", TEXT),
        ("gzip", gzip.compress(TEXT)),
        ("X-GZip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", bare_deflate(TEXT)),
        ("gzip, gzip", gzip.compress(gzip.compress(TEXT))),
        ("deflate, gzip", gzip.compress(zlib.compress(TEXT))),
    ],
)
async def test_a_body_is_the_same_whatever_its_encoding_and_its_pieces(
    encoding: str, data: bytes, size: int
) -> None:
    assert (await read(data, encoding, size=size)).data == TEXT


async def test_gzip_members_follow_one_another_and_may_be_padded_with_zeros() -> None:
    data = gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:]) + b"\0" * 512
    assert (await read(data, "gzip", size=11)).data == TEXT


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 200, 3 * CHUNK])
async def test_output_that_is_held_back_when_all_input_is_taken_in_is_not_lost(size: int) -> None:
    data = b"x" * size
    assert (await read(bare_deflate(data), "deflate", size=10**6)).data == data
    assert (await read(gzip.compress(data), "gzip", size=10**6)).data == data


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("missing", [1, 4, 8, 100])
async def test_a_compressed_body_without_its_end_is_noticed(encoding: str, missing: int) -> None:
    data = gzip.compress(TEXT) if encoding == "gzip" else zlib.compress(TEXT)
    with pytest.raises(Unready, match="cut short"):
        await read(data[:-missing], encoding)


@pytest.mark.parametrize("kept", [0, 1, 5, 10])
async def test_a_compressed_body_that_hardly_begins_is_noticed(kept: int) -> None:
    with pytest.raises(Unready, match="cut short"):
        await read(gzip.compress(TEXT)[:kept], "gzip")


async def test_a_second_member_that_is_cut_is_noticed() -> None:
    with pytest.raises(Unready, match="cut short"):
        await read(gzip.compress(TEXT) + gzip.compress(TEXT)[:-3], "gzip")


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(TEXT)[:-8] + b"\0" * 8),
        ("gzip", gzip.compress(TEXT) + b"<!-- served by"),
        ("gzip", TEXT),
        ("deflate", zlib.compress(TEXT)[:-1] + b"\0"),
        ("deflate", zlib.compress(TEXT) + b"more"),
    ],
    ids=["checksum", "trailing text", "not gzip", "adler", "trailing"],
)
async def test_a_damaged_body_is_asked_for_again(encoding: str, data: bytes) -> None:
    with pytest.raises(Unready, match="damaged"):
        await read(data, encoding)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "compress"])
async def test_an_encoding_nobody_asked_for_is_refused(encoding: str) -> None:
    with pytest.raises(BadAnswer, match="gzip was asked for"):
        await read(b"whatever", encoding)


async def test_a_body_encoded_three_times_over_is_refused() -> None:
    with pytest.raises(BadAnswer, match="3 times"):
        await read(b"whatever", "gzip, gzip, gzip")


async def test_an_empty_body_that_says_so_is_not_a_cut_one() -> None:
    assert (await read(b"", "gzip", content_length="0")).data == b""


@pytest.mark.parametrize("came", [0, 10, len(TEXT) - 1])
async def test_fewer_bytes_than_the_content_length_are_noticed(came: int) -> None:
    with pytest.raises(Unready, match=f"{came} of {len(TEXT)} bytes"):
        await read(TEXT[:came], content_length=str(len(TEXT)))


async def test_a_content_length_beside_a_transfer_encoding_is_void() -> None:
    assert (await read(TEXT, content_length="3", transfer_encoding="chunked")).data == TEXT


async def test_who_says_where_the_body_ends_is_told() -> None:
    assert not (await read(TEXT)).whole
    assert (await read(TEXT, transfer_encoding="chunked")).whole
    assert (await read(TEXT, content_length=str(len(TEXT)))).whole
    assert (await read(gzip.compress(TEXT), "gzip")).whole


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not(encoding: str) -> None:
    data = gzip.compress(TEXT) if encoding else TEXT
    assert (await read(data, encoding, limit=len(TEXT))).data == TEXT
    with pytest.raises(BadAnswer, match=f"larger than {len(TEXT) - 1} bytes"):
        await read(data, encoding, limit=len(TEXT) - 1)


async def test_a_stated_length_beyond_the_limit_is_refused_before_it_is_read() -> None:
    stream = Chunks(b"x" * 5000, 1000)
    with pytest.raises(BadAnswer, match="larger"):
        await read_body(httpx.Response(200, headers={"content-length": "5000"}, stream=stream), 4000, Wire())
    assert stream.taken == 0


def bomb(times: int) -> bytes:
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    data = b"".join(packer.compress(bytes(2**20)) for _ in range(100)) + packer.flush()
    return data if times == 1 else gzip.compress(data, 9)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
async def test_a_bomb_is_stopped_at_the_limit_without_growing_memory(encoding: str) -> None:
    data = bomb(1 + encoding.count(","))
    tracemalloc.start()
    try:
        with pytest.raises(BadAnswer, match="larger than"):
            await read(data, encoding, size=10**6)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


async def test_a_bomb_of_empty_members_is_stopped() -> None:
    with pytest.raises(BadAnswer, match="members"):
        await read(gzip.compress(b"") * 20_000, "gzip", size=10**6)


async def test_compressed_bytes_that_come_to_nothing_are_bounded_too() -> None:
    data = gzip.compress(b"") * 3000
    with pytest.raises(BadAnswer, match="larger than 1000 bytes"):
        await read(data, "gzip", limit=1000)


async def test_the_wire_counts_what_came_even_of_a_body_that_failed() -> None:
    wire = Wire()
    data = gzip.compress(TEXT)[:-1]
    answer = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Chunks(data, 100))
    with pytest.raises(Unready):
        await read_body(answer, LIMIT, wire)
    assert wire.bytes == len(data)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b'{"id": 18446744073709551615}', {"id": 2**64 - 1}),
        (b"null", None),
        (b' ["\\ud83d\\ude00"] ', ["😀"]),
    ],
)
def test_json_is_decoded_exactly(text: bytes, value: Any) -> None:
    decoded = decode(text)
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"NaN", "malformed"),
        (b"1e400", "out of range"),
        (b'"\\ude00 and more"', "surrogate"),
        (b'{"\xff": 1}', "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'{"a": 1} {"b": 2}', "trailing"),
        (b"[" * 100_000, "nested too deeply"),
        (b"", "truncated"),
    ],
)
def test_what_is_no_json_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(NotJson, match=reason):
        decode(text)


@pytest.mark.parametrize("text", [b"NaN", b"-Infinity", b"1e999", b'"\\ud800 and more"'])
def test_a_value_that_json_has_no_word_for_is_no_cursor_and_hides_no_other(text: bytes) -> None:
    body = b'{"data": [1, {"a": ' + text + b'}], "next": "x", "' + text.strip(b'"') + b'": 1}'
    decoded = decode(body)
    assert (decoded["data"], decoded["next"]) == ([1, {"a": UNSOUND}], "x")
    assert is_sound(list(decoded))


async def test_a_byte_order_mark_is_no_part_of_the_body() -> None:
    assert decode((await read(b"\xef\xbb\xbf[1]")).data) == [1]


def test_an_excerpt_is_one_short_line_that_cannot_move_a_terminal() -> None:
    shown = shortened(excerpt(b"<html>\r\n\t<b>\x1b[31mgone\x00\xff</b>" + b" and so on" * 1000))
    assert shown.startswith("<html> <b>[31mgone�</b> and so on")
    assert len(shown) == EXCERPT
    assert shown.endswith("…")
    assert shown.isprintable()
