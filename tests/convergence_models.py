"""A small system that has one of everything the precedence rules and the reconciler know."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Integer, String, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ingest.mirror import Mirror, complete, count, latest, when_missing


class Base(DeclarativeBase):
    pass


members = Table(
    "members",
    Base.metadata,
    Column(
        "room_id", ForeignKey("rooms.id", ondelete="CASCADE", info=when_missing("park")), primary_key=True
    ),
    Column(
        "user_id", ForeignKey("users.id", ondelete="CASCADE", info=when_missing("park")), primary_key=True
    ),
)


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(20))
    email: Mapped[str | None] = mapped_column(String(20))


class Device(Base):
    __tablename__ = "devices"
    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str | None] = mapped_column(String(20))
    trusted: Mapped[bool] = mapped_column(Boolean, default=False)


class Room(Base):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(20))
    topic: Mapped[str | None] = mapped_column(String(20))
    last_message_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", use_alter=True),
        info=latest(
            lambda: Message.room_id,
            by=lambda: (Message.sent, Message.id),
            where=lambda: Message.hidden.is_(None),
        ),
    )
    message_count: Mapped[int] = mapped_column(
        Integer, server_default="0", info=count(lambda: Message.room_id)
    )
    members: Mapped[list[User]] = relationship(secondary=members, info=complete())


class Message(Base):
    __tablename__ = "messages"
    __mirror__ = Mirror(
        version="rev",
        deleted="gone",
        purge=True,
        redacts="redacts",
        clears=("text",),
        redacted_by="redacted_by",
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(
        ForeignKey("rooms.id", ondelete="CASCADE", info=when_missing("park"))
    )
    author_id: Mapped[int | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL", info=when_missing("null"))
    )
    reply_to: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", ondelete="CASCADE", info=when_missing("null"))
    )
    device_id: Mapped[int] = mapped_column(
        ForeignKey("devices.id", ondelete="CASCADE", info=when_missing("stub"))
    )
    sent: Mapped[int | None]
    rev: Mapped[int | None]
    text: Mapped[str | None] = mapped_column(Text)
    hidden: Mapped[int | None]
    gone: Mapped[int | None]
    redacts: Mapped[int | None]
    redacted_by: Mapped[int | None]
    author: Mapped[User | None] = relationship()


class Step(Base):
    """Rows that wait for each other: NOT NULL references to the own table, in rings."""

    __tablename__ = "steps"
    id: Mapped[int] = mapped_column(primary_key=True)
    next_id: Mapped[int] = mapped_column(ForeignKey("steps.id", info=when_missing("park")))
    label: Mapped[str | None] = mapped_column(String(20))
