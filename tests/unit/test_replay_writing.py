"""Pages written as recordings: bodies lose nothing, credentials are left out, and it is all or none."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError, UsageError
from ingest.replay import Recording, read_exchanges, write_exchanges
from ingest.replay.writing import _readable
from ingest.types import Envelope, Page, Request, Walk
from tests.unit.client_kit import BASE, configured

STREAMS: dict[str, Any] = {
    "rooms": {"path": "/rooms", "entity": "Room", "paginate": {"kind": "link"}},
    "users": {"path": "/users", "entity": "User", "paginate": {"kind": "header", "next": "X-Next"}},
    "tags": {"path": "/tags", "entity": "Tag", "paginate": {"kind": "cursor", "next": "next"}},
}


def page(
    body: bytes | None,
    path: str = "/rooms",
    /,
    *,
    stream: str = "rooms",
    status: int = 200,
    next: Any = None,
    **request: Any,
) -> Page:
    """A staged page of the source `shop`."""
    envelope = Envelope(
        run="run",
        source="shop",
        stream=stream,
        stream_hash="hash",
        walk=Walk(id="walk", kind="full"),
        request=Request(path=path, **request),
        status=status,
        next=None if next is None else json.dumps(next),
        digest="digest",
    )
    return Page(stamp=1, after=0, envelope=envelope, body=body)


async def written(folder: Path, *pages: Page | BaseException, base_url: str = BASE, **stated: Any) -> int:
    """Write pages; an error among them is raised when it is its turn."""

    async def some() -> AsyncIterator[Page]:
        for one in pages:
            if isinstance(one, BaseException):
                raise one
            yield one

    return await write_exchanges(folder, some(), configured(base_url, **{"streams": STREAMS, **stated}))


def answered(folder: Path, path: str, base_url: str = BASE) -> httpx.Response:
    request = httpx.Request("GET", base_url + path)
    request.read()
    return Recording(folder, base_url).answer(request)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, hidden ones too."""
    return {
        one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()
    }


# -- bodies --------------------------------------------------------------------------------------------

#: JSON in which something is lost by most who read and write it again
DELICATE = [
    rb'{"a": 1.0, "b": 1e3, "c": 1E+2, "d": -0, "e": -0.0, "f": 0.1000}',
    b'{"id": 123456789012345678901234567890, "big": 1e400}',
    b'{"a": 1, "a": 2, "": {"a": []}}',
    rb'{"text": "\u0041\/\"  \\\t { } , : ", "a  b": "\\"}',
    '["é\u2028", "\\u00e9", {}, [], [[]], null, true]'.encode(),
    b" \r\n\t[ 1 , 2 ]\n\n",
    b'"only  text"',
    b"7",
]
#: what is no JSON, or not quite
OTHER = [
    b"",
    b"\n",
    b"<html>  <p>gone</p>\n</html>",
    b"\xff\xfe\x00binary",
    b'{"cut": [1, 2',
    b'{"a": NaN}',
    b'{"a": 1}\n{"a":  2}\n',
    b"\xef\xbb\xbf[1,  2]",
    b"[" * 20_000 + b"]" * 20_000,
    b'{"no text":  "\xff"',
]


def without_spaces(text: bytes) -> bytes:
    """JSON text without what may stand between its tokens, found by walking through it."""
    kept, inside, escaped = bytearray(), False, False
    for byte in text:
        if inside or byte not in b" \t\r\n":
            kept.append(byte)
        if byte == ord('"') and not escaped:
            inside = not inside
        escaped = inside and byte == ord("\\") and not escaped
    return bytes(kept)


@pytest.mark.parametrize("body", DELICATE)
async def test_json_is_made_readable_and_says_what_it_said_to_the_digit(tmp_path: Path, body: bytes) -> None:
    await written(tmp_path / "pages", page(body))
    kept = answered(tmp_path / "pages", "/rooms")
    assert without_spaces(kept.content) == without_spaces(body)
    assert kept.headers["content-type"] == "application/json"
    if b"{" in body:
        assert kept.content.count(b"\n") > body.count(b"\n")


