"""A pytest plugin: recorded pages answer a test's requests, strictly, in the network's place.

    def test_rooms_have_titles(mirror):
        made = mirror("config.toml", pages="fixtures/mine")      # a run into a database of its own
        assert made.certificate.exit == 0
        assert made.rows("rooms") == [{"id": 1, "title": "Kitchen"}]

    def test_my_own_client(recorded):
        with recorded("fixtures/mine", base_url="https://chat.example/api/v1") as served:
            ...                                                  # whatever asks through httpx
        assert served.unasked == []

pytest finds the plugin by itself where ingest is installed. Pages are served through respx, in the
place of httpx's connections, so that everything above those is tested. A request whose method, path,
query or body is not that of a recorded one fails the test, even where the code under test swallows the
error, and the nearest recorded ones are named. Routes of your own go first: use the fixture
`respx_mock` before these.

Relative paths are looked for beside the test, then in the folders above it, up to pytest's root.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pytest

# every run of pytest imports its plugins: what is heavy is imported when it is used
if TYPE_CHECKING:
    from ingest.testing.mirrored import Mirrored
    from ingest.testing.places import Place
    from ingest.testing.served import Served

__all__ = ["Mirrors", "Recorded", "mirror", "recorded"]


class Recorded(Protocol):
    """What the fixture `recorded` is."""

    def __call__(
        self, folder: Place, *, base_url: str, ignoring: Iterable[str] = (), all_asked: bool = False
    ) -> Served:
        """Serve a recording where an API has its base URL.

        `ignoring`: query parameters that carry credentials. `all_asked`: a recorded exchange that
        nobody has asked for by the end fails the test.
        """


class Mirrors(Protocol):
    """What the fixture `mirror` is."""

    def __call__(
        self,
        config: Place | Mapping[str, Any],
        pages: Place | Mapping[str, Place] | None = None,
        *,
        all_asked: bool = False,
    ) -> Mirrored:
        """Run a job once, against recorded pages, into a database of its own.

        `config`: a config.toml, or what would stand in one. `pages`: the folder of recorded pages,
        or with several sources one for each by its name; by default what their `replay` says.
        """


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Recorded:
    """Serve recorded pages: `with recorded("fixtures/mine", base_url="https://…") as served:`."""
    from ingest.testing.places import found
    from ingest.testing.served import Served, Stage

    stage = Stage()

    def serve(
        folder: Place, *, base_url: str, ignoring: Iterable[str] = (), all_asked: bool = False
    ) -> Served:
        from ingest.replay import Recording

        recording = Recording(found(request, folder), base_url, ignoring=ignoring)
        return Served(stage, recording, all_asked=all_asked)

    return serve


@pytest.fixture
def mirror(
    request: pytest.FixtureRequest,
    recorded: Recorded,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Mirrors:
    """Run a job against recorded pages: `made = mirror("config.toml", pages="fixtures/mine")`."""

    def run(
        config: Place | Mapping[str, Any],
        pages: Place | Mapping[str, Place] | None = None,
        *,
        all_asked: bool = False,
    ) -> Mirrored:
        from ingest.testing.job import offline
        from ingest.testing.mirrored import mirrored

        __tracebackhide__ = True
        job = offline(
            request,
            config,
            pages,
            folder=tmp_path_factory.mktemp("mirror"),
            import_from=monkeypatch.syspath_prepend,
        )
        try:
            return mirrored(job, recorded, all_asked=all_asked)
        except AssertionError as error:
            failed = str(error)
        # told where the test stands, and not where the machine was
        raise AssertionError(failed)

    return run
