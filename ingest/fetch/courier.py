"""The last step before the wire: puts query and credentials on a request, for the configured origin only.

httpx logs the URL of every request, and hands the request to whoever catches its errors. So what it
is given has neither query nor credentials; they travel sealed in the request's extensions.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import NamedTuple, TypeAlias
from urllib.parse import quote, unquote_plus, urlencode

import httpx

from ingest.errors import ForeignOrigin

#: scheme, host, port: what must be the same for credentials to be sent
Origin: TypeAlias = tuple[str, str, int]

#: statuses whose Location is where to ask
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_PORTS = {"http": 80, "https": 443}
_SEAL = "ingest.sealed"
_LOCATION = "ingest.location"


def origin(url: httpx.URL) -> Origin:
    """Scheme, lower-cased host and port of a URL, the default port spelled out."""
    return url.scheme, url.host.lower(), url.port or _PORTS.get(url.scheme, 0)


def is_absolute(path: str) -> bool:
    """Whether a request's path is a whole URL, rather than a path below the base URL."""
    return _ABSOLUTE.match(path) is not None


def encoded(pairs: tuple[tuple[str, str], ...]) -> str:
    """A query text, every character but the unreserved ones percent-encoded."""
    return urlencode(pairs, quote_via=quote, safe="")


def without(query: str, names: Container[str]) -> str:
    """A query text without the parameters of these names, the rest untouched."""
    parts = query.split("&") if query else []
    return "&".join(part for part in parts if unquote_plus(part.partition("=")[0]) not in names)


def joined(*queries: str) -> str:
    """One query text of several."""
    return "&".join(filter(None, queries))


class Attached:
    """The credentials of one request; only the wire sees what is in it."""

    __slots__ = ("headers", "query")

    def __init__(
        self, headers: tuple[tuple[str, str], ...] = (), query: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.headers = headers
        self.query = query

    def __repr__(self) -> str:
        return "Attached(…)"


class _Sealed(NamedTuple):
    query: str
    attached: Attached

    def __repr__(self) -> str:
        return "_Sealed(…)"


def sealed(url: httpx.URL, attached: Attached) -> tuple[httpx.URL, dict[str, object]]:
    """The URL to show httpx, and the extensions that hold the rest of it for the courier."""
    return url.copy_with(query=None, fragment=None), {_SEAL: _Sealed(url.query.decode("ascii"), attached)}


def pointed(response: httpx.Response) -> str | None:
    """Where a response redirects to: the Location that the courier took off it."""
    location: str | None = response.extensions.get(_LOCATION)
    return location


class Courier(httpx.AsyncBaseTransport):
    """A transport that completes sealed requests and passes them on."""

    def __init__(self, inner: httpx.AsyncBaseTransport, home: Origin) -> None:
        self._inner = inner
        self._home = home

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The inner transport's response, its body as it came."""
        response = await self._inner.handle_async_request(self._complete(request))
        headers = response.headers.copy()
        # httpx takes a redirect for a request to come, and fails over a Location that is no URL
        location = headers.pop("location", None) if response.status_code in REDIRECTS else None
        return httpx.Response(
            response.status_code,
            headers=headers,
            # as it came: transports that answer from memory have read, and decoded, theirs already
            stream=response.stream,
            extensions={**response.extensions, _LOCATION: location},
        )

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    def _complete(self, request: httpx.Request) -> httpx.Request:
        if origin(request.url) != self._home:
            raise ForeignOrigin
        extensions = dict(request.extensions)
        secret = extensions.pop(_SEAL)
        attached: Attached = secret.attached
        query = without(secret.query, {name for name, _ in attached.query})
        query = joined(query, encoded(attached.query))
        headers = request.headers.copy()
        headers.update(attached.headers)
        url = request.url.copy_with(query=query.encode() or None)
        return httpx.Request(
            request.method, url, headers=headers, stream=request.stream, extensions=extensions
        )


def network(concurrency: int) -> httpx.AsyncHTTPTransport:
    """The real network: no proxy but a configured one, as many idle connections as requests at once."""
    # the fetcher bounds how many run at once; waiting for a connection would eat their deadlines
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)
    return httpx.AsyncHTTPTransport(trust_env=False, limits=limits)
