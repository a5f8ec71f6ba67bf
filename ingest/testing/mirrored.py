"""One run of a job against recorded pages, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from ingest.catalog import read_catalog
from ingest.clock import SystemClock
from ingest.config import Config, import_package
from ingest.engines import engine_for
from ingest.mirror import LEDGER_COLUMNS
from ingest.pipeline import open_job
from ingest.report import Certificate, DeadLetter, MissingParent
from ingest.testing.job import Offline

if TYPE_CHECKING:
    from ingest.testing import Recorded

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """What came of a run."""

    #: what the run proved; its `exit` is 0 when all is well
    certificate: Certificate
    #: one text for everything the mirror holds
    digest: str
    #: references whose target is not in the mirror
    missing: list[MissingParent]
    #: what could not be stored, and why
    dead_letters: list[DeadLetter]
    #: recorded exchanges that the run did not ask for
    unasked: list[str]
    _url: str = field(repr=False)
    _tables: Mapping[str, sa.Table] = field(repr=False)

    def rows(self, of: type[Any] | str) -> list[dict[str, Any]]:
        """The rows of a model, or of a table by its name, in the order of their keys."""
        name: str = of if isinstance(of, str) else of.__table__.name
        if name not in self._tables:
            raise LookupError(f"there is no table {name!r}; known: {', '.join(sorted(self._tables))}")
        return _run(_rows(self._url, self._tables[name]))


def mirrored(job: Offline, recorded: Recorded, *, all_asked: bool) -> Mirrored:
    """Run a job once, each source answered by its recorded pages."""
    with ExitStack() as stack:
        served = []
        for name, source in job.config.sources.items():
            auth = source.source.auth
            names = (auth.query or ()) if auth is not None else ()
            pages = recorded(job.pages[name], base_url=source.base_url, ignoring=names, all_asked=all_asked)
            served.append(stack.enter_context(pages))
        return _run(_synced(job.openly, lambda: [line for one in served for line in one.unasked]))


async def _synced(config: Config, unasked: Callable[[], list[str]]) -> Mirrored:
    packages = dict.fromkeys(source.package for source in config.sources.values())
    catalog = read_catalog(import_package(f"{package}.models", config.file.parent) for package in packages)
    async with open_job(config, clock=_NoTime()) as job:
        return Mirrored(
            certificate=await job.sync(),
            digest=await job.digest(),
            missing=await job.missing(),
            dead_letters=await job.dead_letters(),
            unasked=unasked(),
            _url=config.database_url,
            _tables={name: table.sql for name, table in catalog.tables.items()},
        )


async def _rows(url: str, table: sa.Table) -> list[dict[str, Any]]:
    columns = [column for column in table.columns if column.name not in LEDGER_COLUMNS]
    engine = engine_for(url)
    try:
        async with engine.reader() as connection:
            found = await connection.execute(sa.select(*columns).order_by(*table.primary_key.columns))
            return [dict(row) for row in found.mappings()]
    finally:
        await engine.close()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The work's result, also in a test that is asynchronous and has an event loop already."""
    with ThreadPoolExecutor(1, "ingest.testing") as thread:
        return thread.submit(asyncio.run, work).result()


class _NoTime(SystemClock):
    """The system's clock, on which waiting takes no time and is over all the same."""

    def __init__(self) -> None:
        self._slept = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._slept)

    def monotonic(self) -> float:
        return super().monotonic() + self._slept

    async def sleep(self, seconds: float) -> None:
        self._slept += max(0.0, seconds)
        await super().sleep(0)
