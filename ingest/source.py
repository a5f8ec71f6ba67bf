"""A system's `source.toml`, decoded strictly into frozen types, and what can be said of it alone.

Nothing here asks the network or knows a model: a stream names its entity, and `ingest.catalog`
finds it.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from ingest.errors import ConfigError
from ingest.paths import Path

Scalar: TypeAlias = str | int | float | bool
Positive = Annotated[int, msgspec.Meta(gt=0)]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: `{conversations.id}` in a path or query template
_PARAMETER = re.compile(r"\{([A-Za-z_][\w.\-]*)\}")


def seconds(text: str) -> float:
    """A duration in seconds: `500ms`, `60s`, `5m`, `2h`, `7d`."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"{text!r} is not a duration", hint="write 500ms, 60s, 5m, 2h or 7d")
    return float(found[1]) * _SECONDS[found[2]]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything decoded from TOML."""


# -- pagination: how the next page is asked for, and the server's own sign that there is none ----------


class _Paged(_Strict, frozen=True, kw_only=True):
    #: records asked for a page, sent as `limit_param`
    limit: Positive | None = None
    limit_param: str = "limit"
    #: pages a walk may take before it stops and leaves a gap
    max_pages: Positive = 1_000_000
    #: pages in a row without anything new that a walk bears with before its partition gives up
    max_idle: Positive = 100


class PageNumber(_Paged, frozen=True, kw_only=True, tag_field="kind", tag="page"):
    """`?page=3`. Ends by `pages` (how many), `total` (of records), `more` (a flag) or `end = "empty"`.

    A count is believed at a short page; after a full one, or where it was wrong, one more page is asked for.
    """

    param: str = "page"
    first: int = 1
    pages: str | None = None
    total: str | None = None
    more: str | None = None
    end: Literal["empty"] | None = None


class Offset(_Paged, frozen=True, kw_only=True, tag_field="kind", tag="offset"):
    """`?offset=200`. Ends by `total`, `more`, the absence of `next` (the next offset), or `end = "empty"`.

    A total is believed at a short page; after a full one, or where it was wrong, one more page is asked for.
    """

    param: str = "offset"
    first: int = 0
    total: str | None = None
    more: str | None = None
    next: str | None = None
    end: Literal["empty"] | None = None


class Cursor(_Paged, frozen=True, kw_only=True, tag_field="kind", tag="cursor"):
    """An opaque token in the body at `next`, sent back as `param`. Ends when it is absent, null or empty.

    With `tail` the last token stays good: the next run goes on from it, and a walk ends when the
    token stays the same or a page has no records.
    """

    next: str
    param: str = "cursor"
    more: str | None = None
    tail: bool = False


class HeaderCursor(_Paged, frozen=True, kw_only=True, tag_field="kind", tag="header"):
    """An opaque token in the response header `next`, sent back as `param`. Ends when it is absent."""

    next: str
    param: str = "cursor"


class Link(_Paged, frozen=True, kw_only=True, tag_field="kind", tag="link"):
    """A `Link` header with `rel="next"`. Ends when there is none."""


class NextUrl(_Paged, frozen=True, kw_only=True, tag_field="kind", tag="url"):
    """The next page's URL in the body at `next`. Ends when it is absent, null or empty."""

    next: str


class Keyset(_Paged, frozen=True, kw_only=True, tag_field="kind", tag="keyset"):
    """`?before=KEY` of the last record's `key`. Ends by `more` (a flag) or `end = "empty"`."""

    param: str
    key: str
    more: str | None = None
    end: Literal["empty"] | None = None


class Continue(_Paged, frozen=True, kw_only=True, tag_field="kind", tag="continue"):
    """A whole object at `next` whose members are merged into the query. Ends when it is absent."""

    next: str = "continue"


Pagination: TypeAlias = PageNumber | Offset | Cursor | HeaderCursor | Link | NextUrl | Keyset | Continue


# -- streams -------------------------------------------------------------------------------------------


class Since(_Strict, frozen=True, kw_only=True):
    """Ask only for records whose `key` is later than what is covered."""

    #: the query parameter that takes the time or key
    param: str
    #: path of the record's key that the parameter compares
    key: str
    #: how the time is written
    format: Literal["iso", "seconds", "milliseconds", "value"] = "iso"
    #: the server means "later than"; otherwise "not earlier than"
    strict: bool = False


