"""The form in which a whole row is kept aside: its stated values and what its rank does not say."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from ingest.catalog import Table

#: why a value is kept aside. missing: its parent is not in the mirror; cascade, deleted: a tombstone;
#: incomplete: a NOT NULL column was never stated; collision: a newer row has its unique value; refused: its
#: parent is there again, but a constraint is against it
Reason = Literal["missing", "cascade", "deleted", "incomplete", "collision", "refused"]

#: how the proof begins of a row that was not there when it was asked for by id
BY_ID = "asked by id "
#: and of one that a complete listing left out
LEFT_OUT = "left out of a listing "
#: in `column`, before a foreign key's name: one of the references for which a whole row is withheld
FOR = ">"


def dump_row(values: Mapping[str, Any], exceptions: str | None) -> str:
    """A withheld row's `value`."""
    return msgspec.json.encode({"values": values, "exceptions": exceptions}, order="sorted").decode()


def load_row(table: Table, value: str) -> tuple[dict[str, Any], str | None]:
    """The stated values and the exceptions of a withheld row."""
    held = msgspec.json.decode(value)
    values: dict[str, Any] = held["values"]
    for column in table.columns:
        if isinstance(column.type, sa.LargeBinary) and values.get(column.name) is not None:
            values[column.name] = base64.b64decode(values[column.name])
    return values, held["exceptions"]
