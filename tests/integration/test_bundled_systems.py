"""The bundled systems make the round trip too, by the source.toml that comes with them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ingest.config import read_config
from ingest.pipeline import open_job
from ingest.report import Certificate
from ingest.source import read_source
from schema.fansly import models as fansly
from tests.integration.jobs import Clock, differences, toml
from tests.integration.story import LATER
from tests.upstream import Dialect, Models, Truth, Upstream, generate
from tests.upstream.dialect import TimeForm

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "schema" / "fansly" / "source.toml"
#: what its records hold nested
NESTED = {
    "Account.walls",
    "Account.avatar",
    "Account.banner",
    "Group.users",
    "Message.attachments",
    "Post.attachments",
    "Post.account_mentions",
    "Post.hashtags",
    "Post.walls",
    "AccountMedia.media",
    "AccountMedia.preview",
    "Media.locations",
    "Media.variants",
    "AccountMediaBundle.bundle_content",
}
IN_SECONDS = ("messages", "media")


def served(truth: Truth) -> Upstream:
    """The API as it spells its records."""
    times: dict[str, TimeForm] = {
        name: "seconds" if name in IN_SECONDS else "milliseconds" for name in truth.models.tables
    }
    up = Upstream(
        read_source(SOURCE),
        truth,
        dialect=Dialect(names="camelCase", big_integers="string", times=times),
        links={"posts": "account_id", "account_media": "account_id"},
    )
    nesting, inlined = up.api.nesting, up.api.nesting.inlined
    nesting.inlined = lambda relation, depth: str(relation) in NESTED and inlined(relation, depth)  # type: ignore[method-assign]
    return up


@pytest.fixture
def truth() -> Truth:
    models = Models(fansly)
    truth = generate(models, seed=3, rows=dict.fromkeys(models.tables, 15), resolution=timedelta(seconds=1))
    for row in truth.rows("accounts"):
        truth.upsert("accounts", {"id": row["id"], "version": row["id"] % 100})
    # a file made of another has no files made of itself
    made = {variant for _, variant in truth.keys("media_variants")}
    for key in truth.keys("media_variants"):
        if key[0] in made:
            truth.delete("media_variants", key)
    state_last_messages(truth)
    return truth


def state_last_messages(truth: Truth) -> None:
    """The API says itself which message is a group's last."""
    for (key,), derived in list(truth.derived("groups").items()):
        if (row := truth.get("groups", key)) is not None:
            last = derived["last_message_id"]
            if row["stated_last_message_id"] != last:
                truth.upsert("groups", {"id": key, "stated_last_message_id": last})


async def sync(folder: Path, up: Upstream) -> Certificate:
    file = ROOT / "config.toml"
    stated: dict[str, Any] = {"fansly": {"models": "schema.fansly", "base_url": up.base_url}}
    written = folder / "config.toml"
    written.write_text(toml({"sources": stated, "database": {"url": f"sqlite:///{folder}/mirror.db"}}))
    if not (folder / "schema").exists():
        (folder / "schema").symlink_to(file.parent / "schema", target_is_directory=True)
    async with open_job(read_config(written), clock=Clock()) as job:
        return await job.sync()


async def test_fansly_is_mirrored_as_it_is_and_follows_new_and_deleted_messages(
    tmp_path: Path, truth: Truth
) -> None:
    async with served(truth) as up:
        untold = [
            f"{table} {key}: missing in the mirror" for table, keys in up.untold().items() for key in keys
        ]
        first = await sync(tmp_path, up)
        assert (first.exit, first.remarks, first.missing) == (0, (), {})
        assert sorted(differences(tmp_path / "mirror.db", truth)) == sorted(untold)
        again = await sync(tmp_path, up)
        assert (again.exit, again.load.written) == (0, 0)

        groups = sorted(row["id"] for row in truth.rows("groups"))[:3]
        for number, group in enumerate((*groups, *groups)):
            message = {"id": 2**60 + number, "group_id": group, "content": "new", "deleted": False}
            truth.upsert("messages", {**message, "created_at": LATER + timedelta(minutes=number)})
        gone = {"id": 2**60 + 3, "deleted": True, "deleted_at": LATER + timedelta(hours=1)}
        truth.upsert("messages", gone)
        state_last_messages(truth)
        later = await sync(tmp_path, up)
        assert (later.exit, later.remarks) == (0, ())
        assert sorted(differences(tmp_path / "mirror.db", truth)) == sorted(untold)
