"""Whatever is wrong with what is written, answered or told: one clear line or a dead letter, and no loss."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.report import DeadLetter
from tests.integration.jobs import EXAMPLE, Ran, Setup, cli, forget, replace
from tests.integration.story import LATER, bump, rooms, say
from tests.upstream import Faults, Truth, Upstream, example, generate
from tests.upstream.faults import error_in_200, html, instead, status

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

ROWS = {
    "users": 40,
    "tags": 20,
    "conversations": 4,
    "conversation_tags": 6,
    "messages": 40,
    "attachments": 12,
}
#: nothing is waited for
AT_ONCE = {"attempts": 1}


def assert_one_line(ran: Ran, *said: str) -> None:
    """One line that says what is wrong, and perhaps a hint."""
    first, *rest = ran.err.splitlines()
    assert first.startswith("ingest: "), ran.err
    assert all(line.startswith("hint: ") for line in rest), ran.err
    assert len(rest) <= 1, ran.err
    assert "mistake in ingest" not in ran.err
    for text in said:
        assert text in ran.err, ran.err
    assert ran.out == ""


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=7, rows=ROWS)


# -- what a person writes ----------------------------------------------------------------------------------

Change = Callable[[Setup], Any]


def in_config(old: str, new: str) -> Change:
    return lambda setup: replace(setup.config_file, old, new)


def in_source(old: str, new: str) -> Change:
    return lambda setup: replace(setup.folder / "chat" / "source.toml", old, new)


def in_models(old: str, new: str) -> Change:
    return lambda setup: replace(setup.folder / "chat" / "models.py", old, new)


def garbage(name: str) -> Change:
    return lambda setup: (setup.folder / name).write_bytes(b"SQLite format 3\0 but not really" * 100)


#: what is changed, the exit status, and what the line says
MISTAKES: dict[str, tuple[Change, int, tuple[str, ...]]] = {
    "broken TOML": (in_config("[sources.api]", "[sources.api"), 2, ("config.toml", "broken TOML", "line 1")),
    "unknown key": (in_config("models", "modells"), 2, ("config.toml", "sources.api", "modells")),
    "unknown table": (in_config("[sources.api]", "[sauces]\n[sources.api]"), 2, ("sauces",)),
    "no source": (lambda s: s.config_file.write_text("[database]\n"), 2, ("sources",)),
    "not UTF-8": (lambda s: s.config_file.write_bytes(b"\xff\xfe"), 2, ("config.toml", "cannot be read")),
    "no config": (lambda s: s.config_file.unlink(), 2, ("config.toml", "no such file")),
    "no package": (in_config('"chat"', '"chats"'), 2, ("chats", "no package")),
    "no models": (lambda s: (s.folder / "chat" / "models.py").unlink(), 2, ("chat.models",)),
    "models that do not import": (in_models("import enum", "import enumm"), 2, ("enumm", "not installed")),
    "models that raise": (in_models("import enum", "import enum; 1 / 0"), 2, ("ZeroDivisionError",)),
    "no source.toml": (lambda s: (s.folder / "chat" / "source.toml").unlink(), 2, ("source.toml",)),
    "broken source.toml": (in_source("[streams.users]", "[streams.users"), 2, ("source.toml", "broken")),
    "unknown key of a stream": (in_source("records", "rekords"), 2, ("streams.users", "rekords")),
    "unknown pagination": (in_source('kind = "page"', 'kind = "pages"'), 2, ("streams.users", "paginate")),
    "unknown entity": (in_source('"User"', '"Yuser"'), 2, ("Yuser", "User")),
    "unknown parent": (in_source('each = "conversations"', 'each = "convs"'), 2, ("convs",)),
    "no end of the pages": (in_source('pages = "meta.pages", ', ""), 2, ("streams.users", "last page")),
    "a bad path": (in_source('records = "data"', 'records = "data..x"'), 2, ("streams.users", "data..x")),
    "by_id without an id": (in_source('"/users/{id}"', '"/users"'), 2, ("streams.users.by_id", "{id}")),
    "credentials that say nothing": (in_config("[sources.api]", "[sources.api]\nauth = {}"), 2, ("auth",)),
    "an unknown policy": (in_models('when_missing("fetch"', 'when_missing("fecth"'), 2, ("fecth", "park")),
    "no such URL": (in_config("http://", "htp://"), 2, ("base_url",)),
    "no such database": (in_config("[sources", '[database]\nurl = "oracle://x"\n[sources'), 2, ("oracle",)),
    "a database without a URL": (
        in_config("[sources", '[database]\nurl = "x.db"\n[sources'),
        2,
        ("database.url",),
    ),
    "an unknown __mirror__ column": (
        in_models('Mirror(version="updated_at")', 'Mirror(version="v")'),
        2,
        ("'v'",),
    ),
    "a foreign key to no key": (
        in_models('ForeignKey("users.id")', 'ForeignKey("users.name")'),
        2,
        ("users",),
    ),
    "a secret spelled out": (
        in_config("[sources.api]", '[sources.api]\nauth = { bearer = "s3cret" }'),
        2,
        ("auth",),
    ),
    "a missing secret": (
        in_config("[sources.api]", '[sources.api]\nauth = { bearer = "$NOPE_1" }'),
        2,
        ("NOPE_1",),
    ),
    "a database that is none": (garbage("mirror.db"), 1, ("mirror.db",)),
    "a page log that is none": (garbage("mirror.db.pages"), 2, ("mirror.db.pages",)),
    "a folder for a database": (lambda s: s.database.mkdir(), 1, ("mirror.db",)),
}


#: what only SQLAlchemy notices
UNREADABLE: dict[str, tuple[Change, int, tuple[str, ...]]] = {
    "a foreign key to nothing": (
        in_models('ForeignKey("users.id")', 'ForeignKey("nobody.id")'),
        2,
        ("nobody",),
    ),
    "a relationship to nobody": (
        in_models("sender: Mapped[User | None]", 'sender: Mapped["Nobody | None"]'),
        2,
        ("Nobody",),
    ),
}


@pytest.mark.parametrize("mistake", [*MISTAKES, *UNREADABLE])
async def test_a_mistake_is_told_in_one_line_with_its_place(tmp_path: Path, mistake: str) -> None:
    change, code, said = {**MISTAKES, **UNREADABLE}[mistake]
    setup = Setup(tmp_path, example.STREAMS)
    setup.configure("http://127.0.0.1:9")
    change(setup)
    try:
        ran = await cli(setup.config_file, "sync")
    finally:
        if mistake in UNREADABLE:  # which SQLAlchemy would complain of in every later test
            sys.modules["chat.models"].Base.registry.dispose()
    assert_one_line(ran, *said)
    assert ran.status == code
    assert "s3cret" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sync", "nobody"), "nobody"),
        (("backfill", "api", "--stream", "nothing"), "nothing"),
        (("backfill", "api", "--since", "yesterday"), "yesterday"),
        (("preview", "api", "nothing"), "nothing"),
        (("replay", "no/such/folder"), "no/such/folder"),
        (("record", "nobody", "--to", "here"), "nobody"),
    ],
)
async def test_a_name_that_is_none_is_told_in_one_line(
    tmp_path: Path, truth: Truth, arguments: tuple[str, ...], said: str
) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth) as up:
        setup.configure(up.base_url)
        assert (await cli(setup.config_file, "sync")).status == 0
        ran = await cli(setup.config_file, *arguments)
    assert_one_line(ran, said)
    assert ran.status == 2


@pytest.mark.parametrize("command", ["status", "missing", "gaps", "runs", "dead-letters"])
async def test_a_question_before_the_first_run_is_answered_in_one_line(tmp_path: Path, command: str) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    setup.configure("http://127.0.0.1:9")
    ran = await cli(setup.config_file, command)
    assert_one_line(ran, "there is no mirror yet")
    assert ran.status == 2
    assert not setup.database.exists()


# -- what a server says ------------------------------------------------------------------------------------


async def test_a_wrong_token_ends_the_run_and_says_what_to_check(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_TOKEN", "wrong-wrong-wrong")
    setup = Setup(tmp_path, example.STREAMS, auth={"bearer": "$CHAT_TOKEN"})
    async with Upstream(setup.source, truth, secrets={"CHAT_TOKEN": "right"}) as up:
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "sync")
        assert_one_line(ran, "401", "hint: ", "auth")
        assert "wrong-wrong-wrong" not in ran.err
        assert ran.status == 1
        monkeypatch.setenv("CHAT_TOKEN", "right")
        assert (await cli(setup.config_file, "sync")).status == 0
    assert setup.differences(truth) == []


async def test_an_anonymous_view_is_not_taken_for_the_truth(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_TOKEN", "wrong-wrong-wrong")
    check = {"path": "/me", "expect": "account.id"}
    setup = Setup(tmp_path, example.STREAMS, auth={"bearer": "$CHAT_TOKEN"}, check=check)
    async with Upstream(setup.source, truth, secrets={"CHAT_TOKEN": "right"}, anonymous=True) as up:
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "sync")
        assert_one_line(ran, "account.id")
        assert ran.status == 1
        assert up.asked("users") == []


async def test_a_host_where_nobody_answers_is_told_with_a_hint(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    setup = Setup(tmp_path, example.STREAMS, transport=AT_ONCE)
    setup.configure(f"http://127.0.0.1:{port}")
    ran = await cli(setup.config_file, "sync", "--json")
    assert ran.status == 3
    assert {failure.stream for failure in ran.proof.fetch.failures} == {"users", "tags", "conversations"}
    for failure in ran.proof.fetch.failures:
        assert "is base_url right?" in failure.cause
    shown = await cli(setup.config_file, "sync")
    assert (shown.status, "is base_url right?" in shown.out) == (3, True)


ANSWERS: dict[str, tuple[Any, str]] = {
    "HTML": (html(), "is base_url right?"),
    "HTML with an error's status": (html(502), "502"),
    "nothing": (instead(b""), "empty body"),
    "blanks": (instead(b" \n"), "empty body"),
    "half of the JSON": (instead(b'{"data": [{"id": "a"}'), "not JSON"),
    "NaN": (instead(b"NaN"), "not JSON"),
    "NaN for a total": (instead(b'{"items": [{"id": "a"}], "total": NaN}'), "total"),
    "half a character": (instead(b'"\\ud800"'), "not JSON"),
    "not UTF-8": (instead(b'{"items": [{"id": "\xff"}], "total": 1}'), "UTF-8"),
    "a hundred thousand brackets": (instead(b"[" * 100_000 + b"]" * 100_000), "nested too deep"),
    "no total": (instead(b'{"items": []}'), "total"),
    "another thing altogether": (instead(b'"hello"'), "no `items`"),
    "an error that nobody described": (instead(b'{"error": "try later"}'), "no `items`"),
    "not found": (status(404), "404"),
    "an error in a 200": (error_in_200(), "an error"),
    "a server error": (status(500), "500"),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_answer_that_cannot_be_used_ends_its_partition_alone(
    tmp_path: Path, truth: Truth, answer: str
) -> None:
    fault, said = ANSWERS[answer]
    errors = [{"path": "fault.code", "message": "fault.text"}]
    setup = Setup(tmp_path, example.STREAMS, transport=AT_ONCE, errors=errors)
    faults = Faults().always(fault, path="/tags")
    async with Upstream(setup.source, truth, faults=faults) as up:
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "sync", "--json")
        assert ran.status == 3
        (failure,) = ran.proof.fetch.failures
        assert (failure.stream, said in failure.cause) == ("tags", True), failure
        assert "\n" not in failure.cause
        # tags stand nested in conversations too, so those that are used are there
        unused = {key for (key,) in truth.keys("tags")} - {key for _, key in truth.keys("conversation_tags")}
        assert setup.differences(truth) == [
            f"tags {(key,)}: missing in the mirror" for key in sorted(unused, key=lambda key: repr((key,)))
        ]


# -- what a record says ------------------------------------------------------------------------------------


Spoil = Callable[[Upstream, str, Any], bytes]


def told(table: str, **stated: Any) -> tuple[str, Spoil]:
    """A row's record with some of what it says replaced."""

    def spoil(up: Upstream, table: str, key: Any) -> bytes:
        record = {**up.api.record(up.source.streams[table], table, key), **stated}
        return msgspec.json.encode({name: value for name, value in record.items() if value is not LEFT_OUT})

    return table, spoil


