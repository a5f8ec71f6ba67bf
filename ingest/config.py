"""`config.toml`: where the database is, and which sources are mirrored into it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path as FilePath
from types import ModuleType
from typing import Annotated, Any

import msgspec

from ingest.errors import ConfigError
from ingest.source import Auth, Source, decode_toml, read_source


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Secret:
    """A credential: only `reveal` shows it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def reveal(self) -> str:
        """The credential itself, for the one request it is attached to."""
        return self._value


class Database(_Strict, frozen=True, kw_only=True):
    """The database mirrored into."""

    #: where it is: `sqlite:///FILE` (`sqlite:////FILE` for an absolute path), `postgresql://…`, `mariadb://…`,
    #: or `$NAME`
    url: str = "sqlite:///mirror.db"


class Staging(_Strict, frozen=True, kw_only=True):
    """The page log."""

    #: a SQLite file; by default beside the database
    path: str | None = None


class Fetch(_Strict, frozen=True, kw_only=True):
    """How much is asked for at once."""

    #: requests at the same time, to each source
    concurrency: Annotated[int, msgspec.Meta(gt=0, le=256)] = 8


class Heal(_Strict, frozen=True, kw_only=True):
    """Bounds on asking for missing parents."""

    #: requests for missing parents in one run
    max_requests: Annotated[int, msgspec.Meta(ge=0)] = 1000


class Deletes(_Strict, frozen=True, kw_only=True):
    """How many rows one run may delete of a table: what is beyond both bounds is held back."""

    #: rows
    rows: Annotated[int, msgspec.Meta(ge=0)] = 20
    #: percent of the rows there were
    percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 2.0


class SourceConfig(_Strict, frozen=True, kw_only=True):
    """One source as the job configures it; what it states goes before `source.toml`."""

    #: the package that holds models.py and source.toml, looked for beside this file first
    models: str
    #: the file in the package that states the streams
    definition: str = "source.toml"
    #: the API's address, or `$NAME`; what the streams' paths are added to
    base_url: str | None = None
    #: how credentials are attached
    auth: Auth | None = None
    #: headers of every request
    headers: dict[str, str] | None = None
    #: requests allowed: `20/s`, `100/m`
    rate: str | None = None
    #: next-page URLs of a wrong host are taken for `base_url`
    rebase: bool | None = None
    #: a folder of recorded pages that answers instead of the network
    replay: str | None = None
    #: only these streams
    streams: tuple[str, ...] | None = None
    #: overrides every stream's page limit
    limit: Annotated[int, msgspec.Meta(gt=0)] | None = None


class _File(_Strict, frozen=True, kw_only=True):
    #: what is mirrored, by name
    sources: dict[str, SourceConfig]
    database: Database = msgspec.field(default_factory=Database)
    staging: Staging = msgspec.field(default_factory=Staging)
    fetch: Fetch = msgspec.field(default_factory=Fetch)
    heal: Heal = msgspec.field(default_factory=Heal)
    deletes: Deletes = msgspec.field(default_factory=Deletes)


class ConfiguredSource(msgspec.Struct, frozen=True, kw_only=True):
    """A source ready to run: its definition with the job's settings applied, and its models."""

    name: str
    base_url: str
    source: Source
    #: the import name of the package that holds models.py
    package: str
    replay: FilePath | None
    where: str


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A job: read from one file, every path resolved against that file's folder."""

    file: FilePath
    database_url: str
    log_path: FilePath
    #: what is stated of the page log, whichever the database is
    staging: Staging = msgspec.field(default_factory=Staging)
    fetch: Fetch
    heal: Heal
    deletes: Deletes = msgspec.field(default_factory=Deletes)
    sources: dict[str, ConfiguredSource]


def read_config(file: FilePath) -> Config:
    """Read the job and the definitions of its sources; ConfigError with file, key and hint."""
    file = file.absolute()
    decoded: _File = decode_toml(file, _File)
    if not decoded.sources:
        raise ConfigError("names no source", where=f"{file}: sources", hint="add [sources.NAME]")
    url = database_url(resolve(decoded.database.url, f"{file}: database.url"), file)
    return Config(
        file=file,
        database_url=url,
        log_path=log_path(decoded.staging, url, file),
        staging=decoded.staging,
        fetch=decoded.fetch,
        heal=decoded.heal,
        deletes=decoded.deletes,
        sources={name: _configured(name, stated, file) for name, stated in decoded.sources.items()},
    )


def resolve(text: str, where: str) -> str:
    """Replace `$NAME` by the environment's value; ConfigError when it is not set."""
    if not text.startswith("$"):
        return text
    if text == "$":
        raise ConfigError(
            "`$` names no environment variable", where=where, hint='write "$NAME" and export NAME'
        )
    value = os.environ.get(text[1:])
    if not value:
        raise ConfigError(
            f"the environment variable {text[1:]} is not set", where=where, hint=f"export {text[1:]}=…"
        )
    return value


def secret(reference: str, where: str) -> Secret:
    """The credential a `$NAME` reference names; ConfigError for anything spelled out."""
    if not reference.startswith("$"):
        raise ConfigError(
            "secrets are given by reference only", where=where, hint='write "$NAME" and export NAME'
        )
    return Secret(resolve(reference, where))


def models_of(config: Config) -> Iterator[ModuleType]:
    """The models of every source, each module once."""
    for package in dict.fromkeys(source.package for source in config.sources.values()):
        yield import_package(f"{package}.models", config.file.parent)


