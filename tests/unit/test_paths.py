"""Path expressions: what each leads to, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError
from ingest.paths import Path

PAGE = {
    "data": [{"id": 1, "tags": ["a", "b"]}, {"id": 2, "tags": []}],
    "meta": {"next": None, "m.relates_to": {"key": "👍"}, "*": "star", 'a"b': "quote"},
    "rooms": {"!r1": {"events": [{"t": 1}, {"t": 2}]}, "!r2": {"events": [{"t": 3}]}, "!r3": {}},
}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("$", [PAGE]),
        ("", [PAGE]),
        ("meta.next", [None]),
        ("data.0.id", [1]),
        ("data.-1.id", [2]),
        ("data.*.id", [1, 2]),
        ("data.*.tags.*", ["a", "b"]),
        ('meta."m.relates_to".key', ["👍"]),
        ('meta."*"', ["star"]),
        (r'meta."a\"b"', ["quote"]),
        ("rooms.*.events.*.t", [1, 2, 3]),
    ],
)
def test_a_path_leads_to_every_value_it_names_in_order(text: str, values: list[Any]) -> None:
    assert [match.value for match in Path(text).matches(PAGE)] == values


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "meta.next.deeper",
        "data.2",
        "data.-3",
        "data.first",
        "data.--1",
        "data.²",
        "data.0.id.x",
        "meta.next.*",
    ],
)
def test_a_path_that_leads_nowhere_matches_nothing_and_gives_the_default(text: str) -> None:
    assert list(Path(text).matches(PAGE)) == []
    assert Path(text).first(PAGE, "default") == "default"


def test_an_explicit_null_is_a_value_and_not_the_default() -> None:
    assert Path("meta.next").first(PAGE, "default") is None


def test_stars_capture_the_keys_they_pass_outermost_first() -> None:
    captures = [match.captures for match in Path("rooms.*.events.*").matches(PAGE)]
    assert captures == [("!r1", "0"), ("!r1", "1"), ("!r2", "0")]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("a..b", 3),
        (".a", 1),
        ("a.", 3),
        ("a b", 2),
        ("a[0]", 2),
        ('a."b', 3),
        ("a*", 2),
        ('"a"b', 4),
        (" ", 1),
    ],
)
def test_a_bad_expression_is_refused_with_the_place_of_the_fault(text: str, at: int) -> None:
    with pytest.raises(ConfigError, match="bad path expression") as caught:
        Path(text)
    assert caught.value.message == f"bad path expression {text!r} at character {at}"


def test_the_keys_of_a_path_are_its_segments() -> None:
    assert Path('content."m.relates_to".key').keys == ("content", "m.relates_to", "key")


def test_a_path_with_a_star_has_no_plain_keys() -> None:
    with pytest.raises(ConfigError, match="may not walk a list"):
        _ = Path("a.*.b").keys


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_any_key_can_be_reached_when_it_is_quoted(keys: list[str]) -> None:
    quoted = ".".join('"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"' for key in keys)
    nested: Any = "found"
    for key in reversed(keys):
        nested = {key: nested}
    assert Path(quoted).first(nested) == "found"