def instead_of(table: str, raw: bytes) -> tuple[str, Spoil]:
    """These bytes in the place of a row's record."""
    return table, lambda *_: raw


def unreferred(truth: Truth, table: str) -> list[Any]:
    """The keys of rows that nothing refers to: they are told once, and not asked for by id."""
    referred = {
        tuple(row[name] for name in reference.columns)
        for reference in truth.models.references_to(table)
        for row in truth.rows(reference.table)
    }
    if table == "messages":  # a conversation says which is its last
        referred |= {(row["last_message_id"],) for row in truth.derived("conversations").values()}
    return [key for key in truth.keys(table) if key not in referred]


LEFT_OUT = object()
#: how a record is spoiled, and what its dead letter says
SPOILED: dict[str, tuple[tuple[str, Spoil], str]] = {
    "without its key": (told("tags", id=LEFT_OUT), "id"),
    "null for a key": (told("tags", id=None), "id: null"),
    "an object for a key": (told("messages", id={"$oid": "5"}), "id: expected an integer"),
    "an id of 20 digits": (told("messages", id=12345678901234567890), "64 bits"),
    "an id of 400 digits": (told("messages", id=10**399), "64 bits"),
    "a colour of 5,000 digits": (
        instead_of("tags", b'{"id":"odd","colour":%s}' % (b"1" * 5000)),
        "out of range",
    ),
    "JSON that is an integer of 20 digits": (told("users", settings=10**19), "64 bits"),
    "a fraction for an id": (told("messages", id=1.5), "id: expected an integer"),
    "NUL in text": (told("tags", colour="a\0b"), "NUL"),
    "too long a text": (told("tags", colour="#12345678"), "9 characters"),
    "an unknown enum value": (told("users", role="emperor"), "emperor"),
    "null where none may be": (told("users", active=None), "active: null"),
    "text for a number": (told("users", score="high"), "score"),
    "a time that is none": (told("users", seen_at="2024-13-45"), "seen_at"),
    "NaN in it": (instead_of("tags", b'{"id":"odd","colour":NaN}'), "NaN"),
    "half a character": (instead_of("tags", b'{"id":"half","colour":"\\ud800"}'), "half a character"),
    "a list for a record": (instead_of("tags", b'["a","b"]'), "expected an object, not list"),
    "text for a record": (instead_of("tags", b'"tag"'), "expected an object, not str"),
    "an empty record": (instead_of("tags", b"{}"), "expected an object"),
    "an object for a list": (told("messages", attachments={"id": 1}), "attachments: expected a list"),
    "numbers for objects": (told("messages", attachments=[1, 2]), "attachments: expected objects"),
    "two parents": (
        told("messages", sender_id="0e984725-c51c-4bf4-9960-e1c80e27aba0", sender={"id": "0" * 32}),
        "sender_id",
    ),
}


