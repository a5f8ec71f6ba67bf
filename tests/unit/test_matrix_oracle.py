"""The comparison of a mirror with the truth finds every kind of difference, and none where there is none."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from schema.matrix.models import Base
from tests.matrix_oracle import compare, missing_parents

ROOM, ANA, BEN = "!room:lab", "@ana:lab", "@ben:lab"


def event(id: str, type: str, sender: str, **stated: Any) -> dict[str, Any]:
    """A line of the oracle's events; what is not stated is as for a plain message."""
    plain: dict[str, Any] = {
        "room_id": ROOM,
        "state_key": None,
        "redacted_by": None,
        "rel": None,
        "content": {},
    }
    return (
        {"event_id": id, "type": type, "sender": sender, "origin_server_ts": 1_700_000_000_123}
        | plain
        | stated
    )


def related(kind: str, to: str, key: str | None = None) -> dict[str, Any]:
    return {"type": kind, "to": to, "key": key}


#: newest first
EVENTS = [
    event("$redaction", "m.room.redaction", BEN, content={"redacts": "$gone"}),
    event("$gone", "m.room.message", BEN, redacted_by="$redaction", content=None),
    event("$reaction", "m.reaction", BEN, rel=related("m.annotation", "$first", "👍")),
    event(
        "$edit",
        "m.room.message",
        ANA,
        rel=related("m.replace", "$first"),
        content={"msgtype": "m.text", "body": "* b"},
    ),
    event(
        "$orphan",
        "m.room.message",
        BEN,
        content={
            "msgtype": "m.text",
            "body": "c",
            "m.relates_to": {"m.in_reply_to": {"event_id": "$nowhere"}},
        },
    ),
    event(
        "$thread",
        "m.room.message",
        BEN,
        rel=related("m.thread", "$first"),
        content={"msgtype": "m.text", "body": "t"},
    ),
    event(
        "$first",
        "m.room.message",
        ANA,
        content={"msgtype": "m.image", "body": "a", "url": "mxc://lab/1", "info": {"mimetype": "image/png"}},
    ),
    event("$join", "m.room.member", BEN, state_key=BEN, content={"membership": "join"}),
]
TRUTH = {
    "scope": "server",
    "profiles": {
        ANA: {"displayname": "Ana", "avatar_url": "mxc://lab/ana", "deactivated": False},
        BEN: {"displayname": None, "avatar_url": None, "deactivated": True},
    },
    "rooms": {
        ROOM: {
            "version": "11",
            "creator": ANA,
            "stats_name": "Room",
            "join_rules": "public",
            "history_visibility": "shared",
            "members": {"join": 1, "leave": 1},
            "joined": [BEN],
            "latest": {"any": "$redaction", "message": "$gone", "live_message": "$orphan"},
        }
    },
}
USERS = [(ANA, "Ana", "mxc://lab/ana", False), (BEN, None, None, True)]
MEMBERSHIPS = [(ROOM, ANA, "leave", ANA), (ROOM, BEN, "join", BEN)]
SENT_AT = "2023-11-14 22:13:20.123000"


def fill(connection: sqlite3.Connection) -> None:
    """The mirror of EVENTS, by hand."""
    connection.executemany(
        "INSERT INTO users (id, display_name, avatar_url, is_deactivated) VALUES (?, ?, ?, ?)", USERS
    )
    connection.execute(
        "INSERT INTO rooms (id, name, join_rule, version, history_visibility, creator_id, last_event_id,"
        " last_message_id, last_live_message_id, events_count, members_count)"
        " VALUES (?, 'Room', 'public', '11', 'shared', ?, '$redaction', '$gone', '$orphan', 8, 1)",
        (ROOM, ANA),
    )
    for place, stated in enumerate(reversed(EVENTS)):
        content, relation = stated["content"], stated["rel"] or {}
        said = content or {}
        row = {
            "id": stated["event_id"],
            "room_id": ROOM,
            "sender_id": stated["sender"],
            "type": stated["type"],
            "state_key": stated["state_key"],
            "sent_at": SENT_AT,
            "position": 2**20 + place,
            "relates_to_id": relation.get("to"),
            "rel_type": relation.get("type"),
            "reaction_key": relation.get("key"),
            "redacts_id": said.get("redacts"),
            "redacted_by_id": stated["redacted_by"],
            "msgtype": said.get("msgtype"),
            "body": said.get("body"),
            "media_url": said.get("url"),
            "media_mimetype": said.get("info", {}).get("mimetype"),
            "content": None if content is None else json.dumps(content),
            "reactions_count": 1 if stated["event_id"] == "$first" else 0,
            "thread_replies_count": 1 if stated["event_id"] == "$first" else 0,
        }
        insert(connection, "events", row)
    for room, user, membership, sender in MEMBERSHIPS:
        state = {
            "room_id": room,
            "user_id": user,
            "membership": membership,
            "sender_id": sender,
            "sent_at": SENT_AT,
        }
        insert(connection, "memberships", state)
    connection.execute('CREATE TABLE ingest_missing ("table" TEXT, key TEXT, state TEXT)')
    connection.execute("INSERT INTO ingest_missing VALUES ('events', '[\"$nowhere\"]', 'gone')")


def insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    places = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", tuple(row.values()))


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A database file that holds what EVENTS say."""
    file = tmp_path / "mirror.db"
    engine = sa.create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    engine.dispose()
    with closing(sqlite3.connect(file)) as connection, connection:
        fill(connection)
    return file


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return written(tmp_path, EVENTS)


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    file = folder / "events.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def change(mirror: Path, *statements: str) -> None:
    with closing(sqlite3.connect(mirror)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_faithful_mirror_has_no_difference(mirror: Path, events: Path) -> None:
    assert compare(mirror, TRUTH, events) == []


CHANGES = {
    "a user is missing": ("DELETE FROM users WHERE id = '@ana:lab'", "users: @ana:lab is missing"),
    "a user nobody knows": (
        "INSERT INTO users (id) VALUES ('@eve:lab')",
        "users: @eve:lab should not be there",
    ),
    "a stale name": ("UPDATE users SET display_name = 'Old' WHERE id = '@ana:lab'", "display_name is 'Old'"),
    "a stale avatar": ("UPDATE users SET avatar_url = NULL WHERE id = '@ana:lab'", "avatar_url is None"),
    "an active account": ("UPDATE users SET is_deactivated = 0 WHERE id = '@ben:lab'", "is_deactivated is 0"),
    "a room is missing": ("DELETE FROM rooms", "rooms: !room:lab is missing"),
    "a stale room name": ("UPDATE rooms SET name = 'Old'", "name is 'Old', not 'Room'"),
    "a stale join rule": ("UPDATE rooms SET join_rule = 'invite'", "join_rule is 'invite'"),
    "a wrong creator": ("UPDATE rooms SET creator_id = '@ben:lab'", "creator_id is '@ben:lab'"),
    "an event is missing": ("DELETE FROM events WHERE id = '$join'", "events: $join is missing"),
    "another room": ("UPDATE events SET room_id = '!b' WHERE id = '$join'", "room_id is '!b'"),
    "another type": (
        "UPDATE events SET type = 'm.x' WHERE id = '$first'",
        "type is 'm.x', not 'm.room.message'",
    ),
    "another sender": (
        "UPDATE events SET sender_id = '@ben:lab' WHERE id = '$first'",
        "sender_id is '@ben:lab'",
    ),
    "a lost state key": ("UPDATE events SET state_key = NULL WHERE id = '$join'", "state_key is None"),
    "a time off by a millisecond": (
        "UPDATE events SET sent_at = '2023-11-14 22:13:20.124000' WHERE id = '$first'",
        "sent_at is '2023-11-14 22:13:20.124000', not 1700000000123",
    ),
    "a redaction not applied": (
        "UPDATE events SET redacted_by_id = NULL WHERE id = '$gone'",
        "events $gone: redacted_by_id is None",
    ),
    "redacted by whom": (
        "UPDATE events SET redacted_by_id = '$edit' WHERE id = '$gone'",
        "redacted_by_id is '$edit', not '$redaction'",
    ),
    "redacted, and still readable": (
        "UPDATE events SET body = 'secret' WHERE id = '$gone'",
        "redacted events $gone: body is 'secret', not None",
    ),
    "redacted without need": (
        "UPDATE events SET redacted_by_id = '$redaction' WHERE id = '$first'",
        "events $first: redacted_by_id is '$redaction', not None",
    ),
    "a redaction of nothing": (
        "UPDATE events SET redacts_id = NULL",
        "events $redaction: redacts_id is None",
    ),
    "a reaction to nothing": (
        "UPDATE events SET relates_to_id = NULL WHERE id = '$reaction'",
        "events $reaction: relates_to_id is None, not '$first'",
    ),
    "another reaction": (
        "UPDATE events SET reaction_key = '+1' WHERE id = '$reaction'",
        "reaction_key is '+1'",
    ),
    "another relation": ("UPDATE events SET rel_type = 'm.x' WHERE id = '$edit'", "rel_type is 'm.x'"),
    "a reply to the wrong one": (
        "UPDATE events SET reply_to_id = '$first' WHERE id = '$orphan'",
        "reply_to_id is '$first', not None",
    ),
    "another text": ("UPDATE events SET body = 'x' WHERE id = '$first'", "body is 'x', not 'a'"),
    "another picture": ("UPDATE events SET media_url = NULL WHERE id = '$first'", "media_url is None"),
    "other content": ("UPDATE events SET content = '{}' WHERE id = '$first'", "content is {}"),
    "two events out of order": (
        "UPDATE events SET position = position + 10 WHERE id = '$first'",
        "rooms !room:lab: 7 events out of order",
    ),
    "no position": (
        "UPDATE events SET position = NULL WHERE id = '$first'",
        "events $first: has no position",
    ),
    "somebody still in": (
        "UPDATE memberships SET membership = 'join'",
        "members of !room:lab: @ana:lab should not",
    ),
    "somebody not in": (
        "UPDATE memberships SET membership = 'leave'",
        "members of !room:lab: @ben:lab is missing",
    ),
    "kicked, not left": (
        "UPDATE memberships SET membership = 'ban' WHERE user_id = '@ana:lab'",
        "memberships are {'ban': 1, 'join': 1}",
    ),
    "last event": ("UPDATE rooms SET last_event_id = '$gone'", "last_event_id is '$gone', not '$redaction'"),
    "last message": ("UPDATE rooms SET last_message_id = NULL", "last_message_id is None, not '$gone'"),
    "last live message": (
        "UPDATE rooms SET last_live_message_id = '$edit'",
        "last_live_message_id is '$edit'",
    ),
    "reactions": ("UPDATE events SET reactions_count = 2 WHERE id = '$first'", "reactions_count is 2, not 1"),
    "thread": ("UPDATE events SET thread_replies_count = 0", "thread_replies_count is 0, not 1"),
    "events counted": ("UPDATE rooms SET events_count = 7", "events_count is 7, not 8"),
    "members counted": ("UPDATE rooms SET members_count = 2", "members_count is 2, not 1"),
    "a dangling reference": (
        "UPDATE events SET relates_to_id = '$x' WHERE id = '$edit'",
        "that is not there",
    ),
    "a parent not asked for": ("DELETE FROM ingest_missing", "missing events $nowhere: the ledger says None"),
    "a parent still wanted": (
        "UPDATE ingest_missing SET state = 'wanted'",
        "the ledger says 'wanted', not gone",
    ),
    "a parent that is there": (
        "INSERT INTO ingest_missing VALUES ('events', '[\"$first\"]', 'gone')",
        "missing events $first: the ledger says 'gone', but it is in the mirror",
    ),
}


@pytest.mark.parametrize(("statement", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_the_mirror_is_a_difference(
    mirror: Path, events: Path, statement: str, expected: str
) -> None:
    change(mirror, statement)

    assert [line for line in compare(mirror, TRUTH, events) if expected in line]


def test_an_event_the_server_does_not_have_is_a_difference(
    mirror: Path, events: Path, tmp_path: Path
) -> None:
    without_reaction = written(tmp_path, [line for line in EVENTS if line["event_id"] != "$reaction"])

    assert "events: $reaction should not be there" in compare(mirror, TRUTH, without_reaction)


def test_redacts_in_the_content_is_the_clients_view_of_old_rooms(mirror: Path, tmp_path: Path) -> None:
    redaction, *others = EVENTS
    old = written(tmp_path, [redaction | {"content": {}}, *others])

    assert compare(mirror, TRUTH, old) == []


def as_user(visibility: str) -> dict[str, Any]:
    rooms = {ROOM: TRUTH["rooms"][ROOM] | {"history_visibility": visibility}}  # type: ignore[index]
    return TRUTH | {"scope": BEN, "rooms": rooms}


@pytest.mark.parametrize(("visibility", "expected"), [("joined", []), ("shared", ["$join"])])
def test_state_before_what_a_user_may_read_is_no_difference_where_history_is_hidden(
    mirror: Path, tmp_path: Path, visibility: str, expected: list[str]
) -> None:
    change(mirror, f"UPDATE rooms SET history_visibility = '{visibility}'")
    visible = written(tmp_path, [line for line in EVENTS if line["event_id"] != "$join"])

    found = compare(mirror, as_user(visibility), visible)

    assert found == [f"events: {key} should not be there" for key in expected]


def test_a_message_a_user_may_not_read_is_a_difference_even_where_history_is_hidden(
    mirror: Path, tmp_path: Path
) -> None:
    change(mirror, "UPDATE rooms SET history_visibility = 'joined'")
    visible = written(tmp_path, [line for line in EVENTS if line["event_id"] != "$thread"])

    assert "events: $thread should not be there" in compare(mirror, as_user("joined"), visible)


@pytest.mark.parametrize(("membership", "differences"), [("leave", 0), ("join", 2)])
def test_a_room_is_kept_without_a_difference_once_its_user_has_left_it(
    mirror: Path, events: Path, membership: str, differences: int
) -> None:
    change(
        mirror,
        "INSERT INTO rooms (id) VALUES ('!left')",
        "INSERT INTO events (id, room_id, sender_id, type, sent_at)"
        f" VALUES ('$left', '!left', '@ana:lab', 'm.room.message', '{SENT_AT}')",
        "INSERT INTO memberships (room_id, user_id, membership, sender_id, sent_at)"
        f" VALUES ('!left', '@ben:lab', '{membership}', '@ben:lab', '{SENT_AT}')",
    )

    assert len(compare(mirror, as_user("shared"), events)) == differences


def test_missing_parents_are_those_that_no_event_is() -> None:
    by_id = {line["event_id"]: line for line in EVENTS}

    assert missing_parents(by_id) == {"$nowhere"}
    del by_id["$first"]
    assert missing_parents(by_id) == {"$nowhere", "$first"}
