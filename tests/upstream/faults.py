"""Faults, and when they strike.

    faults = Faults(seed=7)
    faults.at(3, status(503))                       # the third request, counted from 1
    faults.at(5, too_many(2, "date"), too_many(0))  # the fifth and the sixth
    faults.after(100, disconnect())                 # every request after the hundredth
    faults.first(2, status(500))                    # the first two tries of every different request
    faults.sometimes(0.1, cut_body())               # one in ten, by the seed and the request's number
    faults.clear()                                  # the server is well again

Each takes `path="/messages"` to strike only requests whose path contains it. The rule stated first wins.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any, Literal

import msgspec

from ingest.errors import ConfigError
from ingest.paths import Path
from ingest.source import Source
from ingest.types import Json
from tests.upstream.dialect import put
from tests.upstream.wire import Answer, Request, answer_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What a fault may need to know."""

    request: Request
    source: Source
    #: scheme, host and port of the server
    origin: str
    now: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something that goes wrong with one answer."""

    name: str
    change: Callable[[Answer, Scene], Answer]
    #: the next token is the one that was asked with
    ring: bool = False


# -- when ------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class _Rule:
    strikes: Callable[[int, Request], Fault | None]
    path: str


class Faults:
    """A schedule of faults by the number of the request; the same seed gives the same faults."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._rules: list[_Rule] = []

    def at(self, ordinal: int, *faults: Fault, path: str = "") -> Faults:
        """The request with this number, and the ones that follow it, one fault each."""
        return self._add(lambda n, _: faults[n - ordinal] if 0 <= n - ordinal < len(faults) else None, path)

    def after(self, ordinal: int, fault: Fault, path: str = "") -> Faults:
        """Every request after the one with this number."""
        return self._add(lambda n, _: fault if n > ordinal else None, path)

    def first(self, times: int, fault: Fault, path: str = "") -> Faults:
        """The first tries of every different request."""
        tries: Counter[tuple[Any, ...]] = Counter()

        def strikes(_: int, request: Request) -> Fault | None:
            tried = (request.method, request.path, request.query, request.body)
            tries[tried] += 1
            return fault if tries[tried] <= times else None

        return self._add(strikes, path)

    def sometimes(self, share: float, *faults: Fault, path: str = "") -> Faults:
        """This share of the requests, each with one of the faults."""

        def strikes(n: int, _: Request) -> Fault | None:
            random = Random(f"{self.seed}:{n}")
            return random.choice(faults) if random.random() < share else None

        return self._add(strikes, path)

    def always(self, fault: Fault, path: str = "") -> Faults:
        """Every request."""
        return self.after(0, fault, path)

    def clear(self) -> None:
        """No more faults."""
        self._rules.clear()

    def strike(self, ordinal: int, request: Request) -> Fault | None:
        """The fault that strikes this request."""
        for rule in self._rules:
            if rule.path in request.path and (fault := rule.strikes(ordinal, request)) is not None:
                return fault
        return None

    def _add(self, strikes: Callable[[int, Request], Fault | None], path: str) -> Faults:
        self._rules.append(_Rule(strikes=strikes, path=path))
        return self


# -- what ------------------------------------------------------------------------------------------------


def status(code: int, message: str = "something went wrong") -> Fault:
    """This status, with a JSON body."""
    return Fault(name=f"status {code}", change=lambda _, __: answer_json({"error": message}, code))


def too_many(wait: float, form: Literal["seconds", "date", "body", "none"] = "seconds") -> Fault:
    """429, and how long to wait: in a header as seconds or as a date, in the body, or unsaid."""

    def change(_: Answer, scene: Scene) -> Answer:
        body: dict[str, Json] = {"error": "too many requests"}
        answer = answer_json(body, 429)
        if form == "seconds":
            return answer.with_header("Retry-After", f"{wait:g}")
        if form == "date":
            moment = scene.now.astimezone(UTC) + timedelta(seconds=wait)
            return answer.with_header("Retry-After", format_datetime(moment, usegmt=True))
        if form == "body":
            transport = scene.source.transport
            if transport.retry_after is None:
                raise ConfigError("the source names no body field that holds the wait")
            unit = 1000 if transport.retry_after_unit == "ms" else 1
            put(body, Path(transport.retry_after).keys, int(wait * unit))
            return answer_json(body, 429)
        return answer

    return Fault(name=f"too many, {form} {wait:g}", change=change)


