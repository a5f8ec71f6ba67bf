"""`python -m ingest` is the command `ingest`."""

from ingest.cli import run

if __name__ == "__main__":
    run()
