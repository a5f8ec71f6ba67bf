"""The page log: an append-only queue of pages between fetching and loading.

    fetch ──append(envelope, body, after=head)──▶ page log ──read(after=loaded_to)──▶ load
                                                     │
                                                     └─envelopes()──▶ folds: position, coverage, children

A page's stamp is its place in the log, for life: rising, with holes. What a page says stays what it was, but
for what is erased. A fetcher says which page of
its partition it follows (`after`), and is refused when another page came between: two fetchers of
one partition cannot both go on. What has been loaded is marked in the target database and not here,
so nothing is ever acknowledged, and a log replicated elsewhere can keep the same promises. Writes
take effect in the order they were asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from ingest.types import Envelope, LogIdentity, Page


class PageLog(Protocol):
    """Where pages are kept from the moment they are fetched."""

    @property
    def identity(self) -> LogIdentity:
        """Which log this is, and its generation."""

    async def top(self) -> int:
        """The highest stamp, 0 when the log is empty."""

    async def append(self, envelope: Envelope, body: bytes, *, after: int) -> int:
        """Store a page and return its stamp once it is durable.

        StagingConflict when `after` is not the last stamp of the envelope's partition: nothing was
        stored. Appends that wait together are made durable together. When the caller is cancelled
        the page is stored or it is not, and `head` says which.
        """

    async def read(self, after: int = 0, *, limit: int = 1000) -> list[Page]:
        """At most `limit` pages above a stamp, in stamp order; fewer only at the end. All are in memory."""

    async def page(self, stamp: int) -> Page | None:
        """One page, or None when the log has no such stamp."""

    def envelopes(
        self, after: int = 0, *, source: str | None = None
    ) -> AsyncIterator[tuple[int, int, Envelope]]:
        """(stamp, after, envelope) of every page above a stamp, in stamp order, without the bodies."""

    async def head(self, source: str, stream: str, partition: str) -> int:
        """The last stamp of a partition, 0 when it has no page."""

    async def save_fold(self, name: str, stamp: int, state: bytes) -> None:
        """Keep a snapshot of a fold over the envelopes up to `stamp`, in place of the last of that name."""

    async def load_fold(self, name: str) -> tuple[int, bytes] | None:
        """The snapshot last kept under a name, if there is still one: a fold can always begin at 0."""

    async def new_generation(self, above: int) -> LogIdentity:
        """Begin a generation whose first stamp is greater than `above`, and than every stamp given so far."""

    async def adopt(self, page: Page) -> None:
        """Append a page under the stamp it already has; StagingConflict when that is not above the top.

        For copying a log and replaying recorded pages. A page of a later generation takes the log there.
        """

    async def prune(self, stamps: Iterable[int]) -> int:
        """Drop bodies, never envelopes; returns how many there were to drop."""

    async def pruned(self, after: int = 0) -> list[int]:
        """The stamps above a stamp whose bodies were dropped, in their order."""

    async def rewrite(self, bodies: Mapping[int, bytes]) -> None:
        """Give pages, by stamp, other bodies, and their envelopes the digests of these: all or none.

        Nothing is fetched by it, and nothing loaded. A stamp whose body was dropped, or that the log does
        not have, is passed over.
        """

    async def compact(self) -> None:
        """Let nothing that was dropped or rewritten be read from where the log is stored.

        Stop where somebody who reads the log is in the way: done again, it is done then.
        """

    async def stored(self, stamp: int) -> bytes | None:
        """A body as it is stored: what a proof that it is gone looks for; None when there is none."""

    async def words(self) -> list[bytes]:
        """What else its files hold: words of its own, and what was folded of envelopes."""

    @property
    def files(self) -> list[Path]:
        """The files it is stored in; none where others keep it."""

    async def quick_check(self) -> None:
        """Stop when the stored log is damaged."""

    async def close(self) -> None:
        """Finish what is being written, and let go. Doing it again changes nothing."""
