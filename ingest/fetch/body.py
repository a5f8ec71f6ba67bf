"""The body of an answer: read raw, decompressed here within bounds, proven whole, decoded strictly.

httpx would return status 200 and a cut body when a gzip stream ends early, and hundreds of
megabytes for some hundred bytes that were compressed twice.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from typing import Any, NamedTuple, cast

import httpx
import msgspec

from ingest.errors import BadAnswer
from ingest.fetch.retry import Unready
from ingest.types import Read, is_sound, read_json, read_loosely

#: bytes decompressed at a time, which bounds what a bomb can hold in memory
CHUNK = 64 * 1024
#: bytes that every body may hold at once; only one of a client's grows beyond
SMALL = 2**20
#: members of one gzip stream, and encodings around one body: more is an attack on our time
MAX_MEMBERS = 10_000
MAX_ENCODINGS = 2
#: characters of a body that an error shows, and bytes of it that are looked at
EXCERPT = 200
EXCERPT_WINDOW = 64 * 1024

_BOM = b"\xef\xbb\xbf"
_ENCODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


class Body(NamedTuple):
    """A body as it was sent, decompressed."""

    data: bytes
    #: something other than the end of the connection said where the body ends
    whole: bool


#: stands for a value that JSON has no word for; no path, cursor or key is made of it
UNSOUND = ()


class NotJson(ValueError):
    """The body is not the JSON it should be; the message quotes nothing of it."""

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        super().__init__(reason)
        #: it ends too early
        self.cut = cut


class TooLarge(BadAnswer):
    """The body is larger than `transport.max_body`; one of fewer records may not be."""


class Wire:
    """Counts what came over the wire, also of a body that failed."""

    def __init__(self) -> None:
        self.bytes = 0


async def read_body(
    response: httpx.Response, limit: int, wire: Wire, alone: AbstractAsyncContextManager[Any] | None = None
) -> Body:
    """The whole body; Unready when it was cut or damaged, TooLarge or another BadAnswer else.

    `alone` is entered before a body grows beyond SMALL: who waits for it there holds no more than that.
    """
    data = bytearray()
    try:
        async with AsyncExitStack() as large:
            return await _read_into(data, response, limit, wire, large, alone)
    finally:
        # the traceback of an error would hold on to it until the collector comes
        data.clear()


async def _read_into(
    data: bytearray,
    response: httpx.Response,
    limit: int,
    wire: Wire,
    large: AsyncExitStack,
    alone: AbstractAsyncContextManager[Any] | None,
) -> Body:
    encodings = _encodings(response.headers)
    length = _length(response.headers)
    if not encodings and length is not None:
        _check_size(length, limit)
    layers = [_Inflater(name, limit) for name in reversed(encodings)]
    received = 0
    # what does not compress grows a little when it is compressed
    allowed = limit + (limit // 8 + 1024 if layers else 0)
    raw = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
    async with aclosing(raw):
        async for chunk in raw:
            received += len(chunk)
            wire.bytes += len(chunk)
            _check_size(received, allowed, limit)
            for part in _through(layers, chunk):
                data += part
                if alone is not None and len(data) > SMALL:
                    await large.enter_async_context(alone)
                    alone = None
    if length is not None and received != length:
        raise Unready(f"the body was cut short: {received} of {length} bytes came")
    if not (received == 0 and (length == 0 or response.status_code == 204)):
        for layer in layers:
            layer.finish()
    body = bytes(data)
    whole = bool(layers) or length is not None or "transfer-encoding" in response.headers
    return Body(body.removeprefix(_BOM), whole)


def decode(data: bytes, read: Read = read_json) -> Any:
    """The JSON value: integers exact, anything but JSON in UTF-8 refused by NotJson.

    UNSOUND stands for NaN, numbers out of range and halves of characters: these are for the loader to set
    aside, record by record.
    """
    try:
        return read(data)
    except UnicodeDecodeError:
        raise NotJson("it is not UTF-8") from None
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except msgspec.MsgspecError as error:
        return _sound(data, error)


def _sound(data: bytes, error: msgspec.MsgspecError) -> Any:
    """A body that is JSON but for single values, without these."""
    try:
        value = _without_unsound(read_loosely(data))
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except ValueError:
        value = UNSOUND
    if value == UNSOUND:
        raise NotJson(str(error), cut="truncated" in str(error)) from None
    return value


def _without_unsound(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_unsound(inner) for key, inner in value.items() if is_sound(key)}
    if isinstance(value, list):
        return [_without_unsound(inner) for inner in value]
    return value if is_sound(value) else UNSOUND


def excerpt(data: bytes) -> str:
    """The beginning of a body on one line of at most 200 characters, without control characters."""
    text = data[:EXCERPT_WINDOW].decode("utf-8", "replace")
    return "".join(character for character in re.sub(r"\s+", " ", text).strip() if character.isprintable())


def shortened(text: str) -> str:
    """At most 200 characters of a text, with a mark where it goes on."""
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def _encodings(headers: httpx.Headers) -> list[str]:
    names = [name.strip().lower() for name in headers.get("content-encoding", "").split(",")]
    names = [name for name in names if name not in ("", "identity")]
    unknown = [name for name in names if name not in _ENCODINGS]
    if unknown:
        raise BadAnswer(f"the body is encoded as {unknown[0][:40]!r}, and gzip was asked for")
    if len(names) > MAX_ENCODINGS:
        raise BadAnswer(f"the body is encoded {len(names)} times over")
    return [_ENCODINGS[name] for name in names]


def _length(headers: httpx.Headers) -> int | None:
    stated = headers.get("content-length", "")
    # with a transfer encoding the length is void (RFC 9112, 6.3)
    return (
        int(stated)
        if stated.isdecimal() and len(stated) < 20 and "transfer-encoding" not in headers
        else None
    )


def _check_size(size: int, allowed: int, limit: int | None = None) -> None:
    if size > allowed:
        raise TooLarge(
            f"the body is larger than {limit or allowed} bytes",
            hint="ask for fewer records a page, or raise transport.max_body",
        )


def _through(layers: list[_Inflater], chunk: bytes) -> Iterator[bytes]:
    if not layers:
        yield chunk
        return
    for part in layers[0].feed(chunk):
        yield from _through(layers[1:], part)


class _Inflater:
    """Undoes one encoding, a bounded piece at a time."""

    def __init__(self, encoding: str, limit: int) -> None:
        self._encoding = encoding
        self._limit = limit
        self._size = 0
        self._members = 0
        self._held = b""
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the bytes decompress to, in pieces of at most CHUNK bytes."""
        data, self._held = self._held + data, b""
        more = False
        while data or more:
            self._stream = self._stream or self._begin(data)
            if self._stream is None:
                return
            piece = self._inflate(self._stream, data)
            if piece:
                yield piece
            # a full piece may have taken in all input and still hold output back
            more = len(piece) == CHUNK and not self._stream.eof
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data = self._stream.unused_data
                self._stream = None
                self._members += 1

    def finish(self) -> None:
        """Raise Unready unless the encoding came to its own end."""
        if self._stream is not None or self._held or self._members == 0:
            raise Unready(f"the body was cut short: its {self._encoding} stream does not end")

    def _begin(self, data: bytes) -> zlib._Decompress | None:
        if self._members and not data.strip(b"\0"):
            return None
        if self._members and self._encoding != "gzip":
            raise Unready("the body is damaged: something follows its end")
        if self._members > MAX_MEMBERS:
            raise BadAnswer(f"the body has more than {MAX_MEMBERS} gzip members")
        if self._encoding == "gzip":
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if len(data) < 2:
            self._held = data
            return None
        # "deflate" is zlib's format by the standard, and bare deflate from some servers
        bare = data[0] & 15 != 8 or (data[0] * 256 + data[1]) % 31
        return zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS)

    def _inflate(self, stream: zlib._Decompress, data: bytes) -> bytes:
        try:
            piece = stream.decompress(data, CHUNK)
        except zlib.error as error:
            raise Unready(f"the body is damaged: {error}") from error
        self._size += len(piece)
        _check_size(self._size, self._limit)
        return piece
