"""Log lines, and the mask that keeps credentials out of them."""

from __future__ import annotations

import base64
import io
import json
import logging
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ingest.config import Config, ConfiguredSource, Fetch, Heal
from ingest.log import MASK, Libraries, Redactor, observer, only_notable, passwords_of, secrets_of
from ingest.source import Auth, Login, Source, Stream

SECRET = 'p"ss w/rd-1'


class StoppedClock:
    def now(self) -> datetime:
        return datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        (f"Bearer {SECRET}!", f"Bearer {MASK}!"),
        ("https://h/?key=p%22ss%20w%2Frd-1", f"https://h/?key={MASK}"),
        (json.dumps({"a": SECRET}), f'{{"a": "{MASK}"}}'),
        ([f"x{SECRET}", (SECRET,)], [f"x{MASK}", [MASK]]),
        ({"deep": {"er": SECRET}}, {"deep": {"er": MASK}}),
        (SECRET.encode(), MASK),
        (ValueError(SECRET), MASK),
        (None, None),
        (True, True),
        (17, 17),
    ],
)
def test_a_registered_credential_is_masked_in_every_form_and_place(value: Any, masked: Any) -> None:
    assert Redactor([SECRET]).value(value) == masked


@pytest.mark.parametrize(
    "key",
    [
        "authorization",
        "Authorization",
        "cookie",
        "Set-Cookie",
        "password",
        "access_token",
        "X-Api-Key",
        "clientSecret",
    ],
)
def test_the_value_of_a_key_that_names_a_credential_is_masked(key: str) -> None:
    assert Redactor().value({key: "anything", "beside": "seen"}) == {key: MASK, "beside": "seen"}
    assert Redactor().value({"headers": [(key, "anything"), ("accept", "json")]}) == {
        "headers": [[key, MASK], ["accept", "json"]]
    }


def test_a_credential_within_another_leaves_nothing_of_either() -> None:
    assert Redactor(["token", "token-and-more"]).text("token-and-more token") == f"{MASK} {MASK}"


def test_a_very_short_value_does_not_mask_ordinary_words() -> None:
    assert Redactor(["", "a", "abc"]).text("abc a cab") == "abc a cab"


def config(auth: Auth, url: str = "sqlite:///m.db") -> Config:
    source = Source(
        streams={"a": Stream(path="/a", entity="A")},
        auth=auth,
        headers={"X-Tenant": "$TENANT", "Accept": "json"},
    )
    chat = ConfiguredSource(
        name="chat", base_url="https://me:in-url@h", source=source, package="x", replay=None, where=""
    )
    return Config(
        file=Path("config.toml"),
        database_url=url,
        log_path=Path("pages"),
        fetch=Fetch(),
        heal=Heal(),
        sources={"chat": chat},
    )


@pytest.mark.parametrize(
    ("auth", "secrets"),
    [
        (Auth(bearer="$ONE"), {"first"}),
        (Auth(header={"X-Key": "$ONE"}, query={"key": "$TWO"}), {"first", "second"}),
        (Auth(basic=("$ONE", "$TWO")), {"first", "second", base64.b64encode(b"first:second").decode()}),
        (Auth(login=Login(path="/", body={"deep": [{"password": "$TWO"}]}, token="t")), {"second"}),
        (Auth(bearer="$UNSET"), set()),
    ],
)
def test_every_credential_a_job_refers_to_is_known(
    monkeypatch: pytest.MonkeyPatch, auth: Auth, secrets: set[str]
) -> None:
    for name, value in {"ONE": "first", "TWO": "second", "TENANT": "acme"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("UNSET", raising=False)
    found = set(secrets_of(config(auth, "postgresql://u:p%40ss@h/db")))
    assert found == secrets | {"acme", "in-url", "p%40ss", "p@ss"}


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("sqlite:///m.db", set()),
        ("postgresql://u@h:5432/db", set()),
        ("postgresql://u:p/%40#?w@h/db", {"p/%40#?w", "p/@#?w"}),
        ("postgresql://u:one@two@h/db", {"one", "one@two"}),
        ("postgresql://u:word@h/db?options=a@b&sslmode=require", {"word", "word@h/db?options=a"}),
        ("postgresql:///db?password=a%20word&host=h", {"a word"}),
    ],
)
def test_the_password_of_a_database_is_known_however_it_is_written(url: str, found: set[str]) -> None:
    assert set(passwords_of(url)) - {""} == found


def test_an_event_is_a_line_of_json() -> None:
    out = io.StringIO()
    observe = observer(out, "json", Redactor([SECRET]), clock=StoppedClock())
    observe("page", stream="a", records=3, cause=f"é {SECRET}\n")
    assert out.getvalue().isascii()
    assert out.getvalue().endswith("}\n")
    assert out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue()) == {
        "at": "2026-03-01T10:00:00.123+00:00",
        "level": "info",
        "event": "page",
        "stream": "a",
        "records": 3,
        "cause": f"é {MASK}\n",
    }


def test_an_event_is_a_line_of_text_that_does_nothing_to_a_terminal() -> None:
    out = io.StringIO()
    observe = observer(out, "text", Redactor([SECRET]), clock=StoppedClock())
    observe("gave_up", partition='{"id":1}', cause=f"{SECRET}\x1b[2J\n", empty="", count=2, no=None)
    assert out.getvalue() == (
        "2026-03-01T10:00:00.123+00:00 warning gave_up "
        rf'partition={{"id":1}} cause="{MASK}\u001b[2J\n" empty="" count=2 no=null' + "\n"
    )


def test_only_what_is_notable_is_passed_on() -> None:
    told: list[str] = []
    observe = only_notable(lambda event, /, **fields: told.append(event))
    for event in ("page", "gave_up", "retry", "load.finished", "window.opened"):
        observe(event)
    assert told == ["gave_up", "window.opened"]


def test_libraries_are_heard_only_within_the_context(caplog: pytest.LogCaptureFixture) -> None:
    told: list[dict[str, Any]] = []
    with Libraries(lambda event, /, **fields: told.append(fields)):
        logging.getLogger("some.library").warning("one %s", 1)
        logging.getLogger("httpx").info("GET https://h?key=secret")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("old way", DeprecationWarning, stacklevel=1)
    logging.getLogger("some.library").warning("two")
    assert logging.getLogger("httpx").level == logging.NOTSET
    assert told[0] == {"name": "some.library", "message": "one 1"}
    assert len(told) == 2
    assert "old way" in told[1]["message"]


def test_the_traceback_of_a_library_is_part_of_what_it_said() -> None:
    told: list[dict[str, Any]] = []
    with Libraries(lambda event, /, **fields: told.append(fields)):
        try:
            raise ValueError("inner")
        except ValueError:
            logging.getLogger("asyncio").exception("task died")
    assert told[0]["message"].startswith("task died\nTraceback")
    assert told[0]["message"].endswith("ValueError: inner")
