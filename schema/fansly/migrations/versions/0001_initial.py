"""All tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

#: Tables that refer to each other: these keys name a table that is made later. Where a table can be altered
#: they are added when all are there; elsewhere a table may be named before it is there.
POINTERS = (
    ("accounts", "avatar_id", "media"),
    ("accounts", "banner_id", "media"),
    ("groups", "last_message_id", "messages"),
)


def upgrade() -> None:
    _create_accounts()
    _create_media()
    _create_messages()
    _create_posts()
    if op.get_context().dialect.supports_alter:
        for table, column, target in POINTERS:
            op.create_foreign_key(
                f"fk_{table}_{column}", table, target, [column], ["id"], ondelete="SET NULL"
            )


def downgrade() -> None:
    if op.get_context().dialect.supports_alter:
        for table, column, _ in POINTERS:
            op.drop_constraint(f"fk_{table}_{column}", table, type_="foreignkey")
    for table in (
        "post_attachments",
        "post_hashtags",
        "post_walls",
        "post_mentions",
        "posts",
        "hashtags",
        "message_attachments",
        "messages",
        "group_members",
        "groups",
        "bundle_contents",
        "account_media_bundles",
        "account_media",
        "media_locations",
        "media_variants",
        "media",
        "walls",
        "accounts",
    ):
        op.drop_table(table)


def _ledger_owned() -> tuple[sa.Column[Any], ...]:
    """What `ingest.mirror.attach` adds to every table."""
    return (
        sa.Column("ingest_version", sa.BigInteger, nullable=False, server_default="-4611686018427387904"),
        sa.Column("ingest_stamp", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("ingest_ordinal", sa.Integer, nullable=False, server_default="0"),
        sa.Column("ingest_exceptions", sa.Text),
    )


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("username", sa.String(100)),
        sa.Column("display_name", sa.String(200)),
        sa.Column("about", sa.Text),
        sa.Column("location", sa.String(200)),
        sa.Column("created_at", sa.DateTime(timezone=True)),
        sa.Column("flags", sa.Integer),
        sa.Column("version", sa.BigInteger),
        sa.Column("status_id", sa.Integer),
        sa.Column("follow_count", sa.Integer),
        sa.Column("subscriber_count", sa.Integer),
        sa.Column("post_likes", sa.Integer),
        sa.Column("account_media_likes", sa.Integer),
        sa.Column("image_count", sa.Integer),
        sa.Column("video_count", sa.Integer),
        sa.Column("bundle_count", sa.Integer),
        sa.Column("stats_fetched_at", sa.DateTime(timezone=True)),
        sa.Column("avatar_id", sa.BigInteger),
        sa.Column("banner_id", sa.BigInteger),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.ForeignKeyConstraint(
            ["avatar_id"], ["media.id"], name="fk_accounts_avatar_id", ondelete="SET NULL", use_alter=True
        ),
        sa.ForeignKeyConstraint(
            ["banner_id"], ["media.id"], name="fk_accounts_banner_id", ondelete="SET NULL", use_alter=True
        ),
    )
    op.create_index("ix_accounts_username", "accounts", ["username"])
    op.create_index("ix_accounts_avatar_id", "accounts", ["avatar_id"])
    op.create_index("ix_accounts_banner_id", "accounts", ["banner_id"])

    op.create_table(
        "walls",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger, nullable=False),
        sa.Column("pos", sa.Integer),
        sa.Column("name", sa.String(200)),
        sa.Column("description", sa.Text),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_walls"),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name="fk_walls_account_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_walls_account_id", "walls", ["account_id"])


def _create_media() -> None:
    op.create_table(
        "media",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger),
        sa.Column("type", sa.Integer),
        sa.Column("status", sa.Integer),
        sa.Column("mimetype", sa.String(100)),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("duration", sa.Double),
        sa.Column("location", sa.String(1000)),
        sa.Column("created_at", sa.DateTime(timezone=True)),
        sa.Column("updated_at", sa.DateTime(timezone=True)),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_media"),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name="fk_media_account_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_media_account_id", "media", ["account_id"])

    op.create_table(
        "media_variants",
        sa.Column("media_id", sa.BigInteger, nullable=False),
        sa.Column("variant_id", sa.BigInteger, nullable=False),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("media_id", "variant_id", name="pk_media_variants"),
        sa.ForeignKeyConstraint(
            ["media_id"], ["media.id"], name="fk_media_variants_media_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["variant_id"], ["media.id"], name="fk_media_variants_variant_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_media_variants_variant_id", "media_variants", ["variant_id"])

    op.create_table(
        "media_locations",
        sa.Column("media_id", sa.BigInteger, nullable=False),
        sa.Column("location_id", sa.String(32), nullable=False),
        sa.Column("location", sa.String(1000), nullable=False),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("media_id", "location_id", name="pk_media_locations"),
        sa.ForeignKeyConstraint(
            ["media_id"], ["media.id"], name="fk_media_locations_media_id", ondelete="CASCADE"
        ),
    )

    op.create_table(
        "account_media",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger, nullable=False),
        sa.Column("media_id", sa.BigInteger),
        sa.Column("preview_id", sa.BigInteger),
        sa.Column("price", sa.Integer),
        sa.Column("access", sa.Boolean),
        sa.Column("permission_flags", sa.Integer),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_account_media"),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name="fk_account_media_account_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["media_id"], ["media.id"], name="fk_account_media_media_id", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["preview_id"], ["media.id"], name="fk_account_media_preview_id", ondelete="SET NULL"
        ),
    )
    op.create_index(
        "ix_account_media_account_id_created_at_id", "account_media", ["account_id", "created_at", "id"]
    )
    op.create_index("ix_account_media_media_id", "account_media", ["media_id"])
    op.create_index("ix_account_media_preview_id", "account_media", ["preview_id"])

    op.create_table(
        "account_media_bundles",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger, nullable=False),
        sa.Column("price", sa.Integer),
        sa.Column("access", sa.Boolean),
        sa.Column("permission_flags", sa.Integer),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_account_media_bundles"),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name="fk_account_media_bundles_account_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_account_media_bundles_account_id", "account_media_bundles", ["account_id"])

    op.create_table(
        "bundle_contents",
        sa.Column("bundle_id", sa.BigInteger, nullable=False),
        sa.Column("pos", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("account_media_id", sa.BigInteger, nullable=False),
        *_ledger_owned(),
        sa.CheckConstraint("pos >= 0", name=op.f("ck_bundle_contents_pos_not_negative")),
        sa.PrimaryKeyConstraint("bundle_id", "pos", name="pk_bundle_contents"),
        sa.ForeignKeyConstraint(
            ["bundle_id"],
            ["account_media_bundles.id"],
            name="fk_bundle_contents_bundle_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["account_media_id"],
            ["account_media.id"],
            name="fk_bundle_contents_account_media_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_bundle_contents_account_media_id", "bundle_contents", ["account_media_id"])


def _create_messages() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("type", sa.Integer),
        sa.Column("created_by", sa.BigInteger),
        sa.Column("last_message_id", sa.BigInteger),
        sa.Column("stated_last_message_id", sa.BigInteger),
        sa.Column("message_count", sa.Integer, nullable=False, server_default="0"),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_groups"),
        sa.ForeignKeyConstraint(
            ["created_by"], ["accounts.id"], name="fk_groups_created_by", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["last_message_id"],
            ["messages.id"],
            name="fk_groups_last_message_id",
            ondelete="SET NULL",
            use_alter=True,
        ),
    )
    op.create_index("ix_groups_created_by", "groups", ["created_by"])
    op.create_index("ix_groups_last_message_id", "groups", ["last_message_id"])

    op.create_table(
        "group_members",
        sa.Column("group_id", sa.BigInteger, nullable=False),
        sa.Column("account_id", sa.BigInteger, nullable=False),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("group_id", "account_id", name="pk_group_members"),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name="fk_group_members_group_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name="fk_group_members_account_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_group_members_account_id", "group_members", ["account_id"])

    op.create_table(
        "messages",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("group_id", sa.BigInteger, nullable=False),
        sa.Column("sender_id", sa.BigInteger),
        sa.Column("type", sa.Integer),
        sa.Column("content", sa.Text),
        sa.Column("total_tip_amount", sa.Integer),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.Column("in_reply_to", sa.BigInteger),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_messages_group_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["sender_id"], ["accounts.id"], name="fk_messages_sender_id", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["in_reply_to"], ["messages.id"], name="fk_messages_in_reply_to", ondelete="SET NULL"
        ),
    )
    op.create_index("ix_messages_group_id_created_at_id", "messages", ["group_id", "created_at", "id"])
    op.create_index("ix_messages_sender_id", "messages", ["sender_id"])
    op.create_index("ix_messages_in_reply_to", "messages", ["in_reply_to"])

    op.create_table(
        "message_attachments",
        sa.Column("message_id", sa.BigInteger, nullable=False),
        sa.Column("pos", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("content_type", sa.String(16), nullable=False),
        sa.Column("content_id", sa.BigInteger),
        sa.Column("account_media_id", sa.BigInteger),
        sa.Column("account_media_bundle_id", sa.BigInteger),
        *_ledger_owned(),
        sa.CheckConstraint("pos >= 0", name=op.f("ck_message_attachments_pos_not_negative")),
        sa.PrimaryKeyConstraint("message_id", "pos", name="pk_message_attachments"),
        sa.ForeignKeyConstraint(
            ["message_id"], ["messages.id"], name="fk_message_attachments_message_id", ondelete="CASCADE"
        ),
        sa.CheckConstraint(
            "content_type IN ('1', '2', '8', '7001', '32001', '42001')",
            name=op.f("ck_message_attachments_content_type"),
        ),
        sa.ForeignKeyConstraint(
            ["account_media_id"],
            ["account_media.id"],
            name="fk_message_attachments_account_media_id",
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["account_media_bundle_id"],
            ["account_media_bundles.id"],
            name="fk_message_attachments_account_media_bundle_id",
            ondelete="SET NULL",
        ),
    )
    op.create_index(
        "ix_message_attachments_content_type_content_id",
        "message_attachments",
        ["content_type", "content_id"],
    )
    op.create_index("ix_message_attachments_account_media_id", "message_attachments", ["account_media_id"])
    op.create_index(
        "ix_message_attachments_account_media_bundle_id", "message_attachments", ["account_media_bundle_id"]
    )


def _create_posts() -> None:
    op.create_table(
        "hashtags",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("value", sa.String(100), nullable=False),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_hashtags"),
        sa.UniqueConstraint("value", name="uq_hashtags_value"),
    )

    op.create_table(
        "posts",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger, nullable=False),
        sa.Column("content", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("in_reply_to", sa.BigInteger),
        sa.Column("like_count", sa.Integer),
        sa.Column("media_like_count", sa.Integer),
        sa.Column("total_tip_amount", sa.Integer),
        sa.Column("answer_count", sa.Integer, nullable=False, server_default="0"),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_posts"),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name="fk_posts_account_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["in_reply_to"], ["posts.id"], name="fk_posts_in_reply_to", ondelete="SET NULL"
        ),
    )
    op.create_index("ix_posts_account_id_created_at_id", "posts", ["account_id", "created_at", "id"])
    op.create_index("ix_posts_in_reply_to", "posts", ["in_reply_to"])

    op.create_table(
        "post_mentions",
        sa.Column("post_id", sa.BigInteger, nullable=False),
        sa.Column("account_id", sa.BigInteger, nullable=False),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("post_id", "account_id", name="pk_post_mentions"),
        sa.ForeignKeyConstraint(
            ["post_id"], ["posts.id"], name="fk_post_mentions_post_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name="fk_post_mentions_account_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_post_mentions_account_id", "post_mentions", ["account_id"])

    op.create_table(
        "post_walls",
        sa.Column("post_id", sa.BigInteger, nullable=False),
        sa.Column("wall_id", sa.BigInteger, nullable=False),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("post_id", "wall_id", name="pk_post_walls"),
        sa.ForeignKeyConstraint(["post_id"], ["posts.id"], name="fk_post_walls_post_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["wall_id"], ["walls.id"], name="fk_post_walls_wall_id", ondelete="CASCADE"),
    )
    op.create_index("ix_post_walls_wall_id", "post_walls", ["wall_id"])

    op.create_table(
        "post_hashtags",
        sa.Column("post_id", sa.BigInteger, nullable=False),
        sa.Column("hashtag_id", sa.BigInteger, nullable=False),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("post_id", "hashtag_id", name="pk_post_hashtags"),
        sa.ForeignKeyConstraint(
            ["post_id"], ["posts.id"], name="fk_post_hashtags_post_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["hashtag_id"], ["hashtags.id"], name="fk_post_hashtags_hashtag_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_post_hashtags_hashtag_id", "post_hashtags", ["hashtag_id"])

    op.create_table(
        "post_attachments",
        sa.Column("post_id", sa.BigInteger, nullable=False),
        sa.Column("pos", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("content_type", sa.String(16), nullable=False),
        sa.Column("content_id", sa.BigInteger),
        sa.Column("account_media_id", sa.BigInteger),
        sa.Column("account_media_bundle_id", sa.BigInteger),
        *_ledger_owned(),
        sa.CheckConstraint("pos >= 0", name=op.f("ck_post_attachments_pos_not_negative")),
        sa.PrimaryKeyConstraint("post_id", "pos", name="pk_post_attachments"),
        sa.ForeignKeyConstraint(
            ["post_id"], ["posts.id"], name="fk_post_attachments_post_id", ondelete="CASCADE"
        ),
        sa.CheckConstraint(
            "content_type IN ('1', '2', '8', '7001', '32001', '42001')",
            name=op.f("ck_post_attachments_content_type"),
        ),
        sa.ForeignKeyConstraint(
            ["account_media_id"],
            ["account_media.id"],
            name="fk_post_attachments_account_media_id",
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["account_media_bundle_id"],
            ["account_media_bundles.id"],
            name="fk_post_attachments_account_media_bundle_id",
            ondelete="SET NULL",
        ),
    )
    op.create_index(
        "ix_post_attachments_content_type_content_id", "post_attachments", ["content_type", "content_id"]
    )
    op.create_index("ix_post_attachments_account_media_id", "post_attachments", ["account_media_id"])
    op.create_index(
        "ix_post_attachments_account_media_bundle_id", "post_attachments", ["account_media_bundle_id"]
    )
