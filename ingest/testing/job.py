"""A user's job made into one that needs no network: its database, credentials and rate stay out of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from ingest.config import Config, import_package, read_config
from ingest.errors import UsageError
from ingest.source import decode_toml
from ingest.testing.places import Place, above, found


class Offline(NamedTuple):
    """A job with a database of its own, and the recorded pages of each of its sources."""

    config: Config
    pages: dict[str, Path]

    @property
    def openly(self) -> Config:
        """The same, asking without credentials and without waiting: recorded pages need neither."""
        sources = {}
        for name, one in self.config.sources.items():
            source = msgspec.structs.replace(one.source, auth=None, check=None, rate=None)
            sources[name] = msgspec.structs.replace(one, source=source, replay=None)
        return msgspec.structs.replace(self.config, sources=sources)


def offline(
    request: pytest.FixtureRequest,
    config: Place | Mapping[str, Any],
    pages: Place | Mapping[str, Place] | None,
    *,
    folder: Path,
    import_from: Callable[[Path], None],
) -> Offline:
    """The job in an empty folder; its models are imported from where they are."""
    beside: Callable[[Place], Path | None]
    if isinstance(config, Mapping):
        stated, beside = dict(config), partial(above, request)
    else:
        file = found(request, config)
        stated, beside = decode_toml(file, dict), file.parent.joinpath
    sources = {name: dict(source) for name, source in stated.get("sources", {}).items()}
    replays = {name: beside(source.pop("replay")) for name, source in sources.items() if "replay" in source}
    chosen = _chosen(request, list(sources), pages, replays)
    for name in chosen:
        _import(str(sources[name].get("models")), beside, import_from)
    kept = {name: value for name, value in stated.items() if name not in ("database", "staging")}
    lines = {**kept, "sources": {name: sources[name] for name in chosen}}.items()
    file = folder / "config.toml"
    file.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in lines), encoding="utf-8")
    job = read_config(file)
    _check_apart(job)
    return Offline(job, chosen)


def _chosen(
    request: pytest.FixtureRequest,
    sources: list[str],
    pages: Place | Mapping[str, Place] | None,
    replays: Mapping[str, Path | None],
) -> dict[str, Path]:
    """The sources that are run, and the folder of pages for each."""
    if pages is None:
        chosen = {name: folder for name, folder in replays.items() if folder is not None}
    elif isinstance(pages, Mapping):
        chosen = {name: found(request, folder) for name, folder in pages.items()}
    elif len(sources) > 1:
        raise UsageError("the job has several sources", hint="say pages={NAME: FOLDER, …}")
    else:
        chosen = dict.fromkeys(sources, found(request, pages))
    if unknown := [name for name in chosen if name not in sources]:
        raise UsageError(f"the job has no source {unknown[0]!r}", hint=f"known: {', '.join(sources)}")
    if not chosen:
        raise UsageError("no recorded pages are named", hint='say pages="fixtures/mine"')
    return chosen


def _check_apart(job: Config) -> None:
    """Recorded pages are told apart by their URL alone."""
    homes: dict[str, str] = {}
    for name, source in job.sources.items():
        other = homes.setdefault(source.base_url, name)
        if other != name:
            raise UsageError(
                f"{other!r} and {name!r} have one base_url",
                hint="run them one at a time: say pages={NAME: FOLDER}",
            )


def _import(
    package: str, beside: Callable[[Place], Path | None], import_from: Callable[[Path], None]
) -> None:
    """Import a package from beside the job, unless it is an installed one."""
    home = beside(package.partition(".")[0])
    if home is not None and home.is_dir():
        import_from(home.parent)
        import_package(package, home.parent)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(name)} = {_toml(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
