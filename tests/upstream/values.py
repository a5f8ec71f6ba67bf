"""Hostile but valid values of a column's type: what an upstream may hold and every engine must keep.

Hostile is what has broken real mirrors: joined emoji, right-to-left and combining marks, text that
looks like SQL or null, the ends of integer ranges, numbers beyond 2**53, microseconds. Valid is what
all three engines can store alike: no NUL, no lone surrogate, no more digits than the column says.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import sqlalchemy as sa

#: pieces of text; each has broken something somewhere
TEXTS = (
    "plain words",
    "👩‍👩‍👧 family, 🏳️‍🌈 flag, 👍🏽 tone",
    "שלום עולם, مرحبا",
    "\u202eright to left override\u202c",
    "stacked: h\u0337\u0322e\u035c\u035dl\u0338p, e\u0301 is not \u00e9",
    "\U0001d49c\U0001d4c8\U0001d4c9 beyond the basic plane: 𠮷野家",
    "'); DROP TABLE users; --",
    'quo"te, back\\slash, per%cent, under_score',
    "line\nbreak\r\n\ttab",
    "\u2028line separator, \ufeffmark, \u200bzero width",
    "null",
    "NaN",
    "0",
    "  spaces around  ",
    "ﬁ ligature, ß, İi, ǅ",
    "{braces} ${dollar} <b>&amp;</b>",
)
#: pieces of keys: none has a comma, because a batch of ids is joined by commas
KEYS = ("k", "@user:host/", "e\u0301 ", "100%25?", "a+b&c=", "#$", "шифр", "🔑")

_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
#: no time lies ahead: what an API tells has happened
_SPAN = timedelta(days=365 * 25)
_INTEGERS = {sa.SmallInteger: 15, sa.BigInteger: 63, sa.Integer: 31}

Maker = Callable[[Any, Random, bool], Any]


def value(column: sa.Column[Any], random: Random, *, calm: bool, resolution: timedelta) -> Any:
    """A value for the column; a `calm` one is small and tame, for columns that a CHECK narrows."""
    kind = bare(column.type)
    if isinstance(kind, sa.DateTime):
        moment = _moment(random, resolution)
        return moment if kind.timezone else moment.replace(tzinfo=None)
    for types, make in _MAKERS:
        if isinstance(kind, types):
            return make(kind, random, calm)
    raise NotImplementedError(f"no hostile values for {column.type!r} of {column}")


def key_value(column: sa.Column[Any], random: Random, serial: int, *, resolution: timedelta) -> Any:
    """A value for a column whose values must differ; `serial` is different each time."""
    kind = bare(column.type)
    if isinstance(kind, sa.Enum):
        return value(column, random, calm=False, resolution=resolution)
    if isinstance(kind, sa.String):
        suffix = f"{serial:x}"
        room = max(0, (kind.length or 64) - len(suffix))
        return (random.choice(KEYS)[:room] + suffix)[-(kind.length or 64) :]
    if isinstance(kind, sa.Integer):
        bits = _bits(kind)
        return (
            serial
            if bits < 31
            else random.randrange(1, 2**bits)
            if bits == 31
            else random.randrange(2**53, 2**63)
        )
    return value(column, random, calm=False, resolution=resolution)


def bare(kind: Any) -> Any:
    """The type beneath decorators; SQLAlchemy's own Interval is one, and means more than what it wraps."""
    while isinstance(kind, sa.types.TypeDecorator) and not isinstance(kind, sa.Interval):
        kind = kind.impl_instance
    return kind


def _moment(random: Random, resolution: timedelta) -> datetime:
    """A time; one in four is a whole second, and one in eight one of eight that many rows share."""
    if random.random() < 0.125:
        return _FIRST + timedelta(days=1000 * random.randrange(8))
    moment = _FIRST + timedelta(microseconds=random.randrange(int(_SPAN / timedelta(microseconds=1))))
    if random.random() < 0.25:
        return moment.replace(microsecond=0)
    return _FIRST + (moment - _FIRST) // resolution * resolution


def _text(kind: Any, random: Random, calm: bool) -> str:
    length = kind.length or 2000
    if calm:
        return random.choice("abcdefgh")[:length]
    shape = random.random()
    if shape < 0.05:
        return ""
    if shape < 0.10:
        return (random.choice(TEXTS) * length)[: min(length, 500)].ljust(min(length, 500), "🧵")
    return " ".join(random.choices(TEXTS, k=random.randint(1, 3)))[:length]


def _bits(kind: Any) -> int:
    return next(bits for type_, bits in _INTEGERS.items() if isinstance(kind, type_))


def _integer(kind: Any, random: Random, calm: bool) -> int:
    if calm or random.random() < 0.5:
        return random.randint(0, 10)
    bits = _bits(kind)
    edge = random.choice((2**bits - 1, -(2**bits), 0, -1, random.randrange(2**bits)))
    return random.choice((2**53 + 1, edge)) if bits == 63 else edge


def _decimal(kind: Any, random: Random, calm: bool) -> Any:
    scale = kind.scale if kind.scale is not None else 2
    # SQLite keeps decimals as floats, which are exact to fifteen digits
    digits = min(kind.precision or 12, 1 + scale if calm else 15)
    number = Decimal(random.randrange(10**digits)).scaleb(-scale)
    return number if kind.asdecimal else float(number)


def _float(kind: Any, random: Random, calm: bool) -> float:
    if calm:
        return random.randint(0, 10) / 4
    if isinstance(kind, sa.Double) or (kind.precision or 0) > 24:
        return random.choice((0.1, -1e-7, 1.7976931348623157e308, 5e-324, 1 / 3, random.random()))
    # an engine may keep four bytes of it
    return random.choice((0.0, -0.5, 1.25, 65536.0, 0.1, 3.14159, random.randint(-9999, 9999) / 16))


def _json(_: Any, random: Random, calm: bool) -> Any:
    if calm:
        return {"n": random.randint(0, 10)}
    leaves = (None, True, False, 0, -1, 2**53 + 1, 0.5, "", *TEXTS)
    inner = {random.choice(TEXTS): random.choice(leaves) for _ in range(random.randint(0, 3))}
    return random.choice(
        ({}, [], inner, [random.choice(leaves), inner], {"deep": {"er": [inner, []]}, "": "empty key"})
    )


def _enum(kind: Any, random: Random, _: bool) -> Any:
    return random.choice(list(kind.enum_class or kind.enums))


def _length(kind: Any, random: Random, _: bool) -> bytes:
    return random.randbytes(min(kind.length or 40, random.choice((0, 1, 40))))


_MAKERS: tuple[tuple[Any, Maker], ...] = (
    (sa.Enum, _enum),
    (sa.String, _text),
    (sa.Boolean, lambda _, random, __: random.random() < 0.5),
    (sa.Integer, _integer),
    ((sa.Float, sa.Double), _float),
    (sa.Numeric, _decimal),
    (sa.Date, lambda _, random, __: (_FIRST + _SPAN * random.random()).date()),
    (sa.Time, lambda _, random, __: time(random.randrange(24), random.randrange(60), random.randrange(60))),
    (sa.Interval, lambda _, random, __: timedelta(seconds=random.randrange(10**6))),
    (sa.Uuid, lambda kind, random, _: _uuid(kind, random)),
    (sa.LargeBinary, _length),
    (sa.JSON, _json),
)


def _uuid(kind: Any, random: Random) -> Any:
    made = uuid.UUID(int=random.getrandbits(128), version=4)
    return made if kind.as_uuid else str(made)
