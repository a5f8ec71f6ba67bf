"""What the other commands do with a mirror and its page log, end to end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.config import read_config
from ingest.pipeline import open_job
from ingest.report import Gap, Preview
from tests.integration import healing_models
from tests.integration.jobs import Ran, Setup, cli, forget, replace, toml
from tests.integration.story import CHANGES
from tests.integration.test_healing import MODELS, NOTES, SINGLY, THREE
from tests.integration.test_round_trip import DELETED
from tests.upstream import Dialect, Truth, Upstream, example, generate

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

ROWS = {
    "users": 12,
    "tags": 8,
    "conversations": 6,
    "conversation_tags": 9,
    "messages": 50,
    "attachments": 15,
    "poll_options": 10,
}


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=8, rows=ROWS)


async def run(setup: Setup, *arguments: str) -> Ran:
    """Run a command that certifies, which it does."""
    ran = await cli(setup.config_file, *arguments, "--json")
    assert (ran.status, ran.proof.remarks) == (0, ()), ran.err
    return ran


async def digest(setup: Setup) -> str:
    async with open_job(read_config(setup.config_file), write=False) as job:
        return await job.digest()


@dataclass
class Both:
    """A mirror of two upstreams."""

    setup: Setup
    up: Upstream
    #: what the second one, desk, serves
    others: Truth
    only_chat: dict[str, Any]

    def take_out_desk(self) -> None:
        self.setup.config_file.write_text(toml({"sources": self.only_chat}))


@asynccontextmanager
async def two_sources(folder: Path, truth: Truth) -> AsyncIterator[Both]:
    """chat, which serves `truth`, and desk, configured into one database."""
    setup = Setup(folder, example.STREAMS)
    streams = {"notes": NOTES, "people": {"entity": "Person", **SINGLY}}
    notes, others = Setup(folder, streams, models=MODELS, package="desk"), Truth(healing_models, THREE)
    async with Upstream(setup.source, truth) as up, Upstream(notes.source, others) as desk:
        only_chat = {"chat": {"models": "chat", "base_url": up.base_url}}
        both = {**only_chat, "desk": {"models": "desk", "base_url": desk.base_url}}
        setup.config_file.write_text(toml({"sources": both}))
        yield Both(setup, up, others, only_chat)


async def test_a_database_made_anew_from_the_page_log_is_the_same(tmp_path: Path, truth: Truth) -> None:
    streams = {**example.STREAMS, **DELETED, "users": {"entity": "User", "by_id": {"path": "/users/{id}"}}}
    setup = Setup(tmp_path, streams)
    async with Upstream(setup.source, truth) as up:
        up.hide("users", *truth.keys("users")[3])
        up.forbid("users", *truth.keys("users")[5])
        setup.configure(up.base_url)
        await run(setup, "sync")
        for change in CHANGES:
            change(truth)
            await run(setup, "sync")
        wanted, before = await digest(setup), len(up.requests)

        await run(setup, "replay", "--rebuild")
        assert await digest(setup) == wanted
        setup.database.unlink()
        await run(setup, "replay", "--rebuild")
        assert await digest(setup) == wanted
        assert len(up.requests) == before
        # and the next run goes on from what the log says has been fetched
        assert (await run(setup, "sync")).proof.load.written == 0
        assert await digest(setup) == wanted


async def test_what_was_recorded_plays_the_same_mirror_without_the_network(
    tmp_path: Path, truth: Truth
) -> None:
    first = Setup(tmp_path / "first", example.STREAMS)
    async with Upstream(first.source, truth) as up:
        first.configure(up.base_url)
        await run(first, "sync")
        wanted = await digest(first)
        assert (await cli(first.config_file, "record", "api", "--to", str(tmp_path / "pages"))).status == 0

    second = Setup(tmp_path / "second", example.STREAMS)
    second.configure("http://127.0.0.1:9", source={"replay": str(tmp_path / "pages")})
    forget("chat")
    await run(second, "sync")
    assert second.differences(truth) == []
    assert await digest(second) == wanted
    third = Setup(tmp_path / "third", example.STREAMS)
    third.configure("http://127.0.0.1:9")
    forget("chat")
    await run(third, "replay", str(tmp_path / "pages"))
    assert await digest(third) == wanted


async def test_gaps_are_listed_and_filled_by_and_by(tmp_path: Path, truth: Truth) -> None:
    paginate = {"kind": "cursor", "next": "meta.next_cursor", "limit": 4, "max_pages": 1}
    streams = {**example.STREAMS, "messages": {**example.STREAMS["messages"], "paginate": paginate}}
    setup = Setup(tmp_path, streams)
    async with Upstream(setup.source, truth) as up:
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "sync", "--json")
        assert ran.status == 3
        listed = await cli(setup.config_file, "gaps", "--json")
        gaps = msgspec.json.decode(listed.out, type=list[Gap])
        assert len(gaps) == ran.proof.gaps > 0
        assert {gap.stream for gap in gaps} == {"messages"}
        for _ in range(20):
            filled = await cli(setup.config_file, "backfill", "api", "--json")
            assert filled.status == (3 if filled.proof.gaps else 0)
            if filled.status == 0:
                break
        assert msgspec.json.decode((await cli(setup.config_file, "gaps", "--json")).out) == []
        assert setup.differences(truth) == []


AUTH: dict[str, dict[str, Any]] = {
    "bearer": {"bearer": "$CHAT_KEY"},
    "header": {"header": {"X-Api-Key": "$CHAT_KEY"}},
    "query": {"query": {"api_key": "$CHAT_KEY"}},
    "basic": {"basic": ["$CHAT_USER", "$CHAT_KEY"]},
    "login": {
        "login": {"path": "/login", "body": {"user": "$CHAT_USER", "key": "$CHAT_KEY"}, "token": "token"}
    },
}


@pytest.mark.parametrize("auth", AUTH)
async def test_credentials_are_in_no_file_and_no_line(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch, auth: str
) -> None:
    monkeypatch.setenv("CHAT_KEY", "hunter2-hunter2")
    monkeypatch.setenv("CHAT_USER", "somebody-hunter2")
    tags = {**example.STREAMS["tags"], "paginate": {"kind": "url", "next": "links.next", "limit": 3}}
    setup = Setup(tmp_path, {**example.STREAMS, "tags": tags}, auth=AUTH[auth])
    async with Upstream(setup.source, truth, token_uses=7 if auth == "login" else None) as up:
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "--log-format", "json", "sync")
        assert ran.status == 0
        assert (await cli(setup.config_file, "record", "api", "--to", str(tmp_path / "pages"))).status == 0
    assert setup.differences(truth) == []
    # nor the tokens that a login was answered with
    for secret in (b"hunter2", b"token-1", b"token-2"):
        assert secret not in (ran.out + ran.err).encode()
        assert [file for file in tmp_path.rglob("*") if file.is_file() and secret in file.read_bytes()] == []


async def test_two_sources_share_a_database(tmp_path: Path, truth: Truth) -> None:
    async with two_sources(tmp_path, truth) as both:
        setup = both.setup
        await run(setup, "sync", "desk")
        assert (len(both.up.requests), setup.differences(both.others)) == (0, [])
        await run(setup, "sync")
        assert setup.differences(truth) == setup.differences(both.others) == []
        # one of them is taken out: the other goes on, and nothing of either is lost
        both.take_out_desk()
        await run(setup, "sync")
        await run(setup, "verify")
        assert setup.differences(truth) == setup.differences(both.others) == []


async def test_a_preview_shows_what_would_be_and_writes_nothing(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth, dialect=Dialect(extras={"shade": "dark"})) as up:
        setup.configure(up.base_url)
        await run(setup, "sync")
        wanted, pages = await digest(setup), setup.ask("SELECT count(*) FROM ingest_pages")
        ran = await cli(setup.config_file, "preview", "api", "users", "--json")
        shown = msgspec.json.decode(ran.out, type=Preview)
        assert (ran.status, shown.records, shown.rejected) == (0, 10, ())
        assert shown.unmapped == ("shade",)
        assert [(one.table, len(one.rows)) for one in shown.tables] == [("users", 10)]
        assert await digest(setup) == wanted
        assert setup.ask("SELECT count(*) FROM ingest_pages") == pages


async def test_a_new_column_is_filled_from_the_pages_that_had_it_all_along(
    tmp_path: Path, truth: Truth
) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth, dialect=Dialect(extras={"shade": "dark"})) as up:
        setup.configure(up.base_url)
        ran = await run(setup, "sync")
        assert "api.tags: shade" in ran.proof.unmapped
        colour = "    colour: Mapped[str | None] = mapped_column(String(7))\n"
        replace(tmp_path / "chat" / "models.py", colour, f"{colour}    shade: Mapped[str | None]\n")
        forget("chat")
        told = await cli(setup.config_file, "sync")
        assert (told.status, "tags.shade" in told.err) == (2, True)
        setup.database.rename(tmp_path / "old.db")
        before = len(up.requests)
        ran = await run(setup, "replay", "--rebuild")
        assert "api.tags: shade" not in ran.proof.unmapped
        assert setup.ask("SELECT DISTINCT shade FROM tags") == [("dark",)]
        assert setup.differences(truth) == []
        assert len(up.requests) == before


async def test_a_database_is_not_emptied_for_pages_that_nobody_can_read(tmp_path: Path, truth: Truth) -> None:
    async with two_sources(tmp_path, truth) as both:
        setup = both.setup
        await run(setup, "sync")
        both.take_out_desk()
        ran = await cli(setup.config_file, "replay", "--rebuild")
        assert (ran.status, "desk" in ran.err) == (1, True)
        assert setup.differences(truth) == []
        await run(setup, "sync")
