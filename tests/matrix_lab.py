"""Matrix jobs in two scopes, the truth about them, and how their recorded pages come about.

fixtures/matrix/admin-10   what a server's admin was answered, 10 events a page; user-100: a user, 100
fixtures/matrix/truth      what the server's own database said: users, rooms; events, newest first

`python -m tests.matrix_lab` records them anew from a Synapse that nobody writes to meanwhile, named by
INGEST_TEST_SYNAPSE; what it needs of the environment is what the live test says.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ingest.clock import Clock
from ingest.config import Config, read_config
from ingest.pipeline import Job, open_job
from ingest.replay import INDEX, read_exchanges
from ingest.report import Certificate
from tests.matrix_oracle import compare, missing_parents

FOLDER = Path(__file__).parent.parent / "fixtures" / "matrix"
#: the base URL of a Synapse that holds what was recorded, or what the other variables say
SYNAPSE = "INGEST_TEST_SYNAPSE"
#: events a page, of the recordings
LIMITS = 10, 100
#: what moves with every request, whatever it asks
VOLATILE = "age", "last_seen_ts"


@dataclass(frozen=True)
class Scope:
    """What one account sees of the server."""

    name: str
    #: the source's definition in schema/matrix
    definition: str

    @property
    def account(self) -> str:
        """The variable that holds the account, as NAME:PASSWORD."""
        return f"{SYNAPSE}_{self.name.upper()}"

    @property
    def truth(self) -> Path:
        """What the oracle says of it: a file named by the environment, or the recorded one."""
        return Path(os.environ.get(f"{self.account}_TRUTH") or FOLDER / "truth" / f"{self.name}.json")


SCOPES = Scope("admin", "admin.toml"), Scope("user", "source.toml")
HOW = (
    f"set {SYNAPSE}=http://127.0.0.1:PORT, {SYNAPSE}_ADMIN and {SYNAPSE}_USER=NAME:PASSWORD,"
    f" and {SYNAPSE}_ADMIN_TRUTH and {SYNAPSE}_USER_TRUTH=FILE.json (FILE-events.jsonl beside it)"
    " unless it holds what was recorded"
)


@dataclass(frozen=True)
class Truth:
    """The oracle's answer for one scope."""

    stated: dict[str, Any]
    #: an event a line
    events: bytes

    @classmethod
    def read(cls, file: Path) -> Truth:
        """The answer in a file, and the events beside it, which may be gzipped."""
        events = file.with_name(f"{file.stem}-events.jsonl")
        packed = events.with_name(f"{events.name}.gz")
        text = events.read_bytes() if events.exists() else gzip.decompress(packed.read_bytes())
        return cls(json.loads(file.read_text(encoding="utf-8")), text)

    def differences(self, database: Path) -> list[str]:
        """In what the mirror in this file is not the truth."""
        events = database.with_name("events.jsonl")
        events.write_bytes(self.events)
        return compare(database, self.stated, events)

    def missing(self) -> set[str]:
        """Events that others refer to and that exist nowhere, for whoever looks."""
        events = map(json.loads, self.events.splitlines())
        return missing_parents({event["event_id"]: event for event in events})


def configure(folder: Path, scope: Scope, limit: int, **settings: Any) -> Config:
    """A job in this folder, with the bundled definition; `settings` are of its source."""
    stated = {"models": "schema.matrix", "definition": scope.definition, "limit": limit, **settings}
    lines = [f"{name} = {json.dumps(value)}" for name, value in stated.items()]
    database = json.dumps(f"sqlite:///{folder / 'mirror.db'}")
    file = folder / "config.toml"
    file.write_text(f"[database]\nurl = {database}\n\n[sources.matrix]\n" + "\n".join(lines) + "\n")
    return read_config(file)


async def sync(config: Config, clock: Clock | None = None) -> Certificate:
    """One run, in a job of its own."""
    async with open_job(config, clock=clock) as job:
        return await job.sync()


# -- a server that runs --------------------------------------------------------------------------------


