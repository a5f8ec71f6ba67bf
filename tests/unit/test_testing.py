"""The pytest plugin, as its user sees it: a package, recorded pages, and tests that pass or say why not."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import respx

# what a run inside these runs would import first, it would also take away again
import ingest.migrations.runner
import ingest.testing.mirrored
from ingest.replay import INDEX

pytest_plugins = ("pytester",)

ROOT = Path(__file__).parents[2]

BASE = "https://mine.example/api"
#: modules are shared with the run that these runs are in
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings =
    error
    ignore::pytest.PytestAssertRewriteWarning
"""
MODELS = """
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.mirror import when_missing


class Base(DeclarativeBase):
    pass


class Room(Base):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(String(80))


class Message(Base):
    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id"))
    reply_to_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", info=when_missing("fetch", "null"))
    )
    text: Mapped[str | None] = mapped_column(String(200))
"""
SOURCE = """
[streams.rooms]
path = "/rooms"
records = "data"
entity = "Room"
paginate = { kind = "cursor", next = "next", limit = 2 }

[streams.messages]
each = "rooms"
path = "/search"
method = "POST"
body = { room = "{rooms.id}" }
records = "$"
entity = "Message"
by_id = { path = "/messages/{id}", records = "$" }
"""
#: what is recorded of an answer beside its body
KEPT = ("status", "headers")
#: neither variable is set: a test needs no database of its owner's, and no credentials
CONFIG = f'''
[database]
url = "$MINE_DATABASE"

[sources.mine]
models = "mine"
base_url = "{BASE}"
auth = {{ query = {{ key = "$MINE_KEY" }} }}
rate = "1/h"
'''
PAGES: list[tuple[dict[str, Any], Any]] = [
    (
        {"path": "/rooms", "query": [["limit", "2"]]},
        {"data": [{"id": 2, "title": "Garden"}, {"id": 1, "title": "Kitchen"}], "next": "c2"},
    ),
    (
        {"path": "/rooms", "query": [["limit", "2"], ["cursor", "c2"]]},
        {"data": [{"id": 3, "title": "Attic"}], "next": None},
    ),
    (
        {"path": "/search", "method": "POST", "body": '{"room":"1"}'},
        [{"id": 7, "room_id": 1, "reply_to_id": 9, "text": "hello"}],
    ),
    ({"path": "/search", "method": "POST", "body": '{"room":"2"}'}, []),
    ({"path": "/search", "method": "POST", "body": '{"room":"3"}'}, []),
]
GONE = ({"path": "/messages/9"}, {"error": "gone"}, 404)