async def test_records_that_cannot_be_stored_are_dead_letters_and_everything_else_loads(
    tmp_path: Path, truth: Truth
) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    free = {table: unreferred(truth, table) for table in ("users", "tags", "messages")}
    wanted: dict[bytes, str] = {}
    spoiled: list[tuple[str, Any]] = []
    async with Upstream(setup.source, truth) as up:
        for (table, spoil), said in SPOILED.values():
            key = free[table].pop()
            raw = spoil(up, table, key)
            up.spoil(table, *key, record=raw)
            wanted[raw] = said
            spoiled.append((table, key))
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "sync", "--json")
        assert (ran.status, ran.proof.fetch.failures) == (3, ())
        assert ran.proof.load.rejected == len(wanted) == len(SPOILED)
        letters = {letter.raw.encode(): letter for letter in await dead_letters(setup)}
        assert letters.keys() == wanted.keys()
        assert [said for raw, said in wanted.items() if said not in letters[raw].reason] == []
        assert {letter.state for letter in letters.values()} == {"open"}
        lines = setup.differences(truth)
        assert [line for line in lines if not any(of_row(line, *one) for one in spoiled)] == []

        # what is told well again comes with the next run that hears of it
        up.site.spoiled.clear()
        bump(truth, LATER, *rooms(truth))
        assert (await cli(setup.config_file, "sync")).status == 0
        # the partitions of messages are not asked again while their last messages stay the same
        lines = setup.differences(truth)
        assert [
            line for line in lines if not any(of_row(line, *one) for one in spoiled if one[0] == "messages")
        ] == []


