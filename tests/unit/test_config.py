"""`config.toml`: paths, references to the environment, packages, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ingest.config import Config, Secret, import_package, read_config, resolve, secret
from ingest.errors import ConfigError
from ingest.source import Auth, Cursor

SOURCE = """
[streams.conversations]
path = "/conversations"
entity = "Conversation"
paginate = { kind = "cursor", next = "next", limit = 100 }

[streams.messages]
each = "conversations"
path = "/conversations/{conversations.id}/messages"
entity = "Message"
"""
JOB = '[sources.chat]\nmodels = "systems.chat"\nbase_url = "https://chat.example/api/"\n'


pytestmark = pytest.mark.usefixtures("imports_are_forgotten")


def package(folder: Path, name: str, source: str = SOURCE) -> Path:
    """A package of models below `folder`: `systems.chat` is the folder systems/chat."""
    at = folder
    for part in name.split("."):
        at = at / part
        at.mkdir(exist_ok=True)
        (at / "__init__.py").write_text("", encoding="utf-8")
    (at / "source.toml").write_text(source, encoding="utf-8")
    return at


def read(folder: Path, text: str = JOB) -> Config:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return read_config(file)


def refused(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package(tmp_path, "systems.chat")
    return tmp_path


def test_a_byte_order_mark_is_no_part_of_the_file(folder: Path) -> None:
    assert read(folder, "\ufeff" + JOB) == read(folder)


def test_a_job_needs_no_more_than_a_source(folder: Path) -> None:
    config = read(folder)
    chat = config.sources["chat"]
    assert config.database_url == f"sqlite:///{folder / 'mirror.db'}"
    assert config.log_path == folder / "mirror.db.pages"
    assert (chat.base_url, chat.package) == ("https://chat.example/api", "systems.chat")
    assert list(chat.source.streams) == ["conversations", "messages"]


def test_what_the_job_states_goes_before_what_the_source_states(tmp_path: Path) -> None:
    package(
        tmp_path,
        "systems.chat",
        'base_url = "https://old.example"\nrate = "1/s"\nauth = { bearer = "$OLD" }\n' + SOURCE,
    )
    chat = read(tmp_path, JOB + 'rate = "20/s"\nlimit = 7\n').sources["chat"]
    assert (chat.base_url, chat.source.rate) == ("https://chat.example/api", "20/s")
    assert chat.source.auth == Auth(bearer="$OLD")
    conversations = chat.source.streams["conversations"].paginate
    assert isinstance(conversations, Cursor)
    assert (conversations.limit, conversations.next) == (7, "next")
    assert chat.source.streams["messages"].paginate is None


def test_only_the_named_streams_are_walked(folder: Path) -> None:
    assert list(read(folder, JOB + 'streams = ["conversations"]').sources["chat"].source.streams) == [
        "conversations"
    ]


def test_a_stream_is_not_walked_without_the_one_its_partitions_come_from(folder: Path) -> None:
    error = refused(folder, JOB + 'streams = ["messages"]')
    assert error.message == "'messages' is walked for each of 'conversations'"
    assert error.where == f"{folder / 'config.toml'}: sources.chat.streams"


@pytest.mark.parametrize(
    ("url", "database", "log"),
    [
        ("sqlite:///data/m.db", "sqlite:///{here}/data/m.db", "{here}/data/m.db.pages"),
        ("sqlite:////srv/m.db", "sqlite:////srv/m.db", "/srv/m.db.pages"),
        ("sqlite:///m.db?timeout=5", "sqlite:///{here}/m.db?timeout=5", "{here}/m.db.pages"),
        ("sqlite+aiosqlite:///m.db", "sqlite+aiosqlite:///{here}/m.db", "{here}/m.db.pages"),
        ("sqlite:///:memory:", "sqlite:///:memory:", "{here}/ingest.pages"),
        ("postgresql://u:p@host/db", "postgresql://u:p@host/db", "{here}/ingest.pages"),
    ],
)
def test_relative_paths_start_at_the_folder_of_the_file_wherever_it_is_read_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, database: str, log: str
) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "config.toml").write_text(f'{JOB}replay = "pages"\n[database]\nurl = "{url}"\n')
    monkeypatch.chdir(folder / "elsewhere")
    config = read_config(Path("../config.toml"))
    here = str(folder / "elsewhere" / "..")
    assert config.database_url == database.format(here=here)
    assert config.log_path == Path(log.format(here=here))
    assert config.sources["chat"].replay == Path(here) / "pages"


def test_the_page_log_goes_where_the_job_says(folder: Path) -> None:
    assert read(folder, JOB + '[staging]\npath = "log/pages"').log_path == folder / "log" / "pages"
    assert read(folder, JOB + '[staging]\npath = "/srv/pages"').log_path == Path("/srv/pages")


def test_references_are_read_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_URL", "postgresql://user:secret@host/db")
    monkeypatch.setenv("CHAT_URL", "http://127.0.0.1:8008/")
    config = read(
        folder, JOB.replace("https://chat.example/api/", "$CHAT_URL") + '[database]\nurl = "$MIRROR_URL"'
    )
    assert config.database_url == "postgresql://user:secret@host/db"
    assert config.sources["chat"].base_url == "http://127.0.0.1:8008"


@pytest.mark.parametrize("value", [None, ""])
def test_a_reference_to_nothing_is_refused_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("MIRROR_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("MIRROR_URL", value)
    error = refused(folder, JOB + '[database]\nurl = "$MIRROR_URL"')
    assert error.message == "the environment variable MIRROR_URL is not set"
    assert error.where == f"{folder / 'config.toml'}: database.url"
    assert error.hint == "export MIRROR_URL=…"


def test_a_dollar_alone_names_nothing() -> None:
    with pytest.raises(ConfigError, match="names no environment variable"):
        resolve("$", "here")


def test_a_secret_shows_itself_only_when_it_is_revealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_TOKEN", "hunter2")
    token = secret("$CHAT_TOKEN", "auth.bearer")
    assert token.reveal() == "hunter2"
    assert "hunter2" not in f"{token} {token!r} {[token]}"
    assert not hasattr(token, "__dict__")


def test_a_missing_secret_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAT_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="CHAT_TOKEN is not set") as caught:
        secret("$CHAT_TOKEN", "auth.bearer")
    assert caught.value.where == "auth.bearer"


def test_a_secret_spelled_out_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="by reference only") as caught:
        secret("hunter2", "auth.bearer")
    assert "hunter2" not in str(caught.value)
    assert isinstance(Secret("x"), Secret)


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("sources = [", "", "broken TOML"),
        ("", "", "missing required field `sources`"),
        ("[sources]", ": sources", "names no source"),
        (JOB + "colour = 1", ": sources.chat", "unknown field `colour`"),
        (JOB + "[fetsh]", "", "unknown field `fetsh`"),
        (JOB + "[fetch]\nconcurrency = 0", ": fetch.concurrency", "Expected `int` >= 1"),
        (JOB + "[fetch]\nconcurrency = 1000", ": fetch.concurrency", "Expected `int` <= 256"),
        (JOB + "auth = { bearer = 5 }", ": sources.chat.auth.bearer", "Expected `str | null`"),
        (JOB + "[sources.second]\n", ": sources.second", "missing required field `models`"),
        (JOB + 'streams = ["nope"]', ": sources.chat.streams", "'nope' is not a stream"),
        (JOB + '[database]\nurl = "mirror.db"', ": database.url", "is not a database URL"),
        (JOB.replace("https://", ""), ": sources.chat.base_url", "is not a URL"),
        (JOB.replace("https://", "ftp://"), ": sources.chat.base_url", "is not a URL"),
        (JOB.replace("systems.chat", ""), ": sources.chat.models", "is not the name of a package"),
        (JOB.replace("systems.chat", ".chat"), ": sources.chat.models", "is not the name of a package"),
        (JOB.replace("systems.chat", "systems/chat"), ": sources.chat.models", "not the name of a package"),
        (JOB.replace("systems.chat", "systems.nope"), ": sources.chat.models", "there is no package"),
        (JOB.replace("systems.chat", "nope.at.all"), ": sources.chat.models", "there is no package"),
        ('[sources.chat]\nmodels = "systems.chat"', ": sources.chat", "has no base_url"),
    ],
)
def test_a_fault_is_refused_with_file_and_key(folder: Path, text: str, key: str, message: str) -> None:
    error = refused(folder, text)
    assert message in error.message
    assert error.where == f"{folder / 'config.toml'}{key}"


def test_a_fault_in_the_source_is_refused_with_that_file(tmp_path: Path) -> None:
    at = package(tmp_path, "systems.chat", '[streams.a]\npath = "/a"\n')
    assert refused(tmp_path, JOB).where == f"{at / 'source.toml'}: streams.a"


def test_another_definition_of_the_same_package_can_be_named(folder: Path) -> None:
    (folder / "systems" / "chat" / "admin.toml").write_text(SOURCE.replace("conversations", "rooms"))
    chat = read(folder, JOB + 'definition = "admin.toml"').sources["chat"]
    assert list(chat.source.streams) == ["rooms", "messages"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import a_package_nobody_has", "imports 'a_package_nobody_has', which is not installed"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("from ingest.mirror import nothing", "cannot be imported: ImportError"),
    ],
)
def test_models_that_cannot_be_imported_are_refused_with_the_reason(
    folder: Path, code: str, message: str
) -> None:
    (folder / "systems" / "chat" / "__init__.py").write_text(code + "\n")
    error = refused(folder, JOB)
    assert message in error.message
    assert error.where == f"{folder / 'config.toml'}: sources.chat.models"


def test_a_module_where_a_package_is_needed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text("")
    error = refused(tmp_path, JOB.replace("systems.chat", "single"))
    assert error.message == "'single' is a module, not a package"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another package named `systems`, among what is installed, in an environment beside the job."""
    site = tmp_path / ".venv" / "site-packages"
    site.mkdir(parents=True)
    package(site, "systems", "")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    return site


@pytest.mark.parametrize("already_imported", [False, True])
@pytest.mark.parametrize("initialised", [True, False])
def test_a_package_beside_the_file_wins_over_an_installed_one(
    tmp_path: Path, installed: Path, already_imported: bool, initialised: bool
) -> None:
    package(tmp_path, "systems.chat")
    if not initialised:
        (tmp_path / "systems" / "__init__.py").unlink()
    if already_imported:
        assert import_package("systems", installed).__path__ == [str(installed / "systems")]
    chat = import_package("systems.chat", tmp_path)
    assert list(chat.__path__) == [str(tmp_path / "systems" / "chat")]


def test_an_installed_package_is_found_when_there_is_none_beside_the_file(
    tmp_path: Path, installed: Path
) -> None:
    package(installed, "systems.chat")
    (tmp_path / "systems").mkdir()  # a folder of that name which does not hold the package
    assert list(import_package("systems.chat", tmp_path).__path__) == [str(installed / "systems" / "chat")]


def test_a_package_is_imported_once(tmp_path: Path) -> None:
    package(tmp_path, "systems.chat")
    assert import_package("systems.chat", tmp_path) is import_package("systems.chat", tmp_path)
