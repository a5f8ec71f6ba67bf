"""What a model says of its upstream. A leaf: models import this, and nothing else of `ingest`.

class Message(Base):
    __tablename__ = "messages"
    __mirror__ = Mirror(version="updated_at", deleted="deleted_at")
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(String(200), info=field("name"))
    reply_to_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", info=when_missing("fetch", "null")))
    tags: Mapped[list["Tag"]] = relationship(info=complete())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, DateTime, Dialect, Integer, MetaData, Text
from sqlalchemy.types import TypeDecorator

#: the key in `info` under which everything of ours is kept
INFO = "ingest"
#: what is tried, in order, for a reference whose target is not in the mirror
Policy = Literal["fetch", "null", "stub", "park"]

#: ledger-owned columns of every mirrored table: the rank of the row, and of columns that differ from it
LEDGER_COLUMNS = ("ingest_version", "ingest_stamp", "ingest_ordinal", "ingest_exceptions")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """How a model's records relate to each other in time; set as `__mirror__`."""

    #: the column that orders two records of one key: an integer or a time
    version: str | None = None
    #: the column whose value, when set, says the record was deleted upstream
    deleted: str | None = None
    #: a deleted record's row goes away (tombstone); otherwise it stays, with its column set
    purge: bool = False
    #: the column that names another record of this table which this one clears or deletes
    redacts: str | None = None
    #: with `redacts`: the columns it clears; without any, the target is deleted
    clears: Sequence[str] = ()
    #: with `redacts`: the column of the target that takes this record's key
    redacted_by: str | None = None


@dataclass(frozen=True, slots=True)
class Latest:
    """A pointer: the key of the child row that sorts last."""

    follows: Callable[[], Any]
    by: Callable[[], Any]
    where: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """A counter: how many child rows there are."""

    follows: Callable[[], Any]
    where: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """Everything a column, foreign key or relationship says to the mirror."""

    paths: tuple[str, ...] = ()
    derived: Latest | Count | None = None
    missing: tuple[Policy, ...] = ()
    complete: bool = False
    ignored: bool = False

    @property
    def path(self) -> str | None:
        """The first of the paths."""
        return self.paths[0] if self.paths else None


def said(info: Mapping[Any, Any]) -> Said:
    """What an `info` dictionary says to the mirror; empty when nothing."""
    return info.get(INFO) or Said()


def field(*paths: str) -> dict[str, Any]:
    """Take the column (or nested object) from the first of `paths` in the record: `field("author.uid")`.

    A key with a dot in it is quoted: `field('content."m.relates_to".event_id')`.
    """
    return {INFO: Said(paths=paths)}


def ignore() -> dict[str, Any]:
    """The API never states this column; it stays NULL, or at its constant default."""
    return {INFO: Said(ignored=True)}


def latest(
    follows: Callable[[], Any], *, by: Callable[[], Any], where: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """A pointer kept by the reconciler: the child that sorts last by `by`, among `where`.

    `follows` names the child's foreign-key column; NULL when no child is left.
    """
    return {INFO: Said(derived=Latest(follows, by, where))}


def count(follows: Callable[[], Any], *, where: Callable[[], Any] | None = None) -> dict[str, Any]:
    """A counter kept by the reconciler: the children whose `follows` column refers here, among `where`."""
    return {INFO: Said(derived=Count(follows, where))}


def when_missing(*policies: Policy) -> dict[str, Any]:
    """What to do, in order, when a foreign key's target is not in the mirror.

    fetch: ask for it by id. null: show NULL and keep the stated value aside. stub: show a
    placeholder parent. park: keep the whole row aside.
    """
    return {INFO: Said(missing=policies)}


def complete() -> dict[str, Any]:
    """A nested list is the whole set: what it omits is gone."""
    return {INFO: Said(complete=True)}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time on every engine: stored in UTC, read back aware."""

    impl = DateTime(timezone=True)
    cache_ok = True

    # the parameter names are SQLAlchemy's
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a UtcDateTime column takes aware datetimes only")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def attach(metadata: MetaData) -> None:
    """Add the ledger-owned columns to every mirrored table of `metadata`. Doing it again changes nothing.

    Called where models are loaded and in a system's Alembic environment, so that models need not
    spell these columns out and autogenerate finds nothing to do.
    """
    for table in metadata.tables.values():
        if table.name.startswith("ingest_") or "ingest_version" in table.c:
            continue
        table.append_column(
            Column("ingest_version", BigInteger, nullable=False, server_default=str(-(2**62)))
        )
        table.append_column(Column("ingest_stamp", BigInteger, nullable=False, server_default="0"))
        table.append_column(Column("ingest_ordinal", Integer, nullable=False, server_default="0"))
        table.append_column(Column("ingest_exceptions", Text, nullable=True))
