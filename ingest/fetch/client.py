"""One source's HTTP client: asks a request until it is answered, refused, or patience ends.

ask ─▶ once ─▶ send ─▶ exchange      one request on the wire: rate, credentials, deadline, whole body
 ▲      │       └ redirects          followed on the configured origin only
 │      └ 401                        a login's token is renewed once
 └ Unready                           waits, and asks again (retry.py)
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Container, Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import httpx

from ingest import __version__, config, types
from ingest.clock import Clock
from ingest.config import ConfiguredSource
from ingest.errors import BadAnswer, ConfigError, ForeignOrigin, IngestError
from ingest.fetch.answer import Answer, Judge, Reply
from ingest.fetch.auth import Credentials, Secrets
from ingest.fetch.body import Body, Wire, read_body
from ingest.fetch.courier import (
    REDIRECTS,
    Attached,
    Courier,
    encoded,
    is_absolute,
    joined,
    network,
    origin,
    pointed,
    sealed,
)
from ingest.fetch.rate import Rate, per_second
from ingest.fetch.retry import Patience, Unready
from ingest.report import Observer, unobserved
from ingest.source import seconds

MAX_REDIRECTS = 5

__all__ = ["Answer", "Client"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Client:
    """Asks one source, within its rate, its bounds and its origin."""

    def __init__(
        self,
        source: ConfiguredSource,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock,
        secrets: Secrets = config.secret,
        observe: Observer = unobserved,
        concurrency: int = 8,
        jitter: random.Random | None = None,
    ) -> None:
        self.source = source
        #: requests that were sent again
        self.retries = 0
        #: the last attempt did not reach the server; nor did any of a request that was given up
        self._unreached = self._given_up = False
        #: requests on the wire: logins, redirects and repetitions too
        self.requests = 0
        #: body bytes on the wire, before decompression
        self.bytes = 0
        self._clock = clock
        self._observe = observe
        self._jitter = jitter or random.Random()
        self._bounds = source.source.transport
        self._base = _base(source)
        self._rate = Rate(_full_rate(source), clock)
        self._credentials = Credentials(source, secrets, clock, self._log_in)
        self._judge = Judge(source, self._credentials, self._rate, clock)
        self._deadline = seconds(self._bounds.deadline)
        #: held while a large body is read: `max_body` bounds them all together
        self._alone = asyncio.Lock()
        self._http = httpx.AsyncClient(
            transport=Courier(transport or network(concurrency), origin(self._base)),
            headers=_headers(source),
            timeout=httpx.Timeout(seconds(self._bounds.timeout), pool=None),
            # a cookie is a credential that nobody configured
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            trust_env=False,
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

    @property
    def base_url(self) -> str:
        """The URL that request paths are below, without a slash at its end."""
        return str(self._base).rstrip("/")

    @property
    def credential_names(self) -> frozenset[str]:
        """The query parameters that carry credentials, which no stored URL may have."""
        return self._credentials.names

    async def ask(
        self, request: types.Request, *, accept: Container[int] = (), read: types.Read = types.read_json
    ) -> Answer:
        """The answer to a request, asked again while that helps; else GiveUp or AuthFailed."""
        return await self._patiently(request.method, request.path, self._once, request, accept, read)

    # -- one request, repeated ----------------------------------------------------------------------

    async def _patiently(
        self, method: str, path: str, step: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        shown = f"{method} {path.partition('?')[0]}"
        where = f"{self.source.name}: {shown}"
        # who could not be reached with all patience is tried once for each further request, until it answers
        patience = Patience(self._bounds, self._jitter, attempts=1 if self._given_up else None)

        def before_sleep(error: Unready, attempt: int, wait: float) -> None:
            self.retries += 1
            self._tell(
                "retry", request=shown, status=error.status, attempt=attempt, wait=wait, reason=error.message
            )

        async def attempt() -> _T:
            try:
                return await step(*args, **kwargs)
            except Exception as error:
                # nothing that goes wrong past here says more than it may
                hushed = self._credentials.hushed(error)
                if hushed is error:
                    raise
            raise hushed from None

        try:
            return await patience.retrying(self._clock.sleep, before_sleep)(attempt)
        except Unready as error:
            last = error
        except IngestError as error:
            error.where = error.where or where
            raise
        self._given_up = self._unreached
        final = patience.given_up(last)
        final.where = where
        raise final from last.__cause__

    async def _once(self, request: types.Request, accept: Container[int], read: types.Read) -> Answer:
        url = self._url(request)
        content = request.body.encode() if request.body is not None else None
        attached = await self._credentials.attached()
        reply = await self._send(request.method, url, attached, content)
        if reply.status == 401 and await self._credentials.renew(attached):
            attached = await self._credentials.attached()
            reply = await self._send(request.method, url, attached, content)
            if reply.status == 401:
                self._credentials.believe(attached)
        return self._judge.judged(reply, accept, read)

    async def _log_in(self, path: str, content: bytes) -> Reply:
        return await self._patiently("POST", path, self._log_in_once, path, content)

    async def _log_in_once(self, path: str, content: bytes) -> Reply:
        reply = await self._send("POST", self._url(types.Request(path=path)), Attached(), content)
        self._judge.check_ready(reply)
        return reply

    # -- on the wire --------------------------------------------------------------------------------

    async def _send(self, method: str, url: httpx.URL, attached: Attached, content: bytes | None) -> Reply:
        for _ in range(1 + MAX_REDIRECTS):
            reply = await self._exchange(method, url, attached, content)
            if reply.status not in REDIRECTS:
                return reply
            url = self._redirected(method, url, reply)
        raise BadAnswer(f"redirected more than {MAX_REDIRECTS} times")

    async def _exchange(
        self, method: str, url: httpx.URL, attached: Attached, content: bytes | None
    ) -> Reply:
        sent = await self._rate.acquire()
        self.requests += 1
        shown, extensions = sealed(url, attached)
        headers = {"Content-Type": "application/json"} if content is not None else None
        request = self._http.build_request(
            method, shown, content=content, headers=headers, extensions=extensions
        )
        wire = Wire()
        try:
            # httpx's own timeouts are per read: a server may drip for hours
            async with asyncio.timeout(self._deadline):
                reply = await self._read(request, sent, wire)
        except (httpx.TransportError, TimeoutError) as error:
            problem = error
            self._unreached = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        else:
            self._unreached = self._given_up = False
            self._tell("request", request=f"{method} {url.path}", status=reply.status, bytes=wire.bytes)
            return reply
        finally:
            self.bytes += wire.bytes
        raise self._failed(problem) from self._credentials.safe(problem)

    async def _read(self, request: httpx.Request, sent: float, wire: Wire) -> Reply:
        response = await self._http.send(request, stream=True)
        try:
            body = await read_body(response, self._bounds.max_body, wire, self._alone)
        except (BadAnswer, Unready, httpx.NetworkError, httpx.RemoteProtocolError):
            if 200 <= response.status_code < 300:
                raise
            # any other status says enough without its body
            body = Body(b"", whole=False)
        finally:
            await response.aclose()
        headers = response.headers.copy()
        headers.pop("set-cookie", None)
        return Reply(response.status_code, headers, body.data, body.whole, sent, pointed(response))

    def _failed(self, problem: Exception) -> IngestError:
        place = self._base.copy_with(path="/", query=None)
        said = self._credentials.scrub(str(problem)) or type(problem).__name__
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _chain(problem)):
            return BadAnswer(f"the certificate of {place} is not trusted: {said}", hint="is base_url right?")
        if isinstance(problem, httpx.ConnectError | httpx.ConnectTimeout):
            unknown = any(isinstance(cause, socket.gaierror) for cause in _chain(problem))
            reason = f"nobody knows the name {place.host}" if unknown else f"nothing answers at {place}"
            return Unready(f"cannot connect: {said}", hint=f"is base_url right? {reason}")
        if isinstance(problem, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
            return BadAnswer(f"the request cannot be sent: {said}", hint="check the source's headers")
        if isinstance(problem, httpx.TimeoutException):
            return Unready(f"nothing came for {self._bounds.timeout}")
        if isinstance(problem, TimeoutError):
            return Unready(f"no whole answer within {self._bounds.deadline}")
        return Unready(f"the connection broke: {said}")

    # -- where to -----------------------------------------------------------------------------------

    def _url(self, request: types.Request) -> httpx.URL:
        path = request.path
        if is_absolute(path):
            url = self._home(_parsed(path))
        else:
            url = _parsed(self.base_url + ("" if path[:1] in ("/", "?", "") else "/") + path)
        query = joined(url.query.decode("ascii"), encoded(request.query))
        return url.copy_with(query=query.encode() or None)

    def _redirected(self, method: str, url: httpx.URL, reply: Reply) -> httpx.URL:
        if not reply.location:
            raise BadAnswer(f"status {reply.status} without a Location")
        target = _parsed(reply.location, url)
        if method != "GET":
            raise ForeignOrigin(f"a {method} was redirected", hint=f"to {_place(target)}: is the path right?")
        return self._home(target)

    def _home(self, url: httpx.URL) -> httpx.URL:
        """The URL on the configured origin; what could name another (user, host, port) is not taken over."""
        if origin(url) != origin(self._base) and not self.source.source.rebase:
            raise ForeignOrigin(
                f"the answer points to {_place(url)}, away from {_place(self._base)}",
                hint="correct base_url; or, if the server is wrong about its own address, set rebase = true",
            )
        try:
            return self._base.copy_with(raw_path=url.raw_path)
        except httpx.InvalidURL:
            raise BadAnswer(f"the answer points to something without a path, by {url.scheme}") from None

    def _tell(self, event: str, **fields: Any) -> None:
        self._observe(event, source=self.source.name, **fields)


def _base(source: ConfiguredSource) -> httpx.URL:
    where = f"{source.where}.base_url"
    try:
        url = httpx.URL(source.base_url)
    except httpx.InvalidURL:
        raise ConfigError("is not a URL", where=where, hint='"https://…"') from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError("is not an http URL", where=where, hint='"https://…"')
    if url.userinfo:
        raise ConfigError("holds credentials", where=where, hint='auth = { basic = ["$USER", "$PASSWORD"] }')
    if url.query or url.fragment:
        raise ConfigError("holds a query or fragment", where=where, hint="give it to the streams")
    return url


def _headers(source: ConfiguredSource) -> httpx.Headers:
    for name, value in source.source.headers.items():
        if value.startswith("$"):
            raise ConfigError(
                "headers hold no secrets",
                where=f"{source.where}.headers.{name}",
                hint="auth = { header = … }",
            )
    headers = httpx.Headers({"User-Agent": f"ingest/{__version__}", "Accept": "application/json"})
    headers.update(source.source.headers)
    # whatever else httpx could decode, body.py does not
    headers["Accept-Encoding"] = "gzip"
    return headers


def _full_rate(source: ConfiguredSource) -> float | None:
    return per_second(source.source.rate, f"{source.where}.rate") if source.source.rate else None


def _parsed(text: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        return base.join(text) if base is not None else httpx.URL(text)
    except httpx.InvalidURL as error:
        raise BadAnswer(f"the answer points to something that is not a URL: {error}") from None


def _place(url: httpx.URL) -> str:
    scheme, host, port = origin(url)
    return f"{scheme}://{host}:{port}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
