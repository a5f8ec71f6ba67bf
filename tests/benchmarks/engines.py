"""What each engine makes of staged pages: rows a second, and the ratio to its bare floor in the same run.

    python -m tests.benchmarks.engines [MESSAGES] [ROUNDS] [ENGINE…]

Pages are staged beforehand; what is measured is `recover`: decode, load, reconcile, prove, certify.

    backfill   into empty tables, foreign keys and indexes and all
    upsert     every message again, changed

The floors are the driver's own, the rows made beforehand and sorted, on the same server, in the same table
with the same key and indexes, without foreign keys and without the mirror's own columns:

    postgresql   COPY + key + indexes; temporary COPY + INSERT … ON CONFLICT DO UPDATE
    mariadb      executemany of INSERT; executemany of INSERT … ON DUPLICATE KEY UPDATE
    sqlite       executemany of INSERT + indexes; executemany of INSERT … ON CONFLICT DO UPDATE
"""

from __future__ import annotations

import asyncio
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ingest.config import read_config
from ingest.pipeline import open_job
from ingest.report import Certificate
from tests.benchmarks import floors
from tests.benchmarks.serve import served
from tests.databases import private_server

_CONFIG = """
[database]
url = "{url}"
[staging]
path = "pages"
[sources.chat]
models   = "tests.benchmarks.system"
base_url = "{base_url}"
"""
_ENGINES = ("sqlite", "postgresql", "mariadb")


class Logs(NamedTuple):
    """Two page logs: the history, and the history with everything changed after it."""

    first: Path
    second: Path


class Round(NamedTuple):
    """Seconds that one round took on one engine."""

    backfill: float
    upsert: float
    floor_backfill: float
    floor_upsert: float

    @property
    def ratios(self) -> tuple[float, float]:
        return self.floor_backfill / self.backfill, self.floor_upsert / self.upsert


async def _run(folder: Path, url: str, base_url: str, command: str) -> Certificate:
    file = folder / "config.toml"
    file.write_text(_CONFIG.format(url=url, base_url=base_url))
    async with open_job(read_config(file)) as job:
        return await (job.sync() if command == "sync" else job.recover())


def stage(folder: Path, base_url: str) -> Logs:
    """Fetch it all once, into logs that every round begins with."""
    kept = folder / "kept"
    kept.mkdir()
    url = f"sqlite:///{folder / 'staging.db'}"
    for name, where in (("first", base_url), ("second", f"{base_url}/later")):
        done = asyncio.run(_run(folder, url, where, "sync"))
        assert done.exit == 0, done.remarks
        shutil.copy(folder / "pages", kept / name)
    return Logs(kept / "first", kept / "second")


def _recover(folder: Path, url: str, log: Path, messages: int) -> float:
    shutil.copy(log, folder / "pages")
    began = time.perf_counter()
    done = asyncio.run(_run(folder, url, "http://127.0.0.1:1", "recover"))
    seconds = time.perf_counter() - began
    assert done.exit == 0, done.remarks
    assert done.load.written >= messages
    return seconds


@contextmanager
def _databases(engine: str, folder: Path) -> Iterator[Callable[[], str]]:
    """Makes fresh databases of one engine; their URLs."""
    if engine == "sqlite":
        numbers = iter(range(1000))
        yield lambda: f"sqlite:///{folder / f'{next(numbers)}.db'}"
        return
    with private_server(engine) as server:
        yield lambda: server.fresh().url


def measure(engine: str, logs: Logs, messages: int, rounds: int) -> Iterator[Round]:
    """Rounds on one engine, each in databases of its own."""
    with closing(sqlite3.connect(logs.first.parent.parent / "staging.db")) as mirror:
        rows = floors.messages(mirror)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name, _databases(engine, Path(name)) as fresh:
            folder, url = Path(name), fresh()
            backfill = _recover(folder, url, logs.first, messages)
            upsert = _recover(folder, url, logs.second, messages)
            floor = floors.FLOORS[engine](fresh(), rows)
            yield Round(backfill, upsert, *floor)


def _print(engine: str, messages: int, ran: list[Round]) -> None:
    for name, place in (("backfill", 0), ("upsert", 1)):
        taken = median(one[place] for one in ran)
        floor = median(one[place + 2] for one in ran)
        ratios = ", ".join(f"{one.ratios[place]:.2f}" for one in ran)
        print(
            f"{engine:<11} {name:<9} {messages / taken:>9,.0f} rows/s   floor {messages / floor:>9,.0f}"
            f"   ratio {median(one.ratios[place] for one in ran):.2f}   ({ratios})",
            flush=True,
        )


def main(messages: int = 1_000_000, rounds: int = 3, *engines: str) -> None:
    """Run, and print the figures: medians, and every round's ratio."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {messages:,} messages")
    with tempfile.TemporaryDirectory() as name, served(messages, 1000) as base_url:
        logs = stage(Path(name), base_url)
        for engine in engines or _ENGINES:
            _print(engine, messages, list(measure(engine, logs, messages, rounds)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