@pytest.mark.parametrize("body", OTHER, ids=lambda body: repr(body[:20]))
async def test_what_is_no_json_is_kept_byte_for_byte(tmp_path: Path, body: bytes) -> None:
    await written(tmp_path / "pages", page(body, status=404))
    kept = answered(tmp_path / "pages", "/rooms")
    assert (kept.status_code, kept.content) == (404, body)
    assert "json" not in kept.headers.get("content-type", "")


spaces = st.text(" \t\r\n", max_size=3)
numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)
strings = st.builds(lambda text, ascii: json.dumps(text, ensure_ascii=ascii), st.text(), st.booleans())


def _joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(strings, spaces, inner).map(lambda parts: f"{parts[0]}{parts[1]}:{parts[2]}")
    return st.builds(
        lambda kind, parts, space: kind[0] + f"{space},{space}".join(parts) + space + kind[1],
        st.just("[]"),
        st.lists(inner, max_size=4),
        spaces,
    ) | st.builds(
        lambda parts, space: "{" + space + f"{space},".join(parts) + "}", st.lists(pairs, max_size=4), spaces
    )


json_texts = st.recursive(
    numbers | strings | st.sampled_from(["null", "true", "false"]), _joined, max_leaves=9
)


@given(st.binary() | json_texts.map(lambda text: text.encode("utf-8", "replace")))
def test_whatever_a_body_is_only_whitespace_between_tokens_changes(body: bytes) -> None:
    readable = _readable(body)
    assert readable == body or without_spaces(readable) == without_spaces(body)
    assert _readable(readable) == readable


def test_a_formatter_that_loses_something_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(body: bytes, *, indent: int) -> bytes:
        return body.replace(b"1.0", b"1")

    monkeypatch.setattr(msgspec.json, "format", lossy)
    assert _readable(b'{"a": 1.0}') == b'{"a": 1.0}'
    assert _readable(b'{"a": 2.0}') == b'{"a": 2.0}\n'


# -- the index -----------------------------------------------------------------------------------------


async def test_pages_are_recorded_in_the_order_in_which_they_were_staged(tmp_path: Path) -> None:
    request: dict[str, Any] = {"method": "POST", "query": (("limit", "2"),), "body": '{"a":1}'}
    pages = [page(b"1", **request), page(b"2", stream="users"), page(b"3"), page(b"", "/gone", status=410)]
    assert await written(tmp_path / "new" / "pages", *pages) == 4
    exchanges = read_exchanges(tmp_path / "new" / "pages")
    assert [(one.request, one.status, one.file) for one in exchanges] == [
        (Request(path="/rooms", **request), 200, "rooms/0001.json"),
        (Request(path="/rooms"), 200, "users/0001.json"),
        (Request(path="/rooms"), 200, "rooms/0002.json"),
        (Request(path="/gone"), 410, "rooms/0003.txt"),
    ]


async def test_streams_whose_names_make_one_folder_keep_a_file_for_each_page(tmp_path: Path) -> None:
    names = ("a/b", "a.b", "A_b", "..", "__", "pages.jsonl")
    await written(
        tmp_path / "pages", *(page(name.encode(), f"/{n}", stream=name) for n, name in enumerate(names))
    )
    for number, name in enumerate(names):
        assert answered(tmp_path / "pages", f"/{number}").content == name.encode()
    files = [one.file for one in read_exchanges(tmp_path / "pages")]
    assert len({file.lower() for file in files}) == len(names)
    assert files[:3] == ["a_b/0001.txt", "a_b/0002.txt", "a_b/0003.txt"]
    assert all(re.fullmatch(r"[a-z_]+/\d{4}\.txt", file) for file in files)


