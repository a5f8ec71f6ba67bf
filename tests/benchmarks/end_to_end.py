"""End-to-end messages a second, and the ratio to a bare executemany of the same rows in the same run.

    python -m tests.benchmarks.end_to_end [MESSAGES] [PAGE] [ROUNDS]

The floor is the standard library's sqlite3 into the same table, with the same primary key, the rows made
beforehand and sorted, one transaction, the same synchronous level, no secondary index and no foreign key.
"""

from __future__ import annotations

import asyncio
import platform
import resource
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ingest.config import Config, read_config
from ingest.pipeline import open_job
from ingest.report import Certificate
from tests.benchmarks.serve import served

_CONFIG = """
[database]
url = "sqlite:///mirror.db"
[sources.chat]
models   = "tests.benchmarks.system"
base_url = "{url}"
limit    = {size}
"""


async def _sync(config: Config) -> Certificate:
    async with open_job(config) as job:
        return await job.sync()


def _config(folder: Path, url: str, size: int) -> Config:
    file = folder / "config.toml"
    file.write_text(_CONFIG.format(url=url, size=size))
    return read_config(file)


def _floor(mirror: Path, file: Path) -> float:
    """Seconds that a bare executemany takes for the mirror's own messages."""
    with closing(sqlite3.connect(mirror)) as source:
        names = [
            row[1]
            for row in source.execute("PRAGMA table_info(messages)")
            if not row[1].startswith("ingest_")
        ]
        rows = source.execute(f"SELECT {', '.join(names)} FROM messages ORDER BY id").fetchall()
        types = [row[2] for row in source.execute("PRAGMA table_info(messages)") if row[1] in names]
    bare = sqlite3.connect(file, isolation_level=None)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=NORMAL")
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, types, strict=True))
    bare.execute(f"CREATE TABLE messages ({columns}, PRIMARY KEY (id))")
    began = time.perf_counter()
    bare.execute("BEGIN")
    bare.executemany(f"INSERT INTO messages VALUES ({', '.join('?' * len(names))})", rows)
    bare.execute("COMMIT")
    seconds = time.perf_counter() - began
    bare.close()
    return seconds


class Round(NamedTuple):
    """Seconds that one round took."""

    sync: float
    again: float
    floor: float
    certificate: str
    #: megabytes, before the floor held all rows at once
    peak: int


def _round(url: str, size: int) -> Round:
    """One sync into a new database, one into what it made, and the floor before and after."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = _config(folder, url, size)
        began = time.perf_counter()
        first = asyncio.run(_sync(config))
        between = time.perf_counter()
        again = asyncio.run(_sync(config))
        ended = time.perf_counter()
        assert first.exit == again.exit == 0, (first.remarks, again.remarks)
        assert again.load.written == 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        floor = median(_floor(folder / "mirror.db", folder / str(index)) for index in range(3))
    return Round(between - began, ended - between, floor, first.run, peak)


def main(messages: int = 200_000, size: int = 1000, rounds: int = 3) -> None:
    """Run, and print the figures of the round whose ratio is the median."""
    with served(messages, size) as url:
        ran = sorted((_round(url, size) for _ in range(rounds)), key=lambda one: one.floor / one.sync)
    print(f"{platform.python_implementation()} {platform.python_version()}, sqlite {sqlite3.sqlite_version}")
    print(f"{messages:,} messages, {size:,} a page; WAL, synchronous=NORMAL, page log synchronous=FULL")
    one = ran[len(ran) // 2]
    print(f"floor      {messages / one.floor:>10,.0f} messages/s  bare executemany")
    told = (("sync", one.sync, f"certificate {one.certificate}"), ("re-sync", one.again, "0 rows written"))
    for name, took, remark in told:
        print(f"{name:<10} {messages / took:>10,.0f} messages/s  ratio {one.floor / took:.3f}  {remark}")
    print(f"sync's ratio, round by round: {', '.join(f'{one.floor / one.sync:.3f}' for one in ran)}")
    print(f"peak memory of a first sync {min(one.peak for one in ran)} MB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
