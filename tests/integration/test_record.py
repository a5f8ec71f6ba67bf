"""What a mirror was made from, recorded: it gives the same mirror again, and holds nobody's credentials."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from ingest.config import read_config
from ingest.errors import ConfigError, UsageError
from ingest.pipeline import open_job
from ingest.replay import INDEX, MARKER, read_exchanges
from ingest.report import Certificate
from tests.integration.jobs import Setup
from tests.integration.story import CHANGES
from tests.upstream import Faults, Paging, Truth, Upstream, example, generate
from tests.upstream.faults import deny, zipped

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

ROOT = Path(__file__).parents[2]
ROWS = {
    "users": 12,
    "tags": 8,
    "conversations": 6,
    "conversation_tags": 9,
    "messages": 40,
    "attachments": 12,
    "poll_options": 9,
}
KINDS: dict[str, dict[str, Any]] = {
    "cursor": {"kind": "cursor", "next": "meta.next"},
    "header": {"kind": "header", "next": "X-Next", "param": "after"},
    "link": {"kind": "link"},
    "url": {"kind": "url", "next": "links.next"},
    "continue": {"kind": "continue"},
}
KEY = "the/key+of us"


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=4, rows=ROWS)


def paged(kind: Mapping[str, Any]) -> dict[str, Any]:
    """The example's streams, all of them paginated in one way."""
    return {name: {**stream, "paginate": {**kind, "limit": 5}} for name, stream in example.STREAMS.items()}


async def recorded(setup: Setup, base_url: str, pages: Path) -> tuple[int, str]:
    """Record what a job has staged: how many pages, and the digest of its mirror."""
    async with open_job(setup.configure(base_url), write=False) as job:
        return await job.record("api", pages), await job.digest()


async def replayed(setup: Setup, base_url: str, pages: Path) -> tuple[Certificate, str]:
    """The job once more, answered by a recording and into another database."""
    config = setup.configure(base_url, source={"replay": str(pages)}, database={"url": "sqlite:///again.db"})
    async with open_job(config, clock=setup.clock) as job:
        return await job.sync(), await job.digest()


# -- the same mirror again -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_recording_gives_the_mirror_that_it_was_made_from(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("KEY", KEY)
    setup = Setup(tmp_path, paged(KINDS[kind]), auth={"query": {"key": "$KEY"}})
    pages, faults = tmp_path / "pages", Faults(seed=1).sometimes(0.5, zipped())
    async with Upstream(setup.source, truth, prefix="/api/v1", faults=faults) as up:
        first = await setup.sync(up)
        count, digest = await recorded(setup, up.base_url, pages)
    assert count == first.fetch.pages > 15
    # the server is gone, and so are the credentials
    monkeypatch.delenv("KEY")
    again, same = await replayed(setup, up.base_url, pages)
    assert (again.exit, again.fetch.failures) == (0, ())
    assert same == digest
    assert again.fetch.pages == again.fetch.requests == count
    assert again.load.written == first.load.written


async def test_the_default_job_recorded_and_replayed_is_the_default_job(tmp_path: Path) -> None:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    (source,) = read_config(ROOT / "config.toml").sources
    shutil.copytree(ROOT / "schema", tmp_path / "schema")
    for name, pages in (("first", ROOT / "fixtures" / source), ("second", tmp_path / "nowhere")):
        (tmp_path / f"{name}.toml").write_text(
            text.replace(f'"fixtures/{source}"', json.dumps(str(pages))).replace("mirror.db", f"{name}.db")
        )
    async with open_job(read_config(tmp_path / "first.toml")) as job:
        first, digest = await job.sync(), await job.digest()
        assert await job.record(source, tmp_path / "pages") == first.fetch.pages
    async with open_job(read_config(tmp_path / "second.toml")) as job:
        second = await job.replay(tmp_path / "pages")
        assert (second.exit, await job.digest()) == (0, digest)
    assert second.fetch.pages == first.fetch.pages
    assert {exchange.status for exchange in read_exchanges(tmp_path / "pages")} == {200, 403, 404}


