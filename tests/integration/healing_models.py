"""Notes that name people in three ways, and people who have somebody above them."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.mirror import when_missing


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    boss_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None]
    author_id: Mapped[int] = mapped_column(ForeignKey("people.id", info=when_missing("fetch", "park")))
    editor_id: Mapped[int | None] = mapped_column(ForeignKey("people.id", info=when_missing("fetch", "null")))
    owner_id: Mapped[int] = mapped_column(ForeignKey("people.id", info=when_missing("fetch", "stub")))
