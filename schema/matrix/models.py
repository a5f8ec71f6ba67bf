"""Matrix as tables. There is one table of events, so that every relation is a real foreign key.

    users ◀── sender ── events ── room ──▶ rooms ── last_event, last_message, last_live_message ──▶ events
      ▲                  │  └─ relates_to, reply_to, redacts, redacted_by ──▶ events
      └─ memberships ────┘

A user's scope (`source.toml`) and the server admin's (`admin.toml`) share these tables; what only one of
them can see is NULL in the other. The order of a room is the server's, `Event.position`, and never
`sent_at`, which the sender chooses. `age` and most of `unsigned` change with every call and are left out.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    and_,
    or_,
)
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ingest.mirror import Mirror, UtcDateTime, count, field, latest, when_missing

#: ids, types and state keys are at most 255 bytes, by the specification
ID_LENGTH = 255

MESSAGE = "m.room.message"
REACTION = "m.reaction"
#: `rel_type` of an edit, of a message in a thread, and of what answers a poll
REPLACE, THREAD, REFERENCE = "m.replace", "m.thread", "m.reference"


class MembershipState(enum.Enum):
    """How a user stands to a room."""

    JOIN = "join"
    INVITE = "invite"
    KNOCK = "knock"
    LEAVE = "leave"
    BAN = "ban"


class Base(AsyncAttrs, DeclarativeBase):
    """Base of all models: `await row.awaitable_attrs.name` loads what is not loaded yet."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: String(ID_LENGTH),
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
    }


