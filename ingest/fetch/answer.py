"""What a reply means: an answer, a reason to ask again, or an error."""

from __future__ import annotations

from collections.abc import Container
from http import HTTPStatus
from typing import Any, NamedTuple

import httpx

from ingest.clock import Clock
from ingest.config import ConfiguredSource
from ingest.errors import AuthFailed, BadAnswer, Refused
from ingest.fetch.auth import Credentials
from ingest.fetch.body import NotJson, decode
from ingest.fetch.rate import Rate
from ingest.fetch.retry import RETRIED, Unready, stated_wait
from ingest.paths import Path
from ingest.source import ErrorBody
from ingest.types import Read, read_json

#: seconds the whole source holds back after a 429 that states no wait
UNSTATED_PAUSE = 1.0


class Answer(NamedTuple):
    """An answer the caller can use: status 2xx, or one it said it would accept."""

    status: int
    headers: httpx.Headers
    #: decompressed
    body: bytes
    #: the body as it was asked to be read; None for a status outside 200..299 whose body is not JSON
    json: Any


class Reply(NamedTuple):
    """What came back, before anything is made of it."""

    status: int
    headers: httpx.Headers
    body: bytes
    #: something other than the end of the connection said where the body ends
    whole: bool
    #: monotonic time at which the request went out
    sent: float
    #: where a redirect leads
    location: str | None = None


class Judge:
    """Tells answers from failures, by what the source states of itself."""

    def __init__(self, source: ConfiguredSource, credentials: Credentials, rate: Rate, clock: Clock) -> None:
        self._source = source.source
        self._credentials = credentials
        self._rate = rate
        self._clock = clock

    def judged(self, reply: Reply, accept: Container[int], read: Read = read_json) -> Answer:
        """The answer; Unready when it is worth asking again, else Refused, BadAnswer or AuthFailed."""
        unsaid = self._credentials.without_echo
        headers = httpx.Headers([(name, unsaid(value)) for name, value in reply.headers.raw])
        reply = reply._replace(body=unsaid(reply.body), headers=headers)
        if 200 <= reply.status < 300:
            answer = self._decoded(reply, read)
            self._check_errors(answer)
            self._rate.recover()
            return answer
        if reply.status in accept:
            return Answer(reply.status, reply.headers, reply.body, _json(reply.body))
        self.check_ready(reply)
        if reply.status == 401:
            raise AuthFailed(self._said(reply), hint=f"check {self._credentials.key}")
        raise Refused(self._said(reply), status=reply.status)

    def check_ready(self, reply: Reply) -> None:
        """Unready for a status that may pass; a 429 slows the whole source down."""
        if reply.status not in RETRIED:
            return
        after = self._stated_wait(reply.headers, _json(reply.body))
        if reply.status == 429:
            self._rate.slow(after or UNSTATED_PAUSE, reply.sent)
        raise Unready(self._said(reply), status=reply.status, after=after)

    def _decoded(self, reply: Reply, read: Read) -> Answer:
        try:
            return Answer(reply.status, reply.headers, reply.body, decode(reply.body, read))
        except NotJson as error:
            problem = error
        if not reply.body.strip():
            raise BadAnswer(f"status {reply.status} with an empty body, where JSON was expected")
        kind = reply.headers.get("content-type", "no content type")
        shown = self._credentials.excerpt(reply.body)
        message = f"status {reply.status} with {kind}, which is not JSON ({problem}): {shown}"
        # where only the end of the connection ends the body, nobody else would notice that it was cut
        if problem.cut and not reply.whole:
            raise Unready(message)
        raise BadAnswer(message, hint="is base_url right?" if "html" in kind else None)

    def _check_errors(self, answer: Answer) -> None:
        for stated in self._source.errors:
            if not _is_error(stated, answer.json):
                continue
            text = Path(stated.message).first(answer.json) if stated.message else None
            shown = self._credentials.excerpt(answer.body if text is None else str(text).encode())
            message = f"status {answer.status} with an error: {shown}"
            if stated.retry:
                after = self._stated_wait(answer.headers, answer.json)
                raise Unready(message, status=answer.status, after=after)
            raise Refused(message, status=answer.status)

    def _stated_wait(self, headers: httpx.Headers, json: Any) -> float | None:
        return stated_wait(headers, json, self._source.transport, self._clock.now())

    def _said(self, reply: Reply) -> str:
        try:
            name = f" {HTTPStatus(reply.status).phrase}"
        except ValueError:
            name = ""
        shown = self._credentials.excerpt(reply.body)
        return f"status {reply.status}{name}" + (f": {shown}" if shown else "")


def _json(body: bytes) -> Any:
    try:
        return decode(body)
    except NotJson:
        return None


def _is_error(stated: ErrorBody, json: Any) -> bool:
    """The path leads to something; null, false, 0 and what is empty say that there is no error."""
    found = Path(stated.path).first(json)
    if stated.equals is None:
        return bool(found)
    return type(found) is type(stated.equals) and found == stated.equals