def lacking(environment: Mapping[str, str]) -> list[str]:
    """The variables that are needed to ask a server, and not set."""
    return [name for name in (SYNAPSE, *(scope.account for scope in SCOPES)) if not environment.get(name)]


def live(folder: Path, scope: Scope, limit: int) -> Config:
    """A job that asks the server named by the environment; the password stays there."""
    name, _, os.environ["MATRIX_PASSWORD"] = os.environ[scope.account].partition(":")
    config = configure(folder, scope, limit, base_url=os.environ[SYNAPSE])
    return _as_user(config, name)


def _as_user(config: Config, name: str) -> Config:
    """The job with its user's name spelled out: the name of an account stands in all it is answered."""
    source = config.sources["matrix"]
    auth = source.source.auth
    assert auth is not None
    assert auth.login is not None
    body = {**auth.login.body, "identifier": {"type": "m.id.user", "user": name}}
    login = msgspec.structs.replace(auth.login, body=body)
    spelled = msgspec.structs.replace(source.source, auth=msgspec.structs.replace(auth, login=login))
    return msgspec.structs.replace(
        config, sources={"matrix": msgspec.structs.replace(source, source=spelled)}
    )


# -- recording -----------------------------------------------------------------------------------------


async def record(to: Path, scope: Scope, limit: int, truth: Truth) -> int:
    """Record a first run and one without news; how many answers were kept."""
    with tempfile.TemporaryDirectory() as folder:
        config = live(Path(folder), scope, limit)
        first, again = await sync(config), await sync(config)
        assert (first.exit, again.exit, again.load.written) == (0, 0, 0), (first.remarks, again.remarks)
        assert truth.differences(Path(folder) / "mirror.db") == []
        async with open_job(config, write=False) as job:
            await _written(job, to)
    return _tidied(to)


async def _written(job: Job, to: Path) -> None:
    shutil.rmtree(to, ignore_errors=True)
    await job.record("matrix", to)


def _tidied(folder: Path) -> int:
    """Keep one answer for each request, a record a line; refuse answers that tell of a change."""
    kept: dict[bytes, tuple[str, Any]] = {}
    lines = []
    for exchange in read_exchanges(folder):
        request, file = msgspec.json.encode(exchange.request), folder / exchange.file
        body = json.loads(file.read_bytes())
        if request not in kept:
            kept[request] = exchange.file, body
            lines.append(msgspec.json.encode(exchange) + b"\n")
            file.write_text(_a_record_a_line(body), encoding="utf-8")
            continue
        # a run without news is answered as the one before it was, and each run reads from the start
        first, said = kept[request]
        assert _lasting(said) == _lasting(body), f"{first} and {exchange.file}: the server is in use"
        file.unlink()
    (folder / INDEX).write_bytes(b"".join(lines))
    return len(lines)


def _lasting(value: Any) -> Any:
    """A value without what moves by itself."""
    if isinstance(value, dict):
        return {name: _lasting(inner) for name, inner in value.items() if name not in VOLATILE}
    return [_lasting(inner) for inner in value] if isinstance(value, list) else value


def _a_record_a_line(body: Any) -> str:
    """A JSON object, each of its lists with an element a line: half of what indenting takes."""
    fields = [f"{_compact(name)}:{_listed(value)}" for name, value in body.items()]
    return "{" + ",\n".join(fields) + "}\n"


def _listed(value: Any) -> str:
    return (
        "[\n" + ",\n".join(map(_compact, value)) + "]"
        if isinstance(value, list) and value
        else _compact(value)
    )


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _main() -> None:
    if lacking(os.environ):
        raise SystemExit(HOW)
    for scope in SCOPES:
        truth = Truth.read(scope.truth)
        for limit in LIMITS:
            asyncio.run(record(FOLDER / f"{scope.name}-{limit}", scope, limit, truth))
        home = FOLDER / "truth" / f"{scope.name}.json"
        home.parent.mkdir(parents=True, exist_ok=True)
        home.write_text(json.dumps(truth.stated, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        home.with_name(f"{scope.name}-events.jsonl.gz").write_bytes(gzip.compress(truth.events, mtime=0))


if __name__ == "__main__":
    _main()
