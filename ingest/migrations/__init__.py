"""Alembic revisions: how a folder of them is read and run, and in `versions/` the ledger's own."""
