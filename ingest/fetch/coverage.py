"""What has been fetched of a partition: keys in one total order, and stretches of known ground with holes.

    newest                                                          oldest
      ├── stretch 3 ──┤ hole ├──── stretch 2 ────┤ hole ├── stretch 1 ──┤ the server's end
      high          low                                 cursor: goes on here

A newest-first walk runs down to the top of the stretch below it, and then the two are one. A walk
that dies leaves its cursor at the bottom of its stretch: the hole under it is filled from there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ingest.types import Walk

#: ids kept of a stretch's newest records: how a walk knows the ground again where keys do not compare
SEAM_IDS = 100

Unit: TypeAlias = Literal["iso", "seconds", "milliseconds", "value"]

_NUMBER, _TIME, _TEXT = range(3)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EARLIEST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LATEST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_INTEGER = re.compile(r"-?(?:0|[1-9]\d*)")
#: as python writes a float, exponents too
_DECIMAL = re.compile(r"-?\d+(?:\.\d+(?:e[+-]\d+)?|e[+-]\d+)")
_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?\s*(?:Z|z|[+-]\d\d(?::?\d\d)?)?)?")
#: the last name of a path whose numbers count from 1970: createdAt, origin_server_ts, timestamp
_TIMELY = re.compile(
    r"(?:.*_)?(?:at|ts|on|time|date|datetime|timestamp)|.*[a-z](?:At|Ts|TS|On|Time|Date|Timestamp)"
    r"|created|updated|modified|edited|posted|sent"
)
#: (from this magnitude on, microseconds a unit): seconds, milliseconds, microseconds, nanoseconds
_MAGNITUDES = (
    (10**17, Decimal("0.001")),
    (10**14, Decimal(1)),
    (10**11, Decimal(10**3)),
    (0, Decimal(10**6)),
)
_UNITS = {"seconds": Decimal(10**6), "milliseconds": Decimal(10**3)}


class CoverageKey(NamedTuple):
    """A coverage key: numbers before times before other text, each among themselves in their own order."""

    kind: int
    #: microseconds since 1970 of a time, the number itself, 0 for text
    value: int | float
    #: what is stored; the same key always has the same text
    text: str

    @classmethod
    def parse(cls, text: str) -> CoverageKey:
        """The key a text stands for; texts that mean the same time or number give the same key."""
        if _INTEGER.fullmatch(text):
            return cls(_NUMBER, int(text), str(int(text)))
        if _DECIMAL.fullmatch(text) and isfinite(float(text)):
            return _number(float(text))
        if _ISO.fullmatch(text):
            try:
                # some write a space before the zone; a time without one is taken for UTC
                time = datetime.fromisoformat(re.sub(r"\s+(?=[Z+-])", "", text).upper())
                time = time if time.tzinfo else time.replace(tzinfo=UTC)
                return _time((time.astimezone(UTC) - _EPOCH) // _MICROSECOND)
            except (ValueError, OverflowError):
                pass
        return cls(_TEXT, 0, text)

    @property
    def is_time(self) -> bool:
        """True for a key that is a time."""
        return self.kind == _TIME

    @property
    def is_number(self) -> bool:
        """True for a key that is a number."""
        return self.kind == _NUMBER

    def earlier(self, seconds: float) -> CoverageKey:
        """The key this much before; only times are moved."""
        return _time(int(self.value) - int(seconds * 1_000_000)) if self.is_time else self


def coverage_key(value: Any, *, unit: Unit | None = None, name: str = "") -> CoverageKey | None:
    """The key of a record's value; None for what cannot be compared.

    A number counts from 1970 where `unit` says so, or where `name`, the last of the value's path,
    reads like a time; its magnitude then tells seconds from milliseconds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
        return None
    if unit in _UNITS or _TIMELY.fullmatch(name):
        time = _since_1970(value, _UNITS.get(unit or ""))
        if time is not None:
            return time
    return CoverageKey.parse(value) if isinstance(value, str) else _number(value)


