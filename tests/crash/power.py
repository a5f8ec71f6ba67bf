"""What a disk may hold after the power went: images, made of what a run wrote and what it synced.

    python -m tests.crash.power '{"scenario": …}'    under LD_PRELOAD of the shim

What was written before the last sync of its file is there. Of what was written since, any sectors may be
there and any not; names that were made, changed or removed since the folder was synced likewise. That is
harsher than a journaling file system, which keeps the order of names.

Each image is opened, checked, and searched for the pages that were acknowledged; a sample is run to its end.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.crash.disk import Call
from tests.crash.sweep import Order, Sweep, told_to

#: bytes a disk writes whole
SECTORS = (512, 4096)


class _Change(NamedTuple):
    """Something done to a file's contents, of which nobody knows whether it reached the disk."""

    offset: int
    data: bytes
    #: of a truncate
    size: int | None = None


class _File:
    """A file's contents: what is durable, and what was done since."""

    def __init__(self) -> None:
        self.durable = bytearray()
        self.since: list[_Change] = []

    def sync(self) -> None:
        for change in self.since:
            _apply(self.durable, change)
        self.since.clear()


class _Naming(NamedTuple):
    """A name that was made or removed."""

    name: str
    file: _File | None


class Disk:
    """A folder on a disk, as far as calls have been made."""

    def __init__(self, folder: Path, begun: Path) -> None:
        self._folder = str(folder)
        self._names: dict[str, _File] = {}
        for path in begun.iterdir():
            file = self._names[str(folder / path.name)] = _File()
            file.durable += path.read_bytes()
        self._durable = dict(self._names)
        #: each of these is one change: a rename is two names at once
        self._since: list[tuple[_Naming, ...]] = []
        self.acknowledged: set[int] = set()

    def take(self, call: Call) -> None:
        """One more call."""
        if call.op == "mark":
            self.acknowledged.add(int(call.path.rpartition(" ")[2]))
        elif call.op == "sync" and call.path == self._folder:
            for change in self._since:
                _rename(self._durable, change)
            self._since.clear()
        elif call.op == "sync":
            self._names[call.path].sync()
        elif call.op == "write":
            assert call.offset >= 0, call
            self._names[call.path].since.append(_Change(call.offset, call.data))
        elif call.op == "truncate":
            self._names[call.path].since.append(_Change(0, b"", call.size))
        else:
            self._name(call)

    def _name(self, call: Call) -> None:
        if call.op == "create":
            change = (_Naming(call.path, _File()),)
        elif call.op == "unlink":
            change = (_Naming(call.path, None),)
        else:
            change = (_Naming(call.path, None), _Naming(call.other, self._names[call.path]))
        _rename(self._names, change)
        self._since.append(change)

    def write_image(self, to: Path, pick: random.Random) -> bool:
        """What may be left, in a folder; False when nothing was in doubt."""
        names = dict(self._durable)
        for change in _some(self._since, pick):
            _rename(names, change)
        in_doubt = bool(self._since)
        for name, file in names.items():
            # readers and writers share it through memory, and make it anew
            if name.endswith("-shm"):
                continue
            contents = bytearray(file.durable)
            in_doubt |= bool(file.since)
            for part in _some(_sectors(file.since, pick.choice(SECTORS)), pick):
                _apply(contents, part)
            (to / Path(name).name).write_bytes(contents)
        return in_doubt


def _some(things: list, pick: random.Random) -> list:
    """Any of these, in their order: all of them, all before one of them, or each or not."""
    kind = pick.randrange(3)
    if kind == 0:
        return things[: pick.randint(0, len(things))]
    chance = pick.choice((0.1, 0.5, 0.9)) if kind == 1 else pick.random()
    return [one for one in things if pick.random() < chance]


