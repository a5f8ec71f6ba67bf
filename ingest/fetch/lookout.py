"""What a definition names in records, and no record has: most likely it is misspelled.

A key that leads nowhere covers nothing, so that nothing would ever be read again; a parameter that
leads nowhere makes no partitions, so that nothing would ever be asked. Neither is an error of a server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ingest.fetch.extract import Found, fits, has_key, key_path
from ingest.fetch.routes import Route

#: a page of fewer records is no proof that a key is not there
_ENOUGH = 2


class Lookout:
    """Counts, over one command, the records that have what their stream's definition names."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._had: Counter[tuple[str, str]] = Counter()

    def see(self, route: Route, found: Sequence[Found]) -> None:
        """Look at a page's records."""
        path = key_path(route.stream)
        if path is None and not route.rules:
            return
        records = [one.value for one in found if isinstance(one.value, dict)]
        if not records:
            return
        self._seen[route.name] += len(records)
        if path is not None:
            key = f"no record has {path!r}, the stream's key: what changes later would not be seen"
            self._note(route.name, key, any(has_key(route.stream, one) for one in records))
        for rule in route.rules:
            needed = ", ".join(repr(name.partition(".")[2] or name) for name in rule.needed)
            lack = f"no record has {needed}, which {rule.stream} is asked with: nothing of it is asked"
            self._note(route.name, lack, any(fits(rule, one) for one in records))

    def misses(self) -> list[tuple[str, str]]:
        """(stream, what none of its records has), in words."""
        return [
            (name, said) for (name, said), had in self._had.items() if not had and self._seen[name] >= _ENOUGH
        ]

    def _note(self, stream: str, said: str, had: bool) -> None:
        self._had[stream, said] += had
