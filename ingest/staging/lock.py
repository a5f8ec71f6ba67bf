"""One writer per page log: an advisory lock that goes with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from ingest.errors import StagingConflict, Stop, hint_of


class WriterLock:
    """The right to write one page log, held until released or until the process ends, however it ends.

    It lies on a file of its own: closing any descriptor of the log itself would drop the locks that
    SQLite holds on it in this process. The file stays behind, since removing it would let two
    processes hold "the" lock, each on a file of its own.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, log: Path) -> WriterLock:
        """Take the lock of a log at once; StagingConflict saying who has it."""
        file = log.with_name(log.name + "-lock")
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Stop(
                f"the lock cannot be opened ({error.strerror})",
                where=str(file),
                hint=hint_of(error, "check the rights on its folder"),
            ) from error
        try:
            _lock(descriptor, log)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Give the lock back."""
        with suppress(OSError):  # as below: only the name is lost
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _lock(descriptor: int, log: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StagingConflict(
            f"the page log is being written by {_holder(descriptor)}",
            where=str(log),
            hint="wait for it to end, or stop it: the lock ends with it",
        ) from error
    except OSError as error:
        raise Stop(
            f"the page log cannot be locked ({error.strerror})",
            where=str(log),
            hint="keep it on a local disk",
        ) from error
    with suppress(OSError):  # on a full disk the lock holds all the same, it only has no name on it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 300, 0).decode(errors="replace") or "another process"
