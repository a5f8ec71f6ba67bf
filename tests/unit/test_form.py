"""The stored form: what SQLAlchemy writes into SQLite, whatever the engine."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from ingest.form import stored, time_text
from ingest.mirror import UtcDateTime


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-02T03:04:05.678Z",
        "2024-01-02T03:04:05.678901Z",
        "2024-02-29T23:59:59.000Z",
        "2024-01-02T03:04:05Z",
        "2024-01-02 03:04:05.678Z",
        "2024-W01-2T03:04:05.678Z",
        "2024-01-02T03:04:05.67Z",
        "2024-01-02T03:04:05.678z",
        "20240102T030405.678901234Z",
        "2024-01-02T03:04:05.678+00",
        "2024-01-02T03:04:05.678901-02:00",
        "2024-01-02T03:04:05,678Z",
        "0001-01-01T00:00:00.000Z",
    ],
)
def test_a_time_by_its_text_is_the_time_that_is_read_from_it(text: str) -> None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return  # not asked of what is no time
    told = time_text(text)
    if told is not None:
        assert told == stored(UtcDateTime(), moment.astimezone(UTC))


@pytest.mark.parametrize(
    ("value", "form"), [(Decimal("1.50"), 1.5), (Decimal("2.00"), 2), (Decimal("-0.00"), 0)]
)
def test_a_decimal_is_a_number_and_an_integer_where_it_is_one(value: Decimal, form: Any) -> None:
    made = stored(sa.Numeric(10, 2), value)
    assert (made, type(made)) == (form, type(form))
