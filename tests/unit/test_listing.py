"""Whether a walk has listed everything there is."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from ingest.fetch.answer import Answer
from ingest.fetch.coverage import Stretch
from ingest.fetch.listing import Tally
from ingest.fetch.parts import Part
from ingest.fetch.walk import Step
from ingest.source import Stream
from ingest.types import Covered, Listing, Walk

OFFSET = {"kind": "offset", "total": "total", "limit": 2}
CURSOR = {"kind": "cursor", "next": "next"}


def stream(paginate: dict[str, Any], **said: Any) -> Stream:
    stated = {"path": "/x", "entity": "X", "records": "data", "sweep": True, "paginate": paginate, **said}
    return msgspec.convert(stated, Stream)


def proof(
    stated: Stream, *pages: tuple[int, list[int]], begins: str | None = None, kind: str = "full"
) -> Any:
    """What the walk proves whose pages have these totals and ids."""
    walk = Walk(id="w", kind=kind)  # type: ignore[arg-type]
    part, step = Part("s", "{}"), Step(walk, begins, 0, down=False)
    if begins is not None:
        part.walks["w"] = Stretch(walk, "", "run", 3, 0, pages=2)
    tally = Tally(stated, step)
    for at, (total, ids) in enumerate(pages):
        answer = Answer(200, httpx.Headers(), b"", {"total": total})
        if at:
            step = step._replace(cursor=str(at))
            part.walks["w"] = Stretch(walk, "", "run", 3, 0, pages=at + (2 if begins else 0))
        tally.take(step, answer, [{"id": id} for id in ids])
    covered = tally.covered(None, part, step)
    return covered if covered is None else covered.listing


def test_numbered_pages_that_add_up_are_a_complete_listing() -> None:
    assert proof(stream(OFFSET), (3, [1, 2]), (3, [3])) == Listing(pages=2, first=3)
    assert proof(stream(OFFSET), (1, [1])) == Listing(pages=1)


@pytest.mark.parametrize(
    "pages",
    [
        pytest.param([(4, [1, 2]), (3, [3])], id="the total changed"),
        pytest.param([(4, [1, 2]), (4, [2, 3])], id="an id came twice"),
        pytest.param([(4, [1, 2]), (4, [3])], id="fewer came than there are"),
        pytest.param([(2, [1, 2]), (2, [3])], id="more came than there are"),
    ],
)
def test_numbered_pages_that_shifted_prove_nothing(pages: list[tuple[int, list[int]]]) -> None:
    assert proof(stream(OFFSET), *pages) is None


def test_numbered_pages_prove_nothing_when_the_walk_was_broken_off() -> None:
    assert proof(stream(OFFSET), (2, [3, 4]), begins="2") is None


def test_a_servers_own_cursors_do_however_often_it_was() -> None:
    assert proof(stream(CURSOR), (0, [1]), begins="x") == Listing(pages=3, first=3)


@pytest.mark.parametrize("kind", ["since", "head", "tail", "gap", "backfill"])
def test_only_a_walk_through_everything_proves_anything(kind: str) -> None:
    assert proof(stream(CURSOR), (0, [1]), kind=kind) is None


def test_a_stream_that_does_not_sweep_proves_nothing() -> None:
    assert proof(stream(CURSOR, sweep=False), (0, [1])) is None


def test_the_proof_is_beside_what_the_page_covers() -> None:
    step = Step(Walk(id="w", kind="full"), None, 0, down=False)
    covered = Tally(stream(CURSOR), step).covered(Covered(low="1"), Part("s", "{}"), step)
    assert covered == Covered(low="1", listing=Listing(pages=1))
