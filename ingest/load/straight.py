"""The straight way through a stream's pages, where they are plain and look alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ingest.errors import SetAside
from ingest.load.batch import ABSENT, Batch
from ingest.load.reader import Reader, learn_reader
from ingest.load.shape import Shape, is_too_long
from ingest.types import Key, Page

#: pages in a row that may differ from what was learned before the straight way is given up
_PATIENCE = 5
_PARTITION = "$partition."


class Straight:
    """Takes whole pages of one stream; learns from those it could not take."""

    def __init__(self, shape: Shape, path: tuple[str, ...], sets: Mapping[str, str]) -> None:
        #: `sets`: what the stream sets itself, the same in all of a page
        self._shape, self._path = shape, path
        self._sets = {shape.place[name]: said for name, said in sets.items() if name in shape.place}
        self._reader: Reader | None = None
        self._patience = _PATIENCE

    def take(self, page: Page, batch: Batch) -> Reader | None:
        """Add the page's rows; None, and nothing added, when it has to go the long way."""
        reader = self._reader
        if reader is None:
            return None
        constants = self._constants(page.envelope.partition)
        rows = None if constants is None else reader.rows(page.body or b"", page.stamp, constants)
        if rows is None:
            self._reader = None
            return None
        self._patience = _PATIENCE
        shape = self._shape
        keys: list[Key] = list(
            zip(*([row[place] for row in rows] for place in shape.key_places), strict=True)
        )
        if shape.has_long_keys and any(map(is_too_long, keys)):
            return None
        batch.add_rows(shape.table.name, shape.names, keys, rows)
        return reader

    def learn(self, json: Any) -> None:
        """Be ready for pages that look like this one, which went the long way."""
        if self._patience:
            self._patience -= 1
            self._reader = learn_reader(self._shape, self._path, json, tuple(self._sets))

    def _constants(self, partition: str) -> list[Any] | None:
        """What the stream sets in every record of the page, in stored form; None when it cannot."""
        if not self._sets:
            return []
        parameters = msgspec.json.decode(partition)
        values = [of_page(said, parameters) for said in self._sets.values()]
        if ABSENT in values:
            return None
        try:
            return [
                self._shape.convert(place, value) for place, value in zip(self._sets, values, strict=True)
            ]
        except SetAside:
            return None


def of_page(expression: str, partition: Mapping[str, Any]) -> Any:
    """What an expression is in all of a page: a parameter of its partition, or the text itself."""
    if expression.startswith(_PARTITION):
        return partition.get(expression.removeprefix(_PARTITION), ABSENT)
    return expression


def is_of_page(expression: str) -> bool:
    """True when an expression is the same for every record of a page."""
    return expression.startswith(_PARTITION) or not expression.startswith("$")
