"""The fansly models: that they can be mirrored, and that nothing about their tables is left to chance."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Mapper
from sqlalchemy.schema import AddConstraint, CreateTable

from ingest.catalog import read_catalog
from ingest.mirror import LEDGER_COLUMNS
from schema.fansly import models
from schema.fansly.models import (
    Account,
    AccountMedia,
    AccountMediaBundle,
    Base,
    BundleContent,
    ContentType,
    Group,
    Hashtag,
    Media,
    MediaLocation,
    Message,
    MessageAttachment,
    Post,
    Wall,
)

TABLES = list(Base.metadata.tables.values())
MAPPERS = sorted(Base.registry.mappers, key=lambda mapper: mapper.class_.__name__)
POSTGRESQL: sa.Dialect = PGDialect()  # type: ignore[no-untyped-call]  # untyped in SQLAlchemy
MARIADB: sa.Dialect = MySQLDialect()
#: the longest name PostgreSQL keeps
LONGEST_NAME = 63
WHEN = datetime(2025, 3, 1, 12, tzinfo=UTC)


def each(tables: list[sa.Table]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("table", tables, ids=lambda table: table.name)


def columns(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.columns if column.name not in LEDGER_COLUMNS]


def access_paths(table: sa.Table) -> list[tuple[str, ...]]:
    """The columns of everything that serves as an index: the key, unique constraints and indexes."""
    constraints = [
        one for one in table.constraints if isinstance(one, sa.PrimaryKeyConstraint | sa.UniqueConstraint)
    ]
    return [tuple(column.name for column in one.columns) for one in (*constraints, *table.indexes)]


# -- what the tables are like --------------------------------------------------------------------------


@each(TABLES)
def test_every_foreign_key_has_an_index_that_leads_with_its_columns(table: sa.Table) -> None:
    for constraint in table.foreign_key_constraints:
        wanted = tuple(constraint.column_keys)
        assert any(path[: len(wanted)] == wanted for path in access_paths(table)), wanted


@each(TABLES)
def test_no_index_is_covered_by_another(table: sa.Table) -> None:
    paths = access_paths(table)
    for index in table.indexes:
        own = tuple(column.name for column in index.columns)
        assert sum(path[: len(own)] == own for path in paths) == 1, own


@each(TABLES)
def test_every_string_has_a_length(table: sa.Table) -> None:
    for column in columns(table):
        if isinstance(column.type, sa.String) and not isinstance(column.type, sa.Text):
            assert column.type.length, column


@each(TABLES)
def test_every_column_says_what_it_holds(table: sa.Table) -> None:
    assert [column.name for column in columns(table) if not (column.doc or "").endswith(".")] == []


@each(TABLES)
def test_ids_are_64_bit_and_given_by_upstream(table: sa.Table) -> None:
    for column in columns(table):
        if column.name == "id" or column.foreign_keys:
            assert isinstance(column.type, sa.BigInteger), column
        if column.name == "id":
            assert column.autoincrement is False


@each(TABLES)
def test_every_constraint_has_a_name_by_its_kind_and_table_that_no_engine_cuts(table: sa.Table) -> None:
    kinds = {sa.PrimaryKeyConstraint: "pk", sa.ForeignKeyConstraint: "fk", sa.UniqueConstraint: "uq"}
    for constraint in table.constraints:
        # the default dialect cuts nothing
        added = str(AddConstraint(constraint, isolate_from_table=False).compile(dialect=DefaultDialect()))
        name = added.split(" ADD CONSTRAINT ")[1].split()[0]
        assert name.startswith(f"{kinds.get(type(constraint), 'ck')}_{table.name}")
        assert len(name) <= LONGEST_NAME
    for index in table.indexes:
        assert str(index.name).startswith(f"ix_{table.name}_")
        assert len(str(index.name)) <= LONGEST_NAME


@each(TABLES)
def test_every_foreign_key_says_what_becomes_of_the_row_and_what_when_the_target_is_missing(
    table: sa.Table,
) -> None:
    catalog = read_catalog([models])
    for constraint in table.foreign_key_constraints:
        assert constraint.ondelete in ("CASCADE", "SET NULL"), constraint.column_keys
        nullable = all(column.nullable for column in constraint.columns)
        assert nullable or constraint.ondelete == "CASCADE", constraint.column_keys
    for reference in catalog.references_of(table.name):
        # the last policy is the one that always works
        assert reference.policies[-1] in ("null", "stub", "park"), str(reference)
        assert reference.nullable or "null" not in reference.policies, str(reference)


@pytest.mark.parametrize("mapper", MAPPERS, ids=lambda mapper: mapper.class_.__name__)
def test_a_column_is_nullable_exactly_where_its_type_says_none(mapper: Mapper[Any]) -> None:
    annotations = mapper.class_.__annotations__
    for attribute in mapper.column_attrs:
        (column,) = attribute.columns
        if column.name not in LEDGER_COLUMNS:
            assert column.nullable == ("| None]" in annotations[attribute.key]), str(attribute)


@pytest.mark.parametrize("mapper", MAPPERS, ids=lambda mapper: mapper.class_.__name__)
def test_relationships_say_how_they_load_and_have_another_side(mapper: Mapper[Any]) -> None:
    #: pictures and pointers: what they point at has nothing to say of it
    one_way = {"avatar", "banner", "preview", "last_message", "account_media_bundle"}
    for relation in mapper.relationships:
        assert relation.lazy in ("select", "raise"), str(relation)
        if relation.key not in one_way and not str(relation).endswith(
            ("Attachment.account_media", "AccountMedia.media")
        ):
            assert relation.back_populates, str(relation)
        if relation.uselist:
            assert relation.passive_deletes, str(relation)


@pytest.mark.parametrize("dialect", [POSTGRESQL, MARIADB], ids=lambda dialect: dialect.name)
def test_every_table_can_be_created_on_the_other_engines(dialect: sa.Dialect) -> None:
    for table in TABLES:
        created = str(CreateTable(table).compile(dialect=dialect))
        assert f"PRIMARY KEY ({', '.join(table.primary_key.columns.keys())})" in created


def test_an_enum_is_stored_by_value_and_checked_by_the_database() -> None:
    kind = MessageAttachment.__table__.c.content_type.type
    assert isinstance(kind, sa.Enum)
    assert kind.enums == [str(member.value) for member in ContentType]
    assert (kind.native_enum, kind.create_constraint, kind.length) == (False, True, 16)


# -- what the mirror makes of them ---------------------------------------------------------------------


def test_the_last_message_follows_time_then_id_among_messages_not_deleted() -> None:
    (pointer,) = [one for one in read_catalog([models]).derived if one.kind == "pointer"]
    assert (str(pointer), pointer.child, pointer.follows, pointer.value) == (
        "groups.last_message_id",
        "messages",
        ("group_id",),
        "id",
    )
    assert [column.name for column in pointer.by] == ["created_at", "id"]
    assert str(pointer.where) == "messages.deleted_at IS NULL"


def test_counters_follow_the_rows_they_count() -> None:
    counters = [one for one in read_catalog([models]).derived if one.kind == "counter"]
    assert {str(one): (one.child, one.follows) for one in counters} == {
        "groups.message_count": ("messages", ("group_id",)),
        "posts.answer_count": ("posts", ("in_reply_to",)),
    }


def test_what_upstream_calls_the_last_message_is_kept_beside_the_pointer() -> None:
    groups = read_catalog([models]).tables["groups"]
    assert "last_message_id" not in groups.names
    assert groups.column("stated_last_message_id").paths == (("lastMessageId",),)


def test_lists_that_upstream_states_whole_are_complete() -> None:
    complete = {
        (table.name, nested.name)
        for table in read_catalog([models]).tables.values()
        for nested in table.nested
        if nested.complete
    }
    assert complete == {
        ("accounts", "walls"),
        ("account_media_bundles", "bundle_content"),
        ("groups", "users"),
        ("media", "locations"),
        ("media", "variants"),
        ("messages", "attachments"),
        ("posts", "account_mentions"),
        ("posts", "attachments"),
        ("posts", "hashtags"),
        ("posts", "walls"),
    }  # fmt: skip


# -- what they hold ------------------------------------------------------------------------------------


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'mirror.db'}")
    sa.event.listen(engine.sync_engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys=ON"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


def sample() -> Iterator[Base]:
    """One of everything, tied together the way upstream ties it."""
    ann = Account(id=1, username="ann", walls=[Wall(id=31, name="Best", pos=0)], created_at=WHEN)
    bob = Account(id=2**63 - 1)
    picture = Media(id=11, account=ann, mimetype="image/jpeg", duration=None)
    picture.locations = [MediaLocation(location_id="1", location="https://cdn.example/11.jpeg")]
    picture.variants = [Media(id=12, type=302)]
    ann.avatar = picture
    offer = AccountMedia(id=21, account=ann, media=picture, created_at=WHEN)
    bundle = AccountMediaBundle(id=22, account=ann, created_at=WHEN)
    bundle.bundle_content = [BundleContent(pos=0, account_media=offer)]
    group = Group(id=41, creator=ann, users=[ann, bob])
    first = Message(id=51, group=group, sender=bob, content="salut 👋", created_at=WHEN)
    second = Message(id=52, group=group, sender=ann, answered=first, created_at=WHEN)
    second.attachments = [
        MessageAttachment(pos=0, content_type=ContentType.ACCOUNT_MEDIA, content_id=21, account_media=offer),
        MessageAttachment(
            pos=1, content_type=ContentType.ACCOUNT_MEDIA_BUNDLE, content_id=22, account_media_bundle=bundle
        ),
    ]
    group.last_message = second
    post = Post(
        id=61,
        account=ann,
        created_at=WHEN,
        account_mentions=[bob],
        walls=ann.walls,
        hashtags=[Hashtag(id=71, value="日本")],
    )
    yield from (ann, bob, picture, offer, bundle, group, first, second, post)


async def test_a_graph_with_every_cycle_is_stored_and_read_back(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add_all(sample())
    async with AsyncSession(engine) as session:
        group = (await session.scalars(sa.select(Group))).one()
        last = await group.awaitable_attrs.last_message
        assert (last.id, last.created_at, last.in_reply_to) == (52, WHEN, 51)
        assert [user.id for user in await group.awaitable_attrs.users] == [1, 2**63 - 1]
        attachments = await last.awaitable_attrs.attachments
        assert [one.content_type for one in attachments] == [
            ContentType.ACCOUNT_MEDIA,
            ContentType.ACCOUNT_MEDIA_BUNDLE,
        ]
        bundle = await attachments[1].awaitable_attrs.account_media_bundle
        (content,) = await bundle.awaitable_attrs.bundle_content
        offer = await content.awaitable_attrs.account_media
        media = await offer.awaitable_attrs.media
        assert [variant.id for variant in await media.awaitable_attrs.variants] == [12]
        assert (
            await session.scalar(sa.text("SELECT content_type FROM message_attachments WHERE pos = 1"))
        ) == "2"


async def test_no_table_is_left_out_of_the_sample(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add_all(sample())
        empty = [
            table.name
            for table in TABLES
            if not await session.scalar(sa.select(sa.func.count()).select_from(table))
        ]
    assert empty == ["post_attachments"]


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("INSERT INTO walls (id, account_id) VALUES (1, 99)", "FOREIGN KEY"),
        ("UPDATE groups SET last_message_id = 99", "FOREIGN KEY"),
        ("UPDATE messages SET in_reply_to = 99", "FOREIGN KEY"),
        ("UPDATE message_attachments SET content_type = '3'", "ck_message_attachments_content_type"),
        ("UPDATE bundle_contents SET pos = -1", "ck_bundle_contents_pos_not_negative"),
        ("INSERT INTO hashtags (id, value) VALUES (72, '日本')", "UNIQUE"),
    ],
)
async def test_what_may_not_be_is_refused(engine: AsyncEngine, statement: str, constraint: str) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add_all(sample())
    async with engine.connect() as connection:
        with pytest.raises(IntegrityError, match=constraint):
            await connection.execute(sa.text(statement))


async def test_a_message_outlives_its_sender_and_a_group_takes_its_messages_along(
    engine: AsyncEngine,
) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add_all(sample())
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"DELETE FROM accounts WHERE id = {2**63 - 1}"))
        senders = (await connection.execute(sa.text("SELECT id, sender_id FROM messages ORDER BY id"))).all()
        assert senders == [(51, None), (52, 1)]
        await connection.execute(sa.text("DELETE FROM groups"))
        assert await connection.scalar(sa.text("SELECT count(*) FROM messages")) == 0
        assert await connection.scalar(sa.text("SELECT count(*) FROM message_attachments")) == 0


async def test_collections_without_a_bound_are_never_loaded_by_accident(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add_all(sample())
    async with AsyncSession(engine) as session:
        group = (await session.scalars(sa.select(Group))).one()
        with pytest.raises(sa.exc.InvalidRequestError, match="lazy='raise'"):
            await group.awaitable_attrs.messages
