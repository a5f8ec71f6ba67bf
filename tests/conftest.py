"""What holds for every test: the network ends at this machine, and chance is the same every time."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

pytest_plugins = ("tests.databases",)

#: the property of a test under which it says what it has counted
_COUNTED = "counted"
#: the only hosts a test may reach
HERE = ("127.0.0.1", "::1", "localhost")
#: what would send a test's requests elsewhere, or change how output looks
ENVIRONMENT = (
    *(name for proxy in ("http_proxy", "https_proxy", "all_proxy") for name in (proxy, proxy.upper())),
    "COLUMNS",
    "FORCE_COLOR",
    "GITHUB_ACTIONS",
    "NO_COLOR",
    "PY_COLORS",
)

hypothesis.settings.register_profile("same-every-time", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same-every-time")


class LeftTheMachine(AssertionError):
    """A test tried to reach another machine."""


@pytest.fixture(autouse=True)
def _network_ends_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))


@pytest.fixture(autouse=True)
def _environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def imports_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packages of the test's own folder, and the way to them, are not there for the next test."""
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - set(before):
        module = sys.modules[name]
        places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None) or ""]
        if any(str(place).startswith(str(tmp_path)) for place in places):
            del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def count_told(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says what a sweep has counted: it stands at the end of the run, whichever process it ran in."""
    return lambda text: record_property(_COUNTED, text)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    told = [
        str(text)
        for report in terminalreporter.getreports("passed")
        for name, text in report.user_properties
        if name == _COUNTED
    ]
    if told:
        terminalreporter.section("counted")
        terminalreporter.write_line("\n".join(sorted(told)))


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        internet = self.family in (socket.AF_INET, socket.AF_INET6)
        if internet and address[0] not in HERE:
            raise LeftTheMachine(f"{address[0]} is not this machine")
        return connect(self, address)

    return guarded
