"""The disk below a process, as `shim.c` makes it: it counts, records, fails and kills."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).with_name("shim.c")


class Fault(enum.Enum):
    """What happens at the Nth call: shim.c's number, and the error."""

    NOTHING = 0, 0
    #: before the call
    KILL = 1, 0
    #: after it
    KILL_AFTER = 2, 0
    #: when half of it is written
    TEAR = 3, 0
    #: once
    EIO = 4, errno.EIO
    #: from then on
    EIO_ON = 5, errno.EIO
    ENOSPC = 5, errno.ENOSPC

    @property
    def kills(self) -> bool:
        return self in (Fault.KILL, Fault.KILL_AFTER, Fault.TEAR)

    def strikes(self, op: str) -> bool:
        """Whether such a call can meet with it."""
        if self is Fault.TEAR:
            return op == "write"
        if self is Fault.ENOSPC:
            return op in ("write", "create", "truncate", "sync")
        return True


class Call(NamedTuple):
    """Something that was done to the disk."""

    #: create | write | truncate | sync | rename | unlink | mark
    op: str
    path: str
    #: the new name, of a rename
    other: str = ""
    #: of a truncate
    size: int = 0
    offset: int = 0
    data: bytes = b""

    @property
    def name(self) -> str:
        """The failpoint: what was done to which file."""
        return f"{Path(self.path).name}: {self.op}"


def compiler() -> str | None:
    """The C compiler of this machine, if there is one."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


needs_a_shim = pytest.mark.skipif(
    compiler() is None or sys.platform != "linux",
    reason="needs Linux and a C compiler (cc, gcc or clang): a preloaded library makes the disk fail",
)


def compile_shim(folder: Path) -> Path:
    """The shim, made in a folder."""
    made, cc = folder / "shim.so", compiler()
    assert cc is not None
    subprocess.run([cc, "-O2", "-shared", "-fPIC", "-o", made, SOURCE, "-ldl"], check=True)
    return made


def arm(
    below: Path, fault: Fault = Fault.NOTHING, at: int = 0, *, only: str = "", record: Path | None = None
) -> None:
    """From now on, in this process: count what is done below a folder, to files that are called so."""
    number, error = fault.value
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY
    to = -1 if record is None else os.open(record, flags, 0o600)
    _shim().shim_arm(os.fsencode(below), only.encode(), number, at, error, to)


def disarm() -> None:
    _shim().shim_disarm()


def calls() -> int:
    """What was counted since it was armed."""
    return int(_shim().shim_calls())


def failed() -> int:
    """How many calls failed."""
    return int(_shim().shim_failed())


def mark(words: str) -> None:
    """Put a line of one's own into the record."""
    _shim().shim_mark(words.encode())


def _shim() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def recorded(file: Path) -> Iterator[Call]:
    """What was recorded, in order."""
    with file.open("rb") as stream:
        while line := stream.readline():
            op, path, other, size, offset = line.decode().rstrip("\n").split("\t")
            data = stream.read(int(size)) if op == "write" else b""
            yield Call(op, path, other, int(size), int(offset), data)
