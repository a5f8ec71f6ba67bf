"""The server answers what a source describes: who may ask, by id, since when, below which parent."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.errors import ConfigError
from ingest.mirror import UtcDateTime
from tests.upstream import Dialect, Faults, Paging, Truth, Upstream, example, faults, generate
from tests.upstream.server import UpstreamBroken
from tests.upstream.walker import client_of, pages, walk
from tests.upstream.wire import Request

USERS = {"path": "/users", "records": "data", "entity": "User", "order": "oldest-first", "key": "id"}


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=1, rows=example.ROWS)


def served(truth: Truth, streams: dict[str, Any] | None = None, **settings: Any) -> Upstream:
    described = {key: settings.pop(key) for key in ("auth", "check") if key in settings}
    source = example.source(**described) if streams is None else example.source(streams=streams, **described)
    return Upstream(source, truth, **settings)


def texts(truth: Truth, table: str) -> set[str]:
    return {str(key) for (key,) in truth.keys(table)}


def path(conversation: Any) -> str:
    return f"/conversations/{conversation}/messages"


def ids(records: list[Any]) -> list[str]:
    return [str(record["id"]) for record in records]


# -- the whole -------------------------------------------------------------------------------------------


async def test_a_walk_of_every_list_brings_the_whole_truth(truth: Truth) -> None:
    async with (
        served(truth, order="newest-first", paging=Paging(duplicates=0.2)) as up,
        client_of(up) as client,
    ):
        streams = up.source.streams
        listed = {
            name: [page.json() async for page in pages(client, streams[name])]
            for name in ("users", "tags", "conversations")
        }
        conversations = [record for page in listed["conversations"] for record in page["data"]]
        messages = [
            record
            for conversation in {record["id"] for record in conversations}
            for record in await walk(
                client, streams["messages"], path=f"/conversations/{conversation}/messages"
            )
        ]

    assert {record["id"] for page in listed["users"] for record in page["data"]} == texts(truth, "users")
    assert {record["id"] for page in listed["tags"] for record in page["items"]} == texts(truth, "tags")
    assert set(ids(conversations)) == texts(truth, "conversations")
    assert set(ids(messages)) == texts(truth, "messages")
    links = {(record["id"], tag["id"]) for record in conversations for tag in record["tags"]}
    assert links == set(truth.keys("conversation_tags"))
    files = {file["id"] for record in messages for file in record["attachments"]}
    assert files == texts(truth, "attachments")
    options = {(record["id"], option["position"]) for record in messages for option in record["options"]}
    assert options == set(truth.keys("poll_options"))


async def test_a_change_is_told_as_soon_as_it_is_true(truth: Truth) -> None:
    async with served(truth) as up, client_of(up) as client:
        row = truth.rows("users")[0]
        before = (await client.get(f"/users/{row['id']}")).json()["data"]
        up.truth.upsert("users", {"id": row["id"], "name": "changed"})
        after = (await client.get(f"/users/{row['id']}")).json()["data"]
        fresh = up.truth.upsert("tags", {"id": "fresh"})["id"]
        tags = await walk(client, up.source.streams["tags"])

    assert before["profile"]["display_name"] != "changed" == after["profile"]["display_name"]
    assert fresh in ids(tags)


async def test_every_request_is_seen_as_it_came(truth: Truth) -> None:
    async with served(truth, prefix="/api/v1") as up, client_of(up) as client:
        await client.get("users?page=2&limit=5", headers={"X-Trace": "abc"})
        await client.get("nowhere")
        await client.get(f"{up.origin}/users")

    first, stray, outside = up.requests
    assert (first.ordinal, first.method, first.path, first.status, first.stream) == (
        1, "GET", "/api/v1/users", 200, "users",
    )  # fmt: skip
    assert first.query == (("page", "2"), ("limit", "5"))
    assert (first.param("page"), first.param("none"), first.header("x-trace")) == ("2", None, "abc")
    assert (stray.status, stray.stream) == (404, None)
    assert outside.status == 404
    assert up.asked("users") == [first]
    assert up.source.base_url == up.base_url == up.origin + "/api/v1"


async def test_connections_are_kept_and_many_requests_are_answered_at_once(truth: Truth) -> None:
    limits = httpx.Limits(max_connections=5)
    async with served(truth) as up, client_of(up, limits=limits) as client:
        answers = await asyncio.gather(*(client.get("/users") for _ in range(200)))

    assert {answer.status_code for answer in answers} == {200}
    assert [seen.ordinal for seen in up.requests] == list(range(1, 201))


async def test_a_server_that_stops_leaves_no_connection_behind(truth: Truth) -> None:
    before = len(asyncio.all_tasks())
    async with served(truth, faults=Faults().always(faults.silence())) as up, client_of(up) as client:
        asking = asyncio.create_task(client.get("/users"))
        while not up.requests:
            await asyncio.sleep(0)
    with pytest.raises(httpx.HTTPError):
        await asking

    assert len(asyncio.all_tasks()) == before


async def test_an_upstream_that_fails_fails_the_test(truth: Truth) -> None:
    def stumble(request: Request, ordinal: int) -> None:
        raise KeyError("a bug")

    async def ask() -> None:
        async with served(truth, before=stumble) as up, client_of(up) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/users")

    with pytest.raises(UpstreamBroken, match="a bug") as raised:
        await ask()

    assert isinstance(raised.value.__cause__, KeyError)


async def test_a_server_may_come_back_at_the_same_address(truth: Truth) -> None:
    async with served(truth) as first:
        port = int(first.origin.rpartition(":")[2])
    async with served(truth, port=port) as again, client_of(again) as client:
        assert again.origin == first.origin
        assert (await client.get("/users")).status_code == 200


# -- parents and children --------------------------------------------------------------------------------


async def test_a_partition_holds_the_rows_of_its_parent_and_no_others(truth: Truth) -> None:
    expected = Counter(row["conversation_id"] for row in truth.rows("messages"))
    async with served(truth) as up, client_of(up) as client:
        for (conversation,) in truth.keys("conversations"):
            found = await walk(
                client, up.source.streams["messages"], path=f"/conversations/{conversation}/messages"
            )
            assert len(found) == expected[conversation]
            assert {record["conversation_id"] for record in found} <= {conversation}


async def test_a_partition_of_no_parent_is_not_found_and_of_a_forbidden_one_forbidden(truth: Truth) -> None:
    one, other, third = [key for (key,) in truth.keys("conversations")][:3]
    async with served(truth) as up, client_of(up) as client:
        up.hide("conversations", one)
        up.forbid("conversations", other)
        asked = [(await client.get(path(key))).status_code for key in (one, other, third, 1)]
        up.show("conversations", other)
        again = (await client.get(path(other))).status_code

    assert asked == [404, 403, 200, 404]
    assert again == 200


async def test_grandchildren_have_the_parameters_of_all_above_them(truth: Truth) -> None:
    streams = {
        **example.STREAMS,
        "files": {
            "each": "messages",
            "path": "/conversations/{conversations.id}/messages/{messages.id}/files",
            "entity": "Attachment",
        },
    }
    file = truth.rows("attachments")[0]
    message = truth.get("messages", file["message_id"])
    assert message is not None
    async with served(truth, streams) as up, client_of(up) as client:
        path = f"/conversations/{message['conversation_id']}/messages/{message['id']}/files"
        found = (await client.get(path)).json()
        wrong = await client.get(f"/conversations/1/messages/{message['id']}/files")

    assert str(file["id"]) in ids(found)
    assert wrong.status_code == 404


async def test_a_parameter_in_the_query_and_a_path_into_the_parents_record_work_alike(truth: Truth) -> None:
    streams = {
        **example.STREAMS,
        "sent": {
            "each": "conversations",
            "path": "/sent",
            "query": {"by": "{conversations.owner_id}", "kind": "all"},
            "entity": "Message",
        },
    }
    owner = truth.rows("conversations")[0]["owner_id"]
    mine = {row["id"] for row in truth.rows("conversations") if row["owner_id"] == owner}
    expected = {row["id"] for row in truth.rows("messages") if row["conversation_id"] in mine}
    async with served(truth, streams) as up, client_of(up) as client:
        found = (await client.get("/sent", params={"by": str(owner), "kind": "all"})).json()
        incomplete = await client.get("/sent", params={"by": str(owner)})

    assert {record["id"] for record in found} == expected
    assert incomplete.status_code == 404


async def test_an_association_leads_from_parent_to_child(truth: Truth) -> None:
    streams = {
        **example.STREAMS,
        "labels": {"each": "conversations", "path": "/c/{conversations.id}/tags", "entity": "Tag"},
    }
    conversation, tag = truth.keys("conversation_tags")[0]
    async with served(truth, streams) as up, client_of(up) as client:
        found = ids((await client.get(f"/c/{conversation}/tags")).json())

    assert tag in found
    assert set(found) == {t for c, t in truth.keys("conversation_tags") if c == conversation}


async def test_what_may_lead_several_ways_is_asked_of_the_test(truth: Truth) -> None:
    sent = {"each": "users", "path": "/users/{users.id}/all", "entity": "Message"}
    streams = {"users": USERS, "sent": sent}
    sender = next(row["sender_id"] for row in truth.rows("messages") if row["sender_id"])
    expected = {str(row["id"]) for row in truth.rows("messages") if row["sender_id"] == sender}
    async with served(truth, streams, links={"sent": "sender_id"}) as up, client_of(up) as client:
        assert set(ids((await client.get(f"/users/{sender}/all")).json())) == expected

    first = truth.rows("messages")[0]
    async with served(truth, streams, links={"sent": lambda _: [first]}) as up, client_of(up) as client:
        assert ids((await client.get(f"/users/{sender}/all")).json()) == [str(first["id"])]

    lost = {"tags": example.STREAMS["tags"], "of": {"each": "tags", "path": "/t/{tags.id}", "entity": "User"}}
    with pytest.raises(ConfigError, match="0 ways lead from tags to users"):
        served(truth, lost).site.listings.partitions("of")


async def test_a_partition_exists_only_where_its_parent_says_so(truth: Truth) -> None:
    messages = {**example.STREAMS["messages"], "when": "last_message"}
    counts = {key[0]: row["messages_count"] for key, row in truth.derived("conversations").items()}
    silent, loud = (next(key for key, n in counts.items() if (n > 0) is some) for some in (False, True))
    async with served(truth, {**example.STREAMS, "messages": messages}) as up, client_of(up) as client:
        asked = [(await client.get(path(key))).status_code for key in (silent, loud)]

    assert asked == [404, 200]


# -- by id -----------------------------------------------------------------------------------------------


async def test_a_record_by_id_is_the_one_of_the_list(truth: Truth) -> None:
    streams = {"users": {**USERS, "by_id": {"path": "/users/{id}", "records": "user"}}}
    async with served(truth, streams) as up, client_of(up) as client:
        for record in (await client.get("/users", params={"limit": 5})).json()["data"]:
            assert (await client.get(f"/users/{record['id']}")).json() == {"user": record}


async def test_without_a_path_of_its_own_it_stands_where_the_lists_records_do(truth: Truth) -> None:
    streams = {"users": {**USERS, "by_id": {"path": "/users/{id}"}}}
    key = truth.keys("users")[0][0]
    async with served(truth, streams) as up, client_of(up) as client:
        assert (await client.get(f"/users/{key}")).json()["data"]["id"] == str(key)


async def test_keys_that_need_quoting_are_found(truth: Truth) -> None:
    streams = {"tags": {**example.STREAMS["tags"], "by_id": {"path": "/tags/{id}", "records": "$"}}}
    async with served(truth, streams) as up, client_of(up) as client:
        for (key,) in truth.keys("tags"):
            assert (await client.get(f"/tags/{quote(key, safe='')}")).json()["id"] == key


@pytest.mark.parametrize(
    ("by_id", "gone", "forbidden"),
    [({}, 404, 403), ({"gone": [410], "forbidden": [401]}, 410, 401), ({"forbidden": [401, 403]}, 404, 403)],
)
async def test_what_is_unknown_hidden_or_forbidden_is_answered_as_the_source_says(
    truth: Truth, by_id: dict[str, Any], gone: int, forbidden: int
) -> None:
    streams = {"users": {**USERS, "by_id": {"path": "/users/{id}", **by_id}}}
    one, other = [key for (key,) in truth.keys("users")][:2]
    async with served(truth, streams) as up, client_of(up) as client:
        up.hide("users", one)
        up.forbid("users", other)
        asked = [(await client.get(f"/users/{key}")).status_code for key in (UUID(int=0), one, other)]
        listed = ids(await walk(client, up.source.streams["users"], limit=100))

    assert asked == [gone, gone, forbidden]
    assert not {str(one), str(other)} & set(listed)


async def test_a_batch_brings_what_there_is_of_it(truth: Truth) -> None:
    by_id = {"path": "/users", "param": "ids", "batch": 3, "separator": "|", "records": "found"}
    one, other, hidden, fourth = [key for (key,) in truth.keys("users")][:4]
    async with served(truth, {"users": {**USERS, "by_id": by_id}}) as up, client_of(up) as client:
        up.hide("users", hidden)
        found = (await client.get("/users", params={"ids": f"{one}|{hidden}|{other}"})).json()
        none = await client.get("/users", params={"ids": f"{hidden}"})
        many = await client.get("/users", params={"ids": f"{one}|{hidden}|{other}|{fourth}"})
        listed = (await client.get("/users")).json()

    assert ids(found["found"]) == [str(one), str(other)]
    assert (none.status_code, none.json()) == (200, {"found": []})
    assert many.status_code == 400
    assert "data" in listed


async def test_a_value_of_the_referrer_may_stand_in_the_path(truth: Truth) -> None:
    by_id = {"path": "/rooms/{referrer.conversation_id}/messages/{id}", "records": "$"}
    streams = {**example.STREAMS, "messages": {**example.STREAMS["messages"], "by_id": by_id}}
    row = truth.rows("messages")[0]
    async with served(truth, streams) as up, client_of(up) as client:
        found = (await client.get(f"/rooms/{row['conversation_id']}/messages/{row['id']}")).json()

    assert found["id"] == row["id"]


async def test_a_spoiled_record_is_told_as_the_bytes_it_was_given(truth: Truth) -> None:
    key = truth.keys("users")[0][0]
    async with served(truth, {"users": USERS}) as up, client_of(up) as client:
        up.spoil("users", key, record=b'{"id": NaN}')
        body = (await client.get("/users", params={"limit": 100})).content

    assert body.count(b'{"id": NaN}') == 1
    assert f'"id":"{key}"'.encode() not in body


# -- since -----------------------------------------------------------------------------------------------

MOMENT = datetime(2020, 6, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ("iso", "2020-06-01T12:00:00Z"),
        ("iso", "2020-06-01T14:00:00+02:00"),
        ("iso", "2020-06-01T12:00:00"),
        ("seconds", "1591012800"),
        ("milliseconds", "1591012800000"),
        ("value", "2020-06-01T12:00:00Z"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
async def test_only_what_is_later_is_told_and_what_is_equal_where_the_filter_is_not_strict(
    truth: Truth, form: str, param: str, strict: bool
) -> None:
    for number, row in enumerate(truth.rows("users")):
        truth.upsert("users", {**row, "seen_at": MOMENT + timedelta(microseconds=number - 15)})
    truth.upsert("users", {**truth.rows("users")[0], "seen_at": None})
    since = {"param": "after", "key": "seen_at", "format": form, "strict": strict}
    paginate = {"kind": "cursor", "next": "next", "limit": 4}
    streams = {"users": {**USERS, "since": since, "paginate": paginate}}
    async with served(truth, streams) as up, client_of(up) as client:
        found = await walk(client, up.source.streams["users"], after=param)
        whole = await walk(client, up.source.streams["users"])

    expected = {
        str(row["id"])
        for row in truth.rows("users")
        if row["seen_at"] is not None and (row["seen_at"] > MOMENT if strict else row["seen_at"] >= MOMENT)
    }
    assert set(ids(found)) == expected
    assert len(found) == len(expected) == (14 if strict else 15)
    assert len(whole) == 30


async def test_a_token_remembers_what_it_was_filtered_by(truth: Truth) -> None:
    since = {"param": "after", "key": "id", "format": "value"}
    streams = {"users": {**USERS, "since": since, "paginate": {"kind": "cursor", "next": "next"}}}
    middle = sorted(texts(truth, "users"))[12]
    async with served(truth, streams) as up, client_of(up) as client:
        first = (await client.get("/users", params={"after": middle})).json()
        rest = (await client.get("/users", params={"cursor": first["next"]})).json()

    assert ids(first["data"]) + ids(rest["data"]) == sorted(texts(truth, "users"))[12:]


async def test_a_filter_that_cannot_be_read_is_refused(truth: Truth) -> None:
    async with served(truth) as up, client_of(up) as client:
        assert (await client.get("/conversations", params={"updated_after": "soon"})).status_code == 400


# -- who may ask -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "right", "wrong"),
    [
        ({"bearer": "$T"}, {"headers": {"Authorization": "Bearer s3"}}, {"headers": {"Authorization": "s3"}}),
        ({"header": {"X-Key": "$T"}}, {"headers": {"x-key": "s3"}}, {"headers": {"x-key": "$T"}}),
        ({"query": {"key": "$T"}}, {"params": {"key": "s3"}}, {"params": {"key": ""}}),
        ({"basic": ["$U", "$T"]}, {"auth": ("secret-U", "s3")}, {"auth": ("secret-U", "no")}),
    ],
)
async def test_only_the_right_credentials_are_let_through(
    truth: Truth, auth: Any, right: Any, wrong: Any
) -> None:
    anonymous: dict[str, Any] = {}
    async with served(truth, auth=auth, secrets={"T": "s3"}) as up, client_of(up) as client:
        asked = [(await client.get("/users", **given)).status_code for given in (right, wrong, anonymous)]

    assert asked == [200, 401, 401]
    assert up.secrets["T"] == "s3"


def test_secrets_come_from_the_test_then_the_environment_then_their_name(
    truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B", "from outside")
    auth = {"header": {"a": "$A", "b": "$B", "c": "$C"}}

    assert served(truth, auth=auth, secrets={"A": "given"}).secrets == {
        "A": "given",
        "B": "from outside",
        "C": "secret-C",
    }


LOGIN = {
    "path": "/login",
    "body": {"user": {"name": "$NAME"}, "password": "$WORD", "type": "password"},
    "token": "data.token",
}


@pytest.mark.parametrize(("scheme", "header"), [("bearer", "Authorization"), ("X-Token", "X-Token")])
async def test_a_login_gives_a_token_that_wears_out(truth: Truth, scheme: str, header: str) -> None:
    prefix = "Bearer " if scheme == "bearer" else ""
    body = {"user": {"name": "secret-NAME"}, "password": "secret-WORD", "type": "password"}
    auth = {"login": {**LOGIN, "scheme": scheme}}
    async with served(truth, auth=auth, token_uses=2) as up, client_of(up) as client:
        guessed = await client.get("/users", headers={header: f"{prefix}token-0"})
        refused = await client.post("/login", json={**body, "password": "wrong"})
        tokens, asked = [], []
        for _ in range(2):
            tokens.append((await client.post("/login", json=body)).json()["data"]["token"])
            headers = {header: prefix + tokens[-1]}
            asked.append([(await client.get("/users", headers=headers)).status_code for _ in range(3)])
        old = await client.get("/users", headers={header: prefix + tokens[0]})

    assert (guessed.status_code, refused.status_code, old.status_code) == (401, 403, 401)
    assert tokens[0] != tokens[1]
    assert asked == [[200, 200, 401]] * 2


async def test_a_token_expires_when_the_test_says_so(truth: Truth) -> None:
    body = {"user": {"name": "secret-NAME"}, "password": "secret-WORD", "type": "password"}
    async with served(truth, auth={"login": LOGIN}) as up, client_of(up) as client:
        token = (await client.post("/login", json=body)).json()["data"]["token"]
        headers = {"Authorization": f"Bearer {token}"}
        before = (await client.get("/users", headers=headers)).status_code
        up.gate.expire()
        after = (await client.get("/users", headers=headers)).status_code

    assert (before, after) == (200, 401)


async def test_wrong_credentials_may_see_an_empty_public_view(truth: Truth) -> None:
    check = {"path": "/me", "expect": "account.id", "equals": "7"}
    right = {"Authorization": "Bearer secret-T"}
    async with (
        served(truth, auth={"bearer": "$T"}, check=check, anonymous=True) as up,
        client_of(up) as client,
    ):
        views = [(await client.get("/users", headers=headers)).json()["data"] for headers in (right, {})]
        checks = [(await client.get("/me", headers=headers)).json() for headers in (right, {})]

    assert [len(view) for view in views] == [10, 0]
    assert checks == [{"account": {"id": "7"}}, {}]


# -- where records stand -----------------------------------------------------------------------------------


class Base(DeclarativeBase):
    """Models of a feed in which rooms hold events."""


class Event(Base):
    """What happened in a room; the answer tells the room, and not the event."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[str] = mapped_column(ForeignKey("rooms.id"))
    kind: Mapped[str] = mapped_column(String(10))
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class Room(Base):
    """Where things happen."""

    __tablename__ = "rooms"
    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    name: Mapped[str | None]