@pytest.fixture
def mine(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's project: a package, a job, recorded pages, and a folder of tests."""
    for name in ("MINE_DATABASE", "MINE_KEY"):
        monkeypatch.delenv(name, raising=False)
    folder = pytester.path
    for name, text in {
        "pytest.ini": SETTINGS,
        "mine/models.py": MODELS,
        "mine/source.toml": SOURCE,
        "config.toml": CONFIG,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    recording(folder / "fixtures" / "mine", *PAGES, GONE)
    yield folder
    assert not respx.mocks.HTTPCoreMocker.routers, "a router was left behind"


def recording(folder: Path, *exchanges: Any) -> None:
    """Recorded pages, as a person would write them: request, body, status, headers."""
    folder.mkdir(parents=True)
    lines = []
    for number, (request, body, *rest) in enumerate(exchanges):
        lines.append({"request": request, "file": f"{number}.json", **dict(zip(KEPT, rest, strict=False))})
        (folder / f"{number}.json").write_text(json.dumps(body))
    (folder / INDEX).write_text("".join(json.dumps(line) + "\n" for line in lines))


def run(pytester: pytest.Pytester, tests: str) -> pytest.RunResult:
    """Run a user's tests in this process, with the plugin and nothing of this project's."""
    (pytester.path / "tests").mkdir(exist_ok=True)
    (pytester.path / "tests" / "test_mine.py").write_text(textwrap.dedent(tests))
    return pytester.runpytest_inprocess("-p", "ingest.testing", "-p", "no:cacheprovider")


def failures(result: pytest.RunResult) -> str:
    """What pytest shows of failed assertions, the lines that begin with E."""
    return "\n".join(line[8:] for line in result.outlines if line.startswith("E       "))


# -- a run against recorded pages ----------------------------------------------------------------------


def test_a_users_source_is_tested_without_a_network_a_database_or_credentials(
    pytester: pytest.Pytester, mine: Path
) -> None:
    # a test that imports the models itself has pytest find them
    (mine / "pytest.ini").write_text(SETTINGS + "pythonpath = .\n")
    result = run(
        pytester,
        """
        from datetime import datetime, timedelta

        from mine.models import Message, Room

        def test_what_is_mirrored(mirror):
            made = mirror("config.toml", pages="fixtures/mine", all_asked=True)
            assert (made.certificate.exit, made.certificate.fetch.failures) == (0, ())
            assert [row["title"] for row in made.rows(Room)] == ["Kitchen", "Garden", "Attic"]
            assert made.rows("rooms") == made.rows(Room)
            assert made.rows(Message) == [{"id": 7, "room_id": 1, "reply_to_id": None, "text": "hello"}]
            assert [(one.table, one.key, one.state) for one in made.missing] == [("messages", "[9]", "gone")]
            assert (made.dead_letters, made.unasked) == ([], [])
            began, ended = map(datetime.fromisoformat, (made.certificate.started, made.certificate.ended))
            assert ended - began < timedelta(hours=1)

        def test_two_runs_are_two_databases_with_one_digest(mirror):
            first, second = (mirror("config.toml", pages="fixtures/mine") for _ in range(2))
            assert first.digest == second.digest
            assert first.certificate.run != second.certificate.run
            assert first.certificate.load.written == second.certificate.load.written == 4

        async def test_that_is_asynchronous(mirror):
            made = mirror("config.toml", pages="fixtures/mine")
            assert len(made.rows("rooms")) == 3

        def test_that_names_a_table_there_is_not(mirror):
            mirror("config.toml", pages="fixtures/mine").rows("walls")
        """,
    )
    result.assert_outcomes(passed=3, failed=1)
    assert "LookupError: there is no table 'walls'; known: messages, rooms" in failures(result)
    assert not [*mine.glob("*.db*"), *mine.glob("*.pages")]


def test_a_request_that_has_changed_fails_the_test_and_shows_what_was_recorded(
    pytester: pytest.Pytester, mine: Path
) -> None:
    source = mine / "mine" / "source.toml"
    source.write_text(source.read_text().replace("limit = 2", "limit = 5"))
    result = run(
        pytester,
        """
        def test_mine(mirror):
            mirror("config.toml", pages="fixtures/mine")
        """,
    )
    result.assert_outcomes(failed=1)
    assert failures(result).splitlines() == [
        f"AssertionError: GET /api/rooms?limit=5 was not recorded in {mine / 'fixtures' / 'mine'}",
        "  recorded of this path",
        "    GET /api/rooms?limit=2 (another limit)",
        "    GET /api/rooms?cursor=c2&limit=2 (another cursor, limit)",
    ]
    shown = "\n".join(result.outlines)
    assert '>       mirror("config.toml", pages="fixtures/mine")' in shown
    assert "httpcore" not in shown, "the machine's own traceback is of no use here"


def test_a_body_that_has_changed_fails_the_test(pytester: pytest.Pytester, mine: Path) -> None:
    source = mine / "mine" / "source.toml"
    source.write_text(source.read_text().replace('{ room = "', '{ since = 0, room = "'))
    result = run(
        pytester,
        """
        def test_mine(mirror):
            mirror("config.toml", pages="fixtures/mine")
        """,
    )
    result.assert_outcomes(failed=1)
    assert 'POST /api/search {"room":"2","since":0} was not recorded' in failures(result)
    assert 'POST /api/search {"room":"2"} (another body)' in failures(result)


def test_a_recorded_page_that_nobody_asks_for_fails_the_test_that_wants_all(
    pytester: pytest.Pytester, mine: Path
) -> None:
    recording(mine / "more", *PAGES, GONE, ({"path": "/rooms/1"}, {}))
    result = run(
        pytester,
        """
        def test_all(mirror):
            mirror("config.toml", pages="more", all_asked=True)

        def test_some(mirror):
            made = mirror("config.toml", pages="more")
            assert made.unasked == ["GET /api/rooms/1 (6.json)"]
        """,
    )
    result.assert_outcomes(failed=1, passed=1)
    assert failures(result).splitlines() == [
        "AssertionError: recorded, and never asked for:",
        "  GET /api/rooms/1 (6.json)",
    ]


def test_a_server_that_asks_to_wait_keeps_no_test_waiting(pytester: pytest.Pytester, mine: Path) -> None:
    busy = (PAGES[0][0], {"error": "busy"}, 429, {"Retry-After": "300"})
    recording(mine / "slow", busy, *PAGES, GONE)
    result = run(
        pytester,
        """
        def test_mine(mirror):
            made = mirror("config.toml", pages="slow")
            assert (made.certificate.exit, made.certificate.fetch.retries) == (0, 1)
        """,
    )
    result.assert_outcomes(passed=1)
    assert result.duration < 60


def test_a_job_is_also_given_as_what_would_stand_in_its_file(pytester: pytest.Pytester, mine: Path) -> None:
    recording(mine / "tests" / "theirs", ({"path": "/rooms"}, {"data": [], "next": None}))
    result = run(
        pytester,
        """
        import pytest
        from ingest.errors import UsageError

        MINE = {"models": "mine", "base_url": "https://other.example/Größe/🦊"}

        def test_its_pages_are_named(mirror):
            made = mirror({"sources": {"mine": MINE | {"limit": 2}}}, pages="fixtures/mine")
            assert len(made.rows("rooms")) == 3

        def test_its_pages_stand_in_it(mirror):
            made = mirror({"sources": {"mine": MINE | {"replay": "fixtures/mine", "streams": ["rooms"]}}})
            assert (len(made.rows("rooms")), made.rows("messages")) == (3, [])

        def test_of_several_sources_only_those_with_pages_are_run(mirror):
            sources = {"mine": MINE, "yours": {"models": "nowhere"}}
            assert len(mirror({"sources": sources}, pages={"mine": "fixtures/mine"}).rows("rooms")) == 3

        @pytest.mark.parametrize(("config", "pages", "said"), [
            ({"sources": {"a": MINE, "b": MINE}}, "fixtures/mine", "the job has several sources"),
            ({"sources": {"a": MINE}}, {"b": "fixtures/mine"}, "the job has no source 'b'"),
            ({"sources": {"a": MINE}}, None, "no recorded pages are named"),
            ({"sources": {"a": MINE}}, "fixtures/yours", "there is no fixtures/yours"),
            ("job.toml", "fixtures/mine", "there is no job.toml"),
        ])
        def test_what_cannot_be_is_told(mirror, config, pages, said):
            with pytest.raises(UsageError, match=said):
                mirror(config, pages)
        """,
    )
    result.assert_outcomes(passed=8)


def test_two_sources_of_one_job_are_each_answered_from_their_own_pages(
    pytester: pytest.Pytester, mine: Path
) -> None:
    models, source = MODELS, SOURCE.replace('"Room"', '"Hall"').replace('"Message"', '"Note"')
    for ours, theirs in (
        ("Room", "Hall"),
        ('"rooms', '"halls'),
        ("Message", "Note"),
        ('"messages', '"notes'),
    ):
        models = models.replace(ours, theirs)
    (mine / "yours").mkdir()
    (mine / "yours" / "models.py").write_text(models)
    (mine / "yours" / "source.toml").write_text(source)
    (mine / "config.toml").write_text(CONFIG + CONFIG[CONFIG.index("[sources") :].replace("mine", "yours"))
    recording(
        mine / "halls",
        (PAGES[0][0], {"data": [{"id": 5, "title": "Hall"}], "next": None}),
        ({"path": "/search", "method": "POST", "body": '{"room":"5"}'}, [{"id": 8, "room_id": 5}]),
    )
    result = run(
        pytester,
        """
        import pytest
        from ingest.errors import UsageError

        BOTH = {"mine": "fixtures/mine", "yours": "halls"}

        def test_both(mirror):
            made = mirror("config.toml", pages=BOTH, all_asked=True)
            assert made.certificate.exit == 0
            assert [len(made.rows(name)) for name in ("rooms", "messages", "halls", "notes")] == [3, 1, 1, 1]

        def test_that_cannot_tell_them_apart(mirror):
            base = {"base_url": "https://one.example"}
            sources = {name: base | {"models": name} for name in BOTH}
            with pytest.raises(UsageError, match="'mine' and 'yours' have one base_url"):
                mirror({"sources": sources}, pages=BOTH)
        """,
    )
    result.assert_outcomes(passed=2)


# -- recorded pages for any client ---------------------------------------------------------------------


def test_every_client_that_asks_through_httpx_is_answered(pytester: pytest.Pytester, mine: Path) -> None:
    result = run(
        pytester,
        f"""
        import httpx
        import pytest

        BASE = {BASE!r}

        def test_synchronous(recorded):
            with recorded("fixtures/mine", base_url=BASE) as served:
                answer = httpx.get(BASE + "/rooms", params={{"limit": 2}}, headers={{"X-Api-Key": "hush"}})
                assert answer.json()["data"][0]["title"] == "Garden"
                assert httpx.get(BASE + "/messages/9").status_code == 404
                assert len(served.unasked) == 4
            assert served.missed == []

        async def test_asynchronous(recorded):
            with recorded("fixtures/mine", base_url=BASE):
                async with httpx.AsyncClient(base_url=BASE) as client:
                    assert (await client.post("/search", json={{"room": "2"}})).json() == []

        def test_the_network_is_back_afterwards(recorded):
            with recorded("fixtures/mine", base_url=BASE):
                pass
            with pytest.raises(httpx.ConnectError):
                httpx.get("http://127.0.0.1:9/rooms?limit=2")

        def test_credentials_in_the_query_are_passed_over(recorded):
            with recorded("fixtures/mine", base_url=BASE, ignoring=["key"]):
                assert httpx.get(BASE + "/rooms?limit=2&key=hush").status_code == 200

        def test_routes_of_ones_own_go_first(respx_mock, recorded):
            respx_mock.post(BASE + "/login").respond(json={{"token": "t"}})
            with recorded("fixtures/mine", base_url=BASE):
                assert httpx.post(BASE + "/login").json() == {{"token": "t"}}
                assert httpx.get(BASE + "/rooms?limit=2").status_code == 200

        def test_several_recordings_at_once(recorded):
            with recorded("fixtures/mine", base_url=BASE), recorded("fixtures/mine", base_url="http://b.test"):
                assert httpx.get("http://b.test/rooms?limit=2").status_code == 200
                assert httpx.get(BASE + "/rooms?limit=2").status_code == 200
        """,
    )
    result.assert_outcomes(passed=6)


def test_an_unrecorded_request_fails_the_test_whatever_becomes_of_its_error(
    pytester: pytest.Pytester, mine: Path
) -> None:
    result = run(
        pytester,
        f"""
        import httpx
        import pytest

        BASE = {BASE!r}

        def test_swallowed(recorded):
            with recorded("fixtures/mine", base_url=BASE):
                try:
                    httpx.get(BASE + "/rooms?limit=9&token=hush")
                except AssertionError:
                    pass

        def test_raised(recorded):
            with recorded("fixtures/mine", base_url=BASE):
                httpx.get(BASE + "/halls")

        def test_of_another_api(recorded):
            with recorded("fixtures/mine", base_url=BASE):
                httpx.get("https://elsewhere.example/api/rooms?limit=2")

        def test_made_after_a_nested_recording(recorded):
            with recorded("fixtures/mine", base_url=BASE):
                with recorded("fixtures/mine", base_url="http://b.test"):
                    pass
                httpx.get("http://b.test/rooms?limit=2")

        def test_all_asked(recorded):
            with recorded("fixtures/mine", base_url=BASE, all_asked=True):
                httpx.get(BASE + "/rooms?limit=2")

        def test_skipped(recorded):
            with recorded("fixtures/mine", base_url=BASE, all_asked=True):
                with pytest.raises(AssertionError):
                    httpx.get(BASE + "/today")
                pytest.skip("not today")

        def test_its_own_failure_is_its_own(recorded):
            with recorded("fixtures/mine", base_url=BASE, all_asked=True):
                assert "mine" == "yours"
        """,
    )
    result.assert_outcomes(failed=6, skipped=1)
    told = failures(result)
    assert "AssertionError: GET /api/rooms?limit=9&token=[masked] was not recorded in" in told
    assert "hush" not in told
    assert "AssertionError: GET /api/halls was not recorded in" in told
    assert "GET https://elsewhere.example/… is of an API that was not recorded" in told
    assert "GET http://b.test/… is of an API that was not recorded" in told
    assert told.count("recorded, and never asked for:") == 1
    assert "AssertionError: assert 'mine' == 'yours'" in told


def test_without_respx_the_plugin_says_what_to_install(pytester: pytest.Pytester, mine: Path) -> None:
    result = run(
        pytester,
        f"""
        import sys

        def test_mine(recorded, monkeypatch):
            monkeypatch.setitem(sys.modules, "respx", None)
            with recorded("fixtures/mine", base_url={BASE!r}):
                pass

        def test_next(recorded):
            with recorded("fixtures/mine", base_url={BASE!r}):
                pass
        """,
    )
    result.assert_outcomes(failed=1, passed=1)
    assert "recorded pages are served through respx: pip install respx" in "\n".join(result.outlines)


# -- the plugin itself ---------------------------------------------------------------------------------


def test_pytest_finds_the_plugin_under_the_name_by_which_it_may_also_be_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {ingest.testing.__name__: ingest.testing.__name__}


def test_a_run_of_pytest_that_does_not_use_the_plugin_pays_nothing_for_it() -> None:
    code = "import sys, ingest.testing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert {"httpx", "sqlalchemy", "msgspec", "respx"} & {*loaded} == set()
    assert "ingest.testing" in loaded
