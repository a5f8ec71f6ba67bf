"""Matrix models and source files agree with each other and with what a homeserver sends."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

import schema.matrix as matrix
from ingest.catalog import Catalog, read_catalog
from ingest.paths import Path
from ingest.source import Cursor, Source, read_source
from schema.matrix import models
from schema.matrix.models import Base, Event, MembershipState, live_message

FOLDER = FilePath(matrix.__file__).parent
DEFINITIONS = ("source.toml", "admin.toml")
RELATION = {
    "rel_type": "m.thread",
    "event_id": "$root",
    "m.in_reply_to": {"event_id": "$parent"},
    "key": "👍",
}
#: an event with everything in it that a column takes
EVENT = {
    "age": 12,
    "event_id": "$id",
    "room_id": "!room",
    "sender": "@ana:lab",
    "type": "m.room.message",
    "state_key": "@ben:lab",
    "origin_server_ts": 1_700_000_000_123,
    "redacts": "$target",
    "user_id": "@wrong:lab",
    "content": {
        "msgtype": "m.image",
        "body": "text",
        "formatted_body": "<b>text</b>",
        "m.new_content": {"body": "new", "formatted_body": "<b>new</b>"},
        "m.relates_to": RELATION,
        "url": "mxc://lab/1",
        "info": {"mimetype": "image/png", "size": 117, "w": 10, "h": 22},
        "membership": "ban",
        "displayname": "Ben",
        "avatar_url": "mxc://lab/2",
        "reason": "spam",
    },
    "unsigned": {"age": 12, "redacted_because": {"event_id": "$redaction", "redacts": "$id"}},
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return read_catalog([models])


@pytest.fixture(params=DEFINITIONS)
def source(request: pytest.FixtureRequest) -> Source:
    return read_source(FOLDER / request.param)


def stated(catalog: Catalog, entity: str, record: Any) -> dict[str, Any]:
    """What a record holds for each column of an entity, before any conversion."""
    columns = {column.name: column.paths for column in catalog.entities[entity].columns}
    return {name: next((_dug(record, path) for path in paths), None) for name, paths in columns.items()}


def _dug(record: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def test_an_event_fills_every_column_but_its_place(catalog: Catalog) -> None:
    row = stated(catalog, "Event", EVENT)

    assert {name for name, value in row.items() if value is None} == {"position"}
    assert row | {"content": None} == {
        "id": "$id",
        "room_id": "!room",
        "sender_id": "@ana:lab",
        "type": "m.room.message",
        "state_key": "@ben:lab",
        "sent_at": 1_700_000_000_123,
        "position": None,
        "msgtype": "m.image",
        "body": "text",
        "formatted_body": "<b>text</b>",
        "new_body": "new",
        "new_formatted_body": "<b>new</b>",
        "relates_to_id": "$root",
        "rel_type": "m.thread",
        "reaction_key": "👍",
        "reply_to_id": "$parent",
        "redacts_id": "$target",
        "redacted_by_id": "$redaction",
        "media_url": "mxc://lab/1",
        "media_mimetype": "image/png",
        "media_size": 117,
        "media_width": 10,
        "media_height": 22,
        "content": None,
    }


def test_a_member_event_is_the_membership_of_its_state_key(catalog: Catalog) -> None:
    assert stated(catalog, "Membership", EVENT) == {
        "room_id": "!room",
        "user_id": "@ben:lab",
        "membership": "ban",
        "display_name": "Ben",
        "avatar_url": "mxc://lab/2",
        "reason": "spam",
        "sender_id": "@ana:lab",
        "sent_at": 1_700_000_000_123,
        "position": None,
    }


def test_a_redaction_clears_all_that_the_content_says_and_nothing_else(catalog: Catalog) -> None:
    events = catalog.entities["Event"]
    said = {column.name for column in events.columns if any(path[0] == "content" for path in column.paths)}

    assert set(events.mirror.clears) == said


def test_fields_that_change_with_every_call_are_not_mirrored(catalog: Catalog) -> None:
    paths = {path for table in catalog.tables.values() for column in table.columns for path in column.paths}

    assert [
        path for path in paths if path[0] in ("age", "last_seen_ts") or path[:2] == ("unsigned", "age")
    ] == []
    assert [path for path in paths if path[0] == "unsigned"] == [("unsigned", "redacted_because", "event_id")]


def test_every_reference_says_what_happens_when_its_target_is_missing(catalog: Catalog) -> None:
    policies = {str(one): one.policies for one in catalog.references}
    among_events = {f"events.{name}_id" for name in ("relates_to", "reply_to", "redacts", "redacted_by")}

    assert {name for name, policy in policies.items() if policy == ("fetch", "null")} == among_events
    assert {name for name, policy in policies.items() if policy == ("fetch", "stub")} == {
        "events.room_id",
        "events.sender_id",
        "memberships.room_id",
        "memberships.user_id",
        "memberships.sender_id",
        "rooms.creator_id",
    }


def test_pointers_and_counters_follow_the_servers_order_and_what_is_live(catalog: Catalog) -> None:
    derived = {str(one): one for one in catalog.derived}

    assert {name: [column.name for column in one.by] for name, one in derived.items() if one.by} == {
        "rooms.last_event_id": ["position", "id"],
        "rooms.last_message_id": ["position", "id"],
        "rooms.last_live_message_id": ["position", "id"],
    }
    assert {name: one.follows for name, one in derived.items() if not one.by} == {
        "rooms.events_count": ("room_id",),
        "rooms.members_count": ("room_id",),
        "events.reactions_count": ("relates_to_id",),
        "events.thread_replies_count": ("relates_to_id",),
    }


def test_memberships_are_stored_by_value() -> None:
    bind = Base.metadata.tables["memberships"].c.membership.type.bind_processor(postgresql.dialect())

    assert bind is not None
    assert [bind(state) for state in MembershipState] == ["join", "invite", "knock", "leave", "ban"]


@pytest.mark.parametrize(
    ("says", "live"),
    [
        ({"type": "m.room.message", "msgtype": "m.text"}, True),
        ({"type": "m.room.message", "msgtype": "m.text", "rel_type": "m.thread"}, True),
        ({"type": "m.room.message", "msgtype": "m.text", "rel_type": "m.replace"}, False),
        ({"type": "m.room.message", "msgtype": "m.text", "redacted_by_id": "$x"}, False),
        ({"type": "m.room.message"}, False),
        ({"type": "m.sticker", "msgtype": "m.text"}, False),
    ],
)
def test_a_live_message_is_no_edit_and_can_still_be_read(says: dict[str, Any], live: bool) -> None:
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    row = {"id": "$id", "room_id": "!r", "sender_id": "@a", "sent_at": datetime.now(UTC)} | says
    with engine.begin() as connection:
        connection.execute(sa.insert(Event), [row])
        found = connection.scalars(sa.select(Event.id).where(live_message())).all()
    engine.dispose()
    assert found == (["$id"] if live else [])


@pytest.mark.parametrize("dialect", [postgresql.dialect(), mysql.dialect()], ids=["postgresql", "mariadb"])
def test_every_foreign_key_has_an_index_and_every_constraint_a_short_name(dialect: sa.Dialect) -> None:
    for table in Base.metadata.tables.values():
        leading = {next(iter(index.columns.keys())) for index in table.indexes} | {
            table.primary_key.columns.keys()[0]
        }
        assert {column.name for column in table.columns if column.foreign_keys} <= leading
        names = [constraint.name for constraint in table.constraints] + [
            index.name for index in table.indexes
        ]
        assert all(name and len(str(name)) <= dialect.max_identifier_length for name in names)


def test_every_stream_names_entities_and_columns_that_there_are(source: Source, catalog: Catalog) -> None:
    for name, stream in source.streams.items():
        stated = stream.entities
        entities = {one for group in (*stated.cases.values(), stated.default or ()) for one in group}
        assert entities <= set(catalog.entities), name
        columns = {column for entity in entities for column in catalog.entities[entity].names}
        assert set(stream.set) <= columns, name


def test_the_history_is_known_by_its_ids_and_ends_by_a_missing_cursor(source: Source) -> None:
    history = source.streams["history"]

    assert (history.order, history.id, history.key) == ("newest-first", "event_id", None)
    assert isinstance(history.paginate, Cursor)
    assert (history.paginate.next, history.paginate.param, history.paginate.tail) == ("end", "from", False)


def test_the_admin_never_asks_for_what_redacted_events_said() -> None:
    source = read_source(FOLDER / "admin.toml")
    paths = [stream.path or "" for stream in source.streams.values()]
    paths += [stream.by_id.path for stream in source.streams.values() if stream.by_id]

    assert not [path for path in paths if "fetch_event" in path]
    assert source.streams["event"].by_id is not None
    assert source.streams["event"].by_id.path.endswith("/context/{id}")


def test_a_sync_leads_to_the_timelines_of_rooms_joined_and_left_but_not_of_invitations() -> None:
    stream = read_source(FOLDER / "source.toml").streams["sync"]
    answer = {
        "next_batch": "s2",
        "rooms": {
            "join": {
                "!in": {"timeline": {"events": [{"event_id": "$1"}], "limited": True, "prev_batch": "p1"}}
            },
            "leave": {"!out": {"timeline": {"events": [{"event_id": "$2"}]}, "state": {"events": [{}]}}},
            "invite": {"!new": {"invite_state": {"events": [{"type": "m.room.member"}]}}},
        },
    }

    found = [(match.captures[1], match.value) for match in Path(stream.records).matches(answer)]

    assert found == [("!in", [{"event_id": "$1"}]), ("!out", [{"event_id": "$2"}])]
    assert stream.set["room_id"] == "$2"
