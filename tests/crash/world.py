"""Jobs to crash: what stands before, what is run, and an upstream in the same process that counts.

A scenario is prepared once. Its command is then crashed again and again from the same beginning, and what it
comes to must be what it comes to when nobody disturbs it.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import httpx
import sqlalchemy as sa

from ingest.fetch import client
from ingest.pipeline import Job
from tests.crash import models
from tests.crash.asking import Asked
from tests.integration.jobs import Setup
from tests.upstream import Dialect, Truth, Upstream, generate
from tests.upstream.wire import Request

BASE_URL = "http://api.test"
#: thresholds under which a handful of pages opens an integrity window
BULK = {"BULK": 8, "BATCH": 6, "BACKLOG": 20}
_BATCHES = {"BULK": 40, "BATCH": 20, "BACKLOG": 80}
_MODELS = Path(models.__file__).read_text()
_CURSOR = {"kind": "cursor", "next": "meta.next", "limit": 3}
_STREAMS: dict[str, Any] = {
    "rooms": {
        "path": "/rooms",
        "records": "data",
        "entity": "Room",
        "paginate": _CURSOR,
        "since": {"param": "updated_after", "key": "updated_at", "strict": True},
    },
    "messages": {
        "each": "rooms",
        "path": "/rooms/{rooms.id}/messages",
        "records": "data",
        "entity": "Message",
        "order": "newest-first",
        "key": "created_at",
        "changes": {"reread": "7d"},
        "by_id": {"path": "/messages/{id}", "records": "data"},
        "paginate": _CURSOR,
    },
    # in no listing: each of them is asked for by id
    "users": {"entity": "User", "by_id": {"path": "/users/{id}"}},
}
Way: TypeAlias = Callable[[Job], Awaitable[Any]]
_LATER = datetime(2025, 6, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A command line, and thresholds of the pipeline for it."""

    command: tuple[str, ...]
    limits: Mapping[str, int] = field(default_factory=dict)


SYNC = Step(command=("sync",))


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """What is crashed, and what was before."""

    crashed: Step
    #: run one after the other, under the models as they were
    before: tuple[Step, ...] = ()
    #: the failpoint and the occurrence at which the last of them dies
    cut: tuple[str, int] | None = None
    #: what changes upstream in between
    changes: Callable[[Truth], None] = lambda truth: None
    #: models.py as it was
    earlier: Callable[[str], str] = lambda text: text
    #: and as they are from then on
    release: Callable[[str], str] = lambda text: text
    migrated: bool = False
    #: statuses of a run that comes to its end: 3 where the run that meets a record is told of it
    exits: frozenset[int] = frozenset({0})
    #: what every run asks for again: a parent whose record was rejected is still missing
    wanted_again: str | None = None
    #: how it goes on after a crash
    resumed: tuple[Way, ...] = (Job.sync,)
    rooms: int = 3
    #: a room's messages, on the average
    messages: int = 5


def _grow(truth: Truth) -> None:
    """New messages by known and unknown people, in a known room and a new one; edits, a delete."""
    first, second, third, *_ = sorted(row["id"] for row in truth.rows("rooms"))
    old = sorted(row["id"] for row in truth.rows("messages"))
    truth.upsert("rooms", {"id": 5, "title": "new", "updated_at": _LATER})
    people = sorted(row["id"] for row in truth.rows("users"))
    for number in (1, 2):
        email = f"new{number}@example.org"
        truth.upsert(
            "users", {"id": number, "name": f"new {number}", "email": email, "role": models.Role.GUEST}
        )
    for number, sender in enumerate([1, people[0], 2, people[1], 1], 1):
        at = _LATER + timedelta(minutes=number)
        message = {
            "id": 10**6 + number,
            "room_id": (first, 5)[number % 2],
            "sender_id": sender,
            "text": "new",
        }
        answers = {"reply_to_id": old[number]} if number < 3 else {}
        truth.upsert("messages", {**message, **answers, "created_at": at, "updated_at": at})
    truth.upsert("files", {"id": 10**6, "message_id": 10**6 + 1, "name": "new"})
    newest = max((row for row in truth.rows("messages") if row["room_id"] == second), key=_created)
    truth.upsert("messages", {"id": newest["id"], "text": "edited", "updated_at": _LATER})
    gone = max((row for row in truth.rows("messages") if row["room_id"] == third), key=_created)
    truth.upsert("messages", {"id": gone["id"], "deleted_at": _LATER, "updated_at": _LATER})
    for key in (first, second, third):
        truth.upsert("rooms", {"id": key, "updated_at": _LATER})


def _created(row: Mapping[str, Any]) -> tuple[datetime, int]:
    return row["created_at"], row["id"]


def _without_guests(text: str) -> str:
    return text.replace('    GUEST = "guest"\n', "")


def _without_topics(text: str) -> str:
    return text.replace("    topic: Mapped[str | None] = mapped_column(Text, info=ignore())\n", "")