class User(Base):
    """An account. To a user only its profile shows; the rest is the admin's to see."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True, info=field("name"), doc="`@name:server`.")
    display_name: Mapped[str | None] = mapped_column(Text, info=field("displayname"), doc="Not unique.")
    avatar_url: Mapped[str | None] = mapped_column(Text, doc="`mxc://server/id`.")
    user_type: Mapped[str | None] = mapped_column(doc="bot, support, or NULL.")
    is_admin: Mapped[bool | None] = mapped_column(info=field("admin"), doc="May administer the server.")
    is_guest: Mapped[bool | None] = mapped_column(doc="Has no password.")
    is_deactivated: Mapped[bool | None] = mapped_column(
        info=field("deactivated"), doc="Can never log in again."
    )
    is_locked: Mapped[bool | None] = mapped_column(info=field("locked"), doc="Cannot log in for now.")
    is_erased: Mapped[bool | None] = mapped_column(info=field("erased"), doc="Asked to be forgotten.")
    is_shadow_banned: Mapped[bool | None] = mapped_column(
        info=field("shadow_banned"), doc="Its events reach nobody, and it is not told."
    )
    created_at: Mapped[datetime | None] = mapped_column(info=field("creation_ts"), doc="To the second.")

    memberships: Mapped[list[Membership]] = relationship(
        back_populates="user", viewonly=True, foreign_keys="Membership.user_id"
    )


class Room(Base):
    """A room: what is set in it now, where its timeline ends, and how much of it there is."""

    __tablename__ = "rooms"

    id: Mapped[str] = mapped_column(
        primary_key=True, info=field("room_id"), doc="`!id:server`; from room version 12 on without a server."
    )
    name: Mapped[str | None] = mapped_column(
        Text, info=field("name", "content.name"), doc="NULL in direct rooms, as a rule."
    )
    topic: Mapped[str | None] = mapped_column(
        Text, info=field("topic", "content.topic"), doc="The admin's listing leaves it out."
    )
    avatar_url: Mapped[str | None] = mapped_column(
        Text, info=field("avatar", "content.url"), doc="`mxc://server/id`; the admin's listing leaves it out."
    )
    canonical_alias: Mapped[str | None] = mapped_column(
        info=field("canonical_alias", "content.alias"), doc="`#name:server`."
    )
    room_type: Mapped[str | None] = mapped_column(
        info=field("room_type", "content.type"), doc="m.space, or NULL."
    )
    version: Mapped[str | None] = mapped_column(
        info=field("version", "content.room_version"), doc="The room version, which is a text."
    )
    encryption: Mapped[str | None] = mapped_column(
        info=field("encryption", "content.algorithm"),
        doc="The algorithm; NULL where messages are in the clear.",
    )
    join_rule: Mapped[str | None] = mapped_column(
        info=field("join_rules", "content.join_rule"), doc="public, invite, knock, …"
    )
    guest_access: Mapped[str | None] = mapped_column(
        info=field("guest_access", "content.guest_access"), doc="can_join or forbidden."
    )
    history_visibility: Mapped[str | None] = mapped_column(
        info=field("history_visibility", "content.history_visibility"),
        doc="shared, joined, invited or world_readable.",
    )
    is_public: Mapped[bool | None] = mapped_column(
        info=field("public"), doc="In the server's room directory."
    )
    is_federatable: Mapped[bool | None] = mapped_column(
        info=field("federatable", 'content."m.federate"'), doc="Users of other servers may join."
    )
    creator_id: Mapped[str | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL", info=when_missing("fetch", "stub")),
        index=True,
        info=field("creator", "content.creator"),
        doc="Who made it.",
    )
    # Rooms and events refer to each other, so these three are added once both tables exist.
    last_event_id: Mapped[str | None] = mapped_column(
        ForeignKey("events.id", use_alter=True, ondelete="SET NULL"),
        index=True,
        info=latest(
            lambda: Event.room_id,
            by=lambda: (Event.position, Event.id),
            where=lambda: Event.position.is_not(None),
        ),
        doc="The newest event of any kind; kept by the mirror.",
    )
    last_message_id: Mapped[str | None] = mapped_column(
        ForeignKey("events.id", use_alter=True, ondelete="SET NULL"),
        index=True,
        info=latest(
            lambda: Event.room_id,
            by=lambda: (Event.position, Event.id),
            where=lambda: and_(Event.position.is_not(None), Event.type == MESSAGE),
        ),
        doc="The newest message, edits and redacted ones too; kept by the mirror.",
    )
    last_live_message_id: Mapped[str | None] = mapped_column(
        ForeignKey("events.id", use_alter=True, ondelete="SET NULL"),
        index=True,
        info=latest(
            lambda: Event.room_id,
            by=lambda: (Event.position, Event.id),
            where=lambda: and_(Event.position.is_not(None), live_message()),
        ),
        doc="The newest message that can still be read and is no edit of another; kept by the mirror.",
    )
    events_count: Mapped[int] = mapped_column(
        default=0,
        server_default="0",
        info=count(lambda: Event.room_id),
        doc="Events mirrored; kept by the mirror.",
    )
    members_count: Mapped[int] = mapped_column(
        default=0,
        server_default="0",
        info=count(lambda: Membership.room_id, where=lambda: Membership.membership == MembershipState.JOIN),
        doc="Who is in it now; kept by the mirror.",
    )

    creator: Mapped[User | None] = relationship(viewonly=True)
    last_event: Mapped[Event | None] = relationship(viewonly=True, foreign_keys=[last_event_id])
    last_message: Mapped[Event | None] = relationship(viewonly=True, foreign_keys=[last_message_id])
    last_live_message: Mapped[Event | None] = relationship(viewonly=True, foreign_keys=[last_live_message_id])
    memberships: Mapped[list[Membership]] = relationship(back_populates="room", viewonly=True)


class Membership(Base):
    """How a user stands to a room now: the newest `m.room.member` event of the two, by the server's order."""

    __tablename__ = "memberships"
    __mirror__ = Mirror(version="position")

    room_id: Mapped[str] = mapped_column(
        ForeignKey("rooms.id", ondelete="CASCADE", info=when_missing("fetch", "stub")),
        primary_key=True,
        doc="The room.",
    )
    user_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE", info=when_missing("fetch", "stub")),
        primary_key=True,
        index=True,
        info=field("state_key"),
        doc="Who is, was or may be in it.",
    )
    membership: Mapped[MembershipState] = mapped_column(
        Enum(
            MembershipState,
            native_enum=False,
            create_constraint=False,
            length=16,
            values_callable=lambda states: [state.value for state in states],
        ),
        info=field("content.membership"),
        doc="How the user stands to the room.",
    )
    display_name: Mapped[str | None] = mapped_column(
        Text,
        info=field("content.displayname"),
        doc="The name in this room, which may differ from the profile's.",
    )
    avatar_url: Mapped[str | None] = mapped_column(
        Text, info=field("content.avatar_url"), doc="The picture in this room."
    )
    reason: Mapped[str | None] = mapped_column(
        Text, info=field("content.reason"), doc="Of a kick or ban, say."
    )
    sender_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", info=when_missing("fetch", "stub")),
        index=True,
        info=field("sender"),
        doc="Who brought it about: the user, or who invited, kicked or banned.",
    )
    sent_at: Mapped[datetime] = mapped_column(
        info=field("origin_server_ts"), doc="Since when, by the sender's clock."
    )
    position: Mapped[int | None] = mapped_column(BigInteger, doc="The event's place in the room's order.")

    room: Mapped[Room] = relationship(back_populates="memberships", viewonly=True)
    user: Mapped[User] = relationship(back_populates="memberships", viewonly=True, foreign_keys=[user_id])
    sender: Mapped[User] = relationship(viewonly=True, foreign_keys=[sender_id])


