"""`source.toml`: what is taken as it stands, and what is refused with file, key and hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.errors import ConfigError
from ingest.source import Cursor, EntityBy, Opens, Reread, Source, Stream, read_source, seconds
from tests.integration.jobs import toml

MESSAGES = '[streams.messages]\npath = "/messages"\nentity = "Message"\n'


def read(folder: Path, text: str) -> Source:
    file = folder / "source.toml"
    file.write_text(text, encoding="utf-8")
    return read_source(file)


def refused(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return caught.value


def test_a_stream_needs_no_more_than_a_path_and_an_entity(tmp_path: Path) -> None:
    stream = read(tmp_path, MESSAGES).streams["messages"]
    assert (stream.path, stream.records, stream.paginate) == ("/messages", "$", None)
    assert stream.entities == EntityBy("$", {}, ("Message",))


def test_every_part_of_a_stream_is_read(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        """
        [streams.conversations]
        path     = "/conversations"
        records  = "data"
        entity   = "Conversation"
        paginate = { kind = "cursor", next = "meta.next_cursor", limit = 100 }

        [streams.messages]
        each    = "conversations"
        path    = "/conversations/{conversations.id}/messages"
        query   = { of = "{conversations.owner.id}", again = "{conversations.id}" }
        entity  = { by = "type", "m.text" = "Message", "m.image" = ["Message", "Image"], default = "Event" }
        changes = { reread = "7d" }
        opens   = { stream = "history", at = "rooms.*", from = "prev", to = "$since" }

        [streams.history]
        path   = "/rooms/{room}"
        entity = "Event"
        """,
    )
    messages = source.streams["messages"]
    assert isinstance(source.streams["conversations"].paginate, Cursor)
    assert messages.parameters == ("conversations.id", "conversations.owner.id")
    assert messages.changes == Reread(reread="7d")
    assert messages.opens == Opens(stream="history", at="rooms.*", start="prev", until="$since")
    assert messages.entities == EntityBy(
        "type", {"m.text": ("Message",), "m.image": ("Message", "Image")}, ("Event",)
    )


@pytest.mark.parametrize(
    ("line", "message", "key"),
    [
        ('pageinate = { kind = "link" }', "unknown field `pageinate`", "streams.messages"),
        ("settle = 60", "Expected `str`", "streams.messages.settle"),
        ('settle = "a while"', "'a while' is not a duration", "streams.messages"),
        ('changes = { reread = "7" }', "'7' is not a duration", "streams.messages"),
        ('changes = "sometimes"', "Invalid enum value", "streams.messages.changes"),
        ('key = "a..b"', "bad path expression 'a..b' at character 3", "streams.messages"),
        ('records = "data[0]"', "bad path expression", "streams.messages"),
        ('unchanged = "a b"', "bad path expression", "streams.messages"),
        ('when = "a."', "bad path expression", "streams.messages"),
        ('since = { param = "after", key = ".at" }', "bad path expression", "streams.messages"),
        ('by_id = { path = "/m/{id}", records = "a..b" }', "bad path expression", "streams.messages"),
        ('opens = { stream = "messages", at = "a..b", from = "x" }', "bad path", "streams.messages"),
        ('opens = { stream = "other", at = "a", from = "x" }', "unknown stream 'other'", "streams.messages"),
        ('each = "other"', "each = 'other' is not a stream", "streams.messages"),
        ('each = "messages"', "is a partition of itself", "streams.messages.each"),
        ("paginate = { limit = 100 }", "missing required field `kind`", "streams.messages.paginate"),
        ('paginate = { kind = "magic" }', "Invalid value 'magic'", "streams.messages.paginate.kind"),
        ('paginate = { kind = "cursor" }', "missing required field `next`", "streams.messages.paginate"),
        ('paginate = { kind = "cursor", next = "a..b" }', "bad path expression", "streams.messages"),
        ('paginate = { kind = "link", limit = 0 }', "Expected `int` >= 1", "streams.messages.paginate.limit"),
    ],
)
def test_a_bad_key_is_refused_by_name(tmp_path: Path, line: str, message: str, key: str) -> None:
    error = refused(tmp_path, MESSAGES + line)
    assert message in error.message
    assert error.where == f"{tmp_path / 'source.toml'}: {key}"


@pytest.mark.parametrize(
    "paginate",
    [
        '{ kind = "page" }',
        '{ kind = "offset" }',
        '{ kind = "keyset", param = "before", key = "id" }',
    ],
)
def test_pagination_that_does_not_say_where_it_ends_is_refused(tmp_path: Path, paginate: str) -> None:
    error = refused(tmp_path, f"{MESSAGES}paginate = {paginate}")
    assert error.message == "does not say where the last page is"
    assert error.hint is not None
    assert error.hint.startswith("state ")


@pytest.mark.parametrize("kind", ["page", "offset"])
def test_a_total_of_records_is_refused_without_the_size_of_a_page(tmp_path: Path, kind: str) -> None:
    total = f'{MESSAGES}paginate = {{ kind = "{kind}", total = "meta.total"'
    assert refused(tmp_path, total + " }").message == "total needs limit"
    assert read(tmp_path, total + ", limit = 50 }").streams["messages"].paginate is not None


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ('path = "/a"', "Object missing required field `entity`"),
        ('path = "/a"\nentity = []', "names no entity"),
        ('path = "/a"\nentity = { by = "type" }', "names no entity"),
        ('path = "/a"\nentity = { text = "Message" }', "entity has no `by`"),
        ('entity = "A"', "has neither a path nor by_id"),
        ('path = "/b/{b.id}"\nentity = "A"', "its path needs 'b.id', but it has no `each`"),
    ],
)
def test_an_incomplete_stream_is_refused_by_its_own_name(tmp_path: Path, stream: str, message: str) -> None:
    error = refused(tmp_path, f"{MESSAGES}[streams.second]\n{stream}\n")
    assert error.message == message
    assert error.where == f"{tmp_path / 'source.toml'}: streams.second"


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("streams = ", "", "broken TOML"),
        (MESSAGES + 'entity = "Twice"', "", "broken TOML"),
        ("", "", "missing required field `streams`"),
        ("[streams]", ": streams", "states no stream"),
        (MESSAGES + '[[errors]]\npath = "a..b"', "", "bad path expression"),
        (MESSAGES + '[[errors]]\npath = "a"\nworse = 1', ": errors[0]", "unknown field `worse`"),
        (MESSAGES + '[check]\npath = "/me"\nexpect = "a..b"', "", "bad path expression"),
        (MESSAGES + '[transport]\ndeadline = "soon"', "", "'soon' is not a duration"),
        (MESSAGES + "[transport]\nattempts = 0", ": transport.attempts", "Expected `int` >= 1"),
    ],
)
def test_a_fault_outside_the_streams_is_refused(tmp_path: Path, text: str, where: str, message: str) -> None:
    error = refused(tmp_path, text)
    assert message in error.message
    assert error.where == f"{tmp_path / 'source.toml'}{where}"


def test_a_ring_of_parents_is_refused(tmp_path: Path) -> None:
    ring = "".join(
        f'[streams.{name}]\npath = "/{{{each}.id}}"\neach = "{each}"\nentity = "A"\n'
        for name, each in (("a", "b"), ("b", "c"), ("c", "a"))
    )
    assert refused(tmp_path, ring).message == "is a partition of itself"


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_source(tmp_path / "source.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_source(tmp_path)
    (tmp_path / "source.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_source(tmp_path / "source.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 0.5), ("60s", 60), ("1.5m", 90), ("2h", 7200), ("7d", 604800), (" 5 s ", 5)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1e3s", "5 apples", "1h30m", "7D"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        seconds(text)


STREAM = Stream(path="/a", entity="A", paginate=Cursor(next="next", limit=100), key="created_at")


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/b"},
        {"query": {"sort": "asc"}},
        {"paginate": Cursor(next="next", limit=50)},
        {"order": "newest-first"},
        {"key": "updated_at"},
        {"each": "parents"},
    ],
)
def test_the_hash_moves_with_what_decides_request_order(change: dict[str, Any]) -> None:
    assert msgspec.structs.replace(STREAM, **change).hash() != STREAM.hash()


@pytest.mark.parametrize(
    "change",
    [{"entity": "B"}, {"records": "data"}, {"settle": "5s"}, {"changes": "key"}, {"omits": "null"}],
)
def test_the_hash_stays_when_only_the_mapping_changes(change: dict[str, Any]) -> None:
    assert msgspec.structs.replace(STREAM, **change).hash() == STREAM.hash()


# -- sweeps --------------------------------------------------------------------------------------------

LISTED = {"path": "/rooms", "records": "data", "entity": "Room", "sweep": True}
HALLS = {**LISTED, "path": "/halls", "entity": "Hall"}
OF_A_ROOM = {"path": "/rooms/{rooms.id}/messages", "entity": "Message", "each": "rooms", "sweep": True}


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        ({**HALLS, "entity": {"by": "kind", "a": "Room"}}, "needs a listing of one entity"),
        ({**HALLS, "deletes": True}, "needs a listing of one entity"),
        ({**HALLS, "since": {"param": "s", "key": "at"}}, "with since only news is asked for"),
        ({**HALLS, "order": "newest-first", "key": "at"}, "newest-first. only news is asked for"),
        (
            {**HALLS, "paginate": {"kind": "cursor", "next": "n", "tail": True}},
            "with tail only news is asked for",
        ),
        (
            {**HALLS, "paginate": {"kind": "page", "pages": "pages"}},
            "cannot notice that numbered pages shift",
        ),
        (OF_A_ROOM, "which rows are those of 'rooms.id'"),
        ({**LISTED, "path": "/more_rooms"}, "sweeps the same rows as"),
    ],
)
def test_a_sweep_that_could_not_prove_what_it_deletes_is_refused(
    tmp_path: Path, stream: dict[str, Any], why: str
) -> None:
    file = tmp_path / "source.toml"
    file.write_text(toml({"streams": {"rooms": LISTED, "it": stream}}))
    with pytest.raises(ConfigError, match=why):
        read_source(file)


def test_a_sweep_of_partitions_knows_its_rows_by_what_is_set(tmp_path: Path) -> None:
    file = tmp_path / "source.toml"
    stated = {**OF_A_ROOM, "set": {"room_id": "$partition.rooms.id"}}
    file.write_text(toml({"streams": {"rooms": LISTED, "it": stated}}))
    assert read_source(file).streams["it"].sweep
