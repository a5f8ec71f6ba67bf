"""The recorded pages of the default job: whole, reachable as source.toml asks, and as awkward as meant."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.config import read_config
from ingest.errors import ConfigError
from ingest.source import Keyset, read_source
from ingest.types import Request
from tests.fixtures_fansly import FOLDER, ROOT, catalog, record, recorded, source
from tests.fixtures_fansly.api import Answer
from tests.fixtures_fansly.client import Client
from tests.fixtures_fansly.records import Json

#: bytes of everything in the folder
SMALL_ENOUGH = 3_000_000


class Unrecorded(LookupError):
    """The recording has no answer to this request."""


def identity(request: Request) -> tuple[Any, ...]:
    """What makes two requests the same: the query is a set of pairs."""
    return (request.method, request.path, frozenset(request.query), request.body)


class Recording:
    """Answers from the files, and remembers what was asked."""

    def __init__(self, folder: Path) -> None:
        self.answers: dict[tuple[Any, ...], Answer] = {}
        for exchange, body in recorded(folder):
            answer = Answer(exchange.status, msgspec.json.decode(body))
            assert identity(exchange.request) not in self.answers, exchange.request
            self.answers[identity(exchange.request)] = answer
        self.asked: set[tuple[Any, ...]] = set()

    def __call__(self, request: Request) -> Answer:
        if identity(request) not in self.answers:
            raise Unrecorded(request)
        self.asked.add(identity(request))
        return self.answers[identity(request)]


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording(FOLDER)


@pytest.fixture(scope="module")
def client(recording: Recording) -> Client:
    """A client that has asked the recording for everything."""
    client = Client(source(), catalog(), recording)
    client.run()
    return client


def pages(client: Client, stream: str) -> list[tuple[Request, Answer]]:
    return [(request, answer) for name, request, answer in client.asked if name == stream]


def walks(client: Client, stream: str, records: str) -> list[list[list[Json]]]:
    """The records of every page of a listing, by what was listed."""
    found: dict[tuple[Any, ...], list[list[Json]]] = {}
    for request, answer in pages(client, stream):
        if "limit" in dict(request.query) and answer.status == 200:
            key = (request.path, dict(request.query).get("groupId"))
            found.setdefault(key, []).append(answer.body["response"][records])
    return list(found.values())


def ids(records: list[Json]) -> list[str]:
    return [one["id"] for one in records]


# -- the definition ------------------------------------------------------------------------------------


def test_the_definition_is_accepted_and_names_entities_that_exist() -> None:
    entities = {name: stream.entity for name, stream in source().streams.items()}
    assert set(entities.values()) <= set(catalog().entities)
    assert list(entities) == [
        "creators",
        "accounts",
        "groups",
        "messages",
        "posts",
        "account_media",
        "bundles",
    ]


def test_a_key_that_is_misspelt_in_the_definition_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "schema" / "fansly" / "source.toml").read_text(encoding="utf-8")
    (tmp_path / "source.toml").write_text(text.replace("unchanged =", "unchangd ="), encoding="utf-8")
    with pytest.raises(ConfigError, match="unchangd"):
        read_source(tmp_path / "source.toml")


def test_every_table_that_can_be_missing_can_be_asked_for() -> None:
    tables = catalog()
    by_id = {stream.entity for stream in source().streams.values() if stream.by_id}
    fetched = {one.target for one in tables.references if "fetch" in one.policies}
    assert {tables.tables[name].entity for name in fetched} == by_id


def test_the_default_job_replays_these_pages_into_sqlite() -> None:
    config = read_config(ROOT / "config.toml")
    (job,) = config.sources.values()
    assert (job.package, job.replay) == ("schema.fansly", FOLDER)
    assert job.base_url == "https://api.fansly.example/api/v1"
    assert config.database_url == f"sqlite:///{ROOT / 'mirror.db'}"


# -- the files -----------------------------------------------------------------------------------------


def test_generating_the_pages_again_gives_the_same_bytes(tmp_path: Path) -> None:
    record(tmp_path)
    made = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    kept = {file.relative_to(FOLDER): file.read_bytes() for file in FOLDER.rglob("*") if file.is_file()}
    assert sorted(made) == sorted(kept)
    assert [str(name) for name in made if made[name] != kept[name]] == []
    assert sum(map(len, kept.values())) < SMALL_ENOUGH


def test_every_line_names_a_body_of_its_own_and_every_body_is_json_without_doubt() -> None:
    exchanges = list(recorded(FOLDER))
    files = [exchange.file for exchange, _ in exchanges]
    assert len(set(files)) == len(files)
    for exchange, body in exchanges:
        json.loads(body, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
        # lone surrogates and NUL cannot be stored everywhere; these pages are to load without a remainder
        assert rb"\ud" not in body.lower(), exchange.file
        assert rb"\u0000" not in body, exchange.file
        assert exchange.headers["content-type"].startswith("application/json")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Json:
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


# -- what following them gives -------------------------------------------------------------------------


def test_a_client_that_follows_the_definition_finds_every_answer_and_leaves_none(
    client: Client, recording: Recording
) -> None:
    assert recording.asked == set(recording.answers)
    assert len(client.asked) == len(recording.answers)


def test_some_thousand_records_come_of_it(client: Client) -> None:
    counts = {name: len(keys) for name, keys in client.stated.items()}
    print(counts)
    assert 4_000 < sum(counts.values()) < 8_000
    assert all(counts.values()), counts
    assert counts["messages"] > 1_000


def test_without_a_page_the_client_notices(recording: Recording) -> None:
    cut = Recording(FOLDER)
    middle = next(request for request in cut.answers if dict(request[2]).get("before"))
    del cut.answers[middle]
    with pytest.raises(Unrecorded):
        Client(source(), catalog(), cut).run()


def test_exactly_three_keys_have_no_column(client: Client) -> None:
    assert client.unmapped == {"accounts.lastSeenAt", "messages.correlationId", "posts.fypFlags"}


def test_what_is_stated_of_one_thing_twice_agrees_but_for_one_group(client: Client) -> None:
    said: dict[tuple[str, str], list[Json]] = {}
    for name, records in client.records.items():
        for one in records:
            said.setdefault((name, one["id"]), []).append(one)
    differing = {name for (name, _), versions in said.items() if any(one != versions[0] for one in versions)}
    assert differing == {"groups"}
    assert Counter(name for (name, _), versions in said.items() if len(versions) > 1).keys() >= {
        "creators",
        "groups",
        "messages",
        "posts",
    }


# -- what is awkward about them ------------------------------------------------------------------------


def test_lines_come_last_answer_first_so_that_messages_precede_their_group() -> None:
    order = [exchange.request.path for exchange, _ in recorded(FOLDER)]
    assert order.index("/message") < order.index("/messaging/groups") < order.index("/account/following")


def test_answers_come_before_what_they_answer(client: Client) -> None:
    for stream, records in (("messages", "messages"), ("posts", "posts")):
        seen: set[str] = set()
        early = 0
        for page in (page for walk in walks(client, stream, records) for page in walk):
            for one in page:
                early += one.get("inReplyTo") is not None and one["inReplyTo"] not in seen
                seen.add(one["id"])
        assert early > 20, stream


def test_a_page_may_be_short_and_only_an_empty_one_ends_the_conversation(client: Client) -> None:
    paged = source().streams["messages"].paginate
    assert isinstance(paged, Keyset)
    listed = walks(client, "messages", "messages")
    assert all(walk[-1] == [] and all(walk[:-1]) for walk in listed)
    # after the first, a page repeats two records of the one before
    assert any(
        len(page) - 2 < (paged.limit or 0) and len(walk[at + 1]) > 2
        for walk in listed
        for at, page in enumerate(walk[1:-2], 1)
    )


def test_a_timeline_has_an_empty_page_in_the_middle(client: Client) -> None:
    listed = walks(client, "posts", "posts")
    assert sum([] in walk[1:-1] for walk in listed) > 5


def test_pages_repeat_records(client: Client) -> None:
    for stream, records in (
        ("messages", "messages"),
        ("posts", "posts"),
        ("groups", "groups"),
        ("creators", "accounts"),
    ):
        listed = walks(client, stream, records)
        assert any(set(ids(page)) & set(ids(after)) for walk in listed for page, after in pairwise(walk)), (
            stream
        )


def test_a_group_on_two_pages_lost_a_member_in_between(client: Client) -> None:
    versions: dict[str, list[int]] = {}
    for group in client.records["groups"]:
        versions.setdefault(group["id"], []).append(len(group["users"]))
    assert [counts for counts in versions.values() if len(counts) > 1] == [[2, 1], [2, 1]]


def test_a_last_message_may_be_deleted_and_a_conversation_may_have_lost_all(client: Client) -> None:
    deleted = {one["id"] for one in client.records["messages"] if one["deleted"]}
    listed = [walk for walk in walks(client, "messages", "messages") if walk[0]]
    assert sum(walk[0][0]["id"] in deleted for walk in listed) >= 3
    assert sum(all(one["id"] in deleted for page in walk for one in page) for walk in listed) == 1
    stated = {group["lastMessageId"] for group in client.records["groups"]}
    assert {walk[0][0]["id"] for walk in listed} <= stated


def test_ids_grow_with_time_and_many_messages_share_a_second(client: Client) -> None:
    ties = 0
    for walk in walks(client, "messages", "messages"):
        said = {int(one["id"]): one["createdAt"] for page in walk for one in page}
        in_order = sorted(said)
        assert [said[id] for id in in_order] == sorted(said.values())
        ties += sum(said[one] == said[after] for one, after in pairwise(in_order))
    assert ties > 200


def test_some_parents_come_by_id_alone_and_some_exist_nowhere(client: Client) -> None:
    answers: dict[str, Counter[str]] = {}
    for name, request, answer in client.asked:
        if "limit" not in dict(request.query) and name != "check":
            found = answer.status == 200 and answer.body["response"] != []
            answers.setdefault(name, Counter())["found" if found else str(answer.status)] += 1
    # 200 with an empty list and 404 say the same, in different places
    assert answers["accounts"]["found"] >= 12
    assert answers["accounts"]["200"] == 4
    assert answers["messages"] == {"found": 3, "404": 4, "403": 1}
    assert answers["groups"] == {"found": 1, "404": 1}
    assert answers["posts"] == {"found": 6, "200": 3}
    assert answers["account_media"]["found"] >= 10
    assert answers["account_media"]["200"] == 2
    assert answers["bundles"]["found"] >= 20
    assert answers["bundles"]["200"] == 1


def test_what_is_nowhere_is_referred_to_by_a_row_that_is_there(client: Client) -> None:
    for table, lost in client.lost.items():
        assert lost <= client.wanted[table], table


def test_some_accounts_are_only_ever_mentioned(client: Client) -> None:
    own = {one["id"] for stream in ("creators", "accounts") for one in client.records[stream]}
    mentioned = {key[0] for key in client.stated["accounts"]} - own
    assert len(mentioned) > 20
    assert not mentioned & client.lost["accounts"]


def test_what_others_say_of_an_account_may_be_older_than_its_own_record(client: Client) -> None:
    names = {one["id"]: one["username"] for one in client.records["creators"]}
    nested = {
        user["id"]: user.get("username") for group in client.records["groups"] for user in group["users"]
    }
    assert sum(id in nested and nested[id] != name for id, name in names.items()) == 3


def test_two_listings_cannot_be_read_and_say_so(client: Client) -> None:
    refused = Counter(
        (name, answer.status)
        for name, request, answer in client.asked
        if answer.status != 200 and "limit" in dict(request.query)
    )
    assert refused == {("messages", 403): 2, ("posts", 404): 1}


def test_text_is_of_all_kinds_and_ids_use_all_their_bits() -> None:
    text = "".join(body.decode() for _, body in recorded(FOLDER))
    for piece in ("👩🏽\u200d🚀", "e\u0301", "مرحبا", "日本", "\\n"):
        assert piece in text
    assert f'"{2**63 - 1}"' in text
