"""Requests built from a stream's templates: path, query and body with their parameters filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from ingest.errors import BadAnswer, ConfigError
from ingest.paths import Path
from ingest.source import ById, Stream
from ingest.types import Request, canonical

#: what `stated` returns for a value that a request does not have
ABSENT = object()

_PARAMETER = re.compile(r"\{([A-Za-z_][\w.\-]*)\}")


def by_id_request(by_id: ById, ids: Sequence[str], referrer: Mapping[str, str]) -> Request:
    """The request for records by their ids: one in the path, or several in `param`."""
    if not ids or (len(ids) > 1 and by_id.param is None):
        raise ConfigError(
            f"{len(ids)} ids cannot be asked for at once", where=by_id.path, hint="state param and batch"
        )
    if not all(ids):
        raise BadAnswer("an id is empty", where=by_id.path, hint="an empty filter would list everything")
    if any(by_id.separator in id_ for id_ in ids) and len(ids) > 1:
        raise BadAnswer(
            f"an id holds the separator {by_id.separator!r}", where=by_id.path, hint="set batch = 1"
        )
    values = {"id": ids[0], **{f"referrer.{column}": value for column, value in referrer.items()}}
    query = tuple((name, _filled(_text(value), values)) for name, value in by_id.query.items())
    request = Request(path=_filled_path(by_id.path, values), query=query)
    return with_values(request, {by_id.param: by_id.separator.join(ids)}) if by_id.param else request


def plain(stream: Stream, parameters: Mapping[str, str], extra: Mapping[str, str]) -> Request:
    """The stream's request without a cursor, with its limit and `extra`."""
    if stream.path is None:
        raise ConfigError("is only asked by id", hint="state a path")
    body = None if stream.body is None else canonical(_filled_body(stream.body, parameters))
    query = tuple((name, _filled(_text(value), parameters)) for name, value in stream.query.items())
    request = Request(
        method=stream.method, path=_filled_path(stream.path, parameters), query=query, body=body
    )
    paged = stream.paginate
    limit = {paged.limit_param: paged.limit} if paged is not None and paged.limit is not None else {}
    return with_values(request, {**limit, **extra})


def with_values(request: Request, values: Mapping[str, Any]) -> Request:
    """The request with values set: in its JSON body if it has one, in its query otherwise."""
    if not values:
        return request
    if request.body is not None:
        body = msgspec.json.decode(request.body)
        for name, value in values.items():
            _put(body, Path(name).keys, value)
        return msgspec.structs.replace(request, body=canonical(body))
    kept = [pair for pair in request.query if pair[0] not in values]
    added = [(name, _text(value)) for name, value in values.items()]
    return msgspec.structs.replace(request, query=(*kept, *added))


def _put(body: Any, keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        body = body.setdefault(key, {})
    body[keys[-1]] = value


# -- templates -----------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _PARAMETER.sub(lambda found: _value(found[1], values), template)


def _filled_path(template: str, values: Mapping[str, str]) -> str:
    def segment(found: re.Match[str]) -> str:
        value = _value(found[1], values)
        # `/users//posts` and `/users/../posts` are other endpoints
        if not value:
            raise BadAnswer(f"{found[1]} is empty, and stands in the path {template}")
        return quote(value, safe="") if value.strip(".") else value.replace(".", "%2E")

    return _PARAMETER.sub(segment, template)


def _filled_body(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled_body(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled_body(inner, values) for inner in value]
    return _filled(value, values) if isinstance(value, str) else value


def _value(name: str, values: Mapping[str, str]) -> str:
    if name not in values:
        raise ConfigError(
            f"nothing gives {{{name}}} a value", hint=f"known: {', '.join(values) or 'nothing'}"
        )
    return values[name]


def used(request: Request, param: str) -> Any:
    """The cursor that the request was made with, ABSENT for a first page."""
    if request.body is not None:
        return Path(param).first(msgspec.json.decode(request.body), ABSENT)
    return dict(request.query).get(param, ABSENT)
