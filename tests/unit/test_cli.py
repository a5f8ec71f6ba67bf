"""The commands, against a job that only remembers what it was asked."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from ingest import __version__
from ingest.cli.main import main
from ingest.config import Config
from ingest.errors import AuthFailed, ConfigError, GiveUp, LockHeld, NotProven, UsageError
from ingest.report import (
    Certificate,
    DeadLetter,
    FetchReport,
    Gap,
    MissingParent,
    Observer,
    Preview,
    Status,
    TableReport,
)
from ingest.types import LoadCounts

ROOT = Path(__file__).parent.parent.parent
CERTIFICATE = Certificate(
    run="r1",
    command="sync",
    started="2026-03-01T10:00:00+00:00",
    ended="2026-03-01T10:00:02+00:00",
    exit=0,
    scope="whole",
    fetch=FetchReport(requests=2, pages=2, records=3),
    load=LoadCounts(pages=2, records=3, written=3),
    tables=(TableReport(table="messages", rows=3, written=3),),
)


class Job:
    """Answers every question with what it was given, and remembers the question."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {}
        self.opened: dict[str, Any] = {}
        #: called within the run, with the observer
        self.during: Callable[[Observer], Any] = lambda observe: None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def question(*values: Any, **named: Any) -> Any:
            self.asked.append((name, *values, *([named] if named else [])))
            result = self.during(self.opened["observe"])
            if result is not None:
                await result
            return self.answers.get(name, CERTIFICATE)

        return question


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Job:
    """A job in the current folder, in the place of the real pipeline."""
    fake = Job()

    @asynccontextmanager
    async def open_job(config: Config, *, observe: Observer, write: bool = True) -> AsyncIterator[Job]:
        fake.opened = {"config": config, "observe": observe, "write": write}
        yield fake
        fake.opened["closed"] = True

    pipeline = ModuleType("ingest.pipeline")
    pipeline.open_job = open_job  # type: ignore[attr-defined]

    async def preview(config: Config, *asked: str, observe: Observer) -> Any:
        fake.opened = {"observe": observe, "write": False}
        return await fake.__getattr__("preview")(*asked)

    pipeline.preview = preview  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ingest.pipeline", pipeline)
    package = tmp_path / "systems_of_the_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "source.toml").write_text('[streams.a]\npath = "/a"\nentity = "A"\n')
    (tmp_path / "config.toml").write_text(
        '[sources.chat]\nmodels = "systems_of_the_test"\nbase_url = "https://chat.example"\n'
        'auth = { bearer = "$CHAT_TOKEN" }\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHAT_TOKEN", "hunter2-hunter2")
    return fake


pytestmark = pytest.mark.usefixtures("imports_are_forgotten")


@pytest.mark.parametrize(
    ("arguments", "asked", "write"),
    [
        ("sync", ("sync", ()), True),
        ("sync chat tms", ("sync", ("chat", "tms")), True),
        ("backfill chat", ("backfill", "chat", {"stream": None, "since": None, "until": None}), True),
        (
            "backfill chat --stream a --since 2020-01-01 --until 7",
            ("backfill", "chat", {"stream": "a", "since": "2020-01-01", "until": "7"}),
            True,
        ),
        ("recover", ("recover",), True),
        ("replay pages", ("replay", Path("pages"), {"rebuild": False}), True),
        ("replay --rebuild", ("replay", None, {"rebuild": True}), True),
        ("verify", ("verify",), True),
        ("dead-letters retry", ("retry_dead_letters",), True),
    ],
)
def test_what_certifies_asks_the_job_and_prints_its_certificate(
    job: Job, capsys: pytest.CaptureFixture[str], arguments: str, asked: tuple[Any, ...], write: bool
) -> None:
    assert main(arguments.split()) == 0
    assert job.asked == [asked]
    assert (job.opened["write"], job.opened["closed"]) == (write, True)
    out = capsys.readouterr().out
    assert "messages     3        3" in out
    assert out.splitlines()[-1].startswith("certified: ")


@pytest.mark.parametrize("status", [0, 1, 3, 4])
def test_the_exit_status_is_the_certificates(job: Job, status: int) -> None:
    job.answers["sync"] = msgspec.structs.replace(CERTIFICATE, exit=status)
    assert main(["sync"]) == status


def test_json_is_all_there_is_on_stdout(job: Job, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    certificate = msgspec.structs.replace(CERTIFICATE, remarks=("a café “quoted”",))
    job.answers["sync"] = certificate
    assert main(["sync", "--json"]) == 0
    out = capfdbinary.readouterr().out
    assert msgspec.json.decode(out, type=Certificate) == certificate


MISSING = MissingParent(
    table="users", key="[7]", state="forbidden", attempts=3, references=12, by="messages.sender_id"
)
LETTER = DeadLetter(
    id=5, stamp=9, ordinal=0, table=None, key=None, reason="not JSON", state="open", raw="<html>" + "x" * 100
)
GAP = Gap(
    source="chat", stream="a", partition='{"id":1}', low="2026-01-01", high=None, reason="the walk died"
)
DRAWN = msgspec.structs.replace(GAP, low="2", high="4", run="r1", fetched=(("1", "2"), ("4", "5")))


@pytest.mark.parametrize(
    ("arguments", "question", "answer", "shown"),
    [
        ("dead-letters", "dead_letters", [LETTER], ["not JSON", "<html>xxx", "...", "1 dead letter"]),
        ("dead-letters", "dead_letters", [], ["no dead letters"]),
        ("gaps", "gaps", [GAP], ['{"id":1}', "2026-01-01", "the walk died", "1 gap"]),
        (
            "gaps",
            "gaps",
            [DRAWN],
            ["run", "r1", 'chat.a {"id":1}', f"  1  {'#' * 12 + '.' * 24 + '#' * 12}  5"],
        ),
        ("gaps", "gaps", [], ["no gaps"]),
        ("runs", "runs", [CERTIFICATE, CERTIFICATE], ["r1", "2.0 s", "certified", "2 runs"]),
        ("runs", "runs", [], ["no runs"]),
    ],
)
def test_a_list_is_shown_as_a_table_and_its_total(
    job: Job, capsys: pytest.CaptureFixture[str], arguments: str, question: str, answer: Any, shown: list[str]
) -> None:
    job.answers[question] = answer
    assert main(arguments.split()) == 0
    out = capsys.readouterr().out
    assert [text for text in shown if text not in out] == []
    assert (job.asked, job.opened["write"]) == ([(question,)], False)

    assert main([*arguments.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(msgspec.json.encode(answer))


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("answer", [[MISSING], []])
def test_missing_parents_are_shown_and_explained(
    job: Job, capsys: pytest.CaptureFixture[str], answer: list[Any], explain: bool
) -> None:
    job.answers["missing"] = answer
    arguments = ["missing", *(["--explain"] if explain else [])]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    wanted = ["forbidden", "messages.sender_id", "1 missing parent"] if answer else ["no missing parents"]
    assert [text for text in wanted if text not in out] == []
    assert (job.asked, job.opened["write"]) == ([("missing", {"explain": explain})], False)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(msgspec.json.encode(answer))


def test_missing_parents_are_wanted_again(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.answers["retry_missing"] = 1
    assert main(["missing", "--retry"]) == 0
    assert capsys.readouterr().out == "1 missing parent wanted again in the next run\n"
    assert (job.asked, job.opened["write"]) == ([("retry_missing",)], True)


def test_the_digest_is_all_that_verify_prints_when_asked_for_it(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    job.answers["digest"] = "abc123"
    assert main(["verify", "--digest"]) == 0
    assert capsys.readouterr().out == "abc123\n"
    assert main(["verify", "--digest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"digest": "abc123"}
    assert job.asked == [("digest",)] * 2


def test_pages_are_recorded_and_counted(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.answers["record"] = 1200
    assert main(["record", "chat", "--to", "pages"]) == 0
    assert job.asked == [("record", "chat", Path("pages"))]
    assert capsys.readouterr().out == "1,200 pages written to pages\n"


def test_migrations_are_listed(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.answers["migrate"] = ["0001 ledger", "0002 runs"]
    assert main(["migrate"]) == 0
    assert capsys.readouterr().out == "0001 ledger\n0002 runs\n"
    job.answers["migrate"] = []
    assert main(["migrate"]) == 0
    assert capsys.readouterr().out == "nothing to do\n"


def test_what_is_known_is_asked_without_writing(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.answers["status"] = Status(
        database="m.db",
        log="m.db.pages",
        log_id="ab",
        top_stamp=1,
        loaded_pages=1,
        holder=None,
        since=None,
        window=None,
        last=[CERTIFICATE],
        rows={"users": 2},
        dead_letters=0,
        unmapped=[],
    )
    assert main(["status"]) == 0
    assert "last run          certified: " in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(msgspec.json.encode(job.answers["status"]))
    assert (job.asked, job.opened["write"]) == ([("status",)] * 2, False)


def test_a_page_is_previewed_without_writing(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    page = Preview(request="GET /a", records=0, tables=(), unmapped=("colour",), rejected=())
    job.answers["preview"] = page
    assert main(["preview", "chat", "a"]) == 0
    assert capsys.readouterr().out == "asked    GET /a\nrecords  0\n\nunmapped  colour\n"
    assert (job.asked, job.opened["write"]) == ([("preview", "chat", "a")], False)


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (
            ConfigError("is not a rate", where="config.toml: sources.chat.rate", hint='"20/s"'),
            2,
            ["ingest: config.toml: sources.chat.rate: is not a rate", 'hint: "20/s"'],
        ),
        (UsageError("'tms' is not a source"), 2, ["ingest: 'tms' is not a source"]),
        (AuthFailed(where="chat"), 1, ["ingest: chat: The credentials were not accepted."]),
        (LockHeld("held by pid 7", hint="wait"), 1, ["ingest: held by pid 7", "hint: wait"]),
        (GiveUp("gone"), 3, ["ingest: gone"]),
        (NotProven("3 dangling"), 4, ["ingest: 3 dangling"]),
        (
            OSError(errno.ENOSPC, "No space left on device", "m.db"),
            1,
            ["ingest: m.db: No space left on device"],
        ),
        (MemoryError(), 1, ["ingest: out of memory"]),
        (
            ExceptionGroup(
                "tasks", [LockHeld("held"), ExceptionGroup("more", [LockHeld("held"), GiveUp("gone")])]
            ),
            1,
            ["ingest: held", "ingest: gone"],
        ),
    ],
)
def test_a_fault_is_one_line_a_hint_and_its_status(
    job: Job, capsys: pytest.CaptureFixture[str], error: Exception, status: int, lines: list[str]
) -> None:
    def fail(observe: Observer) -> None:
        raise error

    job.during = fail
    assert main(["sync"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[: len(lines)] == lines
    assert "Traceback" not in captured.err


def test_the_database_saying_no_is_told_without_a_traceback(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    from sqlalchemy.exc import OperationalError

    def fail(observe: Observer) -> None:
        raise OperationalError("SELECT 1", {}, Exception("unable to open database file"))

    job.during = fail
    assert main(["sync"]) == 1
    assert capsys.readouterr().err.startswith("ingest: database: unable to open database file\nhint: ")


def test_our_own_mistake_shows_its_traceback_without_credentials(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(observe: Observer) -> None:
        raise KeyError("Authorization: Bearer hunter2-hunter2")

    job.during = fail
    assert main(["sync"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "this is a mistake in ingest: KeyError" in err
    assert "hunter2" not in err
    assert "[masked]" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "No such command 'nope'"),
        (["sync", "--nope"], "No such option: --nope"),
        (["backfill"], "Missing argument 'SOURCE'"),
        (["record", "chat"], "Missing option '--to'"),
        (["replay"], "say one of these: the PATH of recorded pages, --rebuild, --diff"),
        (["--log-format", "xml", "sync"], "'xml'"),
    ],
)
def test_a_command_line_that_cannot_be_used_is_told_so(
    job: Job, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert job.asked == []


def test_a_missing_configuration_is_told_with_what_to_do(
    job: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["sync"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ingest: config.toml: there is no such file\nhint: ")
    assert "--config FILE" in err

    assert main(["--config", "../config.toml", "sync"]) == 0
    assert job.opened["config"].sources["chat"].base_url == "https://chat.example"


def test_a_broken_configuration_is_told_by_file_and_key(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text("[sources.chat]\n")
    assert main(["sync"]) == 2
    err = capsys.readouterr().err
    assert "config.toml: sources.chat: Object missing required field `models`\nhint: " in err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ingest {__version__}\n"


def test_nothing_at_all_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "  sync " in "".join(capsys.readouterr())


# -- events --------------------------------------------------------------------------------------------


def tell(observe: Observer) -> None:
    """What a run tells of itself."""
    observe("run.started", run="r1", command="sync")
    observe("page", source="chat", stream="a", partition="{}", stamp=1, records=3, bytes=99)
    observe("gave_up", source="chat", stream="a", partition="{}", cause="said hunter2-hunter2")
    observe("run.finished", exit=0)


def test_every_event_is_a_line_of_json_when_asked_for(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.during = tell
    assert main(["--log-format", "json", "sync", "--json"]) == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.err.splitlines()]
    assert [event["event"] for event in events] == [
        "run.started",
        "page",
        "gave_up",
        "run.finished",
    ]
    assert (events[1]["records"], events[1]["level"]) == (3, "info")
    assert (events[2]["cause"], events[2]["level"]) == ("said [masked]", "warning")
    assert json.loads(captured.out)["run"] == "r1"


def test_every_event_is_a_line_of_text_when_asked_for(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.during = tell
    assert main(["--log-format", "text", "sync"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[1].endswith("page source=chat stream=a partition={} stamp=1 records=3 bytes=99")


def test_without_a_terminal_only_what_is_notable_is_told(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    job.during = tell
    assert main(["sync"]) == 0
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert 'cause="said [masked]"' in captured.err
    assert "\x1b" not in captured.out + captured.err


def test_what_libraries_warn_of_takes_the_same_way(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    def warn(observe: Observer) -> None:
        logging.getLogger("some.library").warning("retrying with %s", "hunter2-hunter2")
        logging.getLogger("httpx").info("GET https://chat.example?key=hunter2-hunter2")

    job.during = warn
    assert main(["--log-format", "json", "sync"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["name"], event["message"]) == (
        "library",
        "some.library",
        "retrying with [masked]",
    )


# -- signals and streams, in a process of their own ----------------------------------------------------

PROGRAM = """
import asyncio, os, signal, sys
from contextlib import asynccontextmanager
from types import ModuleType

# who runs the tests in the background has told them to ignore these
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

class Job:
    async def sync(self, sources):
        {body}

@asynccontextmanager
async def open_job(config, *, observe, write=True):
    try:
        yield Job()
    finally:
        {closing}

pipeline = sys.modules["ingest.pipeline"] = ModuleType("ingest.pipeline")
pipeline.open_job = open_job
{before}
from ingest.cli import run
sys.argv = ["ingest", *{arguments!r}]
run()
"""


def process(
    body: str,
    *,
    closing: str = "pass",
    before: str = "",
    arguments: tuple[str, ...] = ("sync",),
    stdout: Any = subprocess.PIPE,
    **environment: str,
) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own, with a job that does `body`."""
    program = PROGRAM.format(body=body, closing=closing, before=before, arguments=arguments)
    return subprocess.run(
        [sys.executable, "-c", program],
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


ASK = "os.kill(os.getpid(), signal.{name}); await asyncio.Event().wait()"


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_the_run_at_a_safe_point_and_says_how_to_go_on(name: str) -> None:
    done = process(ASK.format(name=name), closing="print('closed', flush=True)")
    assert (done.returncode, done.stdout) == (130, b"closed\n")
    assert done.stderr.decode().splitlines() == [
        "ingest: stopping at a safe point; once more to stop at once",
        "ingest: interrupted; nothing that was staged is lost",
        "hint: run it again to go on, or `ingest recover` to finish without the network",
    ]


@pytest.mark.usefixtures("job")
def test_a_second_signal_ends_the_process_at_once() -> None:
    done = process(
        ASK.format(name="SIGINT"),
        closing="os.kill(os.getpid(), signal.SIGTERM); await asyncio.Event().wait()",
    )
    assert done.returncode == 130
    assert b"interrupted" not in done.stderr


@pytest.mark.usefixtures("job")
def test_a_second_signal_is_heard_while_a_transaction_keeps_the_loop_busy() -> None:
    twice = (
        "os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)\n        while True: pass"
    )
    assert process(twice).returncode == 130


@pytest.mark.usefixtures("job")
def test_a_signal_that_the_shell_ignores_stays_ignored() -> None:
    body = "os.kill(os.getpid(), signal.SIGHUP); await asyncio.sleep(0)\n        "
    done = process(body + returning(CERTIFICATE), before="signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    assert (done.returncode, done.stderr) == (0, b"")


RETURN = """
        import msgspec
        from ingest.report import Certificate
        return msgspec.json.decode({encoded!r}, type=Certificate)
"""


def returning(certificate: Certificate) -> str:
    return RETURN.format(encoded=msgspec.json.encode(certificate)).strip()


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize("arguments", [("sync",), ("sync", "--json"), ("--log-format", "json", "sync")])
def test_a_locale_without_utf_8_spells_out_what_it_cannot_say(arguments: tuple[str, ...]) -> None:
    proof = msgspec.structs.replace(CERTIFICATE, remarks=("café → “x”",))
    done = process(returning(proof), arguments=arguments, LC_ALL="C", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, b"")
    if "--json" in arguments:
        assert msgspec.json.decode(done.stdout, type=Certificate) == proof
    else:
        assert b"remark        caf\\xe9 \\u2192 \\u201cx\\u201d" in done.stdout


@pytest.mark.usefixtures("job")
def test_a_reader_that_leaves_does_not_change_the_status() -> None:
    proof = msgspec.structs.replace(CERTIFICATE, exit=3)
    reading, writing = os.pipe()
    os.close(reading)
    done = process(returning(proof), stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (3, b"")


@pytest.mark.usefixtures("job")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_under_the_report_is_told() -> None:
    with open("/dev/full", "wb") as full:
        done = process(returning(CERTIFICATE), stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith(b"ingest: No space left on device\n")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [0, 1, 2], ids=["stdin", "stdout", "stderr"])
def test_a_stream_that_was_closed_beforehand_is_no_fault(tmp_path: Path, closed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ingest", "--config", str(tmp_path / "none.toml"), "status"],
        capture_output=True,
        preexec_fn=lambda: os.close(closed),
        check=False,
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert (b"no such file" in done.stderr) == (closed != 2)
    assert done.stdout == b""
