"""Every type a column may have, once, and rows that wait for others."""

from __future__ import annotations

import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.mirror import UtcDateTime, when_missing


class Base(DeclarativeBase):
    pass


class Colour(enum.Enum):
    """Told by value."""

    RED = "red-ish"
    GREEN = "green-ish"


class Level(enum.IntEnum):
    """Told as a number."""

    LOW = 1
    HIGH = 20


class Shouted(sa.types.TypeDecorator[str]):
    """A type of the user's own."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.upper() + "!"

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.removesuffix("!").lower()


def by_value(kind: type[enum.Enum]) -> sa.Enum:
    return sa.Enum(
        kind,
        native_enum=False,
        length=20,
        values_callable=lambda members: [str(one.value) for one in members],
    )


class Owner(Base):
    __tablename__ = "owners"
    id: Mapped[int] = mapped_column(primary_key=True)


class Thing(Base):
    """All of its columns may be NULL, so that each can be tried alone."""

    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id", info=when_missing("park")))
    integer: Mapped[int | None] = mapped_column(sa.Integer)
    small: Mapped[int | None] = mapped_column(sa.SmallInteger)
    big: Mapped[int | None] = mapped_column(sa.BigInteger)
    string: Mapped[str | None] = mapped_column(sa.String(40))
    text: Mapped[str | None] = mapped_column(sa.Text)
    unicode: Mapped[str | None] = mapped_column(sa.UnicodeText)
    boolean: Mapped[bool | None] = mapped_column(sa.Boolean)
    checked: Mapped[bool | None] = mapped_column(sa.Boolean(create_constraint=True))
    float: Mapped[Any | None] = mapped_column(sa.Float)
    double: Mapped[Any | None] = mapped_column(sa.Double)
    numeric: Mapped[Any | None] = mapped_column(sa.Numeric(14, 2))
    unbounded: Mapped[Any | None] = mapped_column(sa.Numeric)
    as_float: Mapped[Any | None] = mapped_column(sa.Numeric(14, 2, asdecimal=False))
    date: Mapped[Any | None] = mapped_column(sa.Date)
    time: Mapped[Any | None] = mapped_column(sa.Time)
    naive: Mapped[Any | None] = mapped_column(sa.DateTime)
    zoned: Mapped[Any | None] = mapped_column(sa.DateTime(timezone=True))
    utc: Mapped[Any | None] = mapped_column(UtcDateTime)
    uuid: Mapped[Any | None] = mapped_column(sa.Uuid)
    uuid_text: Mapped[Any | None] = mapped_column(sa.Uuid(as_uuid=False))
    colour: Mapped[Colour | None] = mapped_column(by_value(Colour))
    colour_name: Mapped[Colour | None] = mapped_column(sa.Enum(Colour, native_enum=False, length=20))
    level: Mapped[Level | None] = mapped_column(by_value(Level))
    word: Mapped[Any | None] = mapped_column(sa.Enum("one", "two", native_enum=False, create_constraint=True))
    json: Mapped[Any | None] = mapped_column(sa.JSON)
    json_or_null: Mapped[Any | None] = mapped_column(sa.JSON(none_as_null=True))
    binary: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    shouted: Mapped[str | None] = mapped_column(Shouted)
