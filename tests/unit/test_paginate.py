"""Pagination: which request comes first, which comes next, and what ends a walk."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from ingest.errors import BadAnswer, ConfigError
from ingest.fetch.client import Answer
from ingest.fetch.paginate import (
    by_id_request,
    first_request,
    next_cursor,
    request_at,
    total_pages,
    walk_ends,
)
from ingest.source import ById, Stream
from ingest.types import Request, canonical

PATH = "/rooms/{rooms.id}/messages"
PARAMETERS = {"rooms.id": "7"}


def stream_of(paginate: dict[str, Any] | None = None, **stated: Any) -> Stream:
    fields = {"path": "/items", "entity": "Item", **stated}
    if paginate is not None:
        fields["paginate"] = paginate
    return msgspec.convert(fields, Stream)


def answer_of(json: Any = None, **headers: str) -> Answer:
    stated = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(200, httpx.Headers(stated), b"", json)


def records(count: int) -> list[dict[str, int]]:
    return [{"id": n} for n in range(1, count + 1)]


def walk(stream: Stream, pages: list[tuple[Any, list[Any]]], **options: Any) -> list[Request]:
    """The requests of a walk over these answers, each with its records, until it ends or they run out."""
    asked = [first_request(stream, PARAMETERS)]
    for json, found in pages:
        answer = json if isinstance(json, Answer) else answer_of(json)
        cursor = next_cursor(stream, asked[-1], answer, found, **options)
        if walk_ends(stream, asked[-1], cursor, found):
            return asked
        assert cursor is not None
        asked.append(request_at(stream, PARAMETERS, cursor))
    return [*asked, Request(path="and so on")]


def queries(requests: list[Request], name: str) -> list[str | None]:
    return [dict(request.query).get(name) for request in requests]


# -- requests ------------------------------------------------------------------------------------------


def test_a_first_request_has_its_path_query_limit_and_extras() -> None:
    stream = stream_of(
        {"kind": "cursor", "next": "next", "limit": 50, "limit_param": "n"},
        path=PATH,
        query={"dir": "b", "deep": True, "v": 2, "room": "{rooms.id}", "filter": '{"room":{"limit":1}}'},
    )
    request = first_request(stream, {"rooms.id": "a b"}, extra={"since": "s1"})
    assert request == Request(
        path="/rooms/a%20b/messages",
        query=(
            ("dir", "b"),
            ("deep", "true"),
            ("v", "2"),
            ("room", "a b"),
            ("filter", '{"room":{"limit":1}}'),
            ("n", "50"),
            ("since", "s1"),
        ),
    )


@pytest.mark.parametrize(
    ("value", "segment"),
    [
        ("a/b", "a%2Fb"),
        ("../admin", "..%2Fadmin"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("x?y#z", "x%3Fy%23z"),
        ("50%", "50%25"),
        ("!r:lab.test", "%21r%3Alab.test"),
        ("ż ó", "%C5%BC%20%C3%B3"),
    ],
)
def test_a_parameter_stays_one_segment_of_the_path(value: str, segment: str) -> None:
    request = first_request(stream_of(path=PATH), {"rooms.id": value})
    assert request.path == f"/rooms/{segment}/messages"
    # and no URL library reads it otherwise
    raw = httpx.URL("https://api.test" + request.path).raw_path.decode()
    assert raw == f"/rooms/{segment}/messages"


def test_an_empty_parameter_is_not_left_out_of_a_path() -> None:
    with pytest.raises(BadAnswer, match=r"rooms\.id is empty"):
        first_request(stream_of(path=PATH), {"rooms.id": ""})


def test_a_parameter_without_a_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"\{rooms\.id\}.*known: users\.id"):
        first_request(stream_of(path=PATH), {"users.id": "1"})


def test_a_stream_that_is_only_asked_by_id_has_no_first_request() -> None:
    with pytest.raises(ConfigError, match="only asked by id"):
        first_request(stream_of(path=None, by_id={"path": "/items/{id}"}), {})


def test_a_body_takes_parameters_limit_extras_and_cursor() -> None:
    stream = stream_of(
        {
            "kind": "cursor",
            "next": "next",
            "param": "variables.after",
            "limit": 10,
            "limit_param": "variables.first",
        },
        method="POST",
        body={"query": "items", "variables": {"room": "{rooms.id}", "tags": ["{rooms.id}", 1, None]}},
    )
    first = first_request(stream, PARAMETERS, extra={"since": "s"})
    assert first.query == ()
    assert msgspec.json.decode(first.body or "") == {
        "query": "items",
        "since": "s",
        "variables": {"room": "7", "tags": ["7", 1, None], "first": 10},
    }
    cursor = next_cursor(stream, first, answer_of({"next": 5}), records(1))
    second = request_at(stream, PARAMETERS, cursor or "", extra={"since": "s"})
    assert msgspec.json.decode(second.body or "")["variables"]["after"] == 5
    with pytest.raises(BadAnswer, match="repeats"):
        next_cursor(stream, second, answer_of({"next": 5}), records(1))


def test_extras_go_with_every_page() -> None:
    stream = stream_of({"kind": "cursor", "next": "next"})
    request = request_at(stream, {}, '"t2"', extra={"since": "s1"})
    assert request.query == (("since", "s1"), ("cursor", "t2"))


def test_the_same_cursor_always_builds_the_same_request() -> None:
    stream = stream_of({"kind": "continue"}, query={"a": "1"})
    assert request_at(stream, {}, canonical({"b": 2, "a": 3})) == request_at(
        stream, {}, canonical({"a": 3, "b": 2})
    )


# -- kinds ---------------------------------------------------------------------------------------------


def test_pages_end_with_their_number() -> None:
    stream = stream_of({"kind": "page", "pages": "meta.pages", "first": 0, "param": "p"})
    pages = [({"meta": {"pages": "3"}}, records(1))] * 5
    assert queries(walk(stream, pages), "p") == ["0", "1", "2"]


def test_no_pages_at_all_end_after_the_first() -> None:
    assert len(walk(stream_of({"kind": "page", "pages": "pages"}), [({"pages": 0}, [])] * 2)) == 1


@pytest.mark.parametrize(
    ("flags", "asked"), [([True, True, False], 3), (["true", "false"], 2), ([1, 0], 2), ([True, None], 2)]
)
@pytest.mark.parametrize("kind", ["page", "offset", "keyset"])
def test_a_flag_ends_the_walk(kind: str, flags: list[Any], asked: int) -> None:
    own = {"param": "before", "key": "id"} if kind == "keyset" else {}
    stream = stream_of({"kind": kind, "more": "more", **own})
    pages = [({"more": flag}, [{"id": number}]) for number, flag in enumerate(flags)]
    assert len(walk(stream, pages)) == asked


def test_a_flag_that_is_absent_is_no_end() -> None:
    stream = stream_of({"kind": "page", "more": "has_moer"})
    with pytest.raises(BadAnswer, match="no 'has_moer'"):
        walk(stream, [({"has_more": True}, records(1))])


@pytest.mark.parametrize("kind", ["page", "offset"])
def test_only_an_empty_page_ends_a_walk_that_ends_so(kind: str) -> None:
    stream = stream_of({"kind": kind, "end": "empty", "limit": 3})
    assert len(walk(stream, [([], records(3)), ([], records(1)), ([], records(3)), ([], [])])) == 4


@pytest.mark.parametrize(
    ("total", "cap", "pages", "limits"),
    [
        (250, 1000, 3, {"100"}),
        (200, 1000, 2, {"100"}),
        (100, 100, 1, {"100"}),
        (0, 100, 1, {"100"}),
        (30, 40, 1, {"100"}),
        # the server cuts the limit; by the stated one, the walks would end at the third page
        (250, 40, 7, {"100", "40"}),
        (240, 40, 6, {"100", "40"}),
        (41, 40, 2, {"100", "40"}),
    ],
)
def test_numbered_pages_end_when_the_total_has_really_come(
    total: int, cap: int, pages: int, limits: set[str]
) -> None:
    stream = stream_of({"kind": "page", "total": "total", "limit": 100}, query={"limit": 7})
    request, seen, asked = first_request(stream, {}), set(), []
    while True:
        asked.append(request)
        size = min(cap, int(dict(request.query)["limit"]))
        at = (int(dict(request.query)["page"]) - 1) * size
        found = list(range(total))[at : at + size]
        seen |= set(found)
        cursor = next_cursor(stream, request, answer_of({"total": total}), found)
        if cursor is None:
            break
        request = request_at(stream, {}, cursor)
    assert seen == set(range(total))
    assert queries(asked, "page") == [str(number) for number in range(1, pages + 1)]
    assert set(queries(asked, "limit")) == limits


def test_an_empty_first_page_does_not_make_the_limit_nothing() -> None:
    stream = stream_of({"kind": "page", "total": "total", "limit": 100})
    requests = walk(stream, [({"total": 250}, records(count)) for count in (0, 100, 50)])
    assert queries(requests, "limit") == ["100", "100", "100"]


def test_several_records_in_what_the_server_counts_as_one_do_not_end_numbered_pages_early() -> None:
    stream = stream_of({"kind": "page", "total": "total", "limit": 100})
    requests = walk(stream, [({"total": 250}, records(300))] * 4)
    assert queries(requests, "page") == ["1", "2", "3"]
    assert queries(requests, "limit") == ["100", "100", "100"]


def test_records_filtered_after_paging_do_not_end_numbered_pages_early() -> None:
    stream = stream_of({"kind": "page", "total": "total", "limit": 100})
    requests = walk(stream, [({"total": 250}, records(count)) for count in (100, 90, 45, 1)])
    assert queries(requests, "page") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("total", "served", "offsets"),
    [
        (250, [100, 100, 50], [0, 100, 200]),
        (200, [100, 100], [0, 100]),
        (0, [0], [0]),
        # a cut limit: the next offset follows what really came
        (110, [40, 40, 30], [0, 40, 80]),
        # an empty page in the middle
        (250, [100, 0, 50], [0, 100, 200]),
        # a server that ignores the limit sends everything, and overlap loses nothing
        (250, [250, 250, 250], [0, 100, 200]),
    ],
)
def test_offsets_go_on_where_the_records_end(total: int, served: list[int], offsets: list[int]) -> None:
    stream = stream_of({"kind": "offset", "total": "meta.total", "limit": 100})
    requests = walk(stream, [({"meta": {"total": total}}, records(count)) for count in served])
    assert queries(requests, "offset") == [str(offset) for offset in offsets]


def test_an_offset_counts_from_its_first() -> None:
    stream = stream_of({"kind": "offset", "total": "total", "limit": 10, "first": 1, "param": "start"})
    requests = walk(stream, [({"total": 30}, records(10))] * 4)
    assert queries(requests, "start") == ["1", "11", "21"]


def test_a_next_offset_is_taken_as_it_comes_and_ends_when_absent() -> None:
    stream = stream_of({"kind": "offset", "next": "next_token", "param": "from"})
    requests = walk(
        stream, [({"next_token": "100"}, records(1)), ({"next_token": 200}, []), ({}, records(1))]
    )
    assert queries(requests, "from") == ["0", "100", "200"]


@pytest.mark.parametrize("kind", ["page", "offset"])
@pytest.mark.parametrize("json", [{}, {"total": None}, {"total": "many"}, {"total": -1}, {"total": True}, []])
def test_a_total_that_is_not_there_is_an_error_and_no_end(kind: str, json: Any) -> None:
    stream = stream_of({"kind": kind, "total": "total", "limit": 10})
    with pytest.raises(BadAnswer, match=r"no count at 'total' \(correct"):
        walk(stream, [(json, records(10))])


def test_an_offset_without_limit_cannot_pass_an_empty_page() -> None:
    with pytest.raises(BadAnswer, match="empty page"):
        walk(stream_of({"kind": "offset", "more": "more"}), [({"more": True}, [])])


@pytest.mark.parametrize("end", [{}, {"next": None}, {"next": ""}, {"next": False}, []])
@pytest.mark.parametrize("kind", ["cursor", "url", "continue"])
def test_a_token_that_is_absent_null_or_empty_ends_the_walk(kind: str, end: Any) -> None:
    stream = stream_of({"kind": kind, "next": "next"})
    assert len(walk(stream, [(end, records(100))])) == 1


def test_a_short_or_empty_page_with_a_token_does_not_end_the_walk() -> None:
    stream = stream_of({"kind": "cursor", "next": "meta.next", "limit": 100})
    pages = [
        ({"meta": {"next": token}}, found) for token, found in [("a", records(3)), ("b", []), (None, [])]
    ]
    assert queries(walk(stream, pages), "cursor") == [None, "a", "b"]


def test_tokens_may_be_numbers_here_and_text_there() -> None:
    stream = stream_of({"kind": "cursor", "next": "next", "param": "from"})
    pages = [({"next": token}, records(1)) for token in (0, "100", 2**70, ["k", 1], None)]
    assert queries(walk(stream, pages), "from") == [None, "0", "100", str(2**70), '["k",1]']


@pytest.mark.parametrize(("used", "again"), [("5", "5"), (5, 5), (5, "5"), ("5", 5)])
def test_a_cursor_that_repeats_is_an_error(used: Any, again: Any) -> None:
    stream = stream_of({"kind": "cursor", "next": "next"})
    request = request_at(stream, {}, canonical(used))
    with pytest.raises(BadAnswer, match="the cursor repeats"):
        next_cursor(stream, request, answer_of({"next": again}), records(1))


@pytest.mark.parametrize(
    ("kind", "token"),
    [("url", True), ("url", 15), ("url", {"a": 1}), ("cursor", True), ("cursor", 1.5), ("offset", True)],
)
def test_what_is_no_cursor_is_not_taken_for_one(kind: str, token: Any) -> None:
    with pytest.raises(BadAnswer, match="'next' leads to"):
        walk(stream_of({"kind": kind, "next": "next"}), [({"next": token}, records(1))])


def test_a_cursor_ends_by_its_flag_even_with_a_token() -> None:
    stream = stream_of({"kind": "cursor", "next": "next", "more": "more"})
    assert len(walk(stream, [({"next": "a", "more": True}, []), ({"next": "b", "more": False}, [])])) == 2


def test_a_tail_keeps_its_last_token_and_ends_when_nothing_came() -> None:
    stream = stream_of({"kind": "cursor", "next": "next_batch", "param": "since", "tail": True})
    first = first_request(stream, {})
    cursor = next_cursor(stream, first, answer_of({"next_batch": "s1"}), records(2))
    assert (cursor, walk_ends(stream, first, cursor, records(2))) == ('"s1"', False)
    second = request_at(stream, {}, cursor or "")
    # nothing came, yet the token moved: the next run goes on from it
    assert next_cursor(stream, second, answer_of({"next_batch": "s2"}), []) == '"s2"'
    assert walk_ends(stream, second, '"s2"', [])


def test_a_tail_ends_when_its_token_stays_the_same() -> None:
    stream = stream_of({"kind": "cursor", "next": "next", "tail": True})
    request = request_at(stream, {}, "7")
    assert next_cursor(stream, request, answer_of({"next": "7"}), records(1)) == '"7"'
    assert walk_ends(stream, request, '"7"', records(1))
    assert not walk_ends(stream, request, '"8"', records(1))


def test_a_tail_without_a_new_token_keeps_the_one_it_used() -> None:
    stream = stream_of({"kind": "cursor", "next": "next", "tail": True, "more": "more"})
    request = request_at(stream, {}, '"s1"')
    cursor = next_cursor(stream, request, answer_of({"more": False}), records(1))
    assert request_at(stream, {}, cursor or "") == request
    assert walk_ends(stream, request, cursor, records(1))
    assert next_cursor(stream, first_request(stream, {}), answer_of({}), []) is None


def test_a_header_holds_the_next_token() -> None:
    stream = stream_of({"kind": "header", "next": "X-Next-Page", "param": "page"})
    pages = [(answer_of(x_next_page="2"), records(1)), (answer_of(x_next_page=""), records(1))]
    assert queries(walk(stream, pages), "page") == [None, "2"]


def test_a_keyset_goes_on_from_the_last_record() -> None:
    stream = stream_of({"kind": "keyset", "param": "before", "key": "meta.at", "end": "empty", "limit": 9})
    found: list[list[Any]] = [[{"meta": {"at": 9}}, {"meta": {"at": 5}}], [{"meta": {"at": 2}}], []]
    assert queries(walk(stream, [([], page) for page in found]), "before") == [None, "5", "2"]


def test_a_keyset_whose_key_stays_is_an_error() -> None:
    stream = stream_of({"kind": "keyset", "param": "before", "key": "id", "end": "empty"})
    with pytest.raises(BadAnswer, match="repeats"):
        walk(stream, [([], [{"id": 5}]), ([], [{"id": 5}])])


@pytest.mark.parametrize("last", [{}, {"id": None}])
def test_a_keyset_without_its_key_is_an_error(last: Any) -> None:
    stream = stream_of({"kind": "keyset", "param": "before", "key": "id", "end": "empty"})
    with pytest.raises(BadAnswer, match="last record has no 'id'"):
        walk(stream, [([], [{"id": 5}, last])])


def test_a_keyset_cannot_go_on_from_an_empty_page() -> None:
    stream = stream_of({"kind": "keyset", "param": "before", "key": "id", "more": "more"})
    with pytest.raises(BadAnswer, match="empty page"):
        walk(stream, [({"more": True}, [])])


def test_a_continue_object_is_merged_into_the_query_and_replaces_the_last_one() -> None:
    stream = stream_of({"kind": "continue"}, query={"action": "query"})
    first = first_request(stream, {})
    one = next_cursor(stream, first, answer_of({"continue": {"apcontinue": 5, "continue": "||"}}), [])
    second = request_at(stream, {}, one or "")
    assert second.query == (("action", "query"), ("apcontinue", "5"), ("continue", "||"))
    # a member that is gone from the object is gone from the request, which is no repetition
    two = next_cursor(stream, second, answer_of({"continue": {"continue": "||"}}), [])
    assert request_at(stream, {}, two or "").query == (("action", "query"), ("continue", "||"))
    with pytest.raises(BadAnswer, match="repeats"):
        next_cursor(stream, second, answer_of({"continue": {"apcontinue": "5", "continue": "||"}}), [])


def test_a_stream_without_pagination_has_one_page() -> None:
    assert len(walk(stream_of(), [({"next": "a"}, records(1))])) == 1
    with pytest.raises(ConfigError, match="no pages"):
        request_at(stream_of(), {}, '"a"')


# -- next URLs -------------------------------------------------------------------------------------------

HOME = "https://api.test/v1"


def next_path(url: str, page: str = "/items", base_url: str = HOME, names: tuple[str, ...] = ()) -> str:
    stream = stream_of({"kind": "url", "next": "next"})
    cursor = next_cursor(
        stream, Request(path=page), answer_of({"next": url}), [], base_url=base_url, credentials=names
    )
    assert cursor is not None
    request = request_at(stream, {}, cursor)
    assert request.query == ()
    return request.path


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://api.test/v1/items?page=2", "/items?page=2"),
        ("HTTPS://API.test:443/v1/items?page=2", "/items?page=2"),
        ("https://api.test/v1?page=2", "?page=2"),
        ("https://api.test/v1/items?c=a%2Bb+c==&c=%zz#top", "/items?c=a%2Bb+c==&c=%zz"),
        (" https://api.test/v1/items?page=2\n", "/items?page=2"),
        ("/v1/items?page=2", "/items?page=2"),
        ("?page=2", "/items?page=2"),
        ("items?page=2", "/items?page=2"),
        ("//api.test/v1/items?page=2", "/items?page=2"),
        ("https://me:pw@api.test/v1/items?page=2", "/items?page=2"),
        # elsewhere: the client will refuse what leaves the origin
        ("https://api.test/v10/items", "https://api.test/v10/items"),
        ("https://api.test/other", "https://api.test/other"),
        ("http://api.test/v1/items", "http://api.test/v1/items"),
        ("https://api.test:8443/v1/items", "https://api.test:8443/v1/items"),
        ("//evil.test/v1/items", "https://evil.test/v1/items"),
    ],
)
def test_a_next_url_is_stored_below_the_base_url_where_it_lies_there(url: str, path: str) -> None:
    assert next_path(url) == path


def test_a_relative_url_follows_the_page_it_came_with() -> None:
    assert next_path("?page=3", page="/rooms/7/items?page=2") == "/rooms/7/items?page=3"
    assert next_path("?page=3", page="https://api.test/other?page=2") == "https://api.test/other?page=3"
    assert next_path("?page=3", page="/go?to=https://x.test/") == "/go?page=3"


def test_without_a_base_url_a_next_url_stays_as_it_is() -> None:
    assert next_path("https://api.test/v1/items?page=2", base_url="") == "https://api.test/v1/items?page=2"
    assert next_path("/items?page=2", base_url="") == "/items?page=2"


def test_a_stored_next_url_has_no_credentials() -> None:
    url = f"{HOME}/items?api_key=s3cret&page=2&api%5Fkey=s3cret&access-token=s3cret"
    assert next_path(url, names=("api_key", "access-token")) == "/items?page=2"


@pytest.mark.parametrize("url", ["https://[::1", "https://api.test:port/x", "http://a\tb\0/"])
def test_what_is_no_url_at_all_is_an_error(url: str) -> None:
    with pytest.raises(BadAnswer, match="not a URL"):
        next_path(url)


def test_a_next_url_that_repeats_is_an_error() -> None:
    stream = stream_of({"kind": "url", "next": "next"})
    with pytest.raises(BadAnswer, match="repeats"):
        walk(stream, [({"next": f"{HOME}/items?p=2"}, [])] * 2, base_url=HOME)


@pytest.mark.parametrize(
    ("header", "path"),
    [
        ('<https://api.test/v1/items?page=2>; rel="next"', "/items?page=2"),
        ("</v1/items?page=1>; rel=prev, </v1/items?page=3>; rel=next", "/items?page=3"),
        ('<?a=1,2;3>; title="x, y; rel=next"; rel="prev", <?a=1,3>; REL="last Next"', "/items?a=1,3"),
        ('<?page=1>; rel="first", <?page=9>; rel="nextish"', None),
        ("<>; rel=next", None),
        ("", None),
    ],
)
def test_a_link_header_is_read_as_the_standard_says(header: str, path: str | None) -> None:
    stream = stream_of({"kind": "link"})
    cursor = next_cursor(stream, Request(path="/items"), answer_of(link=header), records(1), base_url=HOME)
    assert cursor == (None if path is None else canonical(path))


def test_link_headers_may_be_several() -> None:
    headers = httpx.Headers([("link", "<?p=1>; rel=prev"), ("link", "<?p=3>; rel=next")])
    answer = Answer(200, headers, b"", None)
    assert next_cursor(stream_of({"kind": "link"}), Request(path="/items"), answer, []) == '"/items?p=3"'


# -- by id -----------------------------------------------------------------------------------------------


def test_one_record_is_asked_for_by_its_path() -> None:
    by_id = ById(path="/rooms/{referrer.room_id}/event/{id}", query={"full": True, "for": "{id}"})
    request = by_id_request(by_id, ["$a/b"], {"room_id": "!r:x"})
    assert request == Request(
        path="/rooms/%21r%3Ax/event/%24a%2Fb", query=(("full", "true"), ("for", "$a/b"))
    )


def test_several_records_are_asked_for_in_one_parameter() -> None:
    by_id = ById(path="/items", param="ids", batch=3, separator="|")
    assert by_id_request(by_id, ["1", "2,3"], {}).query == (("ids", "1|2,3"),)


def test_ids_that_cannot_be_asked_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 ids"):
        by_id_request(ById(path="/items/{id}"), ["1", "2"], {})
    with pytest.raises(BadAnswer, match="separator"):
        by_id_request(ById(path="/items", param="ids", batch=2), ["1", "2,3"], {})
    # `?ids=` would list everything
    with pytest.raises(BadAnswer, match="an id is empty"):
        by_id_request(ById(path="/items", param="ids", batch=2), [""], {})
    with pytest.raises(ConfigError, match=r"referrer\.room_id"):
        by_id_request(ById(path="/rooms/{referrer.room_id}/{id}"), ["1"], {})


@pytest.mark.parametrize(
    ("paginate", "answer", "pages"),
    [
        ({"kind": "page", "pages": "meta.pages"}, {"meta": {"pages": 7}}, 7),
        ({"kind": "page", "pages": "meta.pages"}, {"meta": {"pages": "7"}}, 7),
        ({"kind": "page", "pages": "meta.pages"}, {"meta": {"pages": "many"}}, None),
        ({"kind": "page", "total": "total", "limit": 10}, {"total": 71}, 8),
        ({"kind": "offset", "total": "total", "limit": 10}, {"total": 70}, 7),
        ({"kind": "offset", "end": "empty"}, {"total": 70}, None),
        ({"kind": "cursor", "next": "next"}, {"total": 70}, None),
    ],
)
def test_a_progress_bar_learns_how_many_pages_there_are_where_the_server_says(
    paginate: dict[str, Any], answer: Any, pages: int | None
) -> None:
    stream = msgspec.convert({"path": "/x", "entity": "X", "paginate": paginate}, Stream)
    assert total_pages(stream, Answer(200, httpx.Headers(), b"", answer)) == pages
