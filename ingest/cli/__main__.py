"""`python -m ingest.cli`, where the script `ingest` is not on the path."""

from ingest.cli import run

run()
