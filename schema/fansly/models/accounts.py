"""Accounts, and the walls on which they arrange their posts."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, ForeignKey, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ingest.mirror import Mirror, UtcDateTime, complete, field, when_missing
from schema.fansly.models.base import Base

if TYPE_CHECKING:
    from schema.fansly.models.media import AccountMedia, AccountMediaBundle, Media
    from schema.fansly.models.messages import Group, Message
    from schema.fansly.models.posts import Post


class Account(Base):
    """A person or creator. Everything but the id may be unknown: many are only mentioned by others."""

    __tablename__ = "accounts"
    __mirror__ = Mirror(version="version")

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, doc="Upstream's id.")
    # Not unique: names are given away again after a rename, and two records were rarely seen at one moment.
    username: Mapped[str | None] = mapped_column(
        String(100), index=True, doc="The name in URLs and mentions; NULL while only the id is known."
    )
    display_name: Mapped[str | None] = mapped_column(String(200), doc="The name shown.")
    about: Mapped[str | None] = mapped_column(Text, doc="The profile's text.")
    location: Mapped[str | None] = mapped_column(String(200), doc="Where the account says it is.")
    created_at: Mapped[datetime | None] = mapped_column(UtcDateTime, doc="When the account was opened.")
    flags: Mapped[int | None] = mapped_column(Integer, doc="Bits the platform sets.")
    version: Mapped[int | None] = mapped_column(BigInteger, doc="Grows with every change of the profile.")
    status_id: Mapped[int | None] = mapped_column(Integer, doc="Code of the presence shown to others.")
    follow_count: Mapped[int | None] = mapped_column(
        Integer, doc="How many accounts follow it, as upstream says."
    )
    subscriber_count: Mapped[int | None] = mapped_column(
        Integer, doc="How many subscribe to it, as upstream says."
    )
    post_likes: Mapped[int | None] = mapped_column(Integer, doc="Likes of its posts, as upstream says.")
    account_media_likes: Mapped[int | None] = mapped_column(
        Integer, doc="Likes of its media, as upstream says."
    )
    image_count: Mapped[int | None] = mapped_column(
        Integer, info=field("timelineStats.imageCount"), doc="Images on its timeline, as upstream says."
    )
    video_count: Mapped[int | None] = mapped_column(
        Integer, info=field("timelineStats.videoCount"), doc="Videos on its timeline, as upstream says."
    )
    bundle_count: Mapped[int | None] = mapped_column(
        Integer, info=field("timelineStats.bundleCount"), doc="Bundles on its timeline, as upstream says."
    )
    stats_fetched_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime,
        info=field("timelineStats.fetchedAt"),
        doc="When upstream counted images, videos and bundles.",
    )
    # accounts and media refer to each other, so these two are added once both tables exist
    avatar_id: Mapped[int | None] = mapped_column(
        ForeignKey("media.id", use_alter=True, ondelete="SET NULL", info=when_missing("null")),
        index=True,
        doc="The picture beside its name.",
    )
    banner_id: Mapped[int | None] = mapped_column(
        ForeignKey("media.id", use_alter=True, ondelete="SET NULL", info=when_missing("null")),
        index=True,
        doc="The picture above its profile.",
    )

    avatar: Mapped[Media | None] = relationship(foreign_keys=[avatar_id], lazy="select", post_update=True)
    banner: Mapped[Media | None] = relationship(foreign_keys=[banner_id], lazy="select", post_update=True)
    walls: Mapped[list[Wall]] = relationship(
        back_populates="account", lazy="select", order_by="Wall.pos", passive_deletes=True, info=complete()
    )
    groups: Mapped[list[Group]] = relationship(
        secondary="group_members", back_populates="users", lazy="select", passive_deletes=True
    )
    # Without a bound, so never loaded by accident: ask with a query.
    created_groups: Mapped[list[Group]] = relationship(
        foreign_keys="Group.created_by", back_populates="creator", lazy="raise", passive_deletes=True
    )
    sent_messages: Mapped[list[Message]] = relationship(
        back_populates="sender", lazy="raise", passive_deletes=True
    )
    posts: Mapped[list[Post]] = relationship(back_populates="account", lazy="raise", passive_deletes=True)
    mentioned_in: Mapped[list[Post]] = relationship(
        secondary="post_mentions", back_populates="account_mentions", lazy="raise", passive_deletes=True
    )
    media: Mapped[list[Media]] = relationship(
        foreign_keys="Media.account_id", back_populates="account", lazy="raise", passive_deletes=True
    )
    account_media: Mapped[list[AccountMedia]] = relationship(
        back_populates="account", lazy="raise", passive_deletes=True
    )
    account_media_bundles: Mapped[list[AccountMediaBundle]] = relationship(
        back_populates="account", lazy="raise", passive_deletes=True
    )


class Wall(Base):
    """A named selection of an account's posts."""

    __tablename__ = "walls"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, doc="Upstream's id.")
    account_id: Mapped[int] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE", info=when_missing("fetch", "stub")),
        index=True,
        doc="Whose wall it is.",
    )
    pos: Mapped[int | None] = mapped_column(Integer, doc="Its place among the account's walls.")
    name: Mapped[str | None] = mapped_column(String(200), doc="Its title.")
    description: Mapped[str | None] = mapped_column(Text, doc="What it says of itself.")

    account: Mapped[Account] = relationship(back_populates="walls", lazy="select")
    posts: Mapped[list[Post]] = relationship(
        secondary="post_walls", back_populates="walls", lazy="raise", passive_deletes=True
    )