def cut_body(keep: float = 0.5) -> Fault:
    """The headers promise the whole body; a share of it comes, and the connection closes."""
    return Fault(name="cut body", change=lambda answer, _: replace(answer, keep=int(len(answer.body) * keep)))


def cut_json(keep: float = 0.5) -> Fault:
    """A share of the JSON, and headers that say it is all."""
    return Fault(
        name="cut JSON",
        change=lambda answer, _: replace(answer, body=answer.body[: int(len(answer.body) * keep)]),
    )


def zipped() -> Fault:
    """No fault: the body compressed by gzip."""
    return Fault(name="gzip", change=lambda answer, _: _gzipped(answer))


def cut_gzip(keep: float | None = None) -> Fault:
    """A gzip stream that ends early, headers agreeing; without `keep` only its trailer is missing."""

    def change(answer: Answer, _: Scene) -> Answer:
        whole = _gzipped(answer)
        return replace(whole, body=whole.body[: -8 if keep is None else int(len(whole.body) * keep)])

    return Fault(name="cut gzip", change=change)


def bomb(size: int = 64 * 2**20) -> Fault:
    """A small body that gzip makes so many bytes of: spaces before the JSON."""
    return Fault(
        name="bomb", change=lambda answer, _: _gzipped(replace(answer, body=b" " * size + answer.body))
    )


def drip(piece: int = 1, pause: float = 0.01) -> Fault:
    """The body comes in pieces, with a pause after each."""
    return Fault(name="drip", change=lambda answer, _: replace(answer, drip=(piece, pause)))


def disconnect(when: Literal["before headers", "after headers"] = "before headers") -> Fault:
    """The connection closes before, or right after, the headers."""
    return Fault(name=f"disconnect {when}", change=lambda answer, _: replace(answer, breaks=when))


def silence() -> Fault:
    """No answer comes, and the connection stays open."""
    return Fault(name="silence", change=lambda answer, _: replace(answer, breaks="never answers"))


def html(code: int = 200) -> Fault:
    """A page for people, of a proxy that stands before the API."""
    page = b"<!doctype html><title>Just a moment</title><p>Please come back later."
    kind = (("Content-Type", "text/html; charset=utf-8"),)
    return Fault(name=f"HTML {code}", change=lambda _, __: Answer(status=code, headers=kind, body=page))


def error_in_200(which: int = 0, message: str = "try again") -> Fault:
    """The error that the source's `errors` describe, in an answer with status 200."""

    def change(_: Answer, scene: Scene) -> Answer:
        error = scene.source.errors[which]
        body: dict[str, Json] = {}
        put(body, Path(error.path).keys, True if error.equals is None else error.equals)
        if error.message is not None and error.message != error.path:
            put(body, Path(error.message).keys, message)
        return answer_json(body)

    return Fault(name="error in 200", change=change)


def redirect(origin: str, code: int = 302) -> Fault:
    """A redirect to the same path elsewhere."""

    def change(_: Answer, scene: Scene) -> Answer:
        return Answer(status=code, headers=(("Location", f"{origin}{scene.request.path}"),))

    return Fault(name=f"redirect to {origin}", change=change)


def foreign_next(origin: str) -> Fault:
    """Whatever leads to the next page leads to another origin."""

    def change(answer: Answer, scene: Scene) -> Answer:
        headers = tuple((name, value.replace(scene.origin, origin)) for name, value in answer.headers)
        return replace(
            answer, headers=headers, body=answer.body.replace(scene.origin.encode(), origin.encode())
        )

    return Fault(name=f"next at {origin}", change=change)


def ring() -> Fault:
    """The token for the next page is the one that asked for this one."""
    return Fault(name="ring", change=lambda answer, _: answer, ring=True)


def instead(body: bytes, kind: str = "application/json") -> Fault:
    """This body, whatever was asked for."""
    return Fault(name="instead", change=lambda _, __: Answer(headers=(("Content-Type", kind),), body=body))


def deny(path: str, value: Json) -> Fault:
    """One value in the body is another: a wrong total, a missing list."""

    def change(answer: Answer, _: Scene) -> Answer:
        body = msgspec.json.decode(answer.body)
        put(body, Path(path).keys, value)
        return replace(answer, body=msgspec.json.encode(body))

    return Fault(name=f"{path} = {value!r}", change=change)


def _gzipped(answer: Answer) -> Answer:
    packed = replace(answer, body=gzip.compress(answer.body, compresslevel=1, mtime=0))
    return packed.with_header("Content-Encoding", "gzip")