def of_row(line: str, table: str, key: Any) -> bool:
    """Whether a difference is the row's own absence, or that of a message in its counter."""
    return line.startswith(f"{table} {key}") or (
        table == "messages" and ("messages_count" in line or "last_message_id" in line)
    )


async def dead_letters(setup: Setup) -> list[DeadLetter]:
    listed = await cli(setup.config_file, "dead-letters", "--json")
    assert listed.status == 0
    return msgspec.json.decode(listed.out, type=list[DeadLetter])


async def test_a_nested_record_that_cannot_be_stored_does_not_take_its_parent_along(
    tmp_path: Path, truth: Truth
) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth) as up:
        message = unreferred(truth, "messages")[0]
        record: Any = up.api.record(up.source.streams["messages"], "messages", message)
        bad = [
            {"id": "00000000-0000-0000-0000-000000000001", "name": "too large", "size": 11},
            {"id": "00000000-0000-0000-0000-000000000002", "name": None, "size": 1},
            {"name": "without a key", "size": 1},
        ]
        good = {"id": "00000000-0000-0000-0000-000000000003", "name": "good", "size": 10}
        record["attachments"] = [*bad, good]
        whole = msgspec.json.encode(record)
        up.spoil("messages", *message, record=whole)
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "sync", "--json")
        assert (ran.status, ran.proof.load.rejected) == (3, 3)
        letters = await dead_letters(setup)
        assert [letter.table for letter in letters] == ["attachments"] * 3
        # what broke a constraint is shown in the record that it came in
        assert {letter.raw.encode() for letter in letters} == {
            whole,
            *(msgspec.json.encode(one) for one in bad[1:]),
        }
        assert setup.ask("SELECT name FROM attachments WHERE message_id = ?", message[0]) == [("good",)]


