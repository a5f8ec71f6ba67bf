"""Every error the machine raises on purpose; its class says what to do next.

IngestError
├── UsageError             the person must change something first        exit 2
│   ├── ConfigError        config.toml or source.toml
│   └── ModelError         models.py cannot be mirrored as written
├── Retry                  ask again, later                             (never leaves fetch)
├── GiveUp                 this partition ends; the others go on         exit 3
│   ├── Refused            the server said no (status, body excerpt)
│   ├── BadAnswer          the answer cannot be used (cut, not JSON, too large, a cursor ring)
│   └── ForeignOrigin      the answer points away from the configured origin
├── SetAside               this page or record becomes a dead letter     exit 3
└── Stop                   the run cannot go on                          exit 1
    ├── AuthFailed         the credentials were not accepted
    ├── LockHeld           another run is writing
    ├── LogDrift           page log and database do not belong together
    ├── StagingConflict    a second fetcher appended to the same partition
    └── NotProven          the certificate could not be given            exit 4
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final

_DISK_HINTS: Final = {
    errno.ENOSPC: "make room and run again: every staged page is kept",
    errno.EDQUOT: "make room and run again: every staged page is kept",
    errno.EIO: "check the disk, then run again: every staged page is kept",
}


class IngestError(Exception):
    """Something went wrong."""

    exit_status: ClassVar[int] = 1

    def __init__(
        self, message: str | None = None, *, where: str | None = None, hint: str | None = None
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        #: file and key, partition, page or row
        self.where = where
        #: what the person can do about it
        self.hint = hint
        super().__init__(self.message)

    def __str__(self) -> str:
        line = f"{self.where}: {self.message}" if self.where else self.message
        return f"{line} ({self.hint})" if self.hint else line


class UsageError(IngestError):
    """The command or its configuration cannot be used as it is."""

    exit_status = 2


class ConfigError(UsageError):
    """The configuration cannot be used as it is."""


class ModelError(UsageError):
    """The models cannot be mirrored as they are written."""


class Retry(IngestError):
    """The upstream is not ready; ask again later."""

    def __init__(
        self, message: str | None = None, *, after: float | None = None, where: str | None = None
    ) -> None:
        super().__init__(message, where=where)
        #: seconds the server asked us to wait; None when it did not say
        self.after = after


class GiveUp(IngestError):
    """This partition cannot be fetched any further in this run."""

    exit_status = 3


class Refused(GiveUp):
    """The upstream refused the request."""

    def __init__(
        self, message: str | None = None, *, status: int, where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status = status


class BadAnswer(GiveUp):
    """The upstream's answer cannot be used."""


class ForeignOrigin(GiveUp):
    """The answer points away from the configured origin; credentials stay home."""


class SetAside(IngestError):
    """This record cannot be stored as it is."""

    exit_status = 3


class Stop(IngestError):
    """The run cannot go on."""


class AuthFailed(Stop):
    """The credentials were not accepted."""


class LockHeld(Stop):
    """Another run is writing to this database."""


class LogDrift(Stop):
    """The page log and the database do not belong together."""


class StagingConflict(Stop):
    """Another fetcher has appended to this partition."""


class NotProven(Stop):
    """The foreign keys, pointers or counters could not be proven."""

    exit_status = 4


def hint_of(error: OSError, otherwise: str) -> str:
    """What to do about a file that cannot be used: where the disk is at fault, the rest may be well."""
    return _DISK_HINTS.get(error.errno or 0, otherwise)