SYNC = {
    "path": "/sync",
    "records": "rooms.*.timeline.events",
    "entity": "Event",
    "set": {"room_id": "$1", "at": "$position"},
    "order": "oldest-first",
    "paginate": {"kind": "cursor", "next": "token", "param": "since", "tail": True, "limit": 100},
}
HISTORY = {
    "path": "/rooms/{room}/history",
    "query": {"to": "{until}"},
    "records": "chunk",
    "entity": "Event",
    "order": "newest-first",
    "paginate": {"kind": "cursor", "next": "end", "param": "from", "limit": 2},
}
OPENS = {
    "stream": "history",
    "at": "rooms.*",
    "when": "timeline.limited",
    "from": "timeline.before",
    "to": "$since",
    "partition": {"room": "$1"},
}


def event(number: int, room: str) -> dict[str, Any]:
    return {"id": number, "room_id": room, "kind": "k", "at": MOMENT}


@pytest.fixture
def feed() -> Truth:
    events = [event(number, "!a:x" if number % 3 else "!b/y") for number in range(1, 10)]
    return Truth(Base, {"rooms": [{"id": "!a:x"}, {"id": "!b/y"}], "events": events})


async def test_a_map_stands_for_a_list_and_its_keys_are_columns(feed: Truth) -> None:
    async with served(feed, {"sync": SYNC}) as up, client_of(up) as client:
        body = (await client.get("/sync")).json()
        empty = (await client.get("/sync", params={"since": body["token"]})).json()

    assert {room: ids(inner["timeline"]["events"]) for room, inner in body["rooms"].items()} == {
        "!a:x": ["1", "2", "4", "5", "7", "8"],
        "!b/y": ["3", "6", "9"],
    }
    assert body["rooms"]["!b/y"]["timeline"]["events"][0] == {"id": 3, "kind": "k"}
    assert empty == {"token": body["token"]}


