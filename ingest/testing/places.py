"""Where a test's files are."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import pytest

from ingest.errors import UsageError

#: a path, relative to the test's folder or to one above it
Place: TypeAlias = str | Path


def found(request: pytest.FixtureRequest, path: Place) -> Path:
    """A file or folder that a test names; UsageError says where it was looked for."""
    there = above(request, path)
    if there is None:
        places = ", ".join(map(str, _places(request)))
        raise UsageError(f"there is no {path}", hint=f"looked in {places}")
    return there


def above(request: pytest.FixtureRequest, path: Place) -> Path | None:
    """A file or folder beside the test or in the folders above it, the nearest first, if there is one."""
    return next((place / path for place in _places(request) if (place / path).exists()), None)


def _places(request: pytest.FixtureRequest) -> list[Path]:
    """The folders from the test's own up to pytest's root, or to where it was started."""
    folders = list(request.path.parents)
    ends = request.config.rootpath, request.config.invocation_params.dir
    last = max((number for number, folder in enumerate(folders) if folder in ends), default=0)
    return folders[: last + 1]
