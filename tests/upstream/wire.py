"""HTTP/1.1 over asyncio streams: requests read, answers written, and as badly as a fault wants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec

Pairs = tuple[tuple[str, str], ...]
Sleep = Callable[[float], Awaitable[None]]

#: no request of ours has longer headers
HEADER_LIMIT = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request as it came, its path still quoted."""

    method: str
    path: str
    query: Pairs
    headers: Pairs
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """A header's first value, its name in any case."""
        return next((value for known, value in self.headers if known.lower() == name.lower()), None)

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty one when it is none."""
        try:
            decoded = msgspec.json.decode(self.body) if self.body else {}
        except msgspec.DecodeError:
            return {}
        return decoded if isinstance(decoded, dict) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A response, and how it is delivered."""

    status: int = 200
    headers: Pairs = ()
    body: bytes = b""
    #: send only so many bytes of the body, then close
    keep: int | None = None
    #: send the body in pieces of so many bytes, with so many seconds between
    drip: tuple[int, float] | None = None
    #: close before or after the headers, or never answer
    breaks: Literal["before headers", "after headers", "never answers"] | None = None

    def with_header(self, name: str, value: str) -> Answer:
        """The same answer with one more header."""
        return replace(self, headers=(*self.headers, (name, value)))


def answer_json(value: Any, status: int = 200, headers: Pairs = ()) -> Answer:
    """A JSON answer."""
    body = msgspec.json.encode(value)
    return Answer(status=status, headers=(("Content-Type", "application/json"), *headers), body=body)


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None when the client has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = tuple(
        (name, value.strip()) for name, _, value in (line.partition(":") for line in lines if line)
    )
    path, _, query = target.partition("?")
    request = Request(
        method=method, path=path, query=tuple(parse_qsl(query, keep_blank_values=True)), headers=headers
    )
    length = int(request.header("content-length") or 0)
    return replace(request, body=await reader.readexactly(length)) if length else request


async def write_answer(writer: asyncio.StreamWriter, answer: Answer, sleep: Sleep) -> bool:
    """Deliver an answer; False when the connection is to be closed."""
    if answer.breaks == "never answers":
        await asyncio.Event().wait()
    if answer.breaks == "before headers":
        return False
    writer.write(_head(answer))
    if answer.breaks == "after headers":
        await writer.drain()
        return False
    body = answer.body if answer.keep is None else answer.body[: answer.keep]
    if answer.drip is None:
        writer.write(body)
    else:
        size, pause = answer.drip
        for start in range(0, len(body), size):
            writer.write(body[start : start + size])
            await writer.drain()
            await sleep(pause)
    await writer.drain()
    return answer.keep is None


def _head(answer: Answer) -> bytes:
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in answer.headers)]
    lines.append(f"Content-Length: {len(answer.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