@pytest.mark.parametrize(
    ("records", "set_", "body"),
    [
        ("all.*", {"id": "$1"}, {"all": {"!a:x": {"name": None}, "!b/y": {"name": None}}}),
        ("all.*", {}, {"all": [{"id": "!a:x", "name": None}, {"id": "!b/y", "name": None}]}),
        ("a.*.b.*", {"id": "$2"}, {"a": {"all": {"b": {"!a:x": {"name": None}, "!b/y": {"name": None}}}}}),
        ("$", {}, [{"id": "!a:x", "name": None}, {"id": "!b/y", "name": None}]),
        ('"a.b".c', {}, {"a.b": {"c": [{"id": "!a:x", "name": None}, {"id": "!b/y", "name": None}]}}),
    ],
)
async def test_records_stand_wherever_the_path_says(feed: Truth, records: str, set_: Any, body: Any) -> None:
    rooms = {
        "path": "/rooms",
        "records": records,
        "entity": "Room",
        "set": set_,
        "order": "oldest-first",
        "key": "id",
    }
    async with served(feed, {"rooms": rooms}, order="oldest-first") as up, client_of(up) as client:
        assert (await client.get("/rooms")).json() == body


async def test_a_limited_group_leads_to_its_history(feed: Truth) -> None:
    streams = {"sync": {**SYNC, "opens": OPENS}, "history": HISTORY}
    async with served(feed, streams, paging=Paging(group_cap=2)) as up, client_of(up) as client:
        first = (await client.get("/sync")).json()
        for number in range(10, 16):
            feed.upsert("events", event(number, "!b/y"))
        news = (await client.get("/sync", params={"since": first["token"]})).json()
        timeline = news["rooms"]["!b/y"]["timeline"]
        history = up.source.streams["history"]
        path = "/rooms/%21b%2Fy/history"
        asked = {"from": timeline["before"], "to": first["token"]}
        bounded = [page.json() async for page in pages(client, history, path=path, **asked)]
        before = first["rooms"]["!b/y"]["timeline"]["before"]
        older = await walk(client, history, path=path, to=None, **{"from": before})

    assert {room: inner["timeline"]["limited"] for room, inner in first["rooms"].items()} == {
        "!a:x": True,
        "!b/y": True,
    }
    assert (ids(timeline["events"]), timeline["limited"]) == (["14", "15"], True)
    assert [ids(page["chunk"]) for page in bounded] == [["13", "12"], ["11", "10"]]
    assert ids(older) == ["3"]


