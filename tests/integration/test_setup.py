"""The two lines README gives its reader, typed into a fresh clone in an empty folder."""

from __future__ import annotations

import os
import pty
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.report import Certificate
from tests.readme import README, commands

ROOT = README.parent
LINES = commands(README.read_text(encoding="utf-8"))
#: says to an inner run of the tests that it is one
WITHIN = "INGEST_TESTS_WITHIN_TESTS"
#: seconds for an installation, which asks the package index
PATIENCE = 900
#: what the reader's shell has; fixtures take proxies away from the tests, and pip may need them
SHELL = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PYTEST", "PYTHON", "COV_")) and name not in ("VIRTUAL_ENV", "CI")
} | {WITHIN: "1"}
CLOSED = "http://127.0.0.1:9"

pytestmark = [
    # one worker makes one clone and one environment
    pytest.mark.xdist_group("setup"),
    pytest.mark.skipif(WITHIN in os.environ, reason="these tests are running already, around this run"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout to clone"),
]


def shell(
    line: str, folder: Path, *, check: bool = True, stdout: Any = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Type a line into a shell that has no terminal."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=SHELL | environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=PATIENCE,
        check=False,
    )
    assert not check or done.returncode == 0, f"{line}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def clone_to(folder: Path) -> Path:
    """What git would hand out, as the files stand now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in a folder with a space in its name, in which the first line was typed."""
    folder = clone_to(tmp_path_factory.mktemp("a clone"))
    (folder / "said").write_text(shell(LINES["run"], folder).stdout, encoding="utf-8")
    return folder


@pytest.fixture
def job(clone: Path, tmp_path: Path) -> Path:
    """The default job alone, outside the checkout, with its database as the first line left it."""
    for name in ("config.toml", "schema", "fixtures", *(file.name for file in clone.glob("mirror.db*"))):
        copy = shutil.copytree if (clone / name).is_dir() else shutil.copy2
        copy(clone / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def fresh(job: Path) -> Path:
    """The same without a database."""
    for file in job.glob("mirror.db*"):
        file.unlink()
    return job


def ingest(clone: Path) -> str:
    return f"'{clone}/.venv/bin/ingest'"


def certificate(done: subprocess.CompletedProcess[str]) -> Certificate:
    return msgspec.json.decode(done.stdout, type=Certificate)


def test_the_first_line_ends_with_the_default_job_done(clone: Path) -> None:
    assert re.search(
        r"^certified: .* over every row, 0 dangling;", (clone / "said").read_text(), re.MULTILINE
    )
    with sqlite3.connect(clone / "mirror.db") as database:
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        (runs,) = database.execute("SELECT count(*) FROM ingest_runs WHERE exit = 0").fetchone()
    database.close()
    assert runs >= 1


def test_only_ingest_is_installed(clone: Path) -> None:
    code = "import importlib.metadata as m; print(*(f.parts[0] for f in m.files('ingest')))"
    done = shell(f'.venv/bin/python -c "{code}"', clone)
    assert {top for top in done.stdout.split() if not top.endswith(".dist-info")} == {"ingest", ".."}
    assert not list((clone / ".venv").glob("lib/python*/site-packages/schema*"))


def test_a_second_run_writes_next_to_nothing(clone: Path, job: Path) -> None:
    (first,) = msgspec.json.decode(shell(f"{ingest(clone)} runs --json", job).stdout, type=list[Certificate])
    second = certificate(shell(f"{ingest(clone)} sync --json", job))
    assert (first.exit, second.exit) == (0, 0)
    assert (first.scope, second.scope) == ("whole", "touched")
    assert second.load.written < first.load.written / 50
    assert [(table.table, table.rows) for table in second.tables] == [
        (table.table, table.rows) for table in first.tables
    ]
    assert certificate(shell(f"{ingest(clone)} verify --json", job)).exit == 0


def test_it_runs_from_any_folder_and_leaves_nothing_there(clone: Path, job: Path) -> None:
    elsewhere = job / "elsewhere"
    elsewhere.mkdir()
    done = shell(f"{ingest(clone)} --config ../config.toml sync --json", elsewhere)
    assert certificate(done).exit == 0
    assert list(elsewhere.iterdir()) == []


def test_without_a_configuration_it_says_what_to_do(clone: Path, tmp_path: Path) -> None:
    done = shell(f"{ingest(clone)} sync", tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ingest: config.toml: there is no such file\nhint: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "environment",
    [
        {"FORCE_COLOR": "1", "GITHUB_ACTIONS": "true", "TERM": "xterm-256color"},
        {"HTTP_PROXY": CLOSED, "HTTPS_PROXY": CLOSED, "ALL_PROXY": CLOSED, "http_proxy": CLOSED},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "nowhere.ISO-8859-1", "PYTHONIOENCODING": "latin-1"},
    ],
    ids=["colours forced", "a proxy that is closed", "no UTF-8", "Latin 1"],
)
def test_it_runs_wherever_it_is_put(clone: Path, job: Path, environment: dict[str, str]) -> None:
    done = shell(f"{ingest(clone)} sync", job, **environment)
    assert done.stdout.splitlines()[-1].startswith("certified: ")
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_terminal_it_shows_how_far_it_is(clone: Path, fresh: Path) -> None:
    reading, writing = pty.openpty()
    process = subprocess.Popen(
        [clone / ".venv" / "bin" / "ingest", "sync"],
        cwd=fresh,
        env=SHELL | {"TERM": "xterm-256color", "COLUMNS": "120"},
        stdin=writing,
        stdout=writing,
        stderr=writing,
    )
    os.close(writing)
    shown = b""
    while chunk := _read(reading):
        shown += chunk
    os.close(reading)
    assert process.wait(PATIENCE) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"\d pages  [\d,]+ records", text)
    assert "certified: " in text
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is still hidden"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""