def import_package(name: str, beside: FilePath) -> ModuleType:
    """Import a package of models, looked for beside config.toml first, then among what is installed.

    A name found beside the file wins even over an installed package of the same name that was
    imported already (PyPI has a package `schema`).
    """
    top = name.partition(".")[0]
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(
            f"{name!r} is not the name of a package", hint='"systems.chat" is the folder systems/chat'
        )
    local, wanted = beside / top, beside.joinpath(*name.split("."))
    if wanted.is_dir() or wanted.with_suffix(".py").is_file():
        loaded = sys.modules.get(top)
        if loaded is not None and not _is_from(loaded, local):
            for module in [m for m in sys.modules if m == top or m.startswith(top + ".")]:
                del sys.modules[module]
        if sys.path[:1] != [str(beside)]:
            sys.path.insert(0, str(beside))
        importlib.invalidate_caches()
        if local.is_dir() and not (local / "__init__.py").is_file() and top not in sys.modules:
            sys.modules[top] = _folder_as_package(top, local)
    try:
        return importlib.import_module(name)
    except Exception as error:  # models are the user's code: whatever it raises is theirs to mend
        raise _not_imported(name, beside, error) from error


def _folder_as_package(name: str, folder: FilePath) -> ModuleType:
    """A folder without `__init__.py`, which would lose to an installed package of its name."""
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return importlib.util.module_from_spec(spec)


def _not_imported(name: str, beside: FilePath, error: Exception) -> ConfigError:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return ConfigError(
            f"there is no package {name!r}", hint=f"looked in {beside} and among installed packages"
        )
    if isinstance(error, ModuleNotFoundError):
        return ConfigError(f"{name!r} imports {error.name!r}, which is not installed")
    return ConfigError(f"{name!r} cannot be imported: {type(error).__name__}: {error}")


def _is_from(module: ModuleType, local: FilePath) -> bool:
    """Whether a module is this folder or file, and not one in an environment inside the same folder."""
    places: list[Any] = list(getattr(module, "__path__", None) or [getattr(module, "__file__", None)])
    wanted = (local.resolve(), local.with_suffix(".py").resolve())
    return any(FilePath(place).resolve() in wanted for place in places if place)


def _configured(name: str, stated: SourceConfig, file: FilePath) -> ConfiguredSource:
    where = f"{file}: sources.{name}"
    try:
        package = import_package(stated.models, file.parent)
    except ConfigError as error:
        raise ConfigError(error.message, where=f"{where}.models", hint=error.hint) from error
    folder = FilePath(next(iter(package.__path__), "")) if hasattr(package, "__path__") else None
    if folder is None:
        raise ConfigError(f"{stated.models!r} is a module, not a package", where=f"{where}.models")
    source: Source = read_source(folder / stated.definition)
    settings = {key: getattr(stated, key) for key in ("base_url", "auth", "headers", "rate", "rebase")}
    source = msgspec.structs.replace(
        source, **{key: value for key, value in settings.items() if value is not None}
    )
    if source.base_url is None:
        raise ConfigError("has no base_url", where=where, hint='base_url = "https://…"')
    base_url = resolve(source.base_url, f"{where}.base_url").rstrip("/")
    if not base_url.startswith(("http://", "https://")):
        # what the environment holds may be a credential that was put into the wrong place
        shown = "it" if source.base_url.startswith("$") else repr(base_url)
        raise ConfigError(f"{shown} is not a URL", where=f"{where}.base_url", hint='"https://…"')
    if stated.streams is not None:
        source = _only(source, stated.streams, where)
    if stated.limit is not None:
        source = _limited(source, stated.limit)
    return ConfiguredSource(
        name=name,
        base_url=base_url,
        source=source,
        package=stated.models,
        replay=file.parent / stated.replay if stated.replay else None,
        where=where,
    )


def _only(source: Source, names: tuple[str, ...], where: str) -> Source:
    unknown = [name for name in names if name not in source.streams]
    if unknown:
        raise ConfigError(
            f"{unknown[0]!r} is not a stream",
            where=f"{where}.streams",
            hint=f"known: {', '.join(source.streams)}",
        )
    for name in names:
        parent = source.streams[name].each
        if parent is not None and parent not in names:
            raise ConfigError(
                f"{name!r} is walked for each of {parent!r}", where=f"{where}.streams", hint=f"add {parent!r}"
            )
    return msgspec.structs.replace(source, streams={name: source.streams[name] for name in names})


def _limited(source: Source, limit: int) -> Source:
    def narrowed(stream: Any) -> Any:
        if stream.paginate is None or stream.paginate.limit is None:
            return stream
        return msgspec.structs.replace(stream, paginate=msgspec.structs.replace(stream.paginate, limit=limit))

    return msgspec.structs.replace(source, streams={name: narrowed(s) for name, s in source.streams.items()})


def database_url(url: str, file: FilePath) -> str:
    """A database's URL; the path of a file is relative to config.toml. ConfigError when it is none."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(
            "is not a database URL", where=f"{file}: database.url", hint='"sqlite:///mirror.db"'
        )
    if scheme.partition("+")[0] == "sqlite" and rest.startswith("/") and rest[1:2] not in ("/", "", ":"):
        return f"{scheme}:///{file.parent / rest[1:]}"
    return url


def log_path(staging: Staging, url: str, file: FilePath) -> FilePath:
    """Where the page log is: as stated, beside a database that is a file, or beside config.toml."""
    if staging.path is not None:
        return file.parent / staging.path
    scheme, _, rest = url.partition("?")[0].partition(":///")
    if scheme.partition("+")[0] == "sqlite" and rest not in ("", ":memory:"):
        return FilePath(rest + ".pages")
    return file.parent / "ingest.pages"
