"""Records that are asked for by id: grouped into as few requests as the API allows. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from ingest.errors import UsageError
from ingest.source import ById, Source, Stream
from ingest.types import canonical

_REFERRER = re.compile(r"referrer\.([A-Za-z_]\w*)")


class Wanted(msgspec.Struct, frozen=True):
    """A record to ask for: its stream, its key, and the values of the row that refers to it."""

    stream: str
    key: tuple[str, ...]
    referrer: dict[str, str] = {}


class Batch(msgspec.Struct, frozen=True):
    """Records that one request asks for."""

    stream: str
    stated: Stream
    keys: tuple[tuple[str, ...], ...]
    #: the values of the referring row that the request or the records' columns take
    referrer: dict[str, str]

    @property
    def by_id(self) -> ById:
        """How the stream is asked by id."""
        return _by_id(self.stream, self.stated)

    @property
    def ids(self) -> tuple[str, ...]:
        """What `{id}` and `param` take: the last part of each key; the rest is the referrer's to give."""
        return tuple(key[-1] for key in self.keys)

    @property
    def lacking(self) -> list[str]:
        """The values of the referring row that the request needs, and that nobody gave."""
        needed = _named(self.by_id.path, *map(str, self.by_id.query.values()))
        return [name for name in needed if name not in self.referrer]

    @property
    def partition(self) -> str:
        """What was asked for, as the partition of the answer's page."""
        keys = [key[0] if len(key) == 1 else list(key) for key in self.keys]
        return canonical(
            {"by_id": keys, **{f"referrer.{name}": value for name, value in self.referrer.items()}}
        )

    def singly(self) -> Iterator[Batch]:
        """The same records, one at a time."""
        for key in self.keys:
            yield msgspec.structs.replace(self, keys=(key,))


def batches(source: Source, wanted: Sequence[Wanted]) -> list[Batch]:
    """The requests that ask for these records, each once; UsageError where a stream cannot be asked by id."""
    groups: dict[tuple[str, str], dict[tuple[str, ...], None]] = {}
    referrers: dict[str, dict[str, str]] = {}
    for one in wanted:
        by_id = _by_id(one.stream, source.streams.get(one.stream))
        names = _named(by_id.path, *map(str, by_id.query.values()), *by_id.set.values())
        referrer = {name: one.referrer[name] for name in names if name in one.referrer}
        text = canonical(referrer)
        referrers[text] = referrer
        groups.setdefault((one.stream, text), {})[one.key] = None
    made = []
    for (stream, text), keys in groups.items():
        stated, remaining = source.streams[stream], iter(keys)
        while some := tuple(islice(remaining, _by_id(stream, stated).batch)):
            made.append(Batch(stream, stated, some, referrers[text]))
    return made


def _by_id(stream: str, known: Stream | None) -> ById:
    if known is None or known.by_id is None:
        raise UsageError(f"{stream!r} cannot be asked by id", hint="state by_id in source.toml")
    if known.by_id.records is not None:
        return known.by_id
    return msgspec.structs.replace(known.by_id, records=known.records)


def _named(*texts: str) -> list[str]:
    return list(dict.fromkeys(name for text in texts for name in _REFERRER.findall(text)))
