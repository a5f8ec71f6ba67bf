"""The page log: where pages wait between fetching and loading, and what a run goes on from."""

from ingest.staging.protocol import PageLog
from ingest.staging.sqlite import SqlitePageLog

__all__ = ["PageLog", "SqlitePageLog"]