async def test_of_two_runs_recorded_together_a_replay_begins_with_the_first(
    tmp_path: Path, truth: Truth
) -> None:
    setup, pages = Setup(tmp_path, example.STREAMS), tmp_path / "pages"
    async with Upstream(setup.source, truth) as up:
        await setup.sync(up)
        _, first = await recorded(setup, up.base_url, pages)
        for change in CHANGES:
            change(truth)
        await setup.sync(up)
        # what is there is replaced
        count, second = await recorded(setup, up.base_url, pages)
    assert first != second
    again, digest = await replayed(setup, up.base_url, pages)
    assert (again.exit, digest) == (0, first)
    assert again.fetch.pages < count == len(read_exchanges(pages))


# -- nobody's credentials ------------------------------------------------------------------------------

TOKEN = "token-of-a-login"
AUTH: dict[str, dict[str, Any]] = {
    "bearer": {"bearer": "$A"},
    "header": {"header": {"X-Api-Key": "$A", "X-Other": "$B"}},
    "query": {"query": {"key": "$A", "other": "$B"}},
    "basic": {"basic": ["$A", "$B"]},
    "login": {"login": {"path": "/login", "body": {"in": ["$A", {"p": "$B"}]}, "token": "token"}},
}


def spelled(secret: str) -> set[bytes]:
    """A credential as it may stand somewhere."""
    forms = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    return {form.encode() for form in forms} | {base64.b64encode(secret.encode())}


@pytest.mark.parametrize("kind", AUTH)
async def test_no_credential_reaches_a_recording_of_a_server_that_repeats_them_all(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # each needs an escape in a URL or in JSON
    secrets = {"A": 'canary/one"1', "B": "canary+two%2"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    told = [value for name, value in secrets.items() if f"${name}" in json.dumps(AUTH[kind])]
    told += {"login": [TOKEN], "basic": [":".join(told)]}.get(kind, [])
    echo = [*told, *(f"/next?key={quote(one)}" for one in told)]
    if kind == "basic":
        echo.append(base64.b64encode(told[-1].encode()).decode())
    faults = Faults().always(deny("meta.you_sent", echo))
    setup = Setup(tmp_path, paged(KINDS["url"]), auth=AUTH[kind])
    async with Upstream(setup.source, truth, faults=faults, secrets=secrets, paging=Paging(end="null")) as up:
        monkeypatch.setattr(up.gate, "_token", lambda: TOKEN)
        assert (await setup.sync(up)).exit == 0
        await recorded(setup, up.base_url, tmp_path / "pages")
    for file in (file for file in (tmp_path / "pages").rglob("*") if file.is_file()):
        content = file.read_bytes()
        assert not [form for secret in told for form in spelled(secret) if form in content], file.name
        assert file.name == INDEX or content.count(MARKER.encode()) >= len(echo)
    asked = {name for exchange in read_exchanges(tmp_path / "pages") for name, _ in exchange.request.query}
    assert not asked & {"key", "other"}
    assert (await replayed(setup, up.base_url, tmp_path / "pages"))[0].exit == 0


async def test_without_the_credentials_that_a_sync_had_nothing_is_recorded(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", KEY)
    setup = Setup(tmp_path, example.STREAMS, auth={"bearer": "$KEY"})
    async with Upstream(setup.source, truth) as up:
        await setup.sync(up)
        monkeypatch.delenv("KEY")
        with pytest.raises(ConfigError, match="KEY is not set"):
            await recorded(setup, up.base_url, tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


# -- what cannot be recorded ---------------------------------------------------------------------------


async def test_what_is_there_and_no_recording_stays_as_it_is(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth) as up:
        await setup.sync(up)
        models = tmp_path / "chat" / "models.py"
        before = models.read_bytes()
        for folder in (tmp_path, models.parent, models):
            with pytest.raises(UsageError, match=r"holds files, and is no recording|is a file"):
                await recorded(setup, up.base_url, folder)
    assert models.read_bytes() == before
    assert not list(tmp_path.rglob(INDEX))


async def test_a_source_that_is_not_in_the_job_is_refused_by_its_name(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth) as up:
        await setup.sync(up)
        async with open_job(setup.configure(up.base_url), write=False) as job:
            with pytest.raises(UsageError, match="there is no source 'other'"):
                await job.record("other", tmp_path / "pages")
    assert not (tmp_path / "pages").exists()