def test_the_models_beside_the_configuration_win_over_an_installed_schema(clone: Path, job: Path) -> None:
    (site,) = (clone / ".venv").glob("lib/python*/site-packages")
    stranger = site / "schema"
    stranger.mkdir()
    try:
        (stranger / "__init__.py").write_text("raise ImportError('this is another package named schema')\n")
        assert certificate(shell(f"{ingest(clone)} sync --json", job)).exit == 0
        shutil.rmtree(job / "schema")
        done = shell(f"{ingest(clone)} sync --json", job, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "another package named schema" in done.stderr
    finally:
        shutil.rmtree(stranger)


@pytest.fixture(scope="module")
def tested(clone: Path) -> Path:
    """The clone after the second line was typed there, up to the tests. The last here to use the clone."""
    shell(LINES["test"].rpartition(" && ")[0], clone)
    return clone


def test_the_second_line_tests_the_checkout_and_not_a_copy(tested: Path, tmp_path: Path) -> None:
    done = shell(f"'{tested}/.venv/bin/python' -c 'import ingest; print(ingest.__file__)'", tmp_path)
    assert Path(done.stdout.strip()) == tested / "ingest" / "__init__.py"


def test_the_second_line_runs_the_tests(tested: Path) -> None:
    line = LINES["test"].rpartition(" && ")[2]
    done = shell(f"{line} tests/unit/test_paths.py tests/integration/test_setup.py", tested)
    assert re.search(r"\d+ passed, \d+ skipped", done.stdout.splitlines()[-1])


@pytest.mark.nightly
def test_the_second_line_passes_as_it_stands(tmp_path: Path) -> None:
    done = shell(LINES["test"], clone_to(tmp_path))
    assert re.search(r"\d+ passed", done.stdout.splitlines()[-1])
    assert "failed" not in done.stdout.splitlines()[-1]


def test_the_continuous_integration_runs_what_the_reader_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (take,) = re.findall(r"^line=\$\((sed .*README\.md)\)$", script, re.MULTILINE)
    assert shell(take, ROOT).stdout.rstrip("\n") == LINES["test"]