async def test_of_a_key_told_twice_in_one_record_the_last_value_is_taken(
    tmp_path: Path, truth: Truth
) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth) as up:
        (key,) = unreferred(truth, "tags")[0]
        up.spoil("tags", key, record=b'{"id":%s,"colour":"#1","colour":"#2"}' % msgspec.json.encode(key))
        setup.configure(up.base_url)
        assert (await cli(setup.config_file, "sync")).status == 0
        assert setup.ask("SELECT colour FROM tags WHERE id = ?", key) == [("#2",)]


async def test_a_null_among_the_records_is_no_record(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth) as up:
        (key,) = unreferred(truth, "tags")[0]
        up.spoil("tags", key, record=b"null")
        setup.configure(up.base_url)
        assert (await cli(setup.config_file, "sync")).status in (0, 3)
        assert setup.differences(truth) == [f"tags {(key,)}: missing in the mirror"]


@pytest.mark.parametrize("depth", [50, 900, 990, 5000])
async def test_a_record_of_any_depth_loads_or_is_told_and_takes_nobody_along(
    tmp_path: Path, truth: Truth, depth: int
) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth) as up:
        (key,) = unreferred(truth, "users")[0]
        record = up.api.record(up.source.streams["users"], "users", (key,))
        deep = msgspec.Raw(b'{"a":' * depth + b"1" + b"}" * depth)
        up.spoil("users", key, record=msgspec.json.encode({**record, "settings": deep}))
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "sync", "--json")
        if ran.status == 0:
            ((stored,),) = setup.ask("SELECT settings FROM users WHERE id = ?", key.hex)
            assert stored.count("{") == depth
        else:
            assert ran.status == 3
            assert depth > 900
            told_of = [*ran.proof.fetch.failures, *await dead_letters(setup)]
            assert ["deep" in str(one) for one in told_of] == [True]
        assert len(setup.ask("SELECT id FROM messages")) == len(truth.rows("messages"))


