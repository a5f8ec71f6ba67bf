"""The recorded pages of fixtures/fansly: a made-up world, an API over it, and a client that asks it.

`python -m tests.fixtures_fansly` writes fixtures/fansly anew, the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from ingest.catalog import Catalog, read_catalog
from ingest.source import Source, read_source
from ingest.types import Request
from schema.fansly import models
from tests.fixtures_fansly.api import Upstream
from tests.fixtures_fansly.client import Client
from tests.fixtures_fansly.records import Json
from tests.fixtures_fansly.world import make_world

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "fixtures" / "fansly"
SEED = 20_250_701


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A line of pages.jsonl."""

    request: Request
    status: int
    headers: dict[str, str]
    #: the body, below the folder
    file: str


def source() -> Source:
    """The system's source.toml."""
    return read_source(ROOT / "schema" / "fansly" / "source.toml")


def catalog() -> Catalog:
    """The system's models."""
    return read_catalog([models])


def record(folder: Path) -> Client:
    """Ask the simulated API for everything and write what it answers."""
    client = Client(source(), catalog(), Upstream(make_world(SEED)))
    client.run()
    lines, counts = [], dict.fromkeys(("check", *client.source.streams), 0)
    for name, request, answer in client.asked:
        counts[name] += 1
        file = f"{name}/{counts[name]:04}.json"
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(_readable(answer.body))
        lines.append(_line(request, answer.status, file))
    # the last answer first: messages before their groups, files before the people who offer them
    (folder / "pages.jsonl").write_bytes(b"\n".join(reversed(lines)) + b"\n")
    return client


def _readable(body: Json) -> bytes:
    return msgspec.json.format(msgspec.json.encode(body), indent=1) + b"\n"


def _line(request: Request, status: int, file: str) -> bytes:
    asked = {"method": request.method, "path": request.path, "query": request.query}
    headers = {"content-type": "application/json; charset=utf-8"}
    return msgspec.json.encode({"request": asked, "status": status, "headers": headers, "file": file})


def recorded(folder: Path) -> Iterator[tuple[Exchange, bytes]]:
    """Every exchange of a folder, with its body."""
    for line in (folder / "pages.jsonl").read_bytes().splitlines():
        exchange = msgspec.json.decode(line, type=Exchange)
        yield exchange, (folder / exchange.file).read_bytes()
