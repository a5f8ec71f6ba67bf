"""Secrets that must not be found, and the search for them: byte by byte, in every file and spelling."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote_plus

import zstandard

#: the first bytes of what zstd compressed, and of a SQLite file
_ZSTD, _SQLITE = b"\x28\xb5\x2f\xfd", b"SQLite format 3\0"
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_PLAIN = {"n": "\n", "r": "\r", "t": "\t"}


def hits(canaries: Mapping[str, str], *places: Path, texts: Mapping[str, str] = {}) -> list[str]:
    """Where canaries were found: in these texts, and in all files below these places."""
    blobs = [(name, text.encode()) for name, text in texts.items()]
    for place in places:
        files = (one for one in sorted(place.rglob("*")) if one.is_file()) if place.is_dir() else [place]
        for file in files:
            blobs += [(str(file.relative_to(place.parent)), part) for part in _parts(file)]
    found = {f"{name} in {where}" for where, blob in blobs for name in found_in(blob, canaries)}
    return sorted(found)


def found_in(blob: bytes, canaries: Mapping[str, str]) -> Iterator[str]:
    """The names of the canaries in these bytes, as they are, escaped once or twice, or in base64."""
    readings = set(_readings(blob.decode("utf-8", "replace")))
    for name, canary in canaries.items():
        cores = set(_cores(canary))
        if any(canary in one or any(core in one for core in cores) for one in readings):
            yield name


def _readings(text: str) -> Iterator[str]:
    for once in (text, _unescaped(text), unquote_plus(text), text.replace("&amp;", "&")):
        yield from (once, _unescaped(once), unquote_plus(once))


def _unescaped(text: str) -> str:
    """A text with the escapes of JSON, and of a repr, undone."""
    return _ESCAPE.sub(
        lambda found: chr(int(found[1] or found[2], 16)) if found[3] is None else _PLAIN.get(*[found[3]] * 2),
        text,
    )


def _cores(canary: str) -> Iterator[str]:
    """The middle of its base64, the same wherever it stands in something longer."""
    data = canary.encode()
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        core = coded[(0, 2, 3)[before] : len(coded) - 1]
        yield from {core, core.replace("+", "-").replace("/", "_")}


def _parts(file: Path) -> Iterator[bytes]:
    """A file's bytes, every cell of a database, and what is compressed in one."""
    data = file.read_bytes()
    yield data
    if data.startswith(_SQLITE):
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            tables = [
                name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            ]
            for table in tables:
                quoted = table.replace('"', '""')
                rows = connection.execute(f'SELECT * FROM "{quoted}"').fetchall()
                yield from (_bytes(value) for row in rows for value in row if isinstance(value, str | bytes))


def _bytes(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return zstandard.ZstdDecompressor().decompressobj().decompress(data) if data.startswith(_ZSTD) else data


def spelled(canary: str) -> list[str]:
    """A canary in the ways in which a server, or a library, may say it again."""
    quoted, data = quote(canary, safe=""), canary.encode()
    return [
        canary,
        quoted,
        re.sub("%..", lambda found: found[0].lower(), quoted),
        quote(quoted, safe=""),
        quote(canary),
        quote_plus(canary),
        json.dumps(canary)[1:-1],
        json.dumps(canary, ensure_ascii=False)[1:-1].replace("/", "\\/"),
        base64.b64encode(data).decode(),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
    ]
