"""What the upstream answers: decided from the request and the truth alone, without any I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ingest.errors import ConfigError
from ingest.paths import Path
from ingest.source import ById, Source, Stream
from ingest.types import Json, Key
from tests.upstream.api import Api
from tests.upstream.auth import Gate
from tests.upstream.dialect import put
from tests.upstream.listing import UNTIL, Item, Listings, keyset, parameters
from tests.upstream.paging import OWN_TOKEN, Asked, Pager
from tests.upstream.routes import Route, routes
from tests.upstream.shape import Opener, shape, wrap
from tests.upstream.tokens import BadRequest
from tests.upstream.wire import Answer, Request, answer_json


class Site:
    """A source's endpoints."""

    def __init__(
        self, listings: Listings, pager: Pager, gate: Gate, *, prefix: str = "", anonymous: bool = False
    ) -> None:
        self.api: Api = listings.api
        self.source: Source = self.api.source
        self.listings, self.pager, self.gate = listings, pager, gate
        self.prefix, self.anonymous = prefix, anonymous
        #: scheme, host and port, known when the server listens
        self.origin = ""
        #: rows that may not be read: 403 by id
        self.forbidden: set[tuple[str, Key]] = set()
        #: records that are told as these bytes, whatever is true
        self.spoiled: dict[tuple[str, Key], bytes] = {}
        self.opener = Opener(listings, pager)
        self._routes = routes(self.source)
        self._records: dict[tuple[str, str, Key], msgspec.Raw] = {}
        self._edition = self.api.edition

    def answer(self, request: Request, ordinal: int, *, ring: bool = False) -> tuple[Answer, str | None]:
        """The answer to a request, and the stream it asked for."""
        path = request.path.removeprefix(self.prefix)
        if not request.path.startswith(self.prefix):
            return answer_json({"error": "no such path"}, 404), None
        if (logged_in := self.gate.login(request, path)) is not None:
            return logged_in, None
        admitted = self.gate.admits(request)
        if not admitted and not self.anonymous:
            return answer_json({"error": "who are you?"}, 401), None
        check = self.source.check
        if check is not None and path == check.path:
            return self._checked(admitted), None
        for route in self._routes:
            if (given := route.match(request, path)) is not None:
                return self._routed(route, given, request, ordinal, admitted, ring), route.stream
        return answer_json({"error": "no such path"}, 404), None

    def _checked(self, admitted: bool) -> Answer:
        check = self.source.check
        assert check is not None
        body: dict[str, Json] = {}
        if admitted and check.expect is not None:
            put(body, Path(check.expect).keys, True if check.equals is None else check.equals)
        return answer_json(body)

    def _routed(
        self,
        route: Route,
        given: Mapping[str, str],
        request: Request,
        ordinal: int,
        admitted: bool,
        ring: bool,
    ) -> Answer:
        stream = self.source.streams[route.stream]
        try:
            if route.kind == "by_id":
                assert stream.by_id is not None
                return self._by_id(route.stream, stream, stream.by_id, given, request, ordinal)
            return self._listed(route.stream, stream, given, request, ordinal, admitted, ring)
        except BadRequest as error:
            return answer_json({"error": str(error)}, 400)

    # -- lists -------------------------------------------------------------------------------------------

    def _listed(
        self,
        name: str,
        stream: Stream,
        given: Mapping[str, str],
        request: Request,
        ordinal: int,
        admitted: bool,
        ring: bool,
    ) -> Answer:
        partition = tuple(given[parameter] for parameter in parameters(stream))
        partitions = self.listings.partitions(name)
        if partition not in partitions:
            forbidden = self._forbids(stream, given)
            return answer_json(
                {"error": "forbidden" if forbidden else "not found"}, 403 if forbidden else 404
            )
        listing = partitions[partition] if admitted else []
        asked = self._asked(name, stream, partition, listing, request, given.get(UNTIL), ring)
        page = self.pager.page(asked)
        openings = self.opener.limit(stream, page)
        body = shape(
            self.listings,
            stream,
            [(item, self._record(name, stream, item, ordinal)) for item in page.items],
        )
        for path, value in page.fields:
            if not isinstance(body, dict):
                raise ConfigError(f"{path!r} has no place beside a list", where=f"streams.{name}")
            put(body, Path(path).keys, value)
        self.opener.tell(stream, body, openings)
        return answer_json(body, headers=tuple(page.headers))

    def _forbids(self, stream: Stream, given: Mapping[str, str]) -> bool:
        """Whether the partition's parent is a row that may not be read."""
        values = set(given.values())
        parents = self.listings.primaries(self.source.streams[stream.each]) if stream.each else ()
        return any(table in parents and values & {str(part) for part in key} for table, key in self.forbidden)

    def _asked(
        self,
        name: str,
        stream: Stream,
        partition: tuple[str, ...],
        listing: list[Item],
        request: Request,
        until: str | None,
        ring: bool,
    ) -> Asked:
        params = dict(request.query)
        params |= {key: str(value) for key, value in request.json().items() if isinstance(value, str | int)}

        def select(since: str | None) -> list[Item]:
            return (
                [item for item in listing if self._wanted(stream, item, since, until)]
                if since or until
                else listing
            )

        table = self.listings.primaries(stream)[0]
        path = keyset(stream)
        column = self.api.spelling.column_at(table, path) if path else None
        return Asked(
            stream=name,
            partition=partition,
            kind=stream.paginate,
            params=params,
            select=select,
            since=params.get(stream.since.param) if stream.since else None,
            key_of=lambda item: self.listings.row(stream, item)[column.name] if column is not None else None,
            parse_key=lambda text: self.api.spelling.parse(column, text) if column is not None else None,
            descending=self.listings.order_of(stream) == "newest-first",
            path=request.path,
            query=tuple((key, value) for key, value in request.query if key != OWN_TOKEN),
            origin=self.origin,
            ring=ring,
        )

    def _wanted(self, stream: Stream, item: Item, since: str | None, until: str | None) -> bool:
        if until is not None:
            place = self.pager.tokens.place(until)
            if place.after is not None and self.api.truth.changed(item.table, item.key) <= place.after[0]:
                return False
        if since is None or stream.since is None:
            return True
        column = self.api.spelling.column_at(item.table, stream.since.key)
        value = self.listings.row(stream, item)[column.name]
        try:
            known = self.api.spelling.parse(column, since, stream.since.format)
        except (ValueError, ArithmeticError):
            raise BadRequest(f"{since!r} cannot be read") from None
        return value is not None and (value > known if stream.since.strict else value >= known)

    # -- by id -------------------------------------------------------------------------------------------

    def _by_id(
        self, name: str, stream: Stream, by_id: ById, given: Mapping[str, str], request: Request, ordinal: int
    ) -> Answer:
        if by_id.param is None:
            found = self._find(name, stream, given)
            if found is None:
                forbidden = self._is_forbidden(stream, given)
                codes = by_id.forbidden if forbidden else by_id.gone
                code = 403 if 403 in codes else codes[0]
                return answer_json({"error": "forbidden" if forbidden else "not found"}, code)
            record: Any = self._record(name, stream, found, ordinal)
            return answer_json(self._under(stream, by_id, record))
        ids = dict(request.query)[by_id.param].split(by_id.separator)
        if len(ids) > by_id.batch:
            raise BadRequest(f"at most {by_id.batch} ids at once")
        several = [self._find(name, stream, {**given, "id": one}) for one in ids]
        records = [self._record(name, stream, one, ordinal) for one in several if one is not None]
        return answer_json(self._under(stream, by_id, records))

    def _find(self, name: str, stream: Stream, given: Mapping[str, str]) -> Item | None:
        for table in self.listings.primaries(stream):
            columns = self.api.models.key_columns(table)
            for row in self.listings.by_text(name, table, columns, _key_texts(columns, given)):
                return Item((), table, self.api.models.key(table, row))
        return None

    def _is_forbidden(self, stream: Stream, given: Mapping[str, str]) -> bool:
        for table in self.listings.primaries(stream):
            columns = self.api.models.key_columns(table)
            for forbidden, key in self.forbidden:
                row = dict(zip(columns, key, strict=False))
                if forbidden == table and _key_texts(columns, given) == tuple(
                    self.listings.text(table, column, row) for column in columns
                ):
                    return True
        return False

    def _under(self, stream: Stream, by_id: ById, value: Any) -> Any:
        """The answer's record, or records, where `records` says they stand."""
        return wrap(Path(stream.records if by_id.records is None else by_id.records).keys, value)

    # -- records ----------------------------------------------------------------------

    def _record(self, name: str, stream: Stream, item: Item, ordinal: int) -> msgspec.Raw:
        if (spoiled := self.spoiled.get((item.table, item.key))) is not None:
            return msgspec.Raw(spoiled)
        if self._edition != self.api.edition:
            self._records.clear()
            self._edition = self.api.edition
        at = (name, item.table, item.key)
        volatile = self.api.dialect.volatile
        if at not in self._records or volatile is not None:
            record = (
                self.api.deletion(stream, item.table, self.listings.row(stream, item))
                if stream.deletes
                else self.api.record(stream, item.table, item.key)
            )
            if volatile is not None:
                record[volatile] = ordinal
            self._records[at] = msgspec.Raw(msgspec.json.encode(record))
        return self._records[at]


def _key_texts(columns: tuple[str, ...], given: Mapping[str, str]) -> tuple[str, ...]:
    if len(columns) == 1:
        return (given.get("id") or given.get(columns[0], ""),)
    return tuple(given.get(column, "") for column in columns)