async def test_a_group_within_its_limit_is_not_limited(feed: Truth) -> None:
    streams = {"sync": {**SYNC, "opens": OPENS}, "history": HISTORY}
    async with served(feed, streams, paging=Paging(group_cap=6)) as up, client_of(up) as client:
        body = (await client.get("/sync")).json()

    assert [inner["timeline"]["limited"] for inner in body["rooms"].values()] == [False, False]


async def test_a_column_set_by_the_partition_finds_its_rows_without_a_foreign_key(feed: Truth) -> None:
    of = {
        "each": "rooms",
        "path": "/r/{rooms.id}/events",
        "entity": "Event",
        "set": {"room_id": "$partition.rooms.id"},
    }
    streams = {"rooms": {"path": "/rooms", "entity": "Room"}, "of": of}
    async with served(feed, streams) as up, client_of(up) as client:
        found = (await client.get("/r/%21b%2Fy/events")).json()

    assert sorted(ids(found)) == ["3", "6", "9"]
    assert "room_id" not in found[0]


async def test_a_constant_that_a_stream_sets_chooses_its_rows(feed: Truth) -> None:
    feed.upsert("events", {"id": 1, "kind": "special"})
    streams = {"special": {"path": "/special", "entity": "Event", "set": {"kind": "special"}}}
    async with served(feed, streams) as up, client_of(up) as client:
        assert ids((await client.get("/special")).json()) == ["1"]


