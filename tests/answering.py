"""A server on loopback that answers as a function says: for what no truth in a database would say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlsplit


class Said(NamedTuple):
    """An answer: its JSON or its bytes, its status, and headers of its own."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = {}


#: of a path and its query
Answers: TypeAlias = Callable[[str, dict[str, str]], Said]


@asynccontextmanager
async def answering(answers: Answers) -> AsyncIterator[str]:
    """The base URL of a server that answers so."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                url = urlsplit(head.split(b" ", 2)[1].decode())
                writer.write(_written(answers(url.path, dict(parse_qsl(url.query)))))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def _written(said: Said) -> bytes:
    body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
    headers = {"content-type": "application/json", "content-length": len(body), **said.headers}
    lines = [f"HTTP/1.1 {said.status} so", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
