"""A small system of its own, for tests that need models and a source but none of the bundled systems.

Users, conversations with a pointer to their last message and a counter, messages that answer one
another, tags as a complete list of a conversation, and the attachments and poll options that are only
ever told inside a message.
"""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Enum,
    ForeignKey,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ingest.mirror import Mirror, UtcDateTime, complete, count, field, ignore, latest, when_missing
from ingest.source import Source


class Base(DeclarativeBase):
    """The example's models."""

    metadata = MetaData()


class Role(enum.Enum):
    """What a user may do; the API tells the value."""

    ADMIN = "admin"
    MEMBER = "member"
    GUEST = "guest-user"


class User(Base):
    """Who writes; `invited_by` refers to the same table."""

    __tablename__ = "users"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), info=field("profile.display_name"))
    email: Mapped[str | None] = mapped_column(String(120), unique=True)
    role: Mapped[Role] = mapped_column(Enum(Role, native_enum=False, length=20))
    balance: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    score: Mapped[float | None]
    active: Mapped[bool]
    settings: Mapped[Any | None] = mapped_column(JSON)
    avatar: Mapped[bytes | None] = mapped_column(LargeBinary)
    seen_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    invited_by_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL"), index=True
    )
    note: Mapped[str | None] = mapped_column(Text, info=ignore())


conversation_tags = Table(
    "conversation_tags",
    Base.metadata,
    Column("conversation_id", ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id", ondelete="CASCADE"), primary_key=True),
)


class Tag(Base):
    """A label; its key is a name that needs quoting in a URL."""

    __tablename__ = "tags"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    colour: Mapped[str | None] = mapped_column(String(7))


class Conversation(Base):
    """What messages belong to."""

    __tablename__ = "conversations"
    __mirror__ = Mirror(version="updated_at")
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    title: Mapped[str | None] = mapped_column(String(200), info=field("name"))
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    messages_count: Mapped[int] = mapped_column(
        default=0, info=count(lambda: Message.conversation_id, where=lambda: Message.deleted_at.is_(None))
    )
    last_message_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", use_alter=True, name="fk_conversations_last_message"),
        info=latest(
            lambda: Message.conversation_id,
            by=lambda: (Message.created_at, Message.id),
            where=lambda: Message.deleted_at.is_(None),
        ),
    )
    tags: Mapped[list[Tag]] = relationship(secondary=conversation_tags, info=complete())
    last_message: Mapped[Message | None] = relationship(foreign_keys=[last_message_id], post_update=True)


class Message(Base):
    """What is said; it may answer a message of any conversation."""

    __tablename__ = "messages"
    __mirror__ = Mirror(version="updated_at", deleted="deleted_at")
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    conversation_id: Mapped[int] = mapped_column(
        ForeignKey("conversations.id", ondelete="CASCADE"), index=True
    )
    sender_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    reply_to_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", ondelete="SET NULL", info=when_missing("fetch", "null")), index=True
    )
    text: Mapped[str | None] = mapped_column(Text, info=field("content.body"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    sender: Mapped[User | None] = relationship()
    conversation: Mapped[Conversation] = relationship(foreign_keys=[conversation_id])
    attachments: Mapped[list[Attachment]] = relationship(info=complete())
    options: Mapped[list[PollOption]] = relationship(info=complete(), order_by="PollOption.position")


class Attachment(Base):
    """A file of a message; told only inside it."""

    __tablename__ = "attachments"
    __table_args__ = (CheckConstraint("size BETWEEN 0 AND 10"), UniqueConstraint("message_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(60))
    size: Mapped[int]


class PollOption(Base):
    """An answer one may vote for, numbered within its message."""

    __tablename__ = "poll_options"
    message_id: Mapped[int] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(String(100))


#: the example's `source.toml`
STREAMS: dict[str, Any] = {
    "users": {
        "path": "/users",
        "records": "data",
        "entity": "User",
        "order": "oldest-first",
        "key": "id",
        "by_id": {"path": "/users/{id}", "records": "data"},
        "paginate": {"kind": "page", "pages": "meta.pages", "limit": 10},
    },
    "tags": {
        "path": "/tags",
        "records": "items",
        "entity": "Tag",
        "paginate": {"kind": "offset", "total": "total", "limit": 10},
    },
    "conversations": {
        "path": "/conversations",
        "records": "data",
        "entity": "Conversation",
        "paginate": {"kind": "cursor", "next": "meta.next_cursor", "limit": 10},
        "since": {"param": "updated_after", "key": "updated_at", "strict": True},
    },
    "messages": {
        "each": "conversations",
        "path": "/conversations/{conversations.id}/messages",
        "records": "data",
        "entity": "Message",
        "order": "newest-first",
        "key": "created_at",
        "changes": {"reread": "7d"},
        "unchanged": "last_message.id",
        "by_id": {"path": "/messages/{id}", "records": "data"},
        "paginate": {"kind": "cursor", "next": "meta.next_cursor", "limit": 10},
    },
}

#: rows a table, enough that every list has several pages
ROWS = {
    "users": 30,
    "tags": 25,
    "conversations": 25,
    "conversation_tags": 40,
    "messages": 150,
    "attachments": 60,
    "poll_options": 50,
}


def source(**settings: Any) -> Source:
    """The example's source; `streams` may be given anew, and any other setting of a source added."""
    return msgspec.convert({"streams": STREAMS, **settings}, Source)
