"""What all tables share: the base class, the names of constraints, the codes of attached content."""

from __future__ import annotations

from enum import Enum

from sqlalchemy import Enum as EnumType
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.orm import DeclarativeBase

#: Every constraint has a name of its own, the same on all engines. The referred table is left out of
#: a foreign key's name: with it, some would be cut at PostgreSQL's 63 characters.
NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}


class Base(AsyncAttrs, DeclarativeBase):
    """Base of all models: `await row.awaitable_attrs.name` loads what is not loaded yet."""

    metadata = MetaData(naming_convention=NAMING)


class ContentType(Enum):
    """What an attachment's `content_id` is the id of; the values are upstream's codes."""

    ACCOUNT_MEDIA = 1
    ACCOUNT_MEDIA_BUNDLE = 2
    AGGREGATED_POST = 8
    TIP_GOAL = 7001
    STORY = 32001
    POLL = 42001


def coded(kind: type[Enum], name: str) -> EnumType:
    """A column of upstream's own codes, stored as text and checked by the database.

    A code that is not listed makes a dead letter of the attachment, not of what it hangs on: add it
    here, and `ingest replay` loads what was set aside.
    """
    return EnumType(
        kind,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda members: [str(member.value) for member in members],
    )
