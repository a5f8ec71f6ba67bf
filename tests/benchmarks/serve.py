"""A server that costs next to nothing: answers made beforehand, in a process of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

from tests.benchmarks.data import changed, generate, pages


@contextmanager
def served(messages: int, size: int) -> Iterator[str]:
    """The base URL of a server with that many messages, `size` records a page; all changed below `/later`."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, messages, size), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


#: a page beyond the last
_NOTHING = b'{"data":[],"meta":{}}'


def _serve(connection: Connection, messages: int, size: int) -> None:
    made = generate(messages)
    answers = {f"/{name}": list(pages(records, size)) for name, records in made.items()}
    answers |= {f"/later/{name}": answers[f"/{name}"] for name in made}
    answers["/later/messages"] = list(pages(changed(made["messages"]), size))
    asyncio.run(_listen(connection, answers))


async def _listen(connection: Connection, answers: dict[str, list[bytes]]) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            url = urlsplit(head.split(b" ", 2)[1].decode())
            number, told = int(parse_qs(url.query)["page"][0]), answers[url.path]
            # after a full last page one more is asked for: a count alone ends nothing
            body = told[number - 1] if number <= len(told) else _NOTHING
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                + body
            )
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    connection.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