def _sectors(changes: list[_Change], size: int) -> list[_Change]:
    parts = []
    for change in changes:
        if change.size is not None:
            parts.append(change)
        at, end = change.offset, change.offset + len(change.data)
        while at < end:
            to = min(end, (at // size + 1) * size)
            parts.append(_Change(at, change.data[at - change.offset : to - change.offset]))
            at = to
    return parts


def _apply(contents: bytearray, change: _Change) -> None:
    size = change.offset + len(change.data) if change.size is None else change.size
    if len(contents) < size:
        contents.extend(bytes(size - len(contents)))
    if change.size is not None:
        del contents[size:]
    else:
        contents[change.offset : size] = change.data


def _rename(names: dict[str, _File], change: tuple[_Naming, ...]) -> None:
    for name, file in change:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


class Image(msgspec.Struct, kw_only=True):
    """What became of one image."""

    #: calls before the power went
    calls: int
    #: the last of them
    last: str
    #: something that was written was not synced
    in_doubt: bool
    acknowledged: int
    #: it was run to its end
    resumed: bool
    faults: list[str] = []


class PowerOrder(Order, kw_only=True):
    """What is asked for."""

    #: images that are run to their end
    resumed: int = 0


class Cuts(Sweep):
    """One run, cut off by the power at any moment."""

    def images(self, resumed: int) -> Iterator[Image]:
        """So many images as were ordered."""
        _, calls = self.trace()
        pick = random.Random(f"{self.order.scenario} power {self.order.seed}")
        count = self.order.count
        # every call, as far as there are images for it: those of one moment differ in what was written
        numbers = range(1, len(calls) + 1)
        moments = Counter(pick.sample(numbers, min(count, len(calls))))
        moments.update(pick.choices(numbers, k=max(0, count - len(calls))))
        chosen = set(pick.sample(range(count), resumed))
        disk, number = Disk(self.world.case, self.begun), 0
        for at, call in enumerate(calls, 1):
            disk.take(call)
            for _ in range(moments[at]):
                yield self._image(disk, pick, at, call, resumed=number in chosen)
                number += 1

    def _image(self, disk: Disk, pick: random.Random, at: int, call: Call, *, resumed: bool) -> Image:
        shutil.rmtree(self.world.case, ignore_errors=True)
        self.world.case.mkdir()
        in_doubt = disk.write_image(self.world.case, pick)
        image = Image(
            calls=at,
            last=call.name,
            in_doubt=in_doubt,
            acknowledged=len(disk.acknowledged),
            resumed=resumed,
        )
        # looking at it would already mend it
        if resumed:
            self._ended()
            image.faults += self._heard["faults"]
            if self._heard["digest"] != self.wanted:
                image.faults.append("another digest")
        try:
            image.faults += _looked_at(self.world.case, disk.acknowledged)
        except sqlite3.DatabaseError as error:
            image.faults.append(f"{type(error).__name__}: {error}")
        return image


def _looked_at(folder: Path, acknowledged: set[int]) -> list[str]:
    """What is wrong with an image: damage, and pages that are not there."""
    faults = []
    log, mirror = folder / "mirror.db.pages", folder / "mirror.db"
    staged: set[int] = set()
    if log.exists():
        staged = _numbers(log, "SELECT stamp FROM page JOIN body USING (stamp)", faults)
    if not acknowledged <= staged:
        faults.append(f"acknowledged and lost: {sorted(acknowledged - staged)}")
    if mirror.exists():
        loaded = _numbers(mirror, "SELECT stamp FROM ingest_pages", faults)
        if not loaded <= staged:
            faults.append(f"loaded and lost: {sorted(loaded - staged)}")
    return faults


def _numbers(file: Path, question: str, faults: list[str]) -> set[int]:
    with closing(sqlite3.connect(file)) as connection:
        said = connection.execute("PRAGMA integrity_check").fetchall()
        if said != [("ok",)]:
            faults.append(f"{file.name}: {said}")
        if not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'ingest_pages' OR name = 'page'"
        ).fetchone():
            return set()
        return {number for (number,) in connection.execute(question)}


if __name__ == "__main__":
    tell = told_to(os.dup(1))
    asked = msgspec.json.decode(sys.argv[1], type=PowerOrder)
    cuts = Cuts(asked)
    cuts.prepare()
    for image in cuts.images(asked.resumed):
        tell(image)
