"""One recorded answer, and the index of a folder of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from ingest.errors import ConfigError
from ingest.types import Request

INDEX = "pages.jsonl"


class Exchange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One recorded answer, and what was asked for it: a line of the index."""

    request: Request
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    headers: dict[str, str] = {}
    #: the body's file, below the folder
    file: str


def read_index(folder: Path) -> Iterator[tuple[str, Exchange]]:
    """Every line of a folder's index, and where it stands; ConfigError with file and line."""
    index = folder / INDEX
    try:
        lines = index.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", where=str(index), hint="record pages there first"
        ) from error
    for number, line in enumerate(lines, 1):
        where = f"{index}: line {number}"
        try:
            if line.strip():
                yield where, msgspec.json.decode(line, type=Exchange)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(str(error), where=where) from error


def read_exchanges(folder: Path) -> list[Exchange]:
    """The exchanges recorded in a folder, each with its body in place; ConfigError with file and line."""
    home, found = folder.resolve(), []
    for where, exchange in read_index(folder):
        try:
            body = (home / exchange.file).resolve()
            there = body.is_file()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{exchange.file!r} is not a file: {error}", where=where) from error
        if not body.is_relative_to(home):
            raise ConfigError(f"{exchange.file!r} lies outside the folder", where=where)
        if not there:
            raise ConfigError(f"there is no file {exchange.file!r}", where=where)
        found.append(exchange)
    return found


def is_json(body: bytes) -> bool:
    """Whether a body is one JSON text."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
