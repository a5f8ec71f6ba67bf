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
    ("rooms", "last_event_id", "events"),
    ("rooms", "last_message_id", "events"),
    ("rooms", "last_live_message_id", "events"),
)


def upgrade() -> None:
    _create_users()
    _create_rooms()
    _create_events()
    _create_memberships()
    if op.get_context().dialect.supports_alter:
        for table, column, target in POINTERS:
            op.create_foreign_key(
                f"fk_{table}_{column}", table, target, [column], ["id"], ondelete="SET NULL"
            )


def downgrade() -> None:
    if op.get_context().dialect.supports_alter:
        for table, column, _ in POINTERS:
            op.drop_constraint(f"fk_{table}_{column}", table, type_="foreignkey")
    for table in ("memberships", "events", "rooms", "users"):
        op.drop_table(table)


def _ledger_owned() -> tuple[sa.Column[Any], ...]:
    """What `ingest.mirror.attach` adds to every table."""
    return (
        sa.Column("ingest_version", sa.BigInteger, nullable=False, server_default="-4611686018427387904"),
        sa.Column("ingest_stamp", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("ingest_ordinal", sa.Integer, nullable=False, server_default="0"),
        sa.Column("ingest_exceptions", sa.Text),
    )


def _create_users() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("display_name", sa.Text),
        sa.Column("avatar_url", sa.Text),
        sa.Column("user_type", sa.String(255)),
        sa.Column("is_admin", sa.Boolean),
        sa.Column("is_guest", sa.Boolean),
        sa.Column("is_deactivated", sa.Boolean),
        sa.Column("is_locked", sa.Boolean),
        sa.Column("is_erased", sa.Boolean),
        sa.Column("is_shadow_banned", sa.Boolean),
        sa.Column("created_at", sa.DateTime(timezone=True)),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
    )


def _create_rooms() -> None:
    op.create_table(
        "rooms",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("topic", sa.Text),
        sa.Column("avatar_url", sa.Text),
        sa.Column("canonical_alias", sa.String(255)),
        sa.Column("room_type", sa.String(255)),
        sa.Column("version", sa.String(255)),
        sa.Column("encryption", sa.String(255)),
        sa.Column("join_rule", sa.String(255)),
        sa.Column("guest_access", sa.String(255)),
        sa.Column("history_visibility", sa.String(255)),
        sa.Column("is_public", sa.Boolean),
        sa.Column("is_federatable", sa.Boolean),
        sa.Column("creator_id", sa.String(255)),
        sa.Column("last_event_id", sa.String(255)),
        sa.Column("last_message_id", sa.String(255)),
        sa.Column("last_live_message_id", sa.String(255)),
        sa.Column("events_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("members_count", sa.Integer, nullable=False, server_default="0"),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_rooms"),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["users.id"], name="fk_rooms_creator_id", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["last_event_id"],
            ["events.id"],
            name="fk_rooms_last_event_id",
            ondelete="SET NULL",
            use_alter=True,
        ),
        sa.ForeignKeyConstraint(
            ["last_message_id"],
            ["events.id"],
            name="fk_rooms_last_message_id",
            ondelete="SET NULL",
            use_alter=True,
        ),
        sa.ForeignKeyConstraint(
            ["last_live_message_id"],
            ["events.id"],
            name="fk_rooms_last_live_message_id",
            ondelete="SET NULL",
            use_alter=True,
        ),
    )
    op.create_index("ix_rooms_creator_id", "rooms", ["creator_id"])
    op.create_index("ix_rooms_last_event_id", "rooms", ["last_event_id"])
    op.create_index("ix_rooms_last_message_id", "rooms", ["last_message_id"])
    op.create_index("ix_rooms_last_live_message_id", "rooms", ["last_live_message_id"])


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("room_id", sa.String(255), nullable=False),
        sa.Column("sender_id", sa.String(255), nullable=False),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("state_key", sa.String(255)),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("position", sa.BigInteger),
        sa.Column("msgtype", sa.String(255)),
        sa.Column("body", sa.Text),
        sa.Column("formatted_body", sa.Text),
        sa.Column("new_body", sa.Text),
        sa.Column("new_formatted_body", sa.Text),
        sa.Column("relates_to_id", sa.String(255)),
        sa.Column("rel_type", sa.String(255)),
        sa.Column("reaction_key", sa.Text),
        sa.Column("reply_to_id", sa.String(255)),
        sa.Column("redacts_id", sa.String(255)),
        sa.Column("redacted_by_id", sa.String(255)),
        sa.Column("media_url", sa.Text),
        sa.Column("media_mimetype", sa.String(255)),
        sa.Column("media_size", sa.BigInteger),
        sa.Column("media_width", sa.Integer),
        sa.Column("media_height", sa.Integer),
        sa.Column("content", sa.JSON),
        sa.Column("reactions_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("thread_replies_count", sa.Integer, nullable=False, server_default="0"),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.ForeignKeyConstraint(["room_id"], ["rooms.id"], name="fk_events_room_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["sender_id"], ["users.id"], name="fk_events_sender_id"),
        sa.ForeignKeyConstraint(
            ["relates_to_id"], ["events.id"], name="fk_events_relates_to_id", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["reply_to_id"], ["events.id"], name="fk_events_reply_to_id", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["redacts_id"], ["events.id"], name="fk_events_redacts_id", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["redacted_by_id"], ["events.id"], name="fk_events_redacted_by_id", ondelete="SET NULL"
        ),
    )
    op.create_index("ix_events_room_id_type_position", "events", ["room_id", "type", "position"])
    op.create_index("ix_events_room_id_position", "events", ["room_id", "position"])
    op.create_index("ix_events_sender_id", "events", ["sender_id"])
    op.create_index("ix_events_relates_to_id", "events", ["relates_to_id"])
    op.create_index("ix_events_reply_to_id", "events", ["reply_to_id"])
    op.create_index("ix_events_redacts_id", "events", ["redacts_id"])
    op.create_index("ix_events_redacted_by_id", "events", ["redacted_by_id"])


def _create_memberships() -> None:
    op.create_table(
        "memberships",
        sa.Column("room_id", sa.String(255), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("membership", sa.String(16), nullable=False),
        sa.Column("display_name", sa.Text),
        sa.Column("avatar_url", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("sender_id", sa.String(255), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("position", sa.BigInteger),
        *_ledger_owned(),
        sa.PrimaryKeyConstraint("room_id", "user_id", name="pk_memberships"),
        sa.ForeignKeyConstraint(["room_id"], ["rooms.id"], name="fk_memberships_room_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_memberships_user_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["sender_id"], ["users.id"], name="fk_memberships_sender_id"),
    )
    op.create_index("ix_memberships_user_id", "memberships", ["user_id"])
    op.create_index("ix_memberships_sender_id", "memberships", ["sender_id"])