def since_value(key: CoverageKey, form: Unit, *, strict: bool) -> str:
    """The value that asks for everything from `key` on, ties included.

    A server that means "later than" is asked from one unit before; whole seconds are rounded down.
    """
    if key.is_time and form in _UNITS:
        return str(int(key.value) // int(_UNITS[form]) - (1 if strict else 0))
    if key.is_time:
        text = _time(int(key.value) - 1).text if strict else key.text
        return text.replace(".000000Z", "Z")
    if strict and isinstance(key.value, int) and key.kind == _NUMBER:
        return str(key.value - 1)
    return key.text


def _number(value: int | float) -> CoverageKey:
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return CoverageKey(_NUMBER, value, str(value))


def _time(microseconds: int) -> CoverageKey:
    # a null date of year 1 less a minute is still year 1
    microseconds = min(max(microseconds, _EARLIEST), _LATEST)
    time = _EPOCH + timedelta(microseconds=microseconds)
    return CoverageKey(_TIME, microseconds, time.isoformat(timespec="microseconds").replace("+00:00", "Z"))


def _since_1970(value: int | float | str, scale: Decimal | None) -> CoverageKey | None:
    try:
        number = Decimal(str(value))
        if scale is None:
            scale = next(scale for magnitude, scale in _MAGNITUDES if abs(number) >= magnitude)
        return _time(int(number * scale))
    except (InvalidOperation, ValueError, OverflowError):
        return None


def lowest(*texts: str | None) -> str | None:
    """The text of the smallest key, None without any."""
    keys = [CoverageKey.parse(text) for text in texts if text is not None]
    return min(keys).text if keys else None


def highest(*texts: str | None) -> str | None:
    """The text of the largest key, None without any."""
    keys = [CoverageKey.parse(text) for text in texts if text is not None]
    return max(keys).text if keys else None


# -- known ground --------------------------------------------------------------------------------------


class Stretch(msgspec.Struct, array_like=True):
    """What one walk has covered so far, and the hole where it stopped."""

    walk: Walk
    #: hash of the stream the cursor belongs to
    hash: str
    #: run of the last page
    run: str
    #: stamp of the first page
    first: int
    #: label of the last page
    label: int
    #: asks for the next page of the hole under this stretch; None where there is none
    cursor: str | None = None
    #: whole: no hole under it; open: the cursor fills it; lost: the cursor is no good any more, and only
    #: a new walk through this stretch fills it; refused: the server does not serve what is below
    hole: Literal["whole", "open", "lost", "refused"] = "open"
    pages: int = 0
    records: int = 0
    low: str | None = None
    high: str | None = None
    #: ids of the newest records, at most SEAM_IDS
    ids: list[str] = []
    #: a cursor of this walk that was kept to notice a ring (Brent: the pages 1, 2, 4, 8 …)
    anchor: str | None = None

    def lost_to(self, hash: str) -> bool:
        """True when nothing resumes the hole under this stretch for a stream of this hash."""
        return self.hole == "lost" or (self.hole != "whole" and self.hash != hash)


class Floor(NamedTuple):
    """The ground that a newest-first walk runs down to."""

    #: the newest key known
    high: CoverageKey | None = None
    #: the walk may end below this key: records up to it may have changed, or have come late
    until: CoverageKey | None = None
    #: ids of the newest records known
    ids: frozenset[str] = frozenset()


class Meeting(NamedTuple):
    """Where a page meets known ground, and whether the walk may end there."""

    seam: int | None = None
    ends: bool = False


def floor(stretch: Stretch | None, reread: float) -> Floor:
    """The floor a stretch makes for the walk above it, which reads `reread` seconds of it again."""
    if stretch is None:
        return Floor()
    high = CoverageKey.parse(stretch.high) if stretch.high is not None else None
    return Floor(high, high.earlier(reread) if high else None, frozenset(stretch.ids))


def meet(under: Floor, keys: Sequence[CoverageKey | None], ids: Sequence[str | None]) -> Meeting:
    """Where a newest-first page meets the floor.

    By keys, what is known is the end of the page: an old record pinned to the top is not the floor.
    The walk ends strictly below it, for of several records with one key some may be new.
    """
    comparable = [key for key in keys if key is not None]
    if under.high is None or under.until is None or not comparable:
        seam = next((index for index, id in enumerate(ids) if id is not None and id in under.ids), None)
        return Meeting(seam, seam is not None)
    seam = len(keys)
    while seam and ((key := keys[seam - 1]) is None or key <= under.high):
        seam -= 1
    return Meeting(seam if seam < len(keys) else None, comparable[-1] < under.until)


def plausible(
    keys: Sequence[CoverageKey | None], under: Floor, now: CoverageKey | None
) -> list[CoverageKey | None]:
    """The keys that can be believed, None for the others.

    One record with a wild key (a sender's clock in 2099, a word among times) would stand above all that is
    ever going to come, and hide it: such a record counts as one that states no key.
    """
    kinds = Counter(key.kind for key in keys if key is not None)
    if under.high is not None and under.high.kind in kinds:
        kind = under.high.kind
    else:
        kind = max(kinds, key=lambda one: (kinds[one], one != _TEXT), default=_TEXT)
    return [
        key
        if key is not None and key.kind == kind and not (key.is_time and now is not None and key > now)
        else None
        for key in keys
    ]


def lost_from(ground: Sequence[Stretch], hash: str) -> int:
    """Index of the lowest stretch with a hole that no cursor fills; how many there are when none has."""
    return next((index for index, stretch in enumerate(ground) if stretch.lost_to(hash)), len(ground))


def begin(ground: list[Stretch], stretch: Stretch) -> None:
    """A walk starts at the top. It goes down through every hole that only it can fill."""
    del ground[lost_from(ground, stretch.hash) :]
    ground.append(stretch)


def beneath(ground: Sequence[Stretch], walk: str) -> Stretch | None:
    """The stretch that a walk in progress runs down to."""
    below = None
    for stretch in ground:
        if stretch.walk.id == walk:
            return below
        below = stretch
    return None


def finish(ground: list[Stretch], index: int, *, met: bool) -> None:
    """A walk has ended: its stretch and the one below become one, with the hole of the one below.

    One whose last page has not `met` known ground came to the server's end, and has passed every hole
    on its way; unless it saw nothing at all, which proves nothing.
    """
    upper = ground[index]
    if index and (met or not upper.records):
        lower = ground[index - 1]
        lower.low, lower.high, lower.ids = _joined(upper, lower)
        del ground[index]
        return
    for lower in reversed(ground[:index]):
        upper.low, upper.high, upper.ids = _joined(upper, lower)
    upper.cursor, upper.hole = None, "whole"
    del ground[:index]


def _joined(upper: Stretch, lower: Stretch) -> tuple[str | None, str | None, list[str]]:
    ids = list(dict.fromkeys((*upper.ids, *lower.ids)))[:SEAM_IDS]
    return lowest(upper.low, lower.low), highest(upper.high, lower.high), ids
