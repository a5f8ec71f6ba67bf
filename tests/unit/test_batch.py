"""Batches decoded apart say together what they would have said at once."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from ingest.catalog import read_catalog
from ingest.load.batch import Batch
from ingest.load.decoders import Decoders
from ingest.pipeline.worker import pack, unpack
from tests import convergence_models
from tests.unit.test_convergence import SOURCE, World

CATALOG = read_catalog([convergence_models])
NAMES = {name: table.names for name, table in CATALOG.tables.items()}


@pytest.mark.parametrize("seed", range(60))
def test_batches_joined_are_what_their_pages_say_together(seed: int) -> None:
    pick = random.Random(seed)
    world = World(pick)
    for _ in range(pick.randint(2, 30)):
        world.page()
    world.pages.append(world.pages[-1])
    decoders = Decoders({"test": SOURCE}, CATALOG)
    joined, rest = Batch(), list(world.pages)
    while rest:
        size = pick.randint(1, 4)
        # as another process sends it
        joined.join(NAMES, _sent(decoders.decode(rest[:size])))
        rest = rest[size:]
    assert _said(joined) == _said(decoders.decode(world.pages))


def _sent(batch: Batch) -> Batch:
    there = unpack(pack(batch))
    assert there is not None
    return there


def test_rows_that_python_has_no_short_form_for_are_sent_all_the_same() -> None:
    odd = Batch(full={"t": {(1,): (1, Decimal("1.5"), 0, 1, 0, None)}})
    assert _sent(odd) == odd


def _said(batch: Batch) -> Batch:
    """The batch without tables of which nothing is said, which one that was joined may have more of."""
    batch.full = {name: rows for name, rows in batch.full.items() if rows}
    batch.partial = {name: rows for name, rows in batch.partial.items() if rows}
    return batch
