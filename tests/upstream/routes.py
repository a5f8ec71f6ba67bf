"""Which stream a request asks for, and with which parameters: path templates read backwards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from ingest.source import Source, Stream
from tests.upstream.listing import UNTIL, in_url
from tests.upstream.wire import Request

_PARAMETER = re.compile(r"\{([A-Za-z_][\w.\-]*)\}")


@dataclass(frozen=True, slots=True)
class Route:
    """A way to ask for a stream: its list, or its records by id."""

    stream: str
    kind: Literal["list", "by_id"]
    method: str
    path: str
    query: Mapping[str, Any]
    body: Mapping[str, Any] | None = None
    #: the query parameter that must be there, holding ids
    batch: str | None = None

    @property
    def weight(self) -> tuple[int, int, int]:
        """How much of a request the route fixes; of two that match, the heavier is meant."""
        return (
            self.batch is not None,
            len(self.query) + len(self.body or {}),
            -len(_PARAMETER.findall(self.path)),
        )

    def match(self, request: Request, path: str) -> dict[str, str] | None:
        """The parameters of a request that this route is meant by, else None."""
        found: dict[str, str] = {}
        params = dict(request.query)
        if request.method != self.method or not _read(self.path, path, found, quoted=True):
            return None
        for name, template in self.query.items():
            if name not in params and in_url(template) == f"{{{UNTIL}}}":
                continue
            if name not in params or not _read(in_url(template), params[name], found):
                return None
        if self.body is not None and not _agrees(self.body, request.json(), found):
            return None
        return None if self.batch is not None and self.batch not in params else found


def routes(source: Source) -> list[Route]:
    """Every route of a source, the heaviest first."""
    found = [route for name, stream in source.streams.items() for route in _of_stream(name, stream)]
    return sorted(found, key=lambda route: route.weight, reverse=True)


def _of_stream(name: str, stream: Stream) -> Iterator[Route]:
    if stream.path is not None:
        yield Route(name, "list", stream.method, stream.path, stream.query, stream.body)
    if stream.by_id is not None:
        yield Route(name, "by_id", "GET", stream.by_id.path, stream.by_id.query, batch=stream.by_id.param)


def _read(template: str, text: str, found: dict[str, str], *, quoted: bool = False) -> bool:
    """Match a text against a template, and add its parameters; False where they contradict what is known."""
    names = _PARAMETER.findall(template)
    literal = _PARAMETER.split(template)[::2]
    pattern = "([^/]+)" if quoted else "(.+)"
    match = re.fullmatch(pattern.join(map(re.escape, literal)), text, re.DOTALL)
    if match is None:
        return False
    for name, value in zip(names, match.groups(), strict=True):
        read = unquote(value) if quoted else value
        if found.setdefault(name, read) != read:
            return False
    return True


def _agrees(template: Any, given: Any, found: dict[str, str]) -> bool:
    """Whether a JSON body holds what a template states; it may hold more."""
    if isinstance(template, Mapping):
        return isinstance(given, Mapping) and all(
            name in given and _agrees(inner, given[name], found) for name, inner in template.items()
        )
    if isinstance(template, str) and _PARAMETER.search(template):
        return _read(template, in_url(given), found)
    return bool(template == given)
