"""Three tables, four foreign keys, a pointer and the indexes a user would have."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, ForeignKey, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.mirror import Mirror, UtcDateTime, latest, when_missing


class Base(DeclarativeBase):
    """Every benchmark table."""


class User(Base):
    """Who writes."""

    __tablename__ = "users"
    __mirror__ = Mirror(version="updated_at")
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    username: Mapped[str | None] = mapped_column(String(80))
    email: Mapped[str | None] = mapped_column(String(120))
    display_name: Mapped[str | None] = mapped_column(String(80))
    bot: Mapped[bool | None] = mapped_column(Boolean)
    created_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Conversation(Base):
    """Where it is written."""

    __tablename__ = "conversations"
    __mirror__ = Mirror(version="updated_at")
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    title: Mapped[str | None] = mapped_column(String(80))
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True)
    kind: Mapped[str | None] = mapped_column(String(20))
    created_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_message_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", use_alter=True),
        info=latest(lambda: Message.conversation_id, by=lambda: (Message.created_at, Message.id)),
    )


class Message(Base):
    """What is written."""

    __tablename__ = "messages"
    __mirror__ = Mirror(version="updated_at")
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id"))
    sender_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    reply_to_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", info=when_missing("null")), index=True
    )
    content: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    deleted: Mapped[bool] = mapped_column(Boolean)
    attachments: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON)
    __table_args__ = (Index("ix_messages_conversation_id_created_at", "conversation_id", "created_at"),)
