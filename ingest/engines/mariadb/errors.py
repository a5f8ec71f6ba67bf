"""What MariaDB's errors are of, by the server's numbers: drivers class them each in its own way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

_READ_ONLY = 1792
#: integrity, not all of it in the eyes of every driver (1364: nothing is said of a column without a default)
_CONSTRAINTS = {1062: "UNIQUE", 1048: "NOT NULL", 1364: "NOT NULL", 4025: "CHECK"}
#: no such value, out of range, too long, not a date, not UTF-8, not JSON, a row that is too big
_DATA = {1118, 1264, 1265, 1292, 1300, 1366, 1367, 1406, 1411, 1525, 1690, 4038}
#: a deadlock, a lock not to be had in time, a row or a table that changed since; 1305 is what follows when
#: a deadlock has undone the savepoint that is gone back to
_PASSING = {1213, 1205, 1020, 1412, 1305}
#: a row's values, and its place among those it came with
_VALUES = re.compile(r"(?s)(?<=entry )'.*' (?=for key)|(?<=value: )'.*' (?=for column)| at row \d+$")


def violated(error: sa.exc.DBAPIError) -> str | None:
    """What a row violates, in words; None when the error is not a row's."""
    number = _number(error)
    if number in _CONSTRAINTS:
        return f"{_CONSTRAINTS[number]}: {said(error)}"
    return said(error) if number in _DATA else None


def is_passing(error: sa.exc.DBAPIError) -> bool:
    """True when the same may succeed if it is tried again."""
    return _number(error) in _PASSING


def is_of_a_reader(error: Exception) -> bool:
    """True when a reader was told to write."""
    return _number(error) == _READ_ONLY


def as_integrity(error: BaseException | None) -> sa.exc.IntegrityError | None:
    """The error by its right name, where the driver has another for it; None where it has not."""
    if not isinstance(error, sa.exc.DBAPIError) or isinstance(error, sa.exc.IntegrityError):
        return None
    if _number(error) not in _CONSTRAINTS or error.orig is None:
        return None
    return sa.exc.IntegrityError(error.statement, None, error.orig, hide_parameters=True)


def said(error: Exception) -> str:
    """What the server says, without the values of a row."""
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    arguments: Sequence[Any] = getattr(original, "args", ())
    text = str(arguments[1] if len(arguments) > 1 else original)
    return _VALUES.sub("", text).partition("\n")[0]


def _number(error: Exception) -> int:
    """The server's number; 0 when it has none."""
    arguments: Sequence[Any] = getattr(getattr(error, "orig", None), "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0
