"""One command under way: which partitions are due, and one walk after the other in each of them.

    roots, known partitions ─┐
    children of staged pages ┴▶ queue ──▶ a worker ──▶ walks of the partition, until none is due

A partition that gives up ends alone. Its walk stays open, and the next run goes on with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

from ingest.errors import GiveUp
from ingest.fetch.crew import Crew
from ingest.fetch.known import Known
from ingest.fetch.parts import BY_PARENT, GONE, Part
from ingest.fetch.routes import ROOT, Place, Route
from ingest.fetch.stager import Stager
from ingest.fetch.walk import Command, Situation, Step, next_step, settles
from ingest.fetch.walker import Walker
from ingest.report import Failure
from ingest.types import Child

#: walks beside which a new one for the news can be begun, and meets their ground or is apart from them
_ASIDE = ("head", "gap", "backfill")


class Errand:
    """A sync or a backfill of some streams of one source."""

    def __init__(
        self,
        stager: Stager,
        known: Known,
        command: Command,
        routes: Mapping[str, Route],
        *,
        workers: int,
        proving: Collection[str] = (),
    ) -> None:
        self.failures: list[Failure] = []
        #: partitions left alone because nothing changed in them
        self.skipped: set[Place] = set()
        #: streams of which a listing of an earlier run was finished
        self.finished: set[str] = set()
        self._stager = stager
        self._known = known
        self._command = command
        self._routes = routes
        self._unfinished = _unfinished(known, command, routes)
        self._walker = Walker(stager, known, command, self._reveal, proving)
        self._crew: Crew[Place] = Crew(workers, self._partition)
        self._handled: set[Place] = set()
        self._revealed: set[Place] = set()
        self._queued: set[Place] = set()
        self._busy: set[Place] = set()
        self._again: set[Place] = set()
        self._failed: set[Place] = set()
        #: walks that this command does not go on with
        self._stopped: set[str] = set()
        #: partitions that need no new walk any more, and the `unchanged` value that goes for
        self._settled: dict[Place, str | None] = {}

    async def run(self) -> None:
        """Walk everything that is due: parents first, for they may say that nothing changed in a child."""
        depths = sorted({route.depth for route in self._routes.values()})
        await self._crew.work(partial(self._due, depth) for depth in depths)
        for stream, said in self._walker.lookout.misses():
            cause = f"{said} (a path in the record, spelled as the server spells it)"
            failure = Failure(source=self._stager.source, stream=stream, partition=ROOT, cause=cause)
            self.failures.append(failure)
            self._stager.tell("gave_up", stream=stream, partition=ROOT, cause=cause)

    def closed(self, stream: str) -> int:
        """How many partitions are closed to us: there, and not to be read."""
        parts = self._known.parts(stream)
        return sum(part.closed not in (0, BY_PARENT, *GONE) for part in parts)

    def _due(self, depth: int) -> Iterator[Place]:
        for name, route in self._routes.items():
            if route.depth != depth:
                continue
            partitions = [ROOT] if route.is_root else [part.partition for part in self._known.parts(name)]
            for partition in partitions:
                place = name, partition
                if place not in self._handled and place not in self._queued and route.takes(partition):
                    self._queued.add(place)
                    yield place

    def _reveal(self, child: Child) -> None:
        """A staged page has revealed a partition: it is due, once more if it is being walked."""
        place = child.stream, child.partition
        if child.closed or child.stream not in self._routes or place in self._failed:
            return
        self._revealed.add(place)
        if place in self._busy:
            self._again.add(place)
        elif place not in self._queued:
            self._queued.add(place)
            self._crew.add(place)

    async def _partition(self, place: Place) -> None:
        self._queued.discard(place)
        self._handled.add(place)
        self._busy.add(place)
        try:
            await self._walks(place)
        except GiveUp as error:
            self._give_up(place, error)
        finally:
            self._busy.discard(place)
        if place in self._again:
            self._again.discard(place)
            self._queued.add(place)
            self._crew.add(place)

    async def _walks(self, place: Place) -> None:
        route, part = self._routes[place[0]], self._known.part(*place)
        idle = True
        while step := next_step(route.stream, part, self._situation(route, part)):
            idle = False
            try:
                await self._take(route, part, step)
            except GiveUp as error:
                if step.fresh or step.walk.kind not in _ASIDE:
                    raise
                # an old walk that cannot go on must not keep the news back
                self._stopped.add(step.walk.id)
                self._give_up(place, error)
        if not idle:
            self.skipped.discard(place)
        elif (
            self._command.kind == "sync"
            and part.is_satisfied
            and not part.closed
            and place not in self._settled
        ):
            self.skipped.add(place)

    async def _take(self, route: Route, part: Part, step: Step) -> None:
        value = part.unchanged
        outcome = await self._walker.walk(route, part, step)
        if outcome == "expired":
            self._stager.tell("cursor_expired", stream=route.name, partition=part.partition)
            return
        if outcome == "left":
            self._stopped.add(step.walk.id)
            self._stager.tell("walk_left_open", stream=route.name, partition=part.partition)
        elif step.resumed and step.walk.kind == "full":
            self.finished.add(route.name)
        if settles(route.stream, step, self._command):
            self._settled[part.stream, part.partition] = value

    def _give_up(self, place: Place, error: GiveUp) -> None:
        self._failed.add(place)
        self._again.discard(place)
        failure = Failure(source=self._stager.source, stream=place[0], partition=place[1], cause=str(error))
        self.failures.append(failure)
        self._stager.tell("gave_up", stream=place[0], partition=place[1], cause=str(error))

    def _situation(self, route: Route, part: Part) -> Situation:
        place = part.stream, part.partition
        labels = [self._known.labels[name] for name in route.family if name in self._known.labels]
        settled = place in self._settled and (
            part.unchanged is None or part.unchanged == self._settled[place]
        )
        return Situation(
            self._command,
            self._stager.run,
            route.hash,
            part.label if len(route.family) == 1 else max(labels, default=None),
            only_opened=route.only_opened,
            fresh=not settled,
            revealed=place in self._revealed,
            stopped=self._stopped,
            unfinished=self._unfinished,
        )


def _unfinished(known: Known, command: Command, routes: Mapping[str, Route]) -> frozenset[str]:
    """The runs that left a backfill with these bounds unfinished: what they did finish is not done again."""
    if not command.bounded:
        return frozenset()
    return frozenset(
        stretch.run
        for name in routes
        for part in known.parts(name)
        for stretch in part.walks.values()
        if stretch.walk.kind == "backfill"
        and (stretch.walk.since, stretch.walk.until) == (command.since, command.until)
    )
