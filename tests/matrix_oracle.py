"""A Matrix mirror compared with what the server's own database says: the truth of the lab's oracle.

The oracle reads Synapse's tables and knows nothing of this project; this reads the mirror's SQLite file
and knows nothing of how it came about. Every difference is one line, and no line means none.

    truth        what the oracle writes with --out: users, rooms with their three latest events, members
    events       what it writes with --events: one event a line, every room newest first by the server's order
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = dict[str, Any]

#: rooms where a user may see the state, as it is now, without the events that made it so
HIDING = ("joined", "invited")
#: a redaction leaves none of these
CLEARED = (
    "content",
    "msgtype",
    "body",
    "relates_to_id",
    "rel_type",
    "reaction_key",
    "reply_to_id",
    "media_url",
)
#: the mirror's pointer, and the oracle's name of it
POINTERS = {"last_event_id": "any", "last_message_id": "message", "last_live_message_id": "live_message"}


def compare(database: Path | str, truth: Row, events_jsonl: Path | str) -> list[str]:
    """Every difference between the mirror and the truth, one line each."""
    lines = Path(events_jsonl).read_text(encoding="utf-8").splitlines()
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return list(_Comparison(connection, truth, [json.loads(line) for line in lines]).differences())


class _Comparison:
    """One mirror beside one truth."""

    def __init__(self, connection: sqlite3.Connection, truth: Row, events: list[Row]) -> None:
        self._connection, self._truth = connection, truth
        #: the user whose view it is, or "server"
        self._scope: str = truth["scope"]
        self._expected = {event["event_id"]: event for event in events}
        self._memberships = self._rows("memberships")
        left = self._rooms_left()
        self._rooms = {row["id"]: row for row in self._rows("rooms") if row["id"] not in left}
        self._all = {row["id"]: row for row in self._rows("events") if row["room_id"] not in left}
        self._events = {key: row for key, row in self._all.items() if key in self._expected}
        self._users = {row["id"]: row for row in self._rows("users")}

    def _rows(self, table: str) -> list[Row]:
        return [dict(row) for row in self._connection.execute(f"SELECT * FROM {table}")]

    def _rooms_left(self) -> set[str]:
        """Rooms the user is no longer in: the mirror keeps them, and the oracle does not speak of them."""
        mine = [row for row in self._memberships if row["user_id"] == self._scope]
        return {row["room_id"] for row in mine if row["membership"] != "join"} - set(self._truth["rooms"])

    def differences(self) -> Iterator[str]:
        """Everything, from the whole to the detail."""
        yield from self._dangling()
        yield from self._user_rows()
        yield from self._room_rows()
        yield from self._event_ids()
        for key, row in self._events.items():
            yield from self._event(row, self._expected[key])
        yield from self._order()
        yield from self._members()
        yield from self._pointers()
        yield from self._counters()
        yield from self._missing()

    def _dangling(self) -> Iterator[str]:
        for table, rowid, target, _ in self._connection.execute("PRAGMA foreign_key_check"):
            yield f"{table}: row {rowid} refers to a row of {target} that is not there"

    def _user_rows(self) -> Iterator[str]:
        profiles: dict[str, Row] = self._truth["profiles"]
        wanted = set(profiles) if self._scope == "server" else self._people()
        yield from _sets("users", wanted, set(self._users))
        for key in wanted & set(self._users) & set(profiles):
            row, profile = self._users[key], profiles[key]
            stated = {"display_name": profile["displayname"], "avatar_url": profile["avatar_url"]}
            if self._scope == "server":
                stated["is_deactivated"] = profile["deactivated"]
            yield from _fields(f"users {key}", row, stated)

    def _people(self) -> set[str]:
        """Whom a user meets: who sent an event or is a member of a room."""
        senders = {event["sender"] for event in self._expected.values()}
        members = {user for room in self._truth["rooms"].values() for user in room["joined"]}
        met = {row["user_id"] for row in self._memberships} | {row["sender_id"] for row in self._memberships}
        return senders | members | (met & set(self._truth["profiles"]))

    def _room_rows(self) -> Iterator[str]:
        rooms: dict[str, Row] = self._truth["rooms"]
        yield from _sets("rooms", set(rooms), set(self._rooms))
        for key in set(rooms) & set(self._rooms):
            room = rooms[key]
            stated = {"name": room["stats_name"], "join_rule": room["join_rules"], "version": room["version"]}
            stated["history_visibility"] = room["history_visibility"]
            if self._scope == "server":
                # as a user it shows only in rooms before version 11
                stated["creator_id"] = room["creator"]
            yield from _fields(f"rooms {key}", self._rooms[key], stated)

    def _event_ids(self) -> Iterator[str]:
        extra = {key for key in self._all if key not in self._expected and not self._hidden_state(key)}
        yield from _sets("events", set(self._expected), set(self._events) | extra)

    def _hidden_state(self, key: str) -> bool:
        """True of a state event that the user sees as state, though it lies before what they may read."""
        row = self._all[key]
        room = self._truth["rooms"].get(row["room_id"], {})
        return (
            self._scope != "server"
            and row["state_key"] is not None
            and room.get("history_visibility") in HIDING
        )

    def _event(self, row: Row, event: Row) -> Iterator[str]:
        redacted_by = event["redacted_by"]
        stated = {
            "room_id": event["room_id"],
            "type": event["type"],
            "sender_id": event["sender"],
            "state_key": event["state_key"],
            "redacted_by_id": self._shown(redacted_by),
        }
        yield from _fields(f"events {row['id']}", row, stated)
        if _milliseconds(row["sent_at"]) != event["origin_server_ts"]:
            yield f"events {row['id']}: sent_at is {row['sent_at']!r}, not {event['origin_server_ts']}"
        if redacted_by is None:
            yield from self._said(row, event)
        else:
            yield from _fields(f"redacted events {row['id']}", row, dict.fromkeys(CLEARED))
        redaction = self._events.get(redacted_by or "")
        if redaction is not None and redaction["redacts_id"] != row["id"]:
            yield f"events {redacted_by}: redacts_id is {redaction['redacts_id']!r}, not {row['id']!r}"

    def _said(self, row: Row, event: Row) -> Iterator[str]:
        """What an event that was not redacted says, and what it refers to."""
        content, relation = event["content"], event["rel"] or {}
        answered = (content.get("m.relates_to") or {}).get("m.in_reply_to") or {}
        stated = {
            "relates_to_id": self._shown(relation.get("to")),
            "rel_type": relation.get("type"),
            "reaction_key": relation.get("key"),
            "reply_to_id": self._shown(answered.get("event_id")),
            "msgtype": content.get("msgtype"),
            "body": content.get("body"),
            "media_url": content.get("url"),
            "media_mimetype": (content.get("info") or {}).get("mimetype"),
        }
        yield from _fields(f"events {row['id']}", row, stated)
        mirrored = json.loads(row["content"]) if row["content"] is not None else None
        if _comparable(mirrored, event) != _comparable(content, event):
            yield f"events {row['id']}: content is {row['content']}, not {json.dumps(content)}"

    def _shown(self, target: str | None) -> str | None:
        """What a reference shows: its target, or NULL where there is no such event for us."""
        return target if target in self._expected or target in self._all else None

    def _order(self) -> Iterator[str]:
        """The mirror's positions put every room's events into the server's own order."""
        for room in self._truth["rooms"]:
            expected = [
                key
                for key, event in self._expected.items()
                if event["room_id"] == room and key in self._events
            ]
            placed = [key for key in expected if self._events[key]["position"] is not None]
            yield from (f"events {key}: has no position" for key in expected if key not in set(placed))
            mirrored = sorted(placed, key=lambda key: self._events[key]["position"], reverse=True)
            wrong = [(ours, theirs) for ours, theirs in zip(mirrored, placed, strict=True) if ours != theirs]
            if wrong:
                yield f"rooms {room}: {len(wrong)} events out of order, first {wrong[0][0]} for {wrong[0][1]}"

    def _members(self) -> Iterator[str]:
        for key, room in self._truth["rooms"].items():
            mine = [row for row in self._memberships if row["room_id"] == key]
            joined = {row["user_id"] for row in mine if row["membership"] == "join"}
            yield from _sets(f"members of {key}", set(room["joined"]), joined)
            counted = dict(Counter(row["membership"] for row in mine))
            if counted != room["members"]:
                yield f"rooms {key}: memberships are {counted}, not {room['members']}"

    def _pointers(self) -> Iterator[str]:
        for key, room in self._truth["rooms"].items():
            if key in self._rooms:
                stated = {column: room["latest"][name] for column, name in POINTERS.items()}
                yield from _fields(f"rooms {key}", self._rooms[key], stated)

    def _counters(self) -> Iterator[str]:
        live = [event for event in self._expected.values() if event["redacted_by"] is None and event["rel"]]
        reactions = Counter(event["rel"]["to"] for event in live if event["type"] == "m.reaction")
        threads = Counter(event["rel"]["to"] for event in live if event["rel"]["type"] == "m.thread")
        for key, row in self._events.items():
            yield from _fields(
                f"events {key}",
                row,
                {"reactions_count": reactions[key], "thread_replies_count": threads[key]},
            )
        held = Counter(row["room_id"] for row in self._all.values())
        for key, room in self._truth["rooms"].items():
            if key in self._rooms:
                stated = {"events_count": held[key], "members_count": len(room["joined"])}
                yield from _fields(f"rooms {key}", self._rooms[key], stated)

    def _missing(self) -> Iterator[str]:
        """Parents that exist nowhere for us are known as such, and none that is there is called missing."""
        known = {
            json.loads(row["key"])[0]: row["state"]
            for row in self._rows("ingest_missing")
            if row["table"] == "events"
        }
        for parent in sorted(missing_parents(self._expected) - set(self._all)):
            if known.get(parent) not in ("gone", "forbidden"):
                yield f"missing events {parent}: the ledger says {known.get(parent)!r}, not gone or forbidden"
        for parent in sorted(set(known) & set(self._all)):
            if known[parent] != "fetched":
                yield f"missing events {parent}: the ledger says {known[parent]!r}, but it is in the mirror"


