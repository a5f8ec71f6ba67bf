"""What differs between databases, and nothing else."""

from __future__ import annotations

import sqlalchemy as sa

from ingest.engines.base import Engine
from ingest.engines.sqlite import SqliteEngine
from ingest.errors import ConfigError

__all__ = ["Engine", "engine_for"]


def engine_for(url: str) -> Engine:
    """The engine a database URL names; ConfigError when it is none of ours."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise ConfigError(
            "is not a database URL", where="database.url", hint='"sqlite:///mirror.db"'
        ) from None
    if parsed.get_backend_name() == "sqlite":
        return SqliteEngine(parsed)
    raise ConfigError(
        f"{parsed.get_backend_name()} is not a database this version writes to",
        where="database.url",
        hint='"sqlite:///mirror.db"',
    )
