"""A system that is small, because it is crashed so often, and still needs everything a run does."""

from __future__ import annotations

import enum
from datetime import datetime

from sqlalchemy import BigInteger, Enum, ForeignKey, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ingest.mirror import Mirror, UtcDateTime, complete, count, latest, when_missing


class Base(DeclarativeBase):
    metadata = MetaData()
    type_annotation_map = {int: BigInteger}  # noqa: RUF012


class Role(enum.Enum):
    MEMBER = "member"
    GUEST = "guest"


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(80))
    email: Mapped[str | None] = mapped_column(String(120), unique=True)
    role: Mapped[Role] = mapped_column(Enum(Role, native_enum=False, length=20))


class Room(Base):
    __tablename__ = "rooms"
    __mirror__ = Mirror(version="updated_at")
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    title: Mapped[str | None] = mapped_column(String(200))
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    message_count: Mapped[int] = mapped_column(default=0, info=count(lambda: Message.room_id))
    last_message_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", use_alter=True, name="fk_rooms_last_message"),
        info=latest(lambda: Message.room_id, by=lambda: (Message.created_at, Message.id)),
    )


class Message(Base):
    __tablename__ = "messages"
    __mirror__ = Mirror(version="updated_at", deleted="deleted_at", purge=True)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"), index=True)
    sender_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    reply_to_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", ondelete="SET NULL", info=when_missing("fetch", "null")), index=True
    )
    text: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    files: Mapped[list[File]] = relationship(info=complete())


class File(Base):
    __tablename__ = "files"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    message_id: Mapped[int] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(60))
