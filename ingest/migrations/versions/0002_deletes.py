"""Proven listings, deletes held back, and when missing parents are asked for again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "ingest_tries",
        sa.Column("table", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(576), primary_key=True),
        sa.Column("since", sa.String(40), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_try", sa.String(40)),
    )

    op.create_table(
        "ingest_listings",
        sa.Column("walk", sa.String(128), primary_key=True),
        sa.Column("table", sa.String(64), nullable=False),
        sa.Column("columns", sa.String(128), nullable=False),
        sa.Column("key", sa.String(576), nullable=False),
        sa.Column("sound", sa.Integer, nullable=False),
        sa.Column("pages", sa.Integer),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
    )

    op.create_table(
        "ingest_sweeps",
        sa.Column("table", sa.String(64), primary_key=True),
        sa.Column("columns", sa.String(128), primary_key=True),
        sa.Column("key", sa.String(576), primary_key=True),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
    )

    op.create_table(
        "ingest_deletes",
        sa.Column("table", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(576), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("stamp", sa.BigInteger, nullable=False),
        sa.Column("proof", sa.String(128), nullable=False),
    )

    op.create_table(
        "ingest_budget",
        sa.Column("table", sa.String(64), primary_key=True),
        sa.Column("had", sa.BigInteger, nullable=False),
        sa.Column("deleted", sa.BigInteger, nullable=False),
        sa.Column("settled_to", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("ingest_budget", "ingest_deletes", "ingest_sweeps", "ingest_listings", "ingest_tries"):
        op.drop_table(table)