class Event(Base):
    """Everything that happened in a room: messages, edits, reactions, redactions, polls, changes of state.

    A redacted event stays and loses what it said; `redacted_by_id` says by which event.
    """

    __tablename__ = "events"
    __mirror__ = Mirror(
        redacts="redacts_id",
        redacted_by="redacted_by_id",
        clears=(
            "msgtype",
            "body",
            "formatted_body",
            "new_body",
            "new_formatted_body",
            "relates_to_id",
            "rel_type",
            "reaction_key",
            "reply_to_id",
            "media_url",
            "media_mimetype",
            "media_size",
            "media_width",
            "media_height",
            "content",
        ),
    )
    __table_args__ = (Index(None, "room_id", "position"), Index(None, "room_id", "type", "position"))

    id: Mapped[str] = mapped_column(primary_key=True, info=field("event_id"), doc="`$hash`, case-sensitive.")
    room_id: Mapped[str] = mapped_column(
        ForeignKey("rooms.id", ondelete="CASCADE", info=when_missing("fetch", "stub")),
        doc="Where it happened.",
    )
    sender_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", info=when_missing("fetch", "stub")),
        index=True,
        info=field("sender"),
        doc="Who did it.",
    )
    type: Mapped[str] = mapped_column(doc="m.room.message, m.reaction, m.room.member, …, or anybody's own.")
    state_key: Mapped[str | None] = mapped_column(
        doc="Set, if only to an empty text, on events that change the room's state."
    )
    sent_at: Mapped[datetime] = mapped_column(
        info=field("origin_server_ts"), doc="By the sender's clock, which may lie: no order."
    )
    position: Mapped[int | None] = mapped_column(
        BigInteger, doc="The place in the room's timeline; NULL for an event that was asked for by id."
    )

    msgtype: Mapped[str | None] = mapped_column(info=field("content.msgtype"), doc="m.text, m.image, …")
    body: Mapped[str | None] = mapped_column(
        Text, info=field("content.body"), doc="The text; of an edit, `* ` and the new."
    )
    formatted_body: Mapped[str | None] = mapped_column(
        Text, info=field("content.formatted_body"), doc="As HTML."
    )
    new_body: Mapped[str | None] = mapped_column(
        Text, info=field('content."m.new_content".body'), doc="Of an edit: what the edited message now says."
    )
    new_formatted_body: Mapped[str | None] = mapped_column(
        Text, info=field('content."m.new_content".formatted_body'), doc="The same as HTML."
    )

    relates_to_id: Mapped[str | None] = mapped_column(
        ForeignKey("events.id", ondelete="SET NULL", info=when_missing("fetch", "null")),
        index=True,
        info=field('content."m.relates_to".event_id'),
        doc="What an edit, reaction, poll answer or message of a thread belongs to; `rel_type` says which.",
    )
    rel_type: Mapped[str | None] = mapped_column(
        info=field('content."m.relates_to".rel_type'), doc="m.replace, m.annotation, m.thread, m.reference."
    )
    reaction_key: Mapped[str | None] = mapped_column(
        Text, info=field('content."m.relates_to".key'), doc="Of a reaction: the emoji, or any text."
    )
    reply_to_id: Mapped[str | None] = mapped_column(
        ForeignKey("events.id", ondelete="SET NULL", info=when_missing("fetch", "null")),
        index=True,
        info=field('content."m.relates_to"."m.in_reply_to".event_id'),
        doc="What it answers; in a thread, often only a fallback: the message before it.",
    )
    redacts_id: Mapped[str | None] = mapped_column(
        ForeignKey("events.id", ondelete="SET NULL", info=when_missing("fetch", "null")),
        index=True,
        info=field("redacts"),
        doc="Of a redaction: the event that it empties.",
    )
    redacted_by_id: Mapped[str | None] = mapped_column(
        ForeignKey("events.id", ondelete="SET NULL", info=when_missing("fetch", "null")),
        index=True,
        info=field("unsigned.redacted_because.event_id"),
        doc="The redaction that emptied this event.",
    )

    media_url: Mapped[str | None] = mapped_column(
        Text, info=field("content.url"), doc="`mxc://server/id`; the file itself is not mirrored."
    )
    media_mimetype: Mapped[str | None] = mapped_column(
        info=field("content.info.mimetype"), doc="As the sender says."
    )
    media_size: Mapped[int | None] = mapped_column(BigInteger, info=field("content.info.size"), doc="Bytes.")
    media_width: Mapped[int | None] = mapped_column(info=field("content.info.w"), doc="Pixels.")
    media_height: Mapped[int | None] = mapped_column(info=field("content.info.h"), doc="Pixels.")
    content: Mapped[dict[str, Any] | None] = mapped_column(
        doc="All of it, whatever the type; NULL once redacted."
    )

    reactions_count: Mapped[int] = mapped_column(
        default=0,
        server_default="0",
        info=count(
            lambda: Event.relates_to_id,
            where=lambda: and_(Event.type == REACTION, Event.redacted_by_id.is_(None)),
        ),
        doc="Reactions that were not taken back; kept by the mirror.",
    )
    thread_replies_count: Mapped[int] = mapped_column(
        default=0,
        server_default="0",
        info=count(
            lambda: Event.relates_to_id,
            where=lambda: and_(Event.rel_type == THREAD, Event.redacted_by_id.is_(None)),
        ),
        doc="Messages of the thread that begins here; kept by the mirror.",
    )

    room: Mapped[Room] = relationship(viewonly=True, foreign_keys=[room_id])
    sender: Mapped[User] = relationship(viewonly=True)
    relates_to: Mapped[Event | None] = relationship(
        viewonly=True, foreign_keys=[relates_to_id], remote_side=[id]
    )
    reply_to: Mapped[Event | None] = relationship(viewonly=True, foreign_keys=[reply_to_id], remote_side=[id])
    redacts: Mapped[Event | None] = relationship(viewonly=True, foreign_keys=[redacts_id], remote_side=[id])
    redacted_by: Mapped[Event | None] = relationship(
        viewonly=True, foreign_keys=[redacted_by_id], remote_side=[id]
    )


def live_message() -> ColumnElement[bool]:
    """True of a message that is no edit and was not redacted.

    A message must have a `msgtype`: one without was redacted, even if by an event that is hidden from us.
    """
    return and_(
        Event.type == MESSAGE,
        Event.msgtype.is_not(None),
        Event.redacted_by_id.is_(None),
        or_(Event.rel_type.is_(None), Event.rel_type != REPLACE),
    )
