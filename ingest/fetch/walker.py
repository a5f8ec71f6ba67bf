"""One walk, page by page: ask, read, stage, take in; until the server's end, known ground, or a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Container, Coroutine, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

import httpx
import msgspec

from ingest.errors import Refused
from ingest.fetch.answer import Answer
from ingest.fetch.body import TooLarge
from ingest.fetch.coverage import CoverageKey, coverage_key
from ingest.fetch.extract import opened, records, revealed
from ingest.fetch.known import Known
from ingest.fetch.listing import Tally
from ingest.fetch.lookout import Lookout
from ingest.fetch.paginate import (
    beyond,
    halved,
    is_beyond,
    is_full,
    next_cursor,
    total_pages,
    walk_ends,
)
from ingest.fetch.parts import GONE, Part
from ingest.fetch.reading import floor_under, read_page
from ingest.fetch.routes import ROOT, Route
from ingest.fetch.stager import Asked, Stager, digest
from ingest.fetch.trail import Trail
from ingest.fetch.walk import Command, Step, vouches_late
from ingest.types import LABEL, Child, Covered, Envelope, Request

#: what a server says of a cursor that it does not know, or that leads too far
_NO_CURSOR: Final = (400, 404, 410, 416, 422)
#: the same of a cursor as old as the last run; after a 403 the walk begins anew, and finds itself closed
_EXPIRED: Final = (*_NO_CURSOR, 403)
#: what an older recording says, which has nothing beyond the end that a count states
_UNRECORDED: Final = 501

#: done: the walk is at its end, or its partition closed. left: the next run goes on with it. expired: its
#: cursor is no good any more, and another walk has to be begun
Outcome: TypeAlias = Literal["done", "left", "expired"]


T = TypeVar("T")


class _Turn(NamedTuple):
    """What is made of one answer."""

    covered: Covered | None = None
    next: str | None = None
    children: tuple[Child, ...] = ()
    #: the page's records, as they came
    found: Sequence[Any] = ()
    #: the walk has come to its end
    over: bool = True
    #: the command's bound is reached, the walk's end is not
    leaves: bool = False


class Walker:
    """Does walks for one command, and tells of the partitions that their pages reveal."""

    def __init__(
        self,
        stager: Stager,
        known: Known,
        command: Command,
        reveal: Callable[[Child], None],
        proving: Collection[str] = (),
    ) -> None:
        #: `proving`: the streams whose pages may prove that a row was deleted
        self._proving = proving
        self.lookout = Lookout()
        self._stager = stager
        self._known = known
        self._command = command
        self._reveal = reveal

    async def walk(self, route: Route, part: Part, step: Step) -> Outcome:
        """Take a step as far as it goes; GiveUp leaves it where it is."""
        trail = Trail(route.stream, (step.cursor, step.anchor))
        tally = Tally(route.stream, step)
        limit = route.stream.paginate.max_pages if route.stream.paginate else 1
        request, asked = await self._ask(route, part, step)
        taken = 0
        while True:
            taken += 1
            if asked.answer.status >= 400:
                return await self._refused(route, part, step, request, asked, tally)
            turn = self._read(route, part, step, request, asked.answer, trail)
            tally.take(step, asked.answer, turn.found)
            if turn.over:
                turn = turn._replace(covered=tally.covered(turn.covered, part, step))
            if not turn.over:
                trail.take(turn.found, turn.next)
            # a look beyond the end is no further page
            if turn.over or turn.leaves or taken - is_beyond(turn.next) >= limit:
                await self._stage(route, part, step, request, asked, turn)
                return "done" if turn.over else "left"
            following = _next(route, step, asked.answer, turn)
            if route.name in self._proving:
                # a row that comes after the proof was asked for after it, or it could be the older state
                await self._stage(route, part, step, request, asked, turn)
                its_request, asked = await self._ask(route, part, following)
            else:
                # the server works on the next page while this one is made durable
                async with beside(self._ask(route, part, following)) as asking:
                    await self._stage(route, part, step, request, asked, turn)
                    its_request, asked = await asking
            step, request = following, its_request

    async def _ask(self, route: Route, part: Part, step: Step) -> tuple[Request, Asked]:
        """The answer, and to what: while it is too large, half as many records are asked for."""
        request = route.request(part.partition, step.walk, step.cursor)
        while True:
            try:
                return request, await self._asked(route, part, step, request)
            except TooLarge as error:
                smaller = halved(route.stream, request)
                if smaller is None:
                    error.hint = "it holds the fewest records that can be asked for: raise transport.max_body"
                    raise
                request = smaller
            self._stager.tell("page_halved", stream=route.name, partition=part.partition)

    async def _asked(self, route: Route, part: Part, step: Step, request: Request) -> Asked:
        looks_beyond = is_beyond(step.cursor)
        accept: Container[int] = _EXPIRED if step.resumed or looks_beyond else _NO_CURSOR
        if step.cursor is None:
            # a listing of its own that is refused is a fault of the source's definition, and no fact
            accept = route.stream.closed_by if part.partition != ROOT else ()
        elif step.is_opening:
            accept = (*_NO_CURSOR, *route.stream.closed_by)
        try:
            return await self._stager.ask(request, accept=accept, read=route.read)
        except Refused as error:
            # some servers say with status 200 that a cursor has expired, or leads too far
            expired = (step.resumed or looks_beyond) and error.status < 300
            if not (expired or (looks_beyond and error.status == _UNRECORDED)):
                raise
            return Asked(Answer(_NO_CURSOR[0], httpx.Headers(), b"", None), part.stamp)

    def _read(
        self, route: Route, part: Part, step: Step, request: Request, answer: Answer, trail: Trail
    ) -> _Turn:
        stream = route.stream
        found = records(stream, answer.json)
        stretch = part.stretch(step.walk.id)
        reading = read_page(
            stream,
            step.walk,
            found,
            floor_under(stream, part, step.walk, route.hash),
            command=self._command,
            ids=len(stretch.ids) if stretch is not None else 0,
            ceiling=step.ceiling,
            now=_served_at(answer) or coverage_key(self._stager.now().isoformat()),
        )
        self.lookout.see(route, found)
        values = [one.value for one in found]
        turn = _Turn(reading.covered, children=self._children(route, part, step, found, answer), found=values)
        looks_beyond = is_beyond(step.cursor)
        if reading.ends or (looks_beyond and (not values or trail.repeats(values))):
            return turn
        client = self._stager.client
        cursor = next_cursor(
            stream, request, answer, values, base_url=client.base_url, credentials=client.credential_names
        )
        fullest = self._known.fullest.get(route.name, 0)
        if cursor is None and (looks_beyond or is_full(stream, request, len(values), fullest)):
            cursor = beyond(stream, request, answer, len(values))
        return turn._replace(
            next=cursor, over=walk_ends(stream, request, cursor, values), leaves=reading.leaves
        )

    def _children(
        self, route: Route, part: Part, step: Step, found: list[Any], answer: Answer
    ) -> tuple[Child, ...]:
        partition: dict[str, Any] = msgspec.json.decode(part.partition)
        children = [
            child
            for child in revealed(route.rules, partition, found)
            if not child.closed or self._is_open(child)
        ]
        return (*children, *opened(route.stream, answer.json, step.cursor, partition))

    def _is_open(self, child: Child) -> bool:
        known = self._known
        return (
            known.knows(child.stream, child.partition)
            and not known.part(child.stream, child.partition).closed
        )

    async def _refused(
        self, route: Route, part: Part, step: Step, request: Request, asked: Asked, tally: Tally
    ) -> Outcome:
        """Stage a refusal where it changes what is known."""
        status = asked.answer.status
        if step.cursor is None and part.closed == status and (part.is_gone or status not in GONE):
            return "done"
        covered = tally.covered(None, part, step) if is_beyond(step.cursor) else None
        await self._stage(route, part, step, request, asked, _Turn(covered))
        if step.cursor is None or is_beyond(step.cursor):
            return "done"
        if step.is_opening and status in route.stream.closed_by:
            return "left"
        if step.resumed:
            return "expired"
        raise Refused(
            f"status {status} to a cursor that the server had just given",
            status=status,
            hint="what lies behind it stays a gap until `ingest backfill` tries again",
        )

    async def _stage(
        self, route: Route, part: Part, step: Step, request: Request, asked: Asked, turn: _Turn
    ) -> None:
        after = part.stamp
        envelope = Envelope(
            run=self._stager.run,
            source=self._stager.source,
            stream=route.name,
            stream_hash=route.hash,
            partition=part.partition,
            walk=step.walk,
            asked=asked.asked,
            request=request,
            status=asked.answer.status,
            label=step.label,
            next=turn.next,
            covered=turn.covered,
            children=turn.children,
            records=len(turn.found),
            digest=await digest(asked.answer.body),
        )
        total = total_pages(route.stream, asked.answer) if asked.answer.status < 400 else None
        stamp = await self._stager.stage(envelope, asked.answer.body, after=after, total_pages=total)
        self._known.fold(stamp, after, envelope)
        for child in turn.children:
            self._reveal(child)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Work that goes on while the block does something else, and not beyond it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # who waited for it has heard of it, and who did not has another to tell of


def _next(route: Route, step: Step, answer: Answer, turn: _Turn) -> Step:
    """The same walk, one page further."""
    ceiling = step.ceiling
    if step.cursor is None and vouches_late(route.stream, step.walk):
        ceiling = _served(answer, turn.covered)
    label = step.label - 1 if step.down else step.label + LABEL
    return step._replace(cursor=turn.next, label=label, ceiling=ceiling, resumed=False)


def _served(answer: Answer, covered: Covered | None) -> CoverageKey | None:
    """When a walk's first page was served, by the server's own clock; None where that says nothing of keys.

    A record that changes while a listing is walked may be missed, and its new key lies after this.
    """
    top = CoverageKey.parse(covered.high) if covered is not None and covered.high is not None else None
    served = _served_at(answer)
    return max(served, top) if served is not None and top is not None and top.is_time else None


def _served_at(answer: Answer) -> CoverageKey | None:
    """The `Date` of an answer, where it has one."""
    try:
        return coverage_key(parsedate_to_datetime(answer.headers.get("date", "")).isoformat())
    except ValueError:
        return None
