"""Files, what accounts offer of them, and the bundles they are offered in.

AccountMediaBundle ──< BundleContent >── AccountMedia ──> Media ──< MediaLocation
                                                            └──< variants (Media again)
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ingest.mirror import Mirror, UtcDateTime, complete, field, when_missing
from schema.fansly.models.base import Base

if TYPE_CHECKING:
    from schema.fansly.models.accounts import Account

#: The smaller pictures and the streams made of one file: media themselves.
media_variants = Table(
    "media_variants",
    Base.metadata,
    Column(
        "media_id",
        ForeignKey("media.id", ondelete="CASCADE", info=when_missing("park")),
        primary_key=True,
        doc="The file as it was uploaded.",
    ),
    Column(
        "variant_id",
        ForeignKey("media.id", ondelete="CASCADE", info=when_missing("park")),
        primary_key=True,
        index=True,
        doc="What was made of it.",
    ),
)


class Media(Base):
    """A file. The same one may be offered many times."""

    __tablename__ = "media"
    __mirror__ = Mirror(version="updated_at")

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, doc="Upstream's id.")
    account_id: Mapped[int | None] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE", info=when_missing("fetch", "stub")),
        index=True,
        doc="Who uploaded it.",
    )
    type: Mapped[int | None] = mapped_column(Integer, doc="1 picture, 2 video, 3 sound, 302 HLS, 303 DASH.")
    status: Mapped[int | None] = mapped_column(Integer, doc="1 once it can be shown.")
    mimetype: Mapped[str | None] = mapped_column(String(100), doc="The file's media type.")
    width: Mapped[int | None] = mapped_column(Integer, doc="Pixels.")
    height: Mapped[int | None] = mapped_column(Integer, doc="Pixels.")
    duration: Mapped[float | None] = mapped_column(Double, info=field("metadata.duration"), doc="Seconds.")
    location: Mapped[str | None] = mapped_column(String(1000), doc="Its path on the file servers.")
    created_at: Mapped[datetime | None] = mapped_column(UtcDateTime, doc="When it was uploaded.")
    updated_at: Mapped[datetime | None] = mapped_column(UtcDateTime, doc="When it was last processed.")

    account: Mapped[Account | None] = relationship(
        foreign_keys=[account_id], back_populates="media", lazy="select"
    )
    locations: Mapped[list[MediaLocation]] = relationship(
        back_populates="media", lazy="select", passive_deletes=True, info=complete()
    )
    variants: Mapped[list[Media]] = relationship(
        secondary=media_variants,
        primaryjoin=lambda: Media.id == media_variants.c.media_id,
        secondaryjoin=lambda: Media.id == media_variants.c.variant_id,
        back_populates="variant_of",
        lazy="select",
        passive_deletes=True,
        info=complete(),
    )
    variant_of: Mapped[list[Media]] = relationship(
        secondary=media_variants,
        primaryjoin=lambda: Media.id == media_variants.c.variant_id,
        secondaryjoin=lambda: Media.id == media_variants.c.media_id,
        back_populates="variants",
        lazy="select",
        passive_deletes=True,
    )


class MediaLocation(Base):
    """One address a file can be had from."""

    __tablename__ = "media_locations"

    media_id: Mapped[int] = mapped_column(
        ForeignKey("media.id", ondelete="CASCADE", info=when_missing("park")),
        primary_key=True,
        doc="The file.",
    )
    location_id: Mapped[str] = mapped_column(
        String(32), primary_key=True, doc="Which server, as upstream numbers them."
    )
    location: Mapped[str] = mapped_column(String(1000), doc="The address, without a signature.")

    media: Mapped[Media] = relationship(back_populates="locations", lazy="select")


class AccountMedia(Base):
    """What an account offers: a file, perhaps a preview, and at what price."""

    __tablename__ = "account_media"
    __mirror__ = Mirror(deleted="deleted_at")
    # `ix_account_media_account_id_created_at_id` also serves the foreign key
    __table_args__ = (Index(None, "account_id", "created_at", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, doc="Upstream's id.")
    account_id: Mapped[int] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE", info=when_missing("fetch", "stub")),
        doc="Who offers it.",
    )
    media_id: Mapped[int | None] = mapped_column(
        ForeignKey("media.id", ondelete="SET NULL", info=when_missing("null")), index=True, doc="The file."
    )
    preview_id: Mapped[int | None] = mapped_column(
        ForeignKey("media.id", ondelete="SET NULL", info=when_missing("null")),
        index=True,
        doc="What is shown to those who may not see the file.",
    )
    price: Mapped[int | None] = mapped_column(Integer, doc="Thousandths of a dollar; 0 when free.")
    access: Mapped[bool | None] = mapped_column(Boolean(), doc="Whether we may see the file.")
    permission_flags: Mapped[int | None] = mapped_column(Integer, doc="Bits saying who may see it.")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, doc="When it was offered.")
    deleted: Mapped[bool] = mapped_column(
        Boolean(), default=False, server_default=false(), doc="Whether it was taken back."
    )
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime, doc="When it was taken back.")

    account: Mapped[Account] = relationship(back_populates="account_media", lazy="select")
    media: Mapped[Media | None] = relationship(foreign_keys=[media_id], lazy="select")
    preview: Mapped[Media | None] = relationship(foreign_keys=[preview_id], lazy="select")
    in_bundles: Mapped[list[BundleContent]] = relationship(
        back_populates="account_media", lazy="select", passive_deletes=True
    )


class AccountMediaBundle(Base):
    """Several offers sold as one, in an order of their own."""

    __tablename__ = "account_media_bundles"
    __mirror__ = Mirror(deleted="deleted_at")

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, doc="Upstream's id.")
    account_id: Mapped[int] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE", info=when_missing("fetch", "stub")),
        index=True,
        doc="Who offers it.",
    )
    price: Mapped[int | None] = mapped_column(Integer, doc="Thousandths of a dollar; 0 when free.")
    access: Mapped[bool | None] = mapped_column(Boolean(), doc="Whether we may see what is in it.")
    permission_flags: Mapped[int | None] = mapped_column(Integer, doc="Bits saying who may see it.")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, doc="When it was offered.")
    deleted: Mapped[bool] = mapped_column(
        Boolean(), default=False, server_default=false(), doc="Whether it was taken back."
    )
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime, doc="When it was taken back.")

    account: Mapped[Account] = relationship(back_populates="account_media_bundles", lazy="select")
    bundle_content: Mapped[list[BundleContent]] = relationship(
        back_populates="bundle",
        lazy="select",
        order_by="BundleContent.pos",
        cascade="all, delete-orphan",
        passive_deletes=True,
        info=complete(),
    )


class BundleContent(Base):
    """One offer in a bundle, at its place."""

    __tablename__ = "bundle_contents"
    __table_args__ = (CheckConstraint("pos >= 0", name="pos_not_negative"),)

    bundle_id: Mapped[int] = mapped_column(
        ForeignKey("account_media_bundles.id", ondelete="CASCADE", info=when_missing("fetch", "park")),
        primary_key=True,
        doc="The bundle.",
    )
    pos: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, doc="Its place, from 0.")
    account_media_id: Mapped[int] = mapped_column(
        ForeignKey("account_media.id", ondelete="CASCADE", info=when_missing("fetch", "park")),
        index=True,
        doc="The offer.",
    )

    bundle: Mapped[AccountMediaBundle] = relationship(back_populates="bundle_content", lazy="select")
    account_media: Mapped[AccountMedia] = relationship(back_populates="in_bundles", lazy="select")