SCENARIOS: dict[str, Scenario] = {
    "backfill": Scenario(crashed=SYNC),
    "incremental": Scenario(before=(SYNC,), changes=_grow, crashed=SYNC),
    "bulk": Scenario(crashed=Step(command=("sync",), limits=BULK)),
    "recovery": Scenario(
        before=(Step(command=("sync",), limits=BULK),),
        cut=("mirror.db: INSERT INTO ingest_loads, before", 2),
        crashed=Step(command=("recover",), limits=BULK),
        resumed=(Job.recover, Job.sync),
    ),
    "rebuild": Scenario(
        before=(SYNC,),
        crashed=Step(command=("replay", "--rebuild")),
        resumed=(Job.recover, Job.sync),
    ),
    "dead letters": Scenario(
        before=(SYNC,),
        earlier=_without_guests,
        crashed=Step(command=("dead-letters", "retry")),
        resumed=(Job.retry_dead_letters, Job.sync),
    ),
    "rejection": Scenario(
        release=_without_guests, crashed=SYNC, exits=frozenset({0, 3}), wanted_again="/users/"
    ),
    "migration": Scenario(
        before=(SYNC,),
        earlier=_without_topics,
        migrated=True,
        crashed=Step(command=("migrate",)),
        resumed=(Job.migrate, Job.sync),
    ),
    # long: for power cuts, and for a run that is killed again and again
    "long": Scenario(crashed=Step(command=("sync",), limits=_BATCHES), rooms=5, messages=14),
}


class World:
    """A scenario's job in a folder, and its upstream in this process."""

    def __init__(self, folder: Path, scenario: Scenario, *, seed: int = 6) -> None:
        self.scenario = scenario
        #: what is written durably stands in here, and nothing else
        self.case, self.prepared = folder / "case", folder / "prepared"
        rows = {
            "users": 5,
            "rooms": scenario.rooms,
            "messages": scenario.messages * scenario.rooms,
            "files": 4,
        }
        self.truth = generate(models.Base, seed=seed, rows=rows)
        text = _MODELS
        if scenario.migrated:
            text = text.replace("latest, when_missing", "ignore, latest, when_missing").replace(
                "    message_count:",
                "    topic: Mapped[str | None] = mapped_column(Text, info=ignore())\n    message_count:",
            )
        self._now = scenario.release(text)
        url = f"sqlite:///{self.case / 'mirror.db'}"
        self.setup = Setup(folder, _STREAMS, models=scenario.earlier(text), url=url)
        self.up = Upstream(self.setup.source, self.truth, dialect=Dialect(extras={"mood": "good"}))
        self.up.site.origin = BASE_URL
        self.setup.configure(BASE_URL, fetch={"concurrency": 2})
        #: takes what was asked for in vain, since it was staged: who asked may be killed before it tells
        self.again = folder / "again"
        self.staged: frozenset[Asked] = frozenset()

    def release(self) -> None:
        """The models, and their migrations, as they are from now on."""
        (self.setup.folder / "chat" / "models.py").write_text(self._now)
        if self.scenario.migrated:
            (self._versions / "0002_topics.py").write_text(_TOPICS)

    def write_first_revision(self, tables: Iterable[sa.Table]) -> None:
        """The revision that makes these tables."""
        self._versions.mkdir(parents=True)
        dialect = sa.create_mock_engine("sqlite://", lambda *_: None).dialect
        statements = [
            str(sa.schema.CreateTable(table).compile(dialect=dialect)).strip() for table in tables
        ] + [
            str(sa.schema.CreateIndex(index).compile(dialect=dialect))
            for table in tables
            for index in sorted(table.indexes, key=lambda one: str(one.name))
        ]
        made = "\n".join(f"    op.execute({statement!r})" for statement in statements)
        (self._versions / "0001_initial.py").write_text(_INITIAL.format(made))

    @property
    def _versions(self) -> Path:
        return self.setup.folder / "chat" / "migrations" / "versions"

    def reset(self) -> None:
        """Begin a case: everything as it was prepared."""
        self.again.unlink(missing_ok=True)
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.prepared, self.case)

    def connect(self) -> None:
        """Answer what this process asks for."""
        client.network = lambda _: httpx.MockTransport(self._answer)  # type: ignore[assignment]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path, _, query = request.url.raw_path.decode().partition("?")
        asked = Request(
            method=request.method,
            path=path,
            query=tuple(parse_qsl(query, keep_blank_values=True)),
            headers=(),
            body=request.content,
        )
        key = Asked(asked.method, asked.path, tuple(sorted(asked.query)))
        if key in self.staged:
            with self.again.open("a") as file:
                print(key, file=file)
        said = self.up._answer(asked)
        return httpx.Response(said.status, headers=list(said.headers), stream=httpx.ByteStream(said.body))


_INITIAL = '''
"""The tables as they were."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade():
{}
'''
_TOPICS = '''
"""Rooms have topics, and messages are made anew."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.add_column("rooms", sa.Column("topic", sa.Text))
    op.create_index("ix_rooms_topic", "rooms", ["topic"])
    with op.batch_alter_table("messages", recreate="always") as messages:
        messages.alter_column("text", existing_type=sa.Text, nullable=True)
'''