async def test_a_stream_of_deletions_tells_what_is_gone_until_it_comes_back(feed: Truth) -> None:
    paginate = {"kind": "cursor", "next": "token", "tail": True}
    gone = {"path": "/gone", "records": "gone", "entity": "Event", "deletes": True, "paginate": paginate}
    async with served(feed, {"gone": gone}) as up, client_of(up) as client:
        none = (await client.get("/gone")).json()
        feed.delete("events", 4)
        feed.delete("events", 2)
        both = (await client.get("/gone")).json()
        feed.upsert("events", event(4, "!a:x"))
        one = (await client.get("/gone")).json()

    assert (none["gone"], both["gone"], one["gone"]) == ([], [{"id": 4}, {"id": 2}], [{"id": 2}])


async def test_a_list_of_records_alone_has_no_place_for_a_token(feed: Truth) -> None:
    rooms = {"path": "/rooms", "entity": "Room", "paginate": {"kind": "cursor", "next": "next", "limit": 1}}
    up = served(feed, {"rooms": rooms})
    up.site.origin = "http://here"

    with pytest.raises(ConfigError, match="beside a list"):
        up.site.answer(Request(method="GET", path="/rooms", query=(("limit", "1"),), headers=()), 1)


# -- POST, and keys that are never the same ------------------------------------------------------------------