class EntityBy(msgspec.Struct, frozen=True):
    """Which entities a record is, by the value at a path. Spelled as one table: `{ by = "type", … }`."""

    by: str
    cases: dict[str, tuple[str, ...]]
    default: tuple[str, ...] = ()
    #: `default = []`: records of any other kind are passed over; without it they are dead letters
    passes: bool = False


class ById(_Strict, frozen=True, kw_only=True):
    """How records are asked for by id: `{id}` is the key; `{referrer.column}` a value of the row that refers.

    With `batch`, that many ids go into `param`, joined by `separator`.
    """

    #: the path below `base_url`
    path: str
    #: its query
    query: dict[str, Scalar] = {}
    #: path of the records in the answer; the stream's own when absent
    records: str | None = None
    #: the query parameter that takes a batch of ids
    param: str | None = None
    #: ids asked for at once
    batch: Positive = 1
    #: stands between the ids of a batch
    separator: str = ","
    #: as the stream's `set`
    set: dict[str, str] = {}
    #: the answers that mean there is no such record, or no more
    gone: tuple[int, ...] = (404, 410)
    #: the answers that mean it may not be read
    forbidden: tuple[int, ...] = (401, 403)


class Opens(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"start": "from", "until": "to"},
):
    """A page opens a walk in another stream: for every match of `at` where `when` is true.

    `from`, `to` and `partition` are taken from the match (paths), from its stars (`$1`), from what
    the page was asked with (`$since`, its cursor) or from its partition (`$partition.x`).
    """

    #: the stream that is walked
    stream: str
    #: path of what opens a walk
    at: str
    #: path below `at`; only where it is true
    when: str | None = None
    #: the cursor the walk begins with
    start: str
    #: the cursor it ends at
    until: str | None = None
    #: the partition's parameters
    partition: dict[str, str] = {}
    #: after this page the partition is out of sight: opened again, none of it counts as known
    closes: bool = False


class Also(_Strict, frozen=True, kw_only=True):
    """Other records of a stream's pages; read before its own, and so ranked and placed below them."""

    #: path of the records in the answer
    records: str
    #: as the stream's `entity`
    entity: str | list[str] | dict[str, str | list[str]]
    #: as the stream's `set`
    set: dict[str, str] = {}
    #: absent keys state null
    omits: Literal["null"] | None = None


class Reread(_Strict, frozen=True, kw_only=True):
    """Records change without moving their key; this much of the recent past is read again."""

    #: a duration: `7d`
    reread: str