def missing_parents(events: dict[str, Row]) -> set[str]:
    """Events that others refer to, and that are not among them."""
    wanted = set()
    for event in events.values():
        content = event["content"] or {}
        answered = (content.get("m.relates_to") or {}).get("m.in_reply_to") or {}
        wanted |= {(event["rel"] or {}).get("to"), answered.get("event_id"), event["redacted_by"]}
    return {parent for parent in wanted if parent is not None} - set(events)


def _sets(what: str, expected: set[str], mirrored: set[str]) -> Iterator[str]:
    yield from (f"{what}: {key} is missing" for key in sorted(expected - mirrored))
    yield from (f"{what}: {key} should not be there" for key in sorted(mirrored - expected))


def _fields(what: str, row: Row, stated: Row) -> Iterator[str]:
    for column, value in stated.items():
        if row[column] != value:
            yield f"{what}: {column} is {row[column]!r}, not {value!r}"


def _comparable(content: Row | None, event: Row) -> Row | None:
    """The content without `redacts`, which the server adds for clients in rooms before version 11."""
    if content is None or event["type"] != "m.room.redaction":
        return content
    return {key: value for key, value in content.items() if key != "redacts"}


def _milliseconds(stored: str) -> int:
    moment = datetime.fromisoformat(stored)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)
