"""When a request is sent again, how long is waited before it, and when that ends.

A failure without a stated wait uses up one of `transport.attempts`, after an exponential wait. One
with a stated wait (`Retry-After`, or a field of the body) is waited out as asked, and is bounded by
`transport.max_wait` in all instead: a server that says when to come back is not a broken one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from ingest.errors import BadAnswer, GiveUp, Refused, Retry
from ingest.paths import Path
from ingest.source import Transport, seconds

#: statuses that may pass: asked too early, too often, or of a server in trouble
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
#: seconds before the second attempt, doubled with each further one
FIRST_WAIT = 0.5
#: seconds an exponential wait never exceeds
LONGEST_WAIT = 30.0

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Unready(Retry):
    """The upstream is not ready; ask again later."""

    def __init__(
        self, message: str, *, status: int | None = None, after: float | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, after=after)
        #: the answer's status; None when there was no whole answer
        self.status = status
        self.hint = hint


def stated_wait(headers: httpx.Headers, json: Any, transport: Transport, now: datetime) -> float | None:
    """Seconds the server asks us to wait, in the body's field or the header; None when it doesn't say."""
    if transport.retry_after is not None:
        stated = _number(Path(transport.retry_after).first(json))
        if stated is not None:
            return stated / 1000 if transport.retry_after_unit == "ms" else stated
    text = headers.get("retry-after", "").strip()
    return _number(text) if _NUMBER.fullmatch(text) else _until(text, now)


def _number(value: Any) -> float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    return None


def _until(text: str, now: datetime) -> float | None:
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    # "-0000" makes a naive time; HTTP dates are GMT whatever they say
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())


class Patience:
    """How much one request may still be repeated."""

    def __init__(self, transport: Transport, jitter: random.Random, *, attempts: int | None = None) -> None:
        #: `attempts`: in place of the source's
        self.attempts = 0
        self._allowed = transport.attempts if attempts is None else attempts
        self._max_wait = seconds(transport.max_wait)
        self._jitter = jitter
        self._failed = 0
        self._waited = 0.0

    def retrying(
        self,
        sleep: Callable[[int | float], Awaitable[None]],
        before_sleep: Callable[[Unready, int, float], None],
    ) -> AsyncRetrying:
        """Repeats a call while it raises Unready; `before_sleep` is told the error, attempt and wait."""

        def told(state: RetryCallState) -> None:
            before_sleep(_error(state), state.attempt_number, state.upcoming_sleep)

        return AsyncRetrying(
            sleep=sleep,
            wait=self._wait,
            stop=self._stop,
            retry=retry_if_exception_type(Unready),
            before_sleep=told,
            reraise=True,
        )

    def given_up(self, error: Unready) -> GiveUp:
        """What the last Unready becomes: Refused where there was a status, else BadAnswer."""
        tries = f"{self.attempts} attempt{'s' if self.attempts != 1 else ''}"
        message = f"{error.message}; gave up after {tries}"
        hint = error.hint
        if error.after is not None:
            message += f", the server asks to wait {error.after:g}s"
            hint = f"transport.max_wait allows {self._max_wait:g}s of stated waits in all"
        if error.status is None:
            return BadAnswer(message, hint=hint)
        return Refused(message, status=error.status, hint=hint)

    def _wait(self, state: RetryCallState) -> float:
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(state.attempt_number - 1, 16))
        backoff = longest * self._jitter.uniform(0.5, 1.0)
        # never less than the backoff, or `Retry-After: 0` would burn every attempt at once
        return max(backoff, _error(state).after or 0.0)

    def _stop(self, state: RetryCallState) -> bool:
        self.attempts = state.attempt_number
        if _error(state).after is None:
            self._failed += 1
            return self._failed >= self._allowed
        self._waited += state.upcoming_sleep
        return self._waited > self._max_wait


def _error(state: RetryCallState) -> Unready:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Unready)
    return error