class Stream(_Strict, frozen=True, kw_only=True):
    """One endpoint that yields pages of records."""

    #: absent for a stream that is only asked by id
    path: str | None = None
    #: POST for an API that is asked by a body
    method: Literal["GET", "POST"] = "GET"
    #: its query; `{parent.column}` is taken from the parent's record, as in the path
    query: dict[str, Scalar] = {}
    #: a JSON body, for POST
    body: dict[str, Any] | None = None
    #: path of the records in the answer
    records: str = "$"
    #: an answer without that path has no records; otherwise it is taken for an error
    absent: Literal["empty"] | None = None
    #: the model of its records, or `{ by = PATH, VALUE = MODEL, default = MODEL }`
    entity: str | list[str] | dict[str, str | list[str]]
    #: columns that the answer states elsewhere: `$1` (the first star's key), `$partition.x`, `$position`
    set: dict[str, str] = {}
    #: the stream whose records make this one's partitions
    each: str | None = None
    #: how the next page is asked for; one page when absent
    paginate: Pagination | None = None
    #: how to ask for news only
    since: Since | None = None
    #: the order the server gives, where it promises one
    order: Literal["newest-first", "oldest-first"] | None = None
    #: the record's coverage key
    key: str | None = None
    #: path of the record's id, for seams where there is no comparable key
    id: str = "id"
    #: coverage stops this long before its newest key: late records still come
    settle: str = "60s"
    #: how records change after they were made; `{ reread = "7d" }` reads the recent past again
    changes: Literal["append-only", "key"] | Reread | None = None
    #: a path in the parent's record; the partition is skipped while it equals what the last walk satisfied
    unchanged: str | None = None
    #: a path in the parent's record; the partition exists only where it is truthy
    when: str | None = None
    #: how single records are asked for, to heal missing parents
    by_id: ById | None = None
    #: a page of this stream opens walks of another
    opens: Opens | tuple[Opens, ...] | None = None
    #: other records that its pages hold
    also: tuple[Also, ...] = ()
    #: absent keys state null
    omits: Literal["null"] | None = None
    #: every record of this stream says that the row with its key was deleted
    deletes: bool = False
    #: a walk that lists everything proves that what it leaves out was deleted
    sweep: bool = False
    #: answers that end the partition without an error (a conversation one may not read)
    closed_by: tuple[int, ...] = (403, 404, 410)

    @property
    def entities(self) -> EntityBy:
        """Which entities a record is; one constant case where the stream names them outright."""
        if isinstance(self.entity, str):
            return EntityBy("$", {}, (self.entity,))
        if isinstance(self.entity, list):
            return EntityBy("$", {}, tuple(self.entity))
        cases = {name: _names(value) for name, value in self.entity.items() if name not in ("by", "default")}
        by = self.entity.get("by")
        default = _names(self.entity.get("default", []))
        passes = not default and "default" in self.entity
        return EntityBy(by if isinstance(by, str) else "", cases, default, passes)

    @property
    def opening(self) -> tuple[Opens, ...]:
        """The walks that its pages open."""
        return (self.opens,) if isinstance(self.opens, Opens) else self.opens or ()

    @property
    def readings(self) -> tuple[Stream, ...]:
        """The stream once for every kind of record in its pages, in the order they are read; itself last."""
        names = ("records", "entity", "set", "omits")
        others = ({name: getattr(one, name) for name in names} for one in self.also)
        return (*(msgspec.structs.replace(self, also=(), by_id=None, **one) for one in others), self)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The partition parameters its path, query and body name, in order."""
        texts = [self.path or "", *map(str, self.query.values())]
        if self.body is not None:
            texts.append(msgspec.json.encode(self.body).decode())
        return tuple(dict.fromkeys(name for text in texts for name in _PARAMETER.findall(text)))

    def hash(self) -> str:
        """A hash of what decides request order; a change abandons open cursors."""
        paged = None if self.paginate is None else msgspec.to_builtins(self.paginate)
        if paged is not None:
            del paged["max_idle"]  # who raises it wants to go on from the cursor there is
        deciding = (
            self.path,
            self.method,
            self.query,
            self.body,
            self.each,
            paged,
            self.order,
            self.key,
        )
        return hashlib.sha256(msgspec.json.encode(deciding, order="sorted")).hexdigest()[:16]


def _names(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


# -- auth ----------------------------------------------------------------------------------------------


class Login(_Strict, frozen=True, kw_only=True):
    """A request whose answer holds the token; renewed once on 401."""

    #: the path below `base_url`
    path: str
    #: the JSON body; its secrets are `$NAME` references
    body: dict[str, Any]
    #: path of the token in the answer
    token: str
    #: how the token is attached; `bearer` or a header's name
    scheme: str = "bearer"


class Auth(_Strict, frozen=True, kw_only=True):
    """How credentials are attached: exactly one of these. Values are `$NAME` references only."""

    #: `Authorization: Bearer …`
    bearer: str | None = None
    #: headers by name: `{ X-Api-Key = "$KEY" }`
    header: dict[str, str] | None = None
    #: query parameters by name
    query: dict[str, str] | None = None
    #: user and password: `["$USER", "$PASSWORD"]`
    basic: tuple[str, str] | None = None
    #: a request whose answer holds the token
    login: Login | None = None


class ErrorBody(_Strict, frozen=True, kw_only=True):
    """What an error looks like in an answer with status 200: `path` leads to something, or to `equals`."""

    #: path of what only an error has
    path: str
    #: the value it has in an error; any value when absent
    equals: Scalar | None = None
    #: path of the error's text
    message: str | None = None
    #: the error means "ask again later"
    retry: bool = False


class Check(_Strict, frozen=True, kw_only=True):
    """A request that proves the credentials: its answer must have `expect` (a path), or status 200."""

    #: the path below `base_url`
    path: str
    #: path of what only a recognised caller is shown
    expect: str | None = None
    #: the value it has
    equals: str | None = None


class Transport(_Strict, frozen=True, kw_only=True):
    """Bounds of one request."""

    #: seconds from the first byte sent to the last received
    deadline: str = "120s"
    #: seconds without a byte
    timeout: str = "30s"
    #: times one request is tried
    attempts: Positive = 6
    #: bytes of one decompressed body
    max_body: Positive = 64 * 2**20
    #: seconds a server may ask us to wait before the partition gives up
    max_wait: str = "10m"
    #: a path in the body of a 429 that holds the wait, and its unit
    retry_after: str | None = None
    #: the unit of `retry_after`
    retry_after_unit: Literal["s", "ms"] = "ms"


class Source(_Strict, frozen=True, kw_only=True):
    """A source as its system's `source.toml` states it."""

    #: the endpoints, by name
    streams: dict[str, Stream]
    #: the API's address; the job's goes before it, as for the next four
    base_url: str | None = None
    #: how credentials are attached
    auth: Auth | None = None
    #: headers of every request
    headers: dict[str, str] = {}
    #: requests allowed: `20/s`, `100/m`
    rate: str | None = None
    #: next-page URLs of a wrong host are taken for the configured origin
    rebase: bool = False
    #: what an error looks like in an answer with status 200
    errors: tuple[ErrorBody, ...] = ()
    #: a request that proves the credentials before anything is fetched
    check: Check | None = None
    #: bounds of one request
    transport: Transport = msgspec.field(default_factory=Transport)


