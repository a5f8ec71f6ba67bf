"""All tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "ingest_lock",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.String(128)),
        sa.Column("since", sa.String(40)),
        sa.Column("window", sa.Text),
    )

    op.create_table(
        "ingest_logs",
        sa.Column("log", sa.String(128), primary_key=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("top_stamp", sa.BigInteger, nullable=False),
        sa.Column("loaded_to", sa.BigInteger, nullable=False),
    )

    op.create_table(
        "ingest_loads",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run", sa.String(128), nullable=False),
        sa.Column("pages", sa.Integer, nullable=False),
        sa.Column("quarantined", sa.Integer, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False),
        sa.Column("written", sa.BigInteger, nullable=False),
        sa.Column("kept", sa.BigInteger, nullable=False),
        sa.Column("rejected", sa.BigInteger, nullable=False),
    )

    op.create_table(
        "ingest_pages",
        sa.Column("log", sa.String(128), primary_key=True),
        sa.Column("stamp", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("asked", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("load", sa.Integer, nullable=False),
    )

    op.create_table(
        "ingest_withheld",
        sa.Column("table", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(576), primary_key=True),
        sa.Column("column", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("stamp", sa.BigInteger, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("target_table", sa.String(64)),
        sa.Column("target_key", sa.String(576)),
    )
    op.create_index("ix_ingest_withheld_target", "ingest_withheld", ["target_table", "target_key"])

    op.create_table(
        "ingest_touched",
        sa.Column("table", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(576), primary_key=True),
    )

    op.create_table(
        "ingest_missing",
        sa.Column("table", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(576), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("stamp", sa.BigInteger, nullable=False),
    )

    op.create_table(
        "ingest_tombstones",
        sa.Column("table", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(576), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("stamp", sa.BigInteger, nullable=False),
        sa.Column("proof", sa.String(128), nullable=False),
    )

    op.create_table(
        "ingest_sets",
        sa.Column("table", sa.String(64), primary_key=True),
        sa.Column("columns", sa.String(128), primary_key=True),
        sa.Column("key", sa.String(576), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("stamp", sa.BigInteger, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
    )

    op.create_table(
        "ingest_dead_letters",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("log", sa.String(128), nullable=False),
        sa.Column("stamp", sa.BigInteger, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("table", sa.String(64)),
        sa.Column("key", sa.String(576)),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
    )
    op.create_index("ix_ingest_dead_letters_key", "ingest_dead_letters", ["table", "key"])

    op.create_table(
        "ingest_runs",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("command", sa.String(128), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("started", sa.String(40), nullable=False),
        sa.Column("ended", sa.String(40)),
        sa.Column("exit", sa.Integer),
        sa.Column("certificate", sa.Text),
    )

    op.create_table(
        "ingest_keys",
        sa.Column("source", sa.String(128), primary_key=True),
        sa.Column("stream", sa.String(128), primary_key=True),
        sa.Column("path", sa.String(512), primary_key=True),
        sa.Column("first_stamp", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in (
        "ingest_keys",
        "ingest_runs",
        "ingest_dead_letters",
        "ingest_sets",
        "ingest_tombstones",
        "ingest_missing",
        "ingest_touched",
        "ingest_withheld",
        "ingest_pages",
        "ingest_loads",
        "ingest_logs",
        "ingest_lock",
    ):
        op.drop_table(table)
