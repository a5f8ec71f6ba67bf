"""Which request comes next: pure functions from a stream and an answer to a request and a cursor.

A cursor is canonical JSON text, enough to build the next request together with the stream and the
partition's parameters:

    page        a number, or {"page", "limit"} where the server cuts the limit
    offset      a number                          cursor, header    the server's token, as it came
    page and offset, beyond the end that a count states: {"beyond": true, "page" or "offset", "limit"}
    keyset      the last record's key             link, url         a URL, below the base URL if it can be
    continue    the server's whole object

Only the server's own sign ends a walk. A short page never does: servers cut limits, and filter after
paging. Of the signs a count is the weakest, for totals lie: by itself it ends a walk only at a page that is
shorter than the server's pages are, else at an empty page, a refusal or the same page again beyond it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin

import httpx
import msgspec

from ingest.errors import BadAnswer, ConfigError
from ingest.fetch.answer import Answer
from ingest.fetch.body import UNSOUND
from ingest.fetch.courier import is_absolute, origin, without
from ingest.fetch.request import ABSENT, by_id_request, plain, used, with_values
from ingest.paths import Path
from ingest.source import (
    Continue,
    Cursor,
    HeaderCursor,
    Keyset,
    Link,
    NextUrl,
    Offset,
    PageNumber,
    Pagination,
    Stream,
)
from ingest.types import Request, canonical

__all__ = [
    "beyond",
    "by_id_request",
    "first_request",
    "halved",
    "is_beyond",
    "is_full",
    "next_cursor",
    "request_at",
    "stated_total",
    "walk_ends",
]

#: how a cursor begins that leads beyond the end which a count states
_BEYOND = '{"beyond":true,'

#: one target of a Link header (RFC 8288) and its parameters
_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[^\s=;,"]+\s*(?:=\s*(?:"(?:[^"\\]|\\.)*"|[^\s;,"]*))?)*)')
_LINK_PARAMETER = re.compile(r';\s*([^\s=;,"]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?')
#: what a flag says when it is text
_FALSE = frozenset({"", "0", "false", "no", "null", "none"})


# -- requests ------------------------------------------------------------------------------------------


def first_request(stream: Stream, parameters: Mapping[str, str], *, extra: Mapping[str, str] = {}) -> Request:
    """The request of a walk's first page, `extra` added to its query (or to its body, if it has one)."""
    request = plain(stream, parameters, extra)
    paged = stream.paginate
    if isinstance(paged, PageNumber | Offset):
        return with_values(request, {paged.param: paged.first})
    return request


def request_at(
    stream: Stream, parameters: Mapping[str, str], cursor: str, *, extra: Mapping[str, str] = {}
) -> Request:
    """The request that a cursor asks for."""
    if stream.paginate is None:
        raise ConfigError("has no pages to go on to", where=stream.path, hint="state paginate")
    return _applied(stream.paginate, plain(stream, parameters, extra), msgspec.json.decode(cursor))


def _applied(paged: Pagination, request: Request, value: Any) -> Request:
    """The request with a cursor's value in it, in place of the cursor it may have."""
    if isinstance(paged, Link | NextUrl):
        # the server's own URL says everything, and may be signed: it is sent as it came
        return Request(method=request.method, path=value, body=request.body)
    if isinstance(paged, Continue):
        return with_values(request, {name: value[name] for name in sorted(value)})
    if isinstance(paged, PageNumber | Offset) and isinstance(value, dict):
        limit = {paged.limit_param: value["limit"]} if "limit" in value else {}
        place = value["page" if isinstance(paged, PageNumber) else "offset"]
        return with_values(request, {**limit, paged.param: place})
    return with_values(request, {paged.param: value})