@pytest.mark.parametrize(
    ("base_url", "stream", "next", "headers"),
    [
        ("https://api.test", "rooms", "/rooms?page=2", {"link": '</rooms?page=2>; rel="next"'}),
        ("https://api.test/v1/", "rooms", "/rooms?page=2", {"link": '</v1/rooms?page=2>; rel="next"'}),
        ("https://api.test/v1", "rooms", "?page=2", {"link": '</v1?page=2>; rel="next"'}),
        (
            "https://api.test/v1",
            "rooms",
            "https://in.test/x?p=2",
            {"link": '<https://in.test/x?p=2>; rel="next"'},
        ),
        ("https://api.test/v1", "users", "c2", {"x-next": "c2"}),
        ("https://api.test/v1", "tags", "c2", {}),
        ("https://api.test/v1", "rooms", None, {}),
        ("https://api.test/v1", "users", None, {}),
        ("https://api.test/v1", "a stream that is no more", "c2", {}),
    ],
)
async def test_a_cursor_that_came_in_a_header_is_recorded_in_that_header(
    tmp_path: Path, base_url: str, stream: str, next: str | None, headers: dict[str, str]
) -> None:
    await written(tmp_path / "pages", page(b"[]", stream=stream, next=next), base_url=base_url)
    (exchange,) = read_exchanges(tmp_path / "pages")
    assert exchange.headers == {"content-type": "application/json", **headers}


async def test_a_page_whose_body_was_pruned_cannot_be_recorded_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the answer to GET /rooms: its body was pruned"):
        await written(tmp_path / "pages", page(b"[]"), page(None, "/rooms?a=b"))
    assert contents(tmp_path) == {}


async def test_a_source_without_pages_has_nothing_to_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"source shop: nothing of it is staged yet \(run `ingest sync`"):
        await written(tmp_path / "pages")
    assert list(tmp_path.iterdir()) == []


# -- what is there already -----------------------------------------------------------------------------