def read_source(file: FilePath) -> Source:
    """Decode and check `source.toml`; ConfigError with file, key and hint."""
    source: Source = decode_toml(file, Source)
    if not source.streams:
        raise ConfigError("states no stream", where=f"{file}: streams", hint="add [streams.NAME]")
    _check_source(source, file)
    for name, stream in source.streams.items():
        _check_stream(source, name, stream, file)
    return source


def decode_toml(file: FilePath, kind: type[Any]) -> Any:
    """The file as a `kind`, decoded strictly; ConfigError names the file and the key."""
    try:
        text = file.read_bytes().decode("utf-8-sig")  # some editors begin a file with a mark
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(file)) from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"broken TOML: {error}", where=str(file)) from error
    try:
        return msgspec.convert(tables, kind)
    except msgspec.ValidationError as error:
        message, _, at = str(error).partition(" - at `$")
        key = _with_name(tables, kind, at.strip(".`"))
        raise ConfigError(
            message, where=f"{file}: {key}" if key else str(file), hint="see README, “Configuration”"
        ) from error


def _with_name(tables: dict[str, Any], kind: type[Any], key: str) -> str:
    """The key with the table's name in it, where msgspec says `streams[...]` for any stream."""
    outer, unnamed, inner = key.partition("[...]")
    if not unnamed or not isinstance(tables.get(outer), dict):
        return key
    for name, table in tables[outer].items():
        try:
            msgspec.convert({**tables, outer: {name: table}}, kind)
        except msgspec.ValidationError:
            return f"{outer}.{name}{inner}"
    return key


def _check_stream(source: Source, name: str, stream: Stream, file: FilePath) -> None:
    where = f"{file}: streams.{name}"
    try:
        for text in _paths(stream):
            Path(text)
        seconds(stream.settle)
        if isinstance(stream.changes, Reread):
            seconds(stream.changes.reread)
    except ConfigError as error:
        raise ConfigError(error.message, where=where, hint=error.hint) from error
    entities = stream.entities
    if not (entities.cases or entities.default):
        raise ConfigError("names no entity", where=where, hint='entity = "Message", or { by = "type", … }')
    if isinstance(stream.entity, dict) and not entities.by:
        raise ConfigError("entity has no `by`", where=where, hint='{ by = "type", "kind" = "Entity" }')
    if stream.by_id is not None and not _says_which(stream.by_id):
        raise ConfigError(
            "does not say which record is asked for",
            where=f"{where}.by_id",
            hint='write {id} into its path or query: "/messages/{id}"; or state param',
        )
    if stream.path is None and stream.by_id is None:
        raise ConfigError("has neither a path nor by_id", where=where)
    if stream.each is not None and stream.each not in source.streams:
        raise ConfigError(
            f"each = {stream.each!r} is not a stream", where=where, hint=f"known: {', '.join(source.streams)}"
        )
    if name in _ancestors(source, stream):
        raise ConfigError(
            "is a partition of itself", where=f"{where}.each", hint="let each name another stream"
        )
    for opens in stream.opening:
        if opens.stream not in source.streams:
            raise ConfigError(f"opens an unknown stream {opens.stream!r}", where=where)
    if stream.parameters and stream.each is None and not _opened(source, name):
        raise ConfigError(
            f"its path needs {stream.parameters[0]!r}, but it has no `each`",
            where=where,
            hint='each = "parent stream"',
        )
    _check_end(stream, where)
    if stream.sweep:
        _check_sweep(stream, where)
        others = (other for other, one in source.streams.items() if one.sweep and other != name)
        for other in others:
            if _scope(source.streams[other]) == _scope(stream):
                raise ConfigError(
                    f"sweeps the same rows as {other!r}: what the one lists, the other would delete",
                    where=where,
                    hint="let one of them sweep, or tell their rows apart by `set`",
                )