async def test_nested_items_without_an_id_of_their_own_do_not_overwrite_each_other(
    tmp_path: Path, truth: Truth
) -> None:
    models = EXAMPLE.replace(
        "    id: Mapped[UUID] = mapped_column(primary_key=True)\n    message_id: Mapped[int]",
        "    id: Mapped[int] = mapped_column(primary_key=True)\n    message_id: Mapped[int]",
    )
    assert models != EXAMPLE
    setup = Setup(tmp_path, example.STREAMS, models=models)
    async with Upstream(setup.source, truth) as up:
        for key in truth.keys("messages"):
            record = up.api.record(up.source.streams["messages"], "messages", key)
            record["attachments"] = [{"name": f"{name} of {key[0]}", "size": 1} for name in "ab"]
            up.spoil("messages", *key, record=msgspec.json.encode(record))
        setup.configure(up.base_url)
        ran = await cli(setup.config_file, "sync", "--json")
        kept = len(setup.ask("SELECT * FROM attachments"))
        assert kept + ran.proof.load.rejected == 2 * len(truth.keys("messages"))


async def test_a_model_that_is_mended_takes_the_dead_letters_back_in(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    async with Upstream(setup.source, truth) as up:
        (key,) = unreferred(truth, "users")[0]
        table, spoil = told("users", role="emperor")
        up.spoil(table, key, record=spoil(up, table, (key,)))
        setup.configure(up.base_url)
        assert (await cli(setup.config_file, "sync")).status == 3
        replace(
            setup.folder / "chat" / "models.py",
            "class Role(enum.Enum):",
            "class Role(enum.Enum):\n    EMPEROR = 'emperor'",
        )
        forget("chat")
        before = len(up.requests)
        ran = await cli(setup.config_file, "dead-letters", "retry", "--json")
        assert (ran.status, ran.proof.dead_letters, len(up.requests)) == (0, 0, before)
        assert setup.ask("SELECT role FROM users WHERE id = ?", key.hex) == [("EMPEROR",)]
        assert await dead_letters(setup) == []
        assert (await cli(setup.config_file, "verify")).status == 0


# -- what a record says of its time ------------------------------------------------------------------------


@pytest.mark.parametrize("wild", ["2099-01-01T00:00:00Z", "yesterday"])
async def test_a_wild_time_in_one_record_hides_none_of_the_news(
    tmp_path: Path, truth: Truth, wild: str
) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    room = rooms(truth)[0]
    odd = say(truth, room, 500, LATER)
    async with Upstream(setup.source, truth) as up:
        record = up.api.record(up.source.streams["messages"], "messages", (odd,))
        up.spoil("messages", odd, record=msgspec.json.encode({**record, "created_at": wild}))
        await setup.sync(up)
        for number in range(35):
            say(truth, room, number, LATER + timedelta(minutes=1 + number))
        bump(truth, LATER + timedelta(days=1), room)
        await setup.sync(up)
        known = {key for (key,) in setup.ask("SELECT id FROM messages")}
        assert {key for (key,) in truth.keys("messages")} - known <= {odd}


async def test_a_time_in_the_future_hides_no_later_change(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    first, second, *_ = rooms(truth)
    bump(truth, datetime(2099, 1, 1, tzinfo=UTC), first)
    async with Upstream(setup.source, truth) as up:
        await setup.sync(up)
        truth.upsert("conversations", {"id": second, "title": "changed", "updated_at": LATER})
        await setup.sync(up)
        assert setup.differences(truth) == []
