"""Recorded pages in the network's place: one respx router for all that are open in a test."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx
import pytest

from ingest.replay import Recording, Unrecorded

if TYPE_CHECKING:
    import respx


class Served:
    """A recording that answers the requests made through httpx while it is open."""

    def __init__(self, stage: Stage, recording: Recording, *, all_asked: bool) -> None:
        self.recording = recording
        #: requests that were made and not recorded, each with the recorded ones nearest to it
        self.missed: list[str] = []
        self._stage, self._all_asked = stage, all_asked

    @property
    def unasked(self) -> list[str]:
        """The recorded exchanges that nobody has asked for."""
        return self.recording.unasked

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        self._stage.open(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._stage.close(self)
        # whatever went wrong, it went wrong without an answer; but a test may be skipped, or interrupted
        if self.missed and (error is None or isinstance(error, Exception)):
            raise AssertionError("\n".join(dict.fromkeys(self.missed))) from None
        if error is None and self._all_asked and self.unasked:
            raise AssertionError("\n  ".join(["recorded, and never asked for:", *self.unasked]))


class Stage:
    """The recordings that are open in one test."""

    def __init__(self) -> None:
        self._open: list[Served] = []
        self._router: respx.MockRouter | None = None

    def open(self, served: Served) -> None:
        """Let a recording answer from now on, before those that are open already."""
        __tracebackhide__ = True
        if self._router is None:
            self._router = _router(self._answer)
            self._router.start()
        self._open.append(served)

    def close(self, served: Served) -> None:
        """Let it answer no more; after the last the network is back."""
        self._open.remove(served)
        if not self._open and self._router is not None:
            self._router.stop()
            self._router = None

    def _answer(self, request: httpx.Request) -> httpx.Response:
        from respx.models import AllMockedAssertionError

        missed: list[tuple[Served, str]] = []
        for served in reversed(self._open):
            if served.recording.is_home(request.url):
                try:
                    return served.recording.answer(request)
                except Unrecorded as error:
                    missed.append((served, _told(error)))
        if not missed:
            place = request.url.copy_with(raw_path=b"/")
            missed.append((self._open[-1], f"{request.method} {place}… is of an API that was not recorded"))
        served, text = missed[0]
        served.missed.append(text)
        # the error on which respx goes on to the next router, if there is one
        raise AllMockedAssertionError(text)


def _router(answer: Callable[[httpx.Request], httpx.Response]) -> respx.MockRouter:
    __tracebackhide__ = True
    try:
        import respx
    except ImportError:
        pytest.fail("recorded pages are served through respx: pip install respx", pytrace=False)
    # in httpcore's place, below the transport that the machine's client makes for itself
    router = respx.MockRouter(assert_all_called=False, using="httpcore")
    router.route().mock(side_effect=answer)
    return router


def _told(error: Unrecorded) -> str:
    """The error, a recorded request a line."""
    about, _, nearest = (error.hint or "").partition(": ")
    return "\n  ".join([error.message, about, *(f"  {one}" for one in nearest.split("; ") if one)])
