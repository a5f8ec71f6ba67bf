"""Recorded pages that answer: what is the same request, in which order, and what is said of any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from ingest.errors import ConfigError, GiveUp
from ingest.replay import INDEX, Recording, ReplayTransport, Unrecorded, read_exchanges
from ingest.types import Request
from tests.unit.client_kit import BASE, Events, FakeClock, client_of

ROOMS = {"path": "/rooms", "query": [["limit", "2"]]}


def recording(folder: Path, *exchanges: dict[str, Any], body: bytes = b"[]") -> Path:
    """A folder of recorded pages, as a person would write it; each has the body it names, or `body`."""
    lines = []
    for number, stated in enumerate(exchanges):
        stated = dict(stated)
        file = stated.setdefault("file", f"{number}.json")
        (folder / file).write_bytes(stated.pop("body", body))
        lines.append(json.dumps(stated))
    (folder / INDEX).write_text("\n".join(lines))
    return folder


def asked(recorded: Recording, url: str, method: str = "GET", content: bytes = b"") -> httpx.Response:
    request = httpx.Request(method, url, content=content)
    request.read()
    return recorded.answer(request)


# -- what is the same request --------------------------------------------------------------------------

SAME: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "the same": (ROOMS, ("/rooms?limit=2",)),
    "pairs in another order": (
        {"path": "/rooms", "query": [["a", "1"], ["b", "2"], ["a", "3"]]},
        ("/rooms?a=3&b=2&a=1",),
    ),
    "the query in its path, as a next URL has it": ({"path": "/rooms?after=x%2By"}, ("/rooms?after=x%2By",)),
    "a space as a plus": ({"path": "/rooms", "query": [["q", "a b"]]}, ("/rooms?q=a+b",)),
    "a space in its path": ({"path": "/rooms/a b"}, ("/rooms/a%20b",)),
    "what need not be escaped, escaped": ({"path": "/rooms/%7Eann"}, ("/rooms/~ann",)),
    "bytes that are no text": ({"path": "/%ff?q=%FE"}, ("/%FF?q=%fe",)),
    "text beyond ASCII": ({"path": "/räume", "query": [["q", "ü"]]}, ("/r%C3%A4ume?q=%C3%BC",)),
    "a path without its slash": ({"path": "rooms"}, ("/rooms",)),
    "no path at all": ({"path": ""}, ("",)),
    "a whole URL, of the host that the server thinks it has": (
        {"path": "https://inside.example/v1/rooms?limit=2"},
        ("/rooms?limit=2",),
    ),
    "a method in lower case": ({"method": "post", "path": "/rooms"}, ("/rooms", "POST")),
    "a JSON body spelled otherwise": (
        {"method": "POST", "path": "/find", "body": '{"a": [1], "b": "ü"}'},
        ("/find", "POST", b'{ "b":"\\u00fc","a":[1]}'),
    ),
    "a body that is no JSON": (
        {"method": "POST", "path": "/find", "body": "a=1"},
        ("/find", "POST", b"a=1"),
    ),
}
OTHER: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "another value": (ROOMS, ("/rooms?limit=3",)),
    "one pair more": (ROOMS, ("/rooms?limit=2&page=1",)),
    "one pair fewer": (ROOMS, ("/rooms",)),
    "a pair twice": (ROOMS, ("/rooms?limit=2&limit=2",)),
    "an empty value": ({"path": "/rooms"}, ("/rooms?limit=",)),
    "another case": (ROOMS, ("/Rooms?limit=2",)),
    "a slash at its end": (ROOMS, ("/rooms/?limit=2",)),
    "a slash that is no separator": ({"path": "/files/a%2Fb"}, ("/files/a/b",)),
    "another method": (ROOMS, ("/rooms?limit=2", "POST")),
    "another body": (
        {"method": "POST", "path": "/find", "body": '{"a":1}'},
        ("/find", "POST", b'{"a":2}'),
    ),
    "no body": ({"method": "POST", "path": "/find", "body": '{"a":1}'}, ("/find", "POST")),
    "a whole number for a fraction": (
        {"method": "POST", "path": "/find", "body": "[1.0]"},
        ("/find", "POST", b"[1]"),
    ),
    "a number that only a float takes for the same": (
        {"method": "POST", "path": "/find", "body": "[9007199254740993]"},
        ("/find", "POST", b"[9007199254740992]"),
    ),
    "bytes that are no text": (
        {"method": "POST", "path": "/find", "body": "\N{REPLACEMENT CHARACTER}"},
        ("/find", "POST", b"\xff"),
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_a_request_is_answered_by_what_was_recorded_for_the_same(tmp_path: Path, case: str) -> None:
    request, (path, *rest) = SAME[case]
    recorded = Recording(recording(tmp_path, {"request": request}, body=b"[7]"), BASE)
    assert asked(recorded, BASE + path, *rest).content == b"[7]"
    assert recorded.unasked == []


@pytest.mark.parametrize("case", OTHER)
def test_a_request_that_differs_is_not_answered(tmp_path: Path, case: str) -> None:
    request, (path, *rest) = OTHER[case]
    recorded = Recording(recording(tmp_path, {"request": request}), BASE)
    with pytest.raises(Unrecorded):
        asked(recorded, BASE + path, *rest)
    assert len(recorded.unasked) == 1


def test_a_path_beside_the_base_url_is_not_below_it(tmp_path: Path) -> None:
    recorded = Recording(recording(tmp_path, {"request": {"path": "/rooms"}}), "https://api.test/v1")
    for url in ("https://api.test/v10/rooms", "https://api.test/rooms", "https://api.test/v1/v1/rooms"):
        with pytest.raises(Unrecorded):
            asked(recorded, url)


@pytest.mark.parametrize("base", ["https://api.test", "https://api.test/", "https://api.test/v1/"])
def test_a_slash_at_the_end_of_the_base_url_changes_nothing(tmp_path: Path, base: str) -> None:
    recorded = Recording(recording(tmp_path, {"request": {"path": "/rooms"}}), base)
    assert asked(recorded, base.rstrip("/") + "/rooms").status_code == 200


def test_parameters_that_carry_credentials_are_no_part_of_a_request(tmp_path: Path) -> None:
    recorded = Recording(recording(tmp_path, {"request": ROOMS}), BASE, ignoring=["key"])
    assert asked(recorded, f"{BASE}/rooms?limit=2&key=hush").status_code == 200
    with pytest.raises(Unrecorded) as caught:
        asked(recorded, f"{BASE}/rooms?limit=3&key=hush")
    assert "hush" not in str(caught.value)


def test_only_the_scheme_host_and_port_make_a_url_the_apis(tmp_path: Path) -> None:
    recorded = Recording(recording(tmp_path, {"request": ROOMS}), "https://api.test/v1")
    homes = ("https://API.test:443/elsewhere", "http://api.test/v1", "https://api.test:8443/v1")
    assert [recorded.is_home(httpx.URL(url)) for url in homes] == [True, False, False]


# -- several answers -----------------------------------------------------------------------------------


def test_one_request_recorded_several_times_is_answered_in_that_order_and_the_last_stays(
    tmp_path: Path,
) -> None:
    other = {"request": {"path": "/users"}, "body": b'"users"'}
    answers = [{"request": ROOMS, "body": body, "file": body.decode()} for body in (b"1", b"2", b"3")]
    recorded = Recording(recording(tmp_path, answers[0], other, *answers[1:]), BASE)
    assert recorded.unasked == [
        "GET /v1/rooms?limit=2 (1)",
        "GET /v1/rooms?limit=2 (2)",
        "GET /v1/rooms?limit=2 (3)",
        "GET /v1/users (1.json)",
    ]
    given = [asked(recorded, f"{BASE}/rooms?limit=2").content for _ in range(2)]
    assert recorded.unasked == ["GET /v1/rooms?limit=2 (3)", "GET /v1/users (1.json)"]
    given += [asked(recorded, f"{BASE}/rooms?limit=2").content for _ in range(3)]
    assert given == [b"1", b"2", b"3", b"3", b"3"]


# -- what was not recorded -----------------------------------------------------------------------------


def unrecorded(folder: Path, url: str, *recorded: dict[str, Any], **request: Any) -> Unrecorded:
    with pytest.raises(Unrecorded) as caught:
        asked(
            Recording(recording(folder, *({"request": one} for one in recorded)), BASE), BASE + url, **request
        )
    return caught.value


def test_an_unrecorded_request_is_told_with_the_nearest_of_its_path(tmp_path: Path) -> None:
    error = unrecorded(
        tmp_path,
        "/rooms?limit=5&after=c2",
        {"path": "/users", "query": [["limit", "5"]]},
        {"path": "/rooms", "method": "POST", "body": "{}"},
        {"path": "/rooms", "query": [["limit", "2"], ["after", "c2"]]},
    )
    assert error.message == f"GET /v1/rooms?after=c2&limit=5 was not recorded in {tmp_path}"
    assert error.hint == (
        "recorded of this path: GET /v1/rooms?after=c2&limit=2 (another limit); "
        "POST /v1/rooms {} (another method, after, limit, body)"
    )


def test_of_many_of_its_path_five_are_named(tmp_path: Path) -> None:
    pages = [{"path": "/rooms", "query": [["page", str(page)]]} for page in range(8)]
    hint = unrecorded(tmp_path, "/rooms?page=9", *pages).hint or ""
    assert hint.count("GET") == 5
    assert hint.endswith("; and 3 more")


def test_where_nothing_of_its_path_was_recorded_the_paths_most_like_it_are_named(tmp_path: Path) -> None:
    paths = ("/users/7", "/rooms", "/rooms/1/messages", "/rooms/2/files", "/rooms/1/messages/x")
    error = unrecorded(tmp_path, "/rooms/2/messages", *({"path": path} for path in paths))
    assert error.hint == "recorded of other paths: GET /v1/rooms/1/messages; GET /v1/rooms/2/files"
    (tmp_path / "other").mkdir()
    elsewhere = unrecorded(tmp_path / "other", "/rooms/2/messages", {"path": "/a"})
    assert elsewhere.hint == "nothing like it was recorded"


def test_what_is_told_of_a_request_shows_no_token_or_password(tmp_path: Path) -> None:
    secret = {"user": "ann", "inner": [{"password": "hush"}]}
    error = unrecorded(
        tmp_path, "/login?access_token=hush&q=1", method="POST", content=json.dumps(secret).encode()
    )
    assert "hush" not in str(error)
    assert 'POST /v1/login?access_token=[masked]&q=1 {"inner":[{"password":"[masked]"}],"user":"ann"}' in str(
        error
    )
    form = unrecorded(tmp_path, "/login", method="POST", content=b"password=hush")
    assert form.message.startswith("POST /v1/login (13 bytes) was not")


def test_what_is_told_of_a_request_is_short_and_can_be_printed(tmp_path: Path) -> None:
    text = str(unrecorded(tmp_path, "/rooms/%1b%5b31m%FF?q=" + "x" * 5000))
    assert text.isprintable()
    assert r"[31m\xff" in text
    assert len(text) < 400


@pytest.mark.parametrize("seed", ["1", "2"])
def test_what_is_told_does_not_depend_on_how_python_hashes(tmp_path: Path, seed: str) -> None:
    pages = [{"path": f"/{name}", "query": [["a", "1"], ["b", name]]} for name in ("rooms", "users", "tags")]
    recording(tmp_path, *({"request": page} for page in pages * 3))
    code = (
        "import httpx, pathlib; from ingest.replay import Recording, Unrecorded\n"
        f"recorded = Recording(pathlib.Path({str(tmp_path)!r}), {BASE!r})\n"
        f"try: recorded.answer(httpx.Request('GET', {BASE!r} + '/rooms?d=1&c=2&b=3'))\n"
        "except Unrecorded as error: print(error, recorded.unasked)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert said.startswith("GET /v1/rooms?b=3&c=2&d=1 was")
    assert "GET /v1/rooms?a=1&b=rooms (another a, b, c, d)" in said
    assert said.index("(0.json)") < said.index("(3.json)") < said.index("(1.json)") < said.index("(2.json)")


# -- through the machine's own client ------------------------------------------------------------------


async def test_the_client_gives_up_on_what_was_not_recorded_and_does_not_ask_again(tmp_path: Path) -> None:
    events = Events()
    transport = ReplayTransport(recording(tmp_path, {"request": ROOMS}), BASE)
    async with client_of(transport, observe=events) as client:
        with pytest.raises(GiveUp) as caught:
            await client.ask(Request(path="/rooms", query=(("limit", "3"),)))
    assert str(caught.value).startswith("shop: GET /rooms: GET /v1/rooms?limit=3 was not recorded in ")
    assert "recorded of this path: GET /v1/rooms?limit=2" in str(caught.value)
    assert events.named("retry") == []


async def test_a_recorded_failure_is_met_again_and_outlasted_as_it_was(tmp_path: Path) -> None:
    failed = {"request": ROOMS, "status": 503, "headers": {"Retry-After": "7"}, "body": b"busy", "file": "b"}
    transport = ReplayTransport(recording(tmp_path, failed, {"request": ROOMS}), BASE)
    clock = FakeClock()
    async with client_of(transport, clock=clock) as client:
        answer = await client.ask(Request(path="/rooms", query=(("limit", "2"),)))
    assert (answer.json, clock.sleeps) == ([], [7.0])


async def test_a_refusal_keeps_its_status_body_and_headers(tmp_path: Path) -> None:
    headers = {"Content-Type": "text/html", "Link": '</v1/rooms?p=2>; rel="next"', "X-Next": "c2"}
    gone = {"request": ROOMS, "status": 410, "headers": headers, "body": b"<p>gone</p>\xff"}
    async with client_of(ReplayTransport(recording(tmp_path, gone), BASE)) as client:
        answer = await client.ask(Request(path="/rooms", query=(("limit", "2"),)), accept=(410,))
    assert (answer.status, answer.body, answer.json) == (410, b"<p>gone</p>\xff", None)
    assert {name: answer.headers[name] for name in headers} == headers


async def test_headers_of_the_compressed_body_that_once_came_do_not_spoil_the_stored_one(
    tmp_path: Path,
) -> None:
    headers = {
        "Content-Encoding": "gzip",
        "content-length": "9",
        "Transfer-Encoding": "chunked",
        "Set-Cookie": "session=hush",
    }
    folder = recording(tmp_path, {"request": {"path": "/rooms"}, "headers": headers}, body=b'{"rooms": []}')
    async with client_of(ReplayTransport(folder, BASE)) as client:
        answer = await client.ask(Request(path="/rooms"))
    assert answer.json == {"rooms": []}
    assert "set-cookie" not in answer.headers


# -- the folder ----------------------------------------------------------------------------------------


def test_a_folder_without_a_recording_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pages\.jsonl: cannot be read: No such file.*record pages there"):
        read_exchanges(tmp_path / "nowhere")


def test_empty_lines_are_no_exchanges(tmp_path: Path) -> None:
    recording(tmp_path, {"request": ROOMS})
    index = tmp_path / INDEX
    index.write_text(f"\n{index.read_text()}\r\n  \n\n")
    assert [exchange.request.path for exchange in read_exchanges(tmp_path)] == ["/rooms"]


BROKEN = {
    "no JSON": ("{", "truncated"),
    "a list": ("[]", "object"),
    "no file": ('{"request": {"path": "/"}}', "file"),
    "a misspelt key": ('{"request": {"path": "/"}, "file": "0.json", "stauts": 404}', "stauts"),
    "a status that is none": ('{"request": {"path": "/"}, "file": "0.json", "status": 42}', "status"),
    "bytes that are no text": (b'{"request": {"path": "\xff"}, "file": "0.json"}', ""),
    "a body that is not there": ('{"request": {"path": "/"}, "file": "9.json"}', "there is no file '9.json'"),
    "a folder for a body": ('{"request": {"path": "/"}, "file": "."}', "there is no file '.'"),
    "a name no disk takes": ('{"request": {"path": "/"}, "file": "a\\u0000b"}', "is not a file"),
    "a way up": ('{"request": {"path": "/"}, "file": "../secret"}', "outside the folder"),
    "a way up and down": ('{"request": {"path": "/"}, "file": "x/../../secret"}', "outside the folder"),
    "an absolute path": ('{"request": {"path": "/"}, "file": "/etc/hostname"}', "outside the folder"),
    "a link that leads out": ('{"request": {"path": "/"}, "file": "link"}', "outside the folder"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_line_that_cannot_be_used_is_refused_by_its_number(tmp_path: Path, case: str) -> None:
    line, said = BROKEN[case]
    (tmp_path / "secret").write_text("hush")
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "x").mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    recording(folder, {"request": ROOMS})
    index = folder / INDEX
    index.write_bytes(index.read_bytes() + b"\n" + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(ConfigError) as caught:
        read_exchanges(folder)
    assert caught.value.where == f"{index}: line 2"
    assert said in caught.value.message


def test_a_recorded_path_that_is_no_url_is_refused(tmp_path: Path) -> None:
    recording(tmp_path, {"request": {"path": "http://api.test:port/x"}})
    with pytest.raises(ConfigError, match=r"pages\.jsonl: 'http://api.test:port/x' is not a URL"):
        Recording(tmp_path, BASE)
