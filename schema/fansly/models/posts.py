"""Posts on timelines, and what they carry, name and stand on."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ingest.mirror import UtcDateTime, complete, count, when_missing
from schema.fansly.models.base import Base, ContentType, coded

if TYPE_CHECKING:
    from schema.fansly.models.accounts import Account, Wall
    from schema.fansly.models.media import AccountMedia, AccountMediaBundle

post_mentions = Table(
    "post_mentions",
    Base.metadata,
    Column(
        "post_id",
        ForeignKey("posts.id", ondelete="CASCADE", info=when_missing("fetch", "park")),
        primary_key=True,
        doc="The post.",
    ),
    Column(
        "account_id",
        ForeignKey("accounts.id", ondelete="CASCADE", info=when_missing("fetch", "stub")),
        primary_key=True,
        index=True,
        doc="Whom it names.",
    ),
)

post_walls = Table(
    "post_walls",
    Base.metadata,
    Column(
        "post_id",
        ForeignKey("posts.id", ondelete="CASCADE", info=when_missing("fetch", "park")),
        primary_key=True,
        doc="The post.",
    ),
    Column(
        "wall_id",
        ForeignKey("walls.id", ondelete="CASCADE", info=when_missing("park")),
        primary_key=True,
        index=True,
        doc="The wall it stands on; walls come with their account only.",
    ),
)

post_hashtags = Table(
    "post_hashtags",
    Base.metadata,
    Column(
        "post_id",
        ForeignKey("posts.id", ondelete="CASCADE", info=when_missing("fetch", "park")),
        primary_key=True,
        doc="The post.",
    ),
    Column(
        "hashtag_id",
        ForeignKey("hashtags.id", ondelete="CASCADE", info=when_missing("park")),
        primary_key=True,
        index=True,
        doc="The hashtag in its text.",
    ),
)


class Hashtag(Base):
    """A word by which posts are found."""

    __tablename__ = "hashtags"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, doc="Upstream's id.")
    value: Mapped[str] = mapped_column(
        String(100), unique=True, doc="The word, in lower case, without the sign."
    )

    posts: Mapped[list[Post]] = relationship(
        secondary=post_hashtags, back_populates="hashtags", lazy="raise", passive_deletes=True
    )


class Post(Base):
    """What an account put on its timeline."""

    __tablename__ = "posts"
    # a timeline in order of time; also serves the foreign key
    __table_args__ = (Index(None, "account_id", "created_at", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, doc="Upstream's id.")
    account_id: Mapped[int] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE", info=when_missing("fetch", "stub")),
        doc="Whose timeline.",
    )
    content: Mapped[str | None] = mapped_column(Text, doc="The text; NULL when there is none.")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, doc="When it was posted.")
    expires_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, doc="When it disappears; NULL when it stays."
    )
    in_reply_to: Mapped[int | None] = mapped_column(
        ForeignKey("posts.id", ondelete="SET NULL", info=when_missing("fetch", "null")),
        index=True,
        doc="The post it answers.",
    )
    like_count: Mapped[int | None] = mapped_column(Integer, doc="Likes, as upstream says.")
    media_like_count: Mapped[int | None] = mapped_column(Integer, doc="Likes of its media, as upstream says.")
    total_tip_amount: Mapped[int | None] = mapped_column(Integer, doc="Thousandths of a dollar given for it.")
    answer_count: Mapped[int] = mapped_column(
        Integer,
        default=0,
        server_default="0",
        info=count(lambda: Post.in_reply_to),
        doc="How many posts in the mirror answer it; kept by the mirror.",
    )

    account: Mapped[Account] = relationship(back_populates="posts", lazy="select")
    answered: Mapped[Post | None] = relationship(remote_side=[id], back_populates="answers", lazy="select")
    answers: Mapped[list[Post]] = relationship(back_populates="answered", lazy="select", passive_deletes=True)
    attachments: Mapped[list[PostAttachment]] = relationship(
        back_populates="post",
        lazy="select",
        order_by="PostAttachment.pos",
        cascade="all, delete-orphan",
        passive_deletes=True,
        info=complete(),
    )
    account_mentions: Mapped[list[Account]] = relationship(
        secondary=post_mentions,
        back_populates="mentioned_in",
        lazy="select",
        passive_deletes=True,
        info=complete(),
    )
    walls: Mapped[list[Wall]] = relationship(
        secondary=post_walls, back_populates="posts", lazy="select", passive_deletes=True, info=complete()
    )
    hashtags: Mapped[list[Hashtag]] = relationship(
        secondary=post_hashtags, back_populates="posts", lazy="select", passive_deletes=True, info=complete()
    )


class PostAttachment(Base):
    """What hangs on a post, at its place."""

    __tablename__ = "post_attachments"
    __table_args__ = (
        Index(None, "content_type", "content_id"),
        CheckConstraint("pos >= 0", name="pos_not_negative"),
    )

    post_id: Mapped[int] = mapped_column(
        ForeignKey("posts.id", ondelete="CASCADE", info=when_missing("fetch", "park")),
        primary_key=True,
        doc="The post.",
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

    post: Mapped[Post] = relationship(back_populates="attachments", lazy="select")
    account_media: Mapped[AccountMedia | None] = relationship(lazy="select")
    account_media_bundle: Mapped[AccountMediaBundle | None] = relationship(lazy="select")
