"""What answers from recorded exchanges: strictly, and telling what is nearest to what it has not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import httpx
import msgspec

from ingest.errors import ConfigError, Refused
from ingest.fetch.courier import is_absolute, origin
from ingest.log import Redactor
from ingest.replay.exchange import INDEX, Exchange, read_exchanges
from ingest.types import Request, canonical

#: recorded requests that are named when another was asked
NEAREST = 5
#: characters of a request that are shown
LONGEST = 240
#: headers that would lie about a body that is stored decompressed, or that nobody should have stored
UNSERVED = frozenset({"connection", "content-encoding", "content-length", "set-cookie", "transfer-encoding"})

#: masks what is called a token or a password, for a request may be one that was never meant to be recorded
_MASKED = Redactor()
_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Unrecorded(Refused):
    """This request was not recorded."""

    def __init__(self, asked: str, folder: Path, nearest: str) -> None:
        super().__init__(f"{asked} was not recorded in {folder}", status=501, hint=nearest)


class Asked(NamedTuple):
    """What makes two requests the same."""

    method: str
    #: between its slashes, so that `%2F` is none
    path: tuple[bytes, ...]
    #: in order; a pair may be there twice
    query: tuple[tuple[bytes, bytes], ...]
    #: canonical, where it is JSON
    body: bytes

    def __str__(self) -> str:
        path = "/".join(map(_plain, self.path))
        pairs = [_MASKED.value([_plain(name), _plain(value)]) for name, value in self.query]
        query = "&".join(map("=".join, pairs))
        text = f"{self.method} {path}{'?' if query else ''}{query} {_shown(self.body)}".rstrip()
        return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"

    def differences(self, other: Asked) -> list[str]:
        """In what it is not the other: method, query parameters by name, body."""
        pairs, others = Counter(self.query), Counter(other.query)
        names = sorted({name for name, _ in (pairs - others) + (others - pairs)})
        method = ["method"] if self.method != other.method else []
        return [*method, *map(_plain, names), *(["body"] if self.body != other.body else [])]


class Recording:
    """Recorded exchanges that answer in an API's place."""

    def __init__(self, folder: Path, base_url: str, *, ignoring: Iterable[str] = ()) -> None:
        """`ignoring`: query parameters that carry credentials, which no recording has."""
        self.folder = folder
        self._base = httpx.URL(base_url)
        self._ignored = frozenset(name.encode() for name in ignoring)
        self._recorded: defaultdict[Asked, list[Exchange]] = defaultdict(list)
        self._answered: Counter[Asked] = Counter()
        for exchange in read_exchanges(folder):
            self._recorded[self._stated(exchange.request)].append(exchange)

    def is_home(self, url: httpx.URL) -> bool:
        """Whether a URL has the API's scheme, host and port."""
        return origin(url) == origin(self._base)

    def answer(self, request: httpx.Request) -> httpx.Response:
        """What was recorded for a request whose body has been read; else Unrecorded."""
        asked = self._asked(request.method, request.url, request.content)
        if asked not in self._recorded:
            raise Unrecorded(str(asked), self.folder, self._nearest(asked))
        exchanges = self._recorded[asked]
        exchange = exchanges[min(self._answered[asked], len(exchanges) - 1)]
        self._answered[asked] += 1
        headers = {name: value for name, value in exchange.headers.items() if name.lower() not in UNSERVED}
        content = (self.folder / exchange.file).read_bytes()
        return httpx.Response(exchange.status, headers=headers, content=content, request=request)

    @property
    def unasked(self) -> list[str]:
        """The exchanges that nobody has asked for, each on a line."""
        return [
            f"{asked} ({exchange.file})"
            for asked, exchanges in self._recorded.items()
            for exchange in exchanges[self._answered[asked] :]
        ]

    def _stated(self, request: Request) -> Asked:
        """A recorded request, made into the URL that the client makes of it."""
        path = request.path
        if not is_absolute(path):
            slash = "" if path[:1] in ("/", "?", "") else "/"
            path = f"{str(self._base).rstrip('/')}{slash}{path}"
        try:
            url = httpx.URL(path)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{path!r} is not a URL: {error}", where=str(self.folder / INDEX)) from None
        return self._asked(request.method, url, (request.body or "").encode(), request.query)

    def _asked(
        self, method: str, url: httpx.URL, body: bytes, query: Iterable[tuple[str, str]] = ()
    ) -> Asked:
        path = url.raw_path.partition(b"?")[0].split(b"/")
        pairs = [*_pairs(url.query), *((name.encode(), value.encode()) for name, value in query)]
        said = sorted(pair for pair in pairs if pair[0] not in self._ignored)
        return Asked(method.upper(), tuple(map(unquote_to_bytes, path)), tuple(said), _same(body))

    def _nearest(self, asked: Asked) -> str:
        """What was recorded that is like it: of its path, else of the paths most like it."""
        same = [one for one in self._recorded if one.path == asked.path]
        if same:
            same.sort(key=lambda one: len(asked.differences(one)))
            shown = [f"{one} (another {', '.join(asked.differences(one))})" for one in same[:NEAREST]]
            more = f"; and {len(same) - NEAREST} more" if len(same) > NEAREST else ""
            return f"recorded of this path: {'; '.join(shown)}{more}"
        like = [one for one in self._recorded if _likeness(asked.path, one.path)]
        like.sort(key=lambda one: _likeness(asked.path, one.path), reverse=True)
        if like:
            return f"recorded of other paths: {'; '.join(map(str, like[:NEAREST]))}"
        return "nothing like it was recorded"


class ReplayTransport(httpx.AsyncBaseTransport):
    """Answers from a recording, in the network's place; a request that is not in it is given up."""

    def __init__(self, folder: Path, base_url: str, *, ignoring: Iterable[str] = ()) -> None:
        self._recording = Recording(folder, base_url, ignoring=ignoring)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """What was recorded for the request."""
        await request.aread()
        return self._recording.answer(request)


def _same(body: bytes) -> bytes:
    """A body, the same for every spelling of one JSON value."""
    try:
        return canonical(msgspec.json.decode(body)).encode()
    except _NOT_JSON:
        return body


def _pairs(query: bytes) -> Iterator[tuple[bytes, bytes]]:
    for part in filter(None, query.split(b"&")):
        name, _, value = part.replace(b"+", b" ").partition(b"=")
        yield unquote_to_bytes(name), unquote_to_bytes(value)


def _likeness(path: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    """How many segments two paths of one length share."""
    return sum(a == b != b"" for a, b in zip(path, other, strict=True)) if len(path) == len(other) else 0


def _shown(body: bytes) -> str:
    try:
        return canonical(_MASKED.value(msgspec.json.decode(body)))
    except _NOT_JSON:
        return f"({len(body)} bytes)" if body else ""


def _plain(text: bytes) -> str:
    decoded = text.decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in decoded
    )