def halved(stream: Stream, request: Request) -> Request | None:
    """The request for half as many records from the same one on; None where that cannot be asked for."""
    paged = stream.paginate
    limit = _limit(paged, request) if paged is not None else None
    if paged is None or limit is None or limit < 2:
        return None
    if not isinstance(paged, PageNumber):
        return with_values(request, {paged.limit_param: limit // 2})
    # numbers count pages of one size: only one that divides the other has a page that begins there
    smaller = next(size for size in range(limit // 2, 0, -1) if limit % size == 0)
    passed = _number(request, paged.param, paged.first) - paged.first
    return with_values(
        request, {paged.limit_param: smaller, paged.param: paged.first + passed * (limit // smaller)}
    )


# -- cursors -------------------------------------------------------------------------------------------


def next_cursor(
    stream: Stream,
    request: Request,
    answer: Answer,
    records: Sequence[Any],
    *,
    base_url: str = "",
    credentials: Collection[str] = (),
) -> str | None:
    """What asks for the page after this one; None on the server's own sign that there is none.

    `credentials` are the names of query parameters that no stored URL may have; a URL below
    `base_url` is stored without it. BadAnswer when the cursor is the one just used, or the answer
    does not say what it should.
    """
    paged = stream.paginate
    if paged is None:
        return None
    value = _next_value(paged, request, answer, records)
    if value is ABSENT:
        return None
    if isinstance(paged, Link | NextUrl):
        value = _stored_url(value, request, base_url, credentials)
    if not _is_tail(paged) and _repeats(stream, request, value):
        raise BadAnswer("the cursor repeats", hint="the server would send the same page for ever")
    return canonical(value)


def beyond(stream: Stream, request: Request, answer: Answer, got: int) -> str | None:
    """What asks for more after a page that is the last by a count alone; None where another sign says so."""
    paged = stream.paginate
    if not isinstance(paged, PageNumber | Offset) or got == 0:
        return None
    if paged.more is not None and not _flag(paged.more, answer.json):
        return None
    if isinstance(paged, Offset):
        if paged.total is None or paged.next is not None:
            return None
        return canonical({"beyond": True, "offset": _offset_after(paged, request, got)})
    if paged.pages is None and paged.total is None:
        return None
    following = _page_after(paged, request, got)
    return canonical({"beyond": True, **(following if isinstance(following, dict) else {"page": following})})


def is_beyond(cursor: str | None) -> bool:
    """True for a cursor that `beyond` made."""
    return cursor is not None and cursor.startswith(_BEYOND)


def is_full(stream: Stream, request: Request, got: int, fullest: int) -> bool:
    """True for a page that may be followed by others: no shorter than was asked for, or than any was."""
    limit = _limit(stream.paginate, request) if stream.paginate is not None else None
    return got >= (fullest if limit is None else min(limit, fullest))


def _limit(paged: Pagination, request: Request) -> int | None:
    """The limit that a request states."""
    return _whole(used(request, paged.limit_param))


def total_pages(stream: Stream, answer: Answer) -> int | None:
    """How many pages the server says there are, for a progress bar; None where it does not say."""
    paged = stream.paginate
    if not isinstance(paged, PageNumber | Offset):
        return None
    pages = paged.pages if isinstance(paged, PageNumber) else None
    if pages is not None:
        return _whole(Path(pages).first(answer.json))
    total = stated_total(stream, answer)
    return -(-total // paged.limit) if total is not None and paged.limit else None


def stated_total(stream: Stream, answer: Answer) -> int | None:
    """How many records the server says there are; None where it does not say."""
    paged = stream.paginate
    if not isinstance(paged, PageNumber | Offset) or paged.total is None:
        return None
    return _whole(Path(paged.total).first(answer.json))


def _whole(value: Any) -> int | None:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value
    return number if type(number) is int and number >= 0 else None


def walk_ends(stream: Stream, request: Request, cursor: str | None, records: Sequence[Any]) -> bool:
    """Whether the walk is over after this page. A tail ends when its token stays or nothing came."""
    if cursor is None or stream.paginate is None:
        return True
    if not _is_tail(stream.paginate):
        return False
    return not records or _repeats(stream, request, msgspec.json.decode(cursor))


def _next_value(paged: Pagination, request: Request, answer: Answer, records: Sequence[Any]) -> Any:
    """The next cursor's value, or ABSENT at the end."""
    match paged:
        case PageNumber():
            return _next_page(paged, request, answer.json, len(records))
        case Offset():
            return _next_offset(paged, request, answer.json, len(records))
        case Cursor():
            return _next_token(paged, request, answer.json)
        case HeaderCursor():
            return answer.headers.get(paged.next, "").strip() or ABSENT
        case Link():
            return _next_link(answer.headers)
        case NextUrl():
            return _stated(paged.next, answer.json, str)
        case Keyset():
            return _next_key(paged, answer.json, records)
        case Continue():
            return _stated(paged.next, answer.json, dict)


def _next_page(paged: PageNumber, request: Request, json: Any, got: int) -> Any:
    page = _number(request, paged.param, paged.first)
    limit = _number(request, paged.limit_param, paged.limit or 0)
    total = None if paged.total is None else _count(paged.total, json)
    asked = page - paged.first + 1
    over = (
        (paged.end == "empty" and got == 0)
        or (paged.more is not None and not _flag(paged.more, json))
        or (paged.pages is not None and asked >= _count(paged.pages, json))
        or (total is not None and (asked * limit if asked > 1 else min(got, limit)) >= total)
    )
    return ABSENT if over else _page_after(paged, request, got)


def _page_after(paged: PageNumber, request: Request, got: int) -> Any:
    page = _number(request, paged.param, paged.first)
    limit = _number(request, paged.limit_param, paged.limit or 0)
    if paged.total is not None and page == paged.first and 0 < got < limit:
        # the server cuts limits (or filters): only by the limit it keeps can pages be told from records
        limit = got
    return page + 1 if limit == (paged.limit or 0) else {"page": page + 1, "limit": limit}


def _next_offset(paged: Offset, request: Request, json: Any, got: int) -> Any:
    if paged.end == "empty" and got == 0:
        return ABSENT
    if paged.more is not None and not _flag(paged.more, json):
        return ABSENT
    if paged.next is not None:
        return _stated(paged.next, json, (str, int))
    offset = _offset_after(paged, request, got)
    if paged.total is not None and offset - paged.first >= _count(paged.total, json):
        return ABSENT
    return offset


def _offset_after(paged: Offset, request: Request, got: int) -> int:
    # a page shorter than its limit was filtered, or the server cuts limits: overlap loses nothing
    step = min(got, paged.limit or got) or paged.limit or 0
    if step == 0:
        raise BadAnswer("an empty page, though there should be more", hint="state paginate.limit")
    return _number(request, paged.param, paged.first) + step


def _next_token(paged: Cursor, request: Request, json: Any) -> Any:
    if paged.more is not None and not paged.tail and not _flag(paged.more, json):
        return ABSENT
    token = _stated(paged.next, json, (str, int, list, dict))
    if token is ABSENT and paged.tail:
        # the last token stays good
        return used(request, paged.param)
    return token


def _next_key(paged: Keyset, json: Any, records: Sequence[Any]) -> Any:
    if paged.end == "empty" and not records:
        return ABSENT
    if paged.more is not None and not _flag(paged.more, json):
        return ABSENT
    if not records:
        raise BadAnswer(
            "an empty page, though there should be more", hint=f"no record has the next {paged.param}"
        )
    key = _stated(paged.key, records[-1], (str, int, float))
    if key is ABSENT:
        raise BadAnswer(
            f"the last record has no {paged.key!r}", hint="set paginate.key to the path of its key"
        )
    return key


def _next_link(headers: httpx.Headers) -> Any:
    for target, parameters in _LINK.findall(", ".join(headers.get_list("link"))):
        relations = [
            quoted or bare
            for name, quoted, bare in _LINK_PARAMETER.findall(parameters)
            if name.lower() == "rel"
        ]
        if relations and "next" in relations[0].lower().split():
            return target.strip() or ABSENT
    return ABSENT


def _stored_url(text: str, request: Request, base_url: str, credentials: Collection[str]) -> str:
    """A next URL as it is stored: without credentials, and below the base URL if it lies there.

    A relative URL is taken relative to the page's own.
    """
    base_url = base_url.rstrip("/")
    page = request.path if is_absolute(request.path) else base_url + request.path
    try:
        url = httpx.URL(urljoin(page, text.strip()) if page else text.strip())
        base = httpx.URL(base_url)
    except (httpx.InvalidURL, ValueError):
        raise BadAnswer("the next page's URL is not a URL") from None
    query = without(url.query.decode("ascii"), credentials)
    path = url.raw_path.decode("ascii").partition("?")[0]
    asked = f"?{query}" if query else ""
    home = base.raw_path.decode("ascii").rstrip("/")
    if origin(url) == origin(base) and (path + "/").startswith(home + "/"):
        return path.removeprefix(home) + asked
    return f"{url.scheme}://{url.netloc.decode('ascii')}{path}{asked}"


def _repeats(stream: Stream, request: Request, value: Any) -> bool:
    """Whether the cursor would build the very request that it came from."""
    assert stream.paginate is not None
    if isinstance(stream.paginate, Continue):
        # a member that the last object had and this one lacks is no longer sent
        own = {*stream.query, *value, stream.paginate.limit_param, stream.since and stream.since.param}
        if any(name not in own for name, _ in request.query):
            return False
    return _applied(stream.paginate, request, value) == request


def _is_tail(paged: Pagination) -> bool:
    return isinstance(paged, Cursor) and paged.tail


# -- what the answer and the request say -----------------------------------------------------------------


def _stated(path: str, json: Any, kinds: type | tuple[type, ...]) -> Any:
    """The value at a path; ABSENT where it is absent, null, false or empty."""
    value = Path(path).first(json)
    if value is None or value is False or value in ("", [], {}):
        return ABSENT
    if not isinstance(value, kinds) or value is True:
        raise BadAnswer(
            f"{path!r} leads to {type(value).__name__}, which is no cursor", hint="correct paginate"
        )
    return value


def _flag(path: str, json: Any) -> bool:
    value = Path(path).first(json, ABSENT)
    if value is ABSENT:
        raise BadAnswer(
            f"the answer has no {path!r}",
            hint='correct paginate.more, or state another end, as end = "empty"',
        )
    if value == UNSOUND:
        raise BadAnswer(f"{path!r} is neither true nor false")
    return value.strip().lower() not in _FALSE if isinstance(value, str) else bool(value)


def _count(path: str, json: Any) -> int:
    value = Path(path).first(json)
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadAnswer(
            f"the answer has no count at {path!r}", hint="correct paginate.total or paginate.pages"
        )
    return value


def _number(request: Request, param: str, default: int) -> int:
    value = used(request, param)
    return default if value is ABSENT else int(value)
