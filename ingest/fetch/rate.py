"""How fast a source is asked: one budget for all its requests, which learns from 429s.

Requests are spaced evenly, for a burst at the start of a window is what servers count twice. A 429
holds every request back until its wait is over and halves the rate; each success then gives back a
fiftieth of it. A source without a stated rate is free until its first 429, and from then on is
asked at half the speed that brought it about.
"""

from __future__ import annotations

import re
from collections import deque

from ingest.clock import Clock
from ingest.errors import ConfigError
from ingest.source import seconds

#: part of the full rate that one success gives back
RECOVERY = 1 / 50
#: the slowest a source is asked, as a part of its full rate
SLOWEST = 1 / 16
#: sends that are remembered, to measure the speed of a source without a stated rate
REMEMBERED = 32

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(\d*(?:ms|s|m|h|d))")


def per_second(text: str, where: str | None = None) -> float:
    """Requests a second of a rate: `20/s`, `100/m`, `3/10s`."""
    found = _RATE.fullmatch(text.strip())
    period = found[2] if found else ""
    span = seconds(period if period[:1].isdigit() else f"1{period}") if found else 0.0
    if not found or float(found[1]) <= 0 or span <= 0:
        raise ConfigError(f"{text!r} is not a rate", where=where, hint="write 20/s, 100/m or 3/10s")
    return float(found[1]) / span


class Rate:
    """The rate budget of one source."""

    def __init__(self, full: float | None, clock: Clock) -> None:
        #: requests a second that are allowed, or that brought about the first 429; None before it
        self._full = full
        self._stated = full is not None
        self._clock = clock
        #: requests a second now; None is free
        self.current = full
        self._next = self._resume = self._slowed = float("-inf")
        self._sent: deque[float] = deque(maxlen=REMEMBERED)

    async def acquire(self) -> float:
        """Wait for this request's turn; the monotonic time at which it may be sent."""
        while True:
            turn = self._reserve()
            wait = turn - self._clock.monotonic()
            if wait > 0:
                await self._clock.sleep(wait)
            # a 429 that came in meanwhile has made the turn void
            if self._resume <= turn:
                self._sent.append(turn)
                return turn

    def slow(self, wait: float, sent: float) -> None:
        """A request sent at `sent` met a 429: hold all back for `wait` seconds, then go at half the rate."""
        now = self._clock.monotonic()
        self._resume = max(self._resume, now + wait)
        self._next = max(self._next, self._resume)
        # those sent before we slowed down say nothing new
        if sent <= self._slowed:
            return
        self._slowed = now
        if self._full is None:
            self._full = self._measured(now)
        self.current = max((self.current or self._full) / 2, self._full * SLOWEST)

    def recover(self) -> None:
        """A request succeeded: give back a little of the rate."""
        if self._full is None or self.current is None:
            return
        self.current += self._full * RECOVERY
        if self._stated:
            self.current = min(self.current, self._full)
        elif self.current > 2 * self._full:
            self._full = self.current = None

    def _reserve(self) -> float:
        turn = max(self._clock.monotonic(), self._next, self._resume)
        self._next = turn + (1 / self.current if self.current else 0.0)
        return turn

    def _measured(self, now: float) -> float:
        return max(1.0, len(self._sent) / max(1.0, now - self._sent[0] if self._sent else 1.0))
