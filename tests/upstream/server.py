"""The simulated upstream: a truth, served over HTTP as a `source.toml` describes.

    async with Upstream(source, truth, faults=Faults().first(1, status(503))) as up:
        …  # ask up.base_url
        up.truth.upsert("messages", {"id": 7, "text": "edited"})
        assert [seen.status for seen in up.requests] == [503, 200]

If the machine reads `source` as the server does, one round trip brings the truth into the mirror.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

from ingest.source import Source
from tests.upstream.api import Api
from tests.upstream.auth import Gate
from tests.upstream.dialect import Dialect
from tests.upstream.endpoints import Site
from tests.upstream.faults import Faults, Scene
from tests.upstream.listing import Link, Listings, Order
from tests.upstream.paging import Pager, Paging
from tests.upstream.reach import untold
from tests.upstream.truth import Truth
from tests.upstream.wire import HEADER_LIMIT, Answer, Pairs, Request, Sleep, read_request, write_answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A request that reached the server, and what became of it."""

    #: the request's number, from 1
    ordinal: int
    method: str
    #: as it came: with the server's prefix, and quoted
    path: str
    query: Pairs
    headers: Pairs
    body: bytes
    #: 0 when the connection was closed without one
    status: int
    #: the stream it asked for; None for a login, a check, and what is no path of the source
    stream: str | None
    #: the name of the fault that struck it
    fault: str | None

    def param(self, name: str) -> str | None:
        """A query parameter's value."""
        return dict(self.query).get(name)

    def header(self, name: str) -> str | None:
        """A header's value, its name in any case."""
        return next((value for known, value in self.headers if known.lower() == name.lower()), None)


class UpstreamBroken(AssertionError):
    """The upstream itself failed: its source and its truth do not fit, or it has a bug."""


class Upstream:
    """A server on 127.0.0.1 for as long as its context lasts."""

    def __init__(
        self,
        source: Source,
        truth: Truth,
        *,
        dialect: Dialect | None = None,
        paging: Paging | None = None,
        faults: Faults | None = None,
        order: Order = "shuffled",
        links: Mapping[str, Link] | None = None,
        secrets: Mapping[str, str] | None = None,
        token_uses: int | None = None,
        anonymous: bool = False,
        prefix: str = "",
        port: int = 0,
        seed: int = 0,
        before: Callable[[Request, int], None] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`anonymous`: wrong credentials see empty lists. `before` is called with each request, numbered."""
        self.truth, self.faults = truth, faults or Faults(seed)
        self.gate = Gate(source, secrets, token_uses=token_uses)
        self.api = Api(source, truth, dialect)
        listings = Listings(self.api, order=order, links=links, seed=seed)
        self.site = Site(
            listings, Pager(paging or Paging(), seed), self.gate, prefix=prefix, anonymous=anonymous
        )
        self.requests: list[Seen] = []
        self._source, self._prefix, self._port = source, prefix, port
        self._before, self._now, self._sleep = before, now, sleep
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()
        self._broken: list[Exception] = []
        self._serving = False
        self._ordinal = 0

    # -- what a test says and asks -------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return self.site.origin

    @property
    def base_url(self) -> str:
        """What a job would configure."""
        return self.origin + self._prefix

    @property
    def source(self) -> Source:
        """The source, with this server for its base URL."""
        return msgspec.structs.replace(self._source, base_url=self.base_url)

    @property
    def secrets(self) -> dict[str, str]:
        """The credentials that are accepted, by the names the source gives them."""
        return self.gate.secrets

    def hide(self, table: str, *key: Any) -> None:
        """The row is neither listed nor found, though others refer to it."""
        self.api.conceal(table, key)

    def forbid(self, table: str, *key: Any) -> None:
        """The row is not listed, and asking for it is answered with 403."""
        self.api.conceal(table, key)
        self.site.forbidden.add((table, key))

    def show(self, table: str, *key: Any) -> None:
        """The row is listed and found again."""
        self.api.conceal(table, key, concealed=False)
        self.site.forbidden.discard((table, key))

    def spoil(self, table: str, *key: Any, record: bytes) -> None:
        """Tell the row as these bytes, whatever they are."""
        self.site.spoiled[table, key] = record

    def untold(self) -> dict[str, list[Any]]:
        """The rows that no client can learn of, by table: what cannot come into a mirror."""
        return untold(self.site.listings)

    def asked(self, stream: str) -> list[Seen]:
        """The requests that asked for a stream."""
        return [seen for seen in self.requests if seen.stream == stream]

    # -- serving -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=HEADER_LIMIT)
        self._serving = True
        self.site.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._serving = False
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        if self._broken:
            raise UpstreamBroken(str(self._broken[0])) from self._broken[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while self._serving and (request := await read_request(reader)) is not None:
                if not await write_answer(writer, self._answer(request), self._sleep):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, as clients do
        except asyncio.CancelledError:
            pass  # the server stops; streams would log a task that ends cancelled
        except Exception as error:
            self._broken.append(error)  # raised where the test can see it
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    def _answer(self, request: Request) -> Answer:
        self._ordinal += 1
        if self._before is not None:
            self._before(request, self._ordinal)
        fault = self.faults.strike(self._ordinal, request)
        answer, stream = self.site.answer(request, self._ordinal, ring=fault is not None and fault.ring)
        if fault is not None:
            scene = Scene(request=request, source=self._source, origin=self.origin, now=self._now())
            answer = fault.change(answer, scene)
        told = answer.breaks not in ("before headers", "never answers")
        self.requests.append(
            Seen(
                ordinal=self._ordinal,
                method=request.method,
                path=request.path,
                query=request.query,
                headers=request.headers,
                body=request.body,
                status=answer.status if told else 0,
                stream=stream,
                fault=fault.name if fault else None,
            )
        )
        return answer
