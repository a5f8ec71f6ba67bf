"""Fetching a source into the page log: partitions side by side, the pages of each strictly in sequence.

    partition ──next_step──▶ walk ──▶ gate ─▶ ask ─▶ read ─▶ append ─▶ fold ─▶ children are queued
        ▲                                                              │
        └────────────────────── what is known ◀────────────────────────┘

The next page is asked for while one is staged; where pages may prove deletions, not before it is staged.
Killed anywhere, the fold says where to go on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ingest.clock import Clock
from ingest.config import ConfiguredSource
from ingest.errors import GiveUp, Refused, UsageError
from ingest.fetch.body import TooLarge
from ingest.fetch.coverage import CoverageKey
from ingest.fetch.crew import Crew
from ingest.fetch.errand import Errand
from ingest.fetch.extract import records
from ingest.fetch.known import Known, abandoned, gaps, recall, remember
from ingest.fetch.paginate import by_id_request
from ingest.fetch.reading import unseen
from ingest.fetch.routes import Route, routes
from ingest.fetch.stager import Asks, Gate, OnPage, Stager, digest
from ingest.fetch.walk import Command
from ingest.fetch.wanted import Batch, Wanted, batches
from ingest.report import Failure, FetchReport, Gap, Observer, unobserved
from ingest.staging.protocol import PageLog
from ingest.types import Envelope, Walk

__all__ = ["Fetcher", "Wanted"]

#: a snapshot of what is known is worth its write after so many pages; no more are ever folded again
SNAPSHOT_PAGES = 500


async def _open_gate() -> None:
    """Nobody needs us to wait."""


def _unheard(stamp: int, envelope: Envelope) -> None:
    """Nobody wants to hear of a page."""


class Fetcher:
    """Fetches one source into the page log."""

    def __init__(
        self,
        source: ConfiguredSource,
        log: PageLog,
        client: Asks,
        *,
        run: str,
        clock: Clock,
        concurrency: int,
        gate: Gate = _open_gate,
        on_page: OnPage = _unheard,
        observe: Observer = unobserved,
        proving: Collection[str] = (),
    ) -> None:
        #: `proving`: the streams whose pages may prove that a row was deleted
        self._proving = proving
        self._source = source
        self._log = log
        self._client = client
        self._run = run
        self._clock = clock
        self._workers = concurrency
        self._ways: tuple[Gate, OnPage, Observer] = (gate, on_page, observe)
        self._routes = routes(source.source)
        self._known: Known | None = None

    async def sync(self, streams: Collection[str] | None = None) -> FetchReport:
        """Fetch what changed, after finishing what an earlier run left open."""
        return await self._command(Command(kind="sync"), streams)

    async def backfill(
        self, streams: Collection[str] | None = None, *, since: str | None = None, until: str | None = None
    ) -> FetchReport:
        """Fill the gaps, or those between two coverage keys; where there are none, read that range again."""
        command = Command(kind="backfill", since=_bound("since", since), until=_bound("until", until))
        return await self._command(command, streams)

    async def recall(self) -> Known:
        """What the page log says has been fetched of this source."""
        self._known = await recall(self._log, self._source.name)
        return self._known

    def gaps(self) -> list[Gap]:
        """The holes there are after the last command, or since `recall`."""
        if self._known is None:
            raise RuntimeError("nothing was fetched or recalled yet")
        return gaps(self._known, {name: route.stream for name, route in self._routes.items()})

    async def by_id(self, wanted: Sequence[Wanted]) -> FetchReport:
        """Ask for single records. That one is gone or forbidden is staged too, as a page with that status."""
        stager, before = self._stager(), self._figures()
        failures: list[Failure] = []

        async def ask(batch: Batch) -> None:
            try:
                for refused in await _ask_by_id(stager, batch):
                    crew.add(refused)
            except GiveUp as error:
                failures.append(
                    Failure(
                        source=stager.source, stream=batch.stream, partition=batch.partition, cause=str(error)
                    )
                )

        crew: Crew[Batch] = Crew(self._workers, ask)
        await crew.work([lambda: batches(self._source.source, wanted)])
        return self._report(stager, before, failures=tuple(failures))

    async def _command(self, command: Command, streams: Collection[str] | None) -> FetchReport:
        chosen = self._chosen(streams)
        known = await self.recall()
        changed = _changed(known, chosen)
        stager, before = self._stager(), self._figures()
        errand = Errand(stager, known, command, chosen, workers=self._workers, proving=self._proving)
        await errand.run()
        # only now is every page folded: one that is appended while its fetcher is cancelled is not
        if known.folded >= SNAPSHOT_PAGES:
            await remember(self._log, known)
        return self._report(
            stager,
            before,
            skipped=len(errand.skipped),
            failures=tuple(errand.failures),
            unseen=(*changed, *_unseen(errand, command, chosen)),
        )

    def _chosen(self, streams: Collection[str] | None) -> dict[str, Route]:
        unknown = [name for name in streams or () if name not in self._source.source.streams]
        if unknown:
            raise UsageError(
                f"there is no stream {unknown[0]!r}",
                where=f"source {self._source.name}",
                hint=f"known: {', '.join(self._source.source.streams)}",
            )
        return {name: route for name, route in self._routes.items() if streams is None or name in streams}

    def _stager(self) -> Stager:
        gate, on_page, observe = self._ways
        return Stager(
            self._source.name,
            self._log,
            self._client,
            run=self._run,
            gate=gate,
            on_page=on_page,
            observe=observe,
            now=self._clock.now,
        )

    def _figures(self) -> tuple[int, int, int, float]:
        client = self._client
        return client.requests, client.retries, client.bytes, self._clock.monotonic()

    def _report(
        self,
        stager: Stager,
        before: tuple[int, int, int, float],
        *,
        skipped: int = 0,
        failures: tuple[Failure, ...] = (),
        unseen: tuple[str, ...] = (),
    ) -> FetchReport:
        requests, retries, sent, ended = self._figures()
        report = FetchReport(
            requests=requests - before[0],
            pages=stager.pages,
            records=stager.records,
            bytes=sent - before[2],
            retries=retries - before[1],
            skipped=skipped,
            failures=failures,
            unseen=unseen,
        )
        stager.tell(
            "fetched",
            requests=report.requests,
            pages=report.pages,
            records=report.records,
            skipped=skipped,
            failures=len(failures),
            seconds=ended - before[3],
        )
        return report


def _bound(name: str, text: str | None) -> str | None:
    if text is None:
        return None
    key = CoverageKey.parse(text.strip())
    if not (key.is_time or key.is_number):
        raise UsageError(
            f"{text!r} is neither a time nor a number", where=f"--{name}", hint="write 2024-01-31, or a key"
        )
    return key.text


def _changed(known: Known, chosen: dict[str, Route]) -> list[str]:
    told = []
    for name, route in chosen.items():
        walks = abandoned(known, name, route.stream)
        if walks:
            told.append(
                f"{name}: its definition has changed; {walks} unfinished walk{'s' if walks != 1 else ''} "
                "began anew, and what was fetched is kept"
            )
    return told


def _unseen(errand: Errand, command: Command, chosen: dict[str, Route]) -> list[str]:
    if command.kind != "sync":
        return []
    told = [one for name in sorted(chosen) for one in _closed(errand, name)]
    skipped = [stream for stream, _ in errand.skipped]
    told += [one for name, route in chosen.items() for one in unseen(name, route.stream, skipped.count(name))]
    told += [
        f"{name}: a listing that an earlier run began was finished; changes in its first pages show next time"
        for name in sorted(errand.finished)
        if chosen[name].stream.since is None
    ]
    return told


def _closed(errand: Errand, name: str) -> list[str]:
    """Partitions that the server does not let us read, which is no error, in a sentence."""
    closed = errand.closed(name)
    partitions = f"{closed} partition{'s' if closed != 1 else ''}"
    return [f"{name}: {partitions} may not be read"] if closed else []


async def _ask_by_id(stager: Stager, batch: Batch) -> list[Batch]:
    """Ask for a batch and stage the answer; where several were refused at once, the ones to ask singly."""
    by_id, partition = batch.by_id, batch.partition
    if batch.lacking:
        raise GiveUp(f"no row that refers to it says its {batch.lacking[0]}")
    request = by_id_request(by_id, batch.ids, batch.referrer)
    after = await stager.log.head(stager.source, batch.stream, partition)
    try:
        answer, asked = await stager.ask(request, accept=(*by_id.gone, *by_id.forbidden))
    except (Refused, TooLarge):
        # one bad id spoils a batch on some servers; which one, only asking singly can tell
        if len(batch.keys) == 1:
            raise
        return list(batch.singly())
    if answer.status >= 400 and len(batch.keys) > 1:
        return list(batch.singly())
    found = records(batch.stated, answer.json, path=by_id.records) if answer.status < 400 else []
    await stager.stage(
        Envelope(
            run=stager.run,
            source=stager.source,
            stream=batch.stream,
            stream_hash=batch.stated.hash(),
            partition=partition,
            walk=Walk(id=f"{stager.run}.by_id.{after}", kind="by_id"),
            asked=asked,
            request=request,
            status=answer.status,
            records=len(found) if answer.status < 400 else 0,
            digest=await digest(answer.body),
        ),
        answer.body,
        after=after,
    )
    return []
