"""A pytest plugin: recorded pages answer a test's requests, strictly, in the network's place.

def test_rooms_have_titles(mirror):
    made = mirror("config.toml", pages="fixtures/mine")         # the job, run into a database of its own
    assert made.certificate.exit == 0
    assert made.rows("rooms") == [{"id": 1, "title": "Kitchen"}]

def test_my_own_client(recorded):
    with recorded("fixtures/mine", base_url="https://chat.example/api/v1") as served:
        ...                                                     # whatever asks through httpx
    assert served.unasked == []

pytest finds the plugin by itself where ingest is installed. Pages are served through respx, which
takes the place of httpx's connections, so that the machine's own client is tested down to there. A
request with another method, path, query or body than any that was recorded fails the test, and says
which recorded ones are nearest, even where the code under test swallows the error. Routes of
your own go first: use the fixture `respx_mock` before these.

Relative paths are looked for beside the test, then in the folders above it, up to pytest's root.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

import pytest

from ingest.clock import SystemClock

# a plugin is imported by every run of pytest where it is installed: everything else comes when it is used
if TYPE_CHECKING:
    import httpx
    import respx
    import sqlalchemy as sa

    from ingest.config import Config, ConfiguredSource
    from ingest.replay import Recording
    from ingest.report import Certificate, DeadLetter, MissingParent

__all__ = ["Mirrored", "Served", "mirror", "recorded"]

T = TypeVar("T")
Place = str | Path


# -- recorded pages in the network's place -------------------------------------------------------------


class Served:
    """Recorded pages that answer every request made through httpx, while it is open."""

    def __init__(self, stage: _Stage, recording: Recording, *, all_asked: bool) -> None:
        self.recording = recording
        #: requests that were made and not recorded, each with the recorded ones nearest to it
        self.missed: list[str] = []
        self._stage, self._all_asked = stage, all_asked

    @property
    def unasked(self) -> list[str]:
        """The recorded exchanges that nobody has asked for."""
        return self.recording.unasked

    def __enter__(self) -> Self:
        self._stage.open(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._stage.close(self)
        if self.missed and (error is None or isinstance(error, Exception)):
            raise AssertionError("\n".join(dict.fromkeys(self.missed))) from None
        if error is None and self._all_asked and self.unasked:
            raise AssertionError("\n  ".join(["recorded, and never asked for:", *self.unasked]))


class Recorded(Protocol):
    """What the fixture `recorded` is."""

    def __call__(
        self, folder: Place, *, base_url: str, ignoring: Iterable[str] = (), all_asked: bool = False
    ) -> Served:
        """Serve a recording where an API has its base URL.

        `ignoring`: query parameters that carry credentials; `all_asked`: a recorded exchange that
        nobody has asked for at the end fails the test.
        """


class _Stage:
    """The recordings that are open in one test, behind one respx router."""

    def __init__(self) -> None:
        self._open: list[Served] = []
        self._router: respx.MockRouter | None = None

    def open(self, served: Served) -> None:
        if self._router is None:
            self._router = _router(self._answer)
            self._router.start()
        self._open.append(served)

    def close(self, served: Served) -> None:
        self._open.remove(served)
        if not self._open and self._router is not None:
            self._router.stop()
            self._router = None

    def _answer(self, request: httpx.Request) -> httpx.Response:
        from respx.models import AllMockedAssertionError

        from ingest.replay import Unrecorded

        missed: list[tuple[Served, str]] = []
        for served in reversed(self._open):
            if not served.recording.is_home(request.url):
                continue
            try:
                return served.recording.answer(request)
            except Unrecorded as error:
                missed.append((served, _told(error)))
        if not missed:
            place = request.url.copy_with(raw_path=b"/")
            missed.append((self._open[-1], f"{request.method} {place}… is of an API that was not recorded"))
        served, text = missed[0]
        served.missed.append(text)
        # the one error after which respx goes on to the next router
        raise AllMockedAssertionError(text)


def _router(answer: Callable[[httpx.Request], httpx.Response]) -> respx.MockRouter:
    try:
        import respx
    except ImportError:
        pytest.fail("recorded pages are served through respx, which is not here: pip install respx", False)
    # in httpcore's place, below the transport that the machine makes for itself
    router = respx.MockRouter(assert_all_called=False, using="httpcore")
    router.route().mock(side_effect=answer)
    return router


def _told(error: Exception) -> str:
    from ingest.errors import IngestError

    assert isinstance(error, IngestError)
    kind, _, nearest = (error.hint or "").partition(": ")
    return "\n  ".join([error.message, kind, *(f"  {one}" for one in nearest.split("; ") if one)])


# -- a whole run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """What came of a run."""

    #: what the run proved; `.exit` is 0 when all is well
    certificate: Certificate
    #: one number for everything the mirror holds
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


class Mirrors(Protocol):
    """What the fixture `mirror` is."""

    def __call__(
        self,
        config: Place | Mapping[str, Any],
        pages: Place | Mapping[str, Place] | None = None,
        *,
        all_asked: bool = False,
    ) -> Mirrored:
        """Run a job once, against recorded pages, into a database of its own.

        `config`: a config.toml, or what would stand in one. `pages`: the folder of recorded pages,
        or with several sources one for each by its name; by default what their `replay` says.
        """


class _Offline(NamedTuple):
    """A job that needs no network, and the recording that answers each of its sources."""

    config: Config
    pages: dict[str, Path]


class _NoTime(SystemClock):
    """A clock on which waiting takes no time, and is waited out all the same."""

    def __init__(self) -> None:
        self._slept = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._slept)

    def monotonic(self) -> float:
        return super().monotonic() + self._slept

    async def sleep(self, seconds: float) -> None:
        self._slept += max(0.0, seconds)
        await super().sleep(0)


async def _synced(config: Config, unasked: Callable[[], list[str]]) -> Mirrored:
    from ingest.catalog import read_catalog
    from ingest.config import import_package
    from ingest.pipeline import open_job

    modules = [
        import_package(f"{source.package}.models", config.file.parent) for source in config.sources.values()
    ]
    async with open_job(config, clock=_NoTime()) as job:
        return Mirrored(
            certificate=await job.sync(),
            digest=await job.digest(),
            missing=await job.missing(),
            dead_letters=await job.dead_letters(),
            unasked=unasked(),
            _url=config.database_url,
            _tables={name: table.sql for name, table in read_catalog(modules).tables.items()},
        )


async def _rows(url: str, table: sa.Table) -> list[dict[str, Any]]:
    import sqlalchemy as sa

    from ingest.engines import engine_for
    from ingest.mirror import LEDGER_COLUMNS

    columns = [column for column in table.columns if column.name not in LEDGER_COLUMNS]
    engine = engine_for(url)
    try:
        async with engine.reader() as connection:
            found = await connection.execute(sa.select(*columns).order_by(*table.primary_key.columns))
            return [dict(row) for row in found.mappings()]
    finally:
        await engine.close()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The work's result, also where the test is asynchronous and has an event loop already."""
    with ThreadPoolExecutor(1, "ingest.testing") as thread:
        return thread.submit(asyncio.run, work).result()


# -- the job -------------------------------------------------------------------------------------------


def _offline(
    request: pytest.FixtureRequest,
    config: Place | Mapping[str, Any],
    pages: Place | Mapping[str, Place] | None,
    folder: Path,
    path: Callable[[Path], None],
) -> _Offline:
    """The job in a folder of its own: without its database, its credentials, its rate and its network."""
    from ingest.config import import_package, read_config
    from ingest.source import decode_toml

    file = None if isinstance(config, Mapping) else _found(request, config)
    tables: dict[str, Any] = dict(config) if isinstance(config, Mapping) else decode_toml(_found(request, config), dict)
    ...
