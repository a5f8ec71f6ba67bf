"""Groups (conversations of two or more), who is in them, and what was said."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ingest.mirror import Mirror, UtcDateTime, complete, count, field, latest, when_missing
from schema.fansly.models.base import Base, ContentType, coded

if TYPE_CHECKING:
    from schema.fansly.models.accounts import Account
    from schema.fansly.models.media import AccountMedia, AccountMediaBundle

group_members = Table(
    "group_members",
    Base.metadata,
    Column(
        "group_id",
        ForeignKey("groups.id", ondelete="CASCADE", info=when_missing("fetch", "park")),
        primary_key=True,
        doc="The group.",
    ),
    Column(
        "account_id",
        ForeignKey("accounts.id", ondelete="CASCADE", info=when_missing("fetch", "stub")),
        primary_key=True,
        index=True,
        doc="Who is in it now.",
    ),
)


class Group(Base):
    """A conversation."""

    __tablename__ = "groups"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, doc="Upstream's id.")
    type: Mapped[int | None] = mapped_column(Integer, doc="1 between two accounts, 2 among several.")
    created_by: Mapped[int | None] = mapped_column(
        ForeignKey("accounts.id", ondelete="SET NULL", info=when_missing("fetch", "null")),
        index=True,
        doc="Who opened it.",
    )
    # groups and messages refer to each other, so this one is added once both tables exist
    last_message_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", use_alter=True, ondelete="SET NULL"),
        index=True,
        info=latest(
            lambda: Message.group_id,
            by=lambda: (Message.created_at, Message.id),
            where=lambda: Message.deleted_at.is_(None),
        ),
        doc="The message that sorts last by (created_at, id) among those not deleted; kept by the mirror.",
    )
    # No foreign key: it may name a message that was deleted, or that we may not read.
    stated_last_message_id: Mapped[int | None] = mapped_column(
        BigInteger,
        info=field("lastMessageId"),
        doc="What upstream calls the last message: a check, not a source.",
    )
    message_count: Mapped[int] = mapped_column(
        Integer,
        default=0,
        server_default="0",
        info=count(lambda: Message.group_id, where=lambda: Message.deleted_at.is_(None)),
        doc="How many messages it holds, deleted ones apart; kept by the mirror.",
    )

    creator: Mapped[Account | None] = relationship(
        foreign_keys=[created_by], back_populates="created_groups", lazy="select"
    )
    users: Mapped[list[Account]] = relationship(
        secondary=group_members, back_populates="groups", lazy="select", passive_deletes=True, info=complete()
    )
    last_message: Mapped[Message | None] = relationship(
        foreign_keys=[last_message_id], lazy="select", post_update=True
    )
    # Without a bound: page through it with `queries.message_page`.
    messages: Mapped[list[Message]] = relationship(
        foreign_keys="Message.group_id", back_populates="group", lazy="raise", passive_deletes=True
    )


class Message(Base):
    """What somebody said in a group."""

    __tablename__ = "messages"
    __mirror__ = Mirror(deleted="deleted_at")
    # Serves the foreign key, the pointer and keyset pages: all want one group in order of time.
    __table_args__ = (Index(None, "group_id", "created_at", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, doc="Upstream's id.")
    group_id: Mapped[int] = mapped_column(
        ForeignKey("groups.id", ondelete="CASCADE", info=when_missing("fetch", "park")),
        doc="Where it was said.",
    )
    # A message outlives its sender, and until the sender is known a stub keeps their messages together.
    sender_id: Mapped[int | None] = mapped_column(
        ForeignKey("accounts.id", ondelete="SET NULL", info=when_missing("fetch", "stub")),
        index=True,
        doc="Who said it.",
    )
    type: Mapped[int | None] = mapped_column(Integer, doc="1 written by a person, 2 by the platform.")
    content: Mapped[str | None] = mapped_column(Text, doc="The text; NULL when there is none.")
    total_tip_amount: Mapped[int | None] = mapped_column(Integer, doc="Thousandths of a dollar given for it.")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, doc="When it was sent, to the second.")
    deleted: Mapped[bool] = mapped_column(
        Boolean(), default=False, server_default=false(), doc="Whether it was deleted upstream."
    )
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime, doc="When it was deleted upstream.")
    in_reply_to: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", ondelete="SET NULL", info=when_missing("fetch", "null")),
        index=True,
        doc="The message it answers.",
    )

    group: Mapped[Group] = relationship(foreign_keys=[group_id], back_populates="messages", lazy="select")
    sender: Mapped[Account | None] = relationship(back_populates="sent_messages", lazy="select")
    answered: Mapped[Message | None] = relationship(remote_side=[id], back_populates="answers", lazy="select")
    answers: Mapped[list[Message]] = relationship(
        back_populates="answered", lazy="select", passive_deletes=True
    )
    attachments: Mapped[list[MessageAttachment]] = relationship(
        back_populates="message",
        lazy="select",
        order_by="MessageAttachment.pos",
        cascade="all, delete-orphan",
        passive_deletes=True,
        info=complete(),
    )


class MessageAttachment(Base):
    """What hangs on a message, at its place."""

    __tablename__ = "message_attachments"
    __table_args__ = (
        Index(None, "content_type", "content_id"),
        CheckConstraint("pos >= 0", name="pos_not_negative"),
    )

    message_id: Mapped[int] = mapped_column(
        ForeignKey("messages.id", ondelete="CASCADE", info=when_missing("fetch", "park")),
        primary_key=True,
        doc="The message.",
    )
    pos: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, doc="Its place, from 0.")
    content_type: Mapped[ContentType] = mapped_column(
        coded(ContentType, "content_type"), doc="What content_id is the id of."
    )
    # Its target depends on content_type, which no foreign key can say; the two columns below have one each.
    content_id: Mapped[int | None] = mapped_column(BigInteger, doc="What is attached.")
    account_media_id: Mapped[int | None] = mapped_column(
        ForeignKey("account_media.id", ondelete="SET NULL", info=when_missing("fetch", "null")),
        index=True,
        doc="What is attached, where that is a single offer.",
    )
    account_media_bundle_id: Mapped[int | None] = mapped_column(
        ForeignKey("account_media_bundles.id", ondelete="SET NULL", info=when_missing("fetch", "null")),
        index=True,
        doc="What is attached, where that is a bundle.",
    )

    message: Mapped[Message] = relationship(back_populates="attachments", lazy="select")
    account_media: Mapped[AccountMedia | None] = relationship(lazy="select")
    account_media_bundle: Mapped[AccountMediaBundle | None] = relationship(lazy="select")