def _scope(stream: Stream) -> tuple[Any, dict[str, str]]:
    """Which rows a stream's listings are of."""
    return stream.entities.default, stream.set


def _check_sweep(stream: Stream, where: str) -> None:
    """A listing proves nothing unless it is known of which rows it is, and noticed when they shift."""
    entities = stream.entities
    if stream.path is None or stream.deletes or entities.cases or len(entities.default) != 1:
        raise ConfigError(
            "sweep needs a listing of one entity",
            where=where,
            hint="take `sweep` away; or give the stream a path and one entity",
        )
    told = {said.removeprefix("$partition.") for said in stream.set.values()}
    unsaid = next((name for name in stream.parameters if name not in told), None)
    if unsaid is not None:
        raise ConfigError(
            f"sweep needs to know which rows are those of {unsaid!r}",
            where=where,
            hint=f'set = {{ COLUMN = "$partition.{unsaid}" }}',
        )
    if isinstance(stream.paginate, PageNumber | Offset) and stream.paginate.total is None:
        raise ConfigError(
            "sweep cannot notice that numbered pages shift",
            where=where,
            hint="state paginate.total, the path of how many records there are",
        )
    news = {
        "since": stream.since is not None,
        'order = "newest-first"': stream.order == "newest-first",
        "tail": isinstance(stream.paginate, Cursor) and stream.paginate.tail,
    }
    for said, only_news in news.items():
        if only_news:
            raise ConfigError(
                f"sweep needs all of its listing each time, and with {said} only news is asked for",
                where=where,
                hint="sweep by a stream of its own that lists everything",
            )


def _check_source(source: Source, file: FilePath) -> None:
    bounds = source.transport
    try:
        for text in (*(error.path for error in source.errors), (source.check and source.check.expect) or "$"):
            Path(text)
        for text in (bounds.deadline, bounds.timeout, bounds.max_wait):
            seconds(text)
    except ConfigError as error:
        raise ConfigError(error.message, where=str(file), hint=error.hint) from error


def _paths(stream: Stream) -> Iterator[str]:
    """Every path expression a stream states."""
    yield from filter(None, (stream.records, stream.key, stream.unchanged, stream.when, stream.entities.by))
    if stream.since:
        yield stream.since.key
    if stream.by_id and stream.by_id.records:
        yield stream.by_id.records
    for opens in stream.opening:
        yield from filter(None, (opens.at, opens.when))
    for reading in stream.readings[:-1]:
        yield from (reading.records, reading.entities.by)
    if stream.paginate and not isinstance(stream.paginate, HeaderCursor):
        stated = (getattr(stream.paginate, key, None) for key in ("next", "pages", "total", "more", "key"))
        yield from filter(None, stated)


def _says_which(by_id: ById) -> bool:
    """True when a request by id has the id in it."""
    return by_id.param is not None or "{id}" in " ".join([by_id.path, *map(str, by_id.query.values())])


def _ancestors(source: Source, stream: Stream) -> set[str]:
    """The streams whose records a stream's partitions come from, up to the top."""
    found: set[str] = set()
    while stream.each is not None and stream.each not in found and stream.each in source.streams:
        found.add(stream.each)
        stream = source.streams[stream.each]
    return found


def _opened(source: Source, name: str) -> bool:
    return any(opens.stream == name for other in source.streams.values() for opens in other.opening)


def _check_end(stream: Stream, where: str) -> None:
    """The stop condition is the source's to state: a short page never is one."""
    paged = stream.paginate
    if isinstance(paged, PageNumber) and not (paged.pages or paged.total or paged.more or paged.end):
        raise ConfigError(
            "does not say where the last page is", where=where, hint="state pages, total, more or end"
        )
    if isinstance(paged, Offset) and not (paged.total or paged.more or paged.next or paged.end):
        raise ConfigError(
            "does not say where the last page is", where=where, hint="state total, more, next or end"
        )
    if isinstance(paged, Keyset) and not (paged.more or paged.end):
        raise ConfigError(
            "does not say where the last page is", where=where, hint='state more, or end = "empty"'
        )
    if isinstance(paged, PageNumber | Offset) and paged.total and paged.limit is None:
        raise ConfigError("total needs limit", where=where, hint="state how many records a page holds")
