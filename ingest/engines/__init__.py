"""What differs between databases, and nothing else."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from ingest.engines.base import Engine
from ingest.errors import ConfigError

__all__ = ["Engine", "engine_for", "passing_url"]

_EXAMPLES = '"sqlite:///mirror.db", "postgresql://user@host/database" or "mariadb://user@host/database"'


def passing_url(folder: Path) -> str:
    """The URL of a database that lives no longer than a folder does, and needs no server."""
    return f"sqlite:///{folder / 'passing.db'}"


def engine_for(url: str) -> Engine:
    """The engine a database URL names; ConfigError when it is none of ours."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError("is not a database URL", where="database.url", hint=_EXAMPLES) from None
    if "@" in (parsed.host or ""):
        # what stands before it is the end of a password, which would be shown as a host
        raise ConfigError(
            "has more than one @", where="database.url", hint="in a user's name or password, @ is written %40"
        )
    # not at the top: each takes its time to load, and a run needs one
    match parsed.get_backend_name():
        case "sqlite":
            from ingest.engines.sqlite import SqliteEngine

            return SqliteEngine(parsed)
        case "postgresql":
            from ingest.engines.postgresql import PostgresqlEngine

            return PostgresqlEngine(parsed)
        case "mariadb" | "mysql":
            from ingest.engines.mariadb import MariadbEngine

            return MariadbEngine(parsed)
    raise ConfigError(
        f"{parsed.get_backend_name()} is not a database this version writes to",
        where="database.url",
        hint=_EXAMPLES,
    )