async def test_a_listing_may_be_asked_for_by_a_body(feed: Truth) -> None:
    rooms = {
        "path": "/query",
        "method": "POST",
        "body": {"filter": {"kind": "room"}, "sort": ["id"]},
        "records": "rows",
        "entity": "Room",
        "order": "oldest-first",
        "key": "id",
        "paginate": {"kind": "offset", "param": "skip", "total": "n", "limit": 1, "limit_param": "take"},
    }
    events = {
        **rooms,
        "body": {"filter": {"kind": "{rooms.id}"}},
        "entity": "Event",
        "each": "rooms",
        "key": "at",
    }
    async with served(feed, {"rooms": rooms, "events": events}) as up, client_of(up) as client:
        found = await walk(client, up.source.streams["rooms"])
        of = (await client.post("/query", json={"filter": {"kind": "!b/y"}, "take": 50})).json()
        wrong = await client.post("/query", json={"filter": {"kind": "nothing"}})
        get = await client.get("/query")

    assert ids(found) == ["!a:x", "!b/y"]
    assert sorted(ids(of["rows"])) == ["3", "6", "9"]
    assert (wrong.status_code, get.status_code) == (404, 404)


async def test_a_volatile_key_differs_in_every_answer(feed: Truth) -> None:
    rooms = {"rooms": {"path": "/rooms", "entity": "Room"}}
    async with served(feed, rooms, dialect=Dialect(volatile="age")) as up, client_of(up) as client:
        ages = [(await client.get("/rooms")).json()[0]["age"] for _ in range(2)]

    assert ages == [1, 2]