async def test_writing_again_replaces_the_recording_whole(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    await written(folder, page(b"1"), page(b"2", stream="users"))
    (folder / "rooms" / "0001.json").unlink()
    await written(folder, page(b"3"))
    assert contents(tmp_path).keys() == {"pages/pages.jsonl", "pages/rooms/0001.json"}
    assert answered(folder, "/rooms").content.strip() == b"3"


async def test_an_empty_folder_is_written_to(tmp_path: Path) -> None:
    assert await written(tmp_path, page(b"1")) == 1
    assert contents(tmp_path).keys() == {"pages.jsonl", "rooms/0001.json"}


async def test_a_link_to_a_recording_stays_one(tmp_path: Path) -> None:
    await written(tmp_path / "pages", page(b"1"))
    (tmp_path / "link").symlink_to(tmp_path / "pages")
    await written(tmp_path / "link", page(b"2"))
    assert (tmp_path / "link").is_symlink()
    assert answered(tmp_path / "pages", "/rooms").content.strip() == b"2"


@pytest.mark.parametrize("error", [OSError("disk full"), asyncio.CancelledError()], ids=repr)
async def test_a_recording_that_is_not_finished_leaves_the_last_one_as_it_was(
    tmp_path: Path, error: BaseException
) -> None:
    await written(tmp_path / "pages", page(b"1"))
    before = contents(tmp_path)
    with pytest.raises(type(error)):
        await written(tmp_path / "pages", page(b"2"), error)
    assert contents(tmp_path) == before
    assert [one.name for one in tmp_path.iterdir()] == ["pages"]


async def test_a_recording_that_cannot_be_put_in_place_leaves_the_last_one_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(tmp_path / "pages", page(b"1"))
    before, rename = contents(tmp_path), Path.rename

    def refused(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "pages" and not self.name.endswith(".old"):
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        await written(tmp_path / "pages", page(b"2"))
    assert contents(tmp_path) == before
    assert [one.name for one in tmp_path.iterdir()] == ["pages"]


REFUSED = {
    "a file": ({"pages": b"mine"}, "pages: is a file"),
    "a folder of something else": ({"pages/notes.md": b"mine"}, "holds files, and is no recording"),
    "a recording with something else in it": (
        {"pages/pages.jsonl": b"", "pages/rooms/notes.md": b"mine"},
        r"holds rooms/notes\.md, which is no part",
    ),
    "an index that cannot be read": ({"pages/pages.jsonl": b"mine"}, r"pages\.jsonl: line 1"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_no_recording_is_never_overwritten(tmp_path: Path, case: str) -> None:
    files, said = REFUSED[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        await written(tmp_path / "pages", page(b"1"))
    assert contents(tmp_path) == files


# -- credentials ---------------------------------------------------------------------------------------

#: with what URLs, JSON and forms each spell in their own way
TOKEN = 'tök/en +"9'
SPELLED = {
    "as it is": f"<p>{TOKEN}</p>",
    "in JSON": json.dumps({"a": TOKEN}, ensure_ascii=False),
    "in JSON, in ASCII": json.dumps({"a": [TOKEN], TOKEN: 1}),
    "in JSON, slashes escaped": json.dumps({"a": TOKEN}).replace("/", r"\/"),
    "in a URL": '{"next": "/rooms?key=t%C3%B6k%2Fen%20%2B%229&page=2"}',
    "in a URL, in lower case": '{"next": "/rooms?key=t%c3%b6k%2fen%20%2b%229"}',
    "in a URL's path": '{"next": "/t%C3%B6k/en%20%2B%229/rooms"}',
    "in a form": '{"next": "?key=t%C3%B6k%2Fen+%2B%229"}',
    "in a word": f"session_{TOKEN}_1",
}


@pytest.mark.parametrize("case", SPELLED)
async def test_a_credential_in_a_body_is_replaced_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("KEY", TOKEN)
    body = SPELLED[case].encode()
    await written(tmp_path / "pages", page(body), auth={"header": {"X-Api-Key": "$KEY"}})
    kept = answered(tmp_path / "pages", "/rooms").content
    assert kept.count(b"REDACTED") == (2 if case == "in JSON, in ASCII" else 1)
    assert not re.search(rb"t(\xc3\xb6|%c3%b6|\\u00f6)k", kept, re.IGNORECASE)
    if body.startswith(b"{"):
        assert len(msgspec.json.decode(kept)) == len(msgspec.json.decode(body))


AUTH: dict[str, tuple[dict[str, Any], dict[str, str], list[str]]] = {
    "bearer": ({"bearer": "$A"}, {"A": "the-first-one"}, ["the-first-one"]),
    "header": (
        {"header": {"X-A": "$A", "X-B": "$B"}},
        {"A": "the-first-one", "B": "the-second-one"},
        ["the-first-one", "the-second-one"],
    ),
    "query": ({"query": {"key": "$A"}}, {"A": "the-first-one"}, ["the-first-one"]),
    "basic": (
        {"basic": ["$A", "$B"]},
        {"A": "ann-surname", "B": "the-second-one"},
        ["ann-surname", "the-second-one", "YW5uLXN1cm5hbWU6dGhlLXNlY29uZC1vbmU="],
    ),
    "basic, with a name like a word": (
        {"basic": ["$A", "$B"]},
        {"A": "ann", "B": "the-second-one"},
        ["YW5uOnRoZS1zZWNvbmQtb25l"],
    ),
    "login": (
        {"login": {"path": "/login", "token": "t", "body": {"user": "ann", "in": [{"password": "$A"}]}}},
        {"A": "the-first-one"},
        ["the-first-one"],
    ),
}


@pytest.mark.parametrize("kind", AUTH)
async def test_every_credential_that_a_source_refers_to_is_kept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    auth, environment, secrets = AUTH[kind]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    body = json.dumps({"echo": secrets, "ann": "ann"}).encode()
    request: dict[str, Any] = {"query": (("q", secrets[0]),), "body": json.dumps({"q": secrets[0]})}
    pages = [
        page(body, f"/users/{secrets[0]}?session={secrets[0]}", **request),
        page(body, stream="users", next=secrets[0]),
        page(body, next=f"/rooms?session={secrets[0]}"),
    ]
    await written(tmp_path / "pages", *pages, auth=auth)
    files = contents(tmp_path)
    assert not [name for name, content in files.items() for secret in secrets if secret.encode() in content]
    exchanges = read_exchanges(tmp_path / "pages")
    assert exchanges[0].request == Request(
        path="/users/REDACTED?session=REDACTED", query=(("q", "REDACTED"),), body='{"q": "REDACTED"}'
    )
    assert exchanges[1].headers["x-next"] == "REDACTED"
    assert exchanges[2].headers["link"] == '</v1/rooms?session=REDACTED>; rel="next"'
    assert msgspec.json.decode(files["pages/rooms/0001.json"]) == {
        "echo": ["REDACTED"] * len(secrets),
        "ann": "ann",
    }


async def test_parameters_that_carry_credentials_are_left_out_whatever_their_value_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "the-new-key")
    old = page(
        b"[]", "/rooms?api%5Bkey%5D=an-old-key&page=2", query=(("api[key]", "an-old-key"), ("limit", "2"))
    )
    await written(tmp_path / "pages", old, auth={"query": {"api[key]": "$KEY"}})
    (exchange,) = read_exchanges(tmp_path / "pages")
    assert exchange.request == Request(path="/rooms?page=2", query=(("limit", "2"),))


async def test_of_two_credentials_the_longer_one_is_replaced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A", "12345678")
    monkeypatch.setenv("B", "123456789-abc")
    body = b'["123456789-abc", "12345678"]'
    await written(tmp_path / "pages", page(body), auth={"header": {"X-A": "$A", "X-B": "$B"}})
    assert answered(tmp_path / "pages", "/rooms").json() == ["REDACTED", "REDACTED"]


UNSAFE = {
    "short, and a value": ("hush", b'{"text": "hush"}'),
    "short, and a word": ("hush", b'{"text": "so hush, baby"}'),
    "short, and a number": ("4711", b'{"id": 4711}'),
    "short, and in a URL": ("a/b", b'{"next": "?key=a%2Fb&page=2"}'),
    "a number": ("1234567890", b'{"id": 1234567890}'),
    "a part of a number": ("1234567890", b'{"id": 12345678901}'),
    "escaped character by character": ("long-enough", rb'{"text": "l\u006fng-enough"}'),
    "escaped needlessly in a URL": ("long-enough", b'{"next": "?key=lon%67-enough"}'),
}


@pytest.mark.parametrize("case", UNSAFE)
async def test_where_a_credential_cannot_be_replaced_safely_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    value, body = UNSAFE[case]
    monkeypatch.setenv("KEY", value)
    with pytest.raises(ConfigError) as caught:
        await written(tmp_path / "pages", page(b"[]"), page(body, "/rooms/2?a=b"), auth={"bearer": "$KEY"})
    assert contents(tmp_path) == {}
    assert caught.value.where == "the answer to GET /rooms/2"
    assert caught.value.hint
    assert value not in str(caught.value)


async def test_a_short_credential_in_a_request_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "hush")
    with pytest.raises(ConfigError, match="a request of stream 'rooms'") as caught:
        await written(tmp_path / "pages", page(b"[]", "/hush/rooms"), auth={"bearer": "$KEY"})
    assert "hush" not in str(caught.value)


async def test_a_short_credential_that_is_only_a_part_of_other_words_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "hush")
    body = b'["hushed", "a-hush", 1]'
    await written(tmp_path / "pages", page(body), auth={"bearer": "$KEY"})
    assert answered(tmp_path / "pages", "/rooms").json() == ["hushed", "a-hush", 1]


async def test_without_a_credential_in_the_environment_nothing_can_be_kept_out_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KEY", raising=False)
    with pytest.raises(ConfigError, match=r"sources\.shop\.auth: the environment variable KEY is not set"):
        await written(tmp_path / "pages", page(b"[]"), auth={"bearer": "$KEY"})
    assert contents(tmp_path) == {}


async def test_pages_that_came_from_a_recording_need_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KEY", raising=False)
    source = configured(streams=STREAMS, auth={"bearer": "$KEY"})
    again = type(source)(
        **{name: getattr(source, name) for name in source.__struct_fields__} | {"replay": tmp_path}
    )

    async def pages() -> AsyncIterator[Page]:
        yield page(b"[]")

    assert await write_exchanges(tmp_path / "pages", pages(), again) == 1


async def test_what_else_is_to_be_withheld_is(tmp_path: Path) -> None:
    async def pages() -> AsyncIterator[Page]:
        yield page(b'{"token": "of-a-login"}')

    source = configured(streams=STREAMS)
    await write_exchanges(tmp_path / "pages", pages(), source, withhold=["of-a-login", ""])
    assert answered(tmp_path / "pages", "/rooms").json() == {"token": "REDACTED"}


# -- what a server signs its URLs with -----------------------------------------------------------------

SIGNED: dict[str, Any] = {
    "rooms": {"path": "/rooms", "entity": "Room", "paginate": {"kind": "link"}},
    "users": {"path": "/users", "entity": "User", "paginate": {"kind": "url", "next": "links.next"}},
    "tags": STREAMS["tags"],
}


async def test_what_a_server_signs_its_urls_with_is_numbered(tmp_path: Path) -> None:
    first, second = (f"{BASE}/users?page={n}&X-Amz-Signature=s%2FiGned-{n}" for n in (2, 3))
    pages = [
        page(f'{{"links":{{"next":"{first}"}}}}'.encode(), "/users", stream="users", next="/users?page=2"),
        page(
            f'{{"links":{{"next":"{second}"}},"of":"s/iGned-2"}}'.encode(),
            first.removeprefix(BASE),
            stream="users",
            next=second.removeprefix(BASE),
        ),
        page(b"[]", second.removeprefix(BASE), stream="users"),
        page(b"[]", "/rooms?sig=aLso-signed", next="/rooms?sig=aLso-signed-2"),
    ]
    await written(tmp_path / "pages", *pages, streams=SIGNED)
    exchanges = read_exchanges(tmp_path / "pages")
    assert [one.request.path for one in exchanges] == [
        "/users",
        "/users?page=2&X-Amz-Signature=REDACTED-1",
        "/users?page=3&X-Amz-Signature=REDACTED-2",
        "/rooms?sig=REDACTED-3",
    ]
    texts = b"".join(file.read_bytes() for file in (tmp_path / "pages").rglob("*") if file.is_file())
    assert b"iGned" not in texts
    assert b"signed" not in texts
    # what led to a page still leads there
    assert b"X-Amz-Signature=REDACTED-1" in (tmp_path / "pages" / exchanges[0].file).read_bytes()
    assert b'"of": "REDACTED-1"' in (tmp_path / "pages" / exchanges[1].file).read_bytes()
    assert exchanges[3].headers["link"] == '</v1/rooms?sig=REDACTED-4>; rel="next"'


async def test_a_token_that_is_a_cursor_and_no_url_is_recorded_as_it_is(tmp_path: Path) -> None:
    await written(
        tmp_path / "pages",
        page(b'{"next":"tHe-cursor"}', "/tags", stream="tags", next="tHe-cursor"),
        page(b"{}", "/tags", stream="tags", query=(("token", "tHe-cursor"),)),
        streams=SIGNED,
    )
    one, two = read_exchanges(tmp_path / "pages")
    assert b"tHe-cursor" in (tmp_path / "pages" / one.file).read_bytes()
    assert two.request.query == (("token", "tHe-cursor"),)
