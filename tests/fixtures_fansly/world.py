"""A made-up platform, as awkward as real ones are.

People wrote and left; files, messages and people are gone, and are still referred to; the same file is
offered twice; names are given up. Everything follows from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.fixtures_fansly.records import (
    BUNDLE,
    DAY,
    END,
    MEDIA,
    START,
    TIP_GOAL,
    Json,
    Records,
    attachment,
)

#: the largest a signed 64-bit column holds
LARGEST_ID = str(2**63 - 1)
CREATORS, FANS, DEPARTED, FRIENDS, GROUPS = 24, 60, 12, 8, 36
#: groups with something odd about them, by their place in the listing
DELETED_LAST, NAMED_SENDERS, LOST_FOUNDER, ALL_DELETED, SILENT, UNREADABLE = (2, 5), 3, 4, 7, 11, 19


@dataclass
class World:
    """Everything the API knows; lists are newest first, dictionaries by id."""

    me: Json = field(default_factory=dict)
    creators: list[Json] = field(default_factory=list)
    #: known to nobody but the lookup by id: people who left, and friends who are only mentioned
    departed: list[Json] = field(default_factory=list)
    friends: list[Json] = field(default_factory=list)
    groups: list[Json] = field(default_factory=list)
    hidden_groups: dict[str, Json] = field(default_factory=dict)
    messages: dict[str, list[Json]] = field(default_factory=dict)
    hidden_messages: dict[str, Json] = field(default_factory=dict)
    posts: dict[str, list[Json]] = field(default_factory=dict)
    other_posts: dict[str, Json] = field(default_factory=dict)
    offers: dict[str, list[Json]] = field(default_factory=dict)
    #: offers in no listing: they are sent in messages and sold in bundles
    private_offers: dict[str, Json] = field(default_factory=dict)
    bundles: dict[str, Json] = field(default_factory=dict)
    #: groups and messages that answer 403
    forbidden: set[str] = field(default_factory=set)

    @property
    def accounts(self) -> dict[str, Json]:
        """Whoever can be asked for by id."""
        return {one["id"]: one for one in (*self.creators, *self.departed, *self.friends)}


def make_world(seed: int) -> World:
    """The same world for the same seed."""
    maker = _Maker(seed)
    for creator in maker.world.creators:
        maker.offers(creator)
    for index in range(GROUPS):
        maker.group(index)
    maker.lost_parents()
    maker.lost_people()
    for creator in maker.world.creators:
        maker.timeline(creator)
    maker.other_posts()
    maker.lost_references()
    return maker.world


class _Maker:
    def __init__(self, seed: int) -> None:
        self.make = Records(seed)
        self.chance = self.make.chance
        self.world = World(
            me=self.make.person("mirror_owner"),
            creators=[self.make.account(f"creator_{n:02}", walls=n % 3) for n in range(CREATORS)],
            departed=[self.make.account(f"left_{n:02}") for n in range(DEPARTED)],
            friends=[self.make.account(f"friend_{n}", id=LARGEST_ID * (n == 0)) for n in range(FRIENDS)],
        )
        self.fans = [self.make.person(f"fan_{n:02}") for n in range(FANS)]

    # -- media -----------------------------------------------------------------------------------------

    def offers(self, creator: Json) -> None:
        """A creator's offers and bundles; one file is offered twice, one offer was taken back."""
        owner = creator["id"]
        offers = [self.make.offer(owner) for _ in range(self.chance.randrange(7, 24))]
        offers[1] |= {"mediaId": offers[0]["mediaId"], "media": offers[0]["media"]}
        offers[2] |= {"deleted": True, "deletedAt": END // 1000 - 3600}
        self.world.offers[owner] = sorted(offers, key=lambda one: -int(one["id"]))
        private = self.make.offer(owner)
        self.world.private_offers[private["id"]] = private
        for _ in range(self.chance.randrange(1, 4)):
            chosen = [*self.chance.sample(offers, self.chance.randrange(2, 6)), private]
            bundle = self.make.bundle(owner, [one["id"] for one in chosen])
            self.world.bundles[bundle["id"]] = bundle

    def attachments(self, owner: str, count: int) -> list[Json]:
        """What a creator hangs on a post or message; anybody else has only what is in no listing."""
        return [self._attachment(owner, pos) for pos in range(count)]

    def _attachment(self, owner: str, pos: int) -> Json:
        roll = self.chance.random()
        bundles = [id for id, one in self.world.bundles.items() if one["accountId"] == owner]
        if roll < 0.03:
            return attachment(pos, TIP_GOAL, self.make.fresh())
        if bundles and roll < 0.25:
            return attachment(pos, BUNDLE, self.chance.choice(bundles))
        if owner in self.world.offers:
            return attachment(pos, MEDIA, self.chance.choice(self.world.offers[owner])["id"])
        return attachment(pos, MEDIA, self.chance.choice(list(self.world.private_offers)))

    # -- conversations ---------------------------------------------------------------------------------

    def group(self, index: int) -> None:
        """A group and what was said in it."""
        chance, world = self.chance, self.world
        partner = world.creators[index] if index < CREATORS else self.fans[index - CREATORS]
        # what others say of an account may be older than its own record: this name was given up
        name = f"old_{index:02}" if index % 8 == 0 else partner["username"]
        users = [world.me, {"id": partner["id"], "username": name}]
        if index % 6 == 3:
            users += chance.sample(self.fans[12:], chance.randrange(3, 8))
        group: Json = {
            "id": self.make.fresh(),
            "type": 2 if len(users) > 2 else 1,
            "users": users,
            "createdBy": self.make.fresh() if index == LOST_FOUNDER else chance.choice(users)["id"],
            "lastMessageId": None,
        }
        messages = [] if index in (SILENT, UNREADABLE) else self._talk(group, index)
        world.groups.append(group)
        world.messages[group["id"]] = messages
        if messages:
            group["lastMessageId"] = messages[0]["id"]
        if index == UNREADABLE:
            group["lastMessageId"] = self.make.fresh()
            world.forbidden.add(group["id"])

    def _talk(self, group: Json, index: int) -> list[Json]:
        names = {user["id"]: user["username"] for user in group["users"]}
        left = [one["id"] for one in self.world.departed if index % 4 == 1]
        count = self.chance.choice((3, 12, 30, 48, 49, 50, 75, 101))
        second = self.make.at(START, END - 40 * DAY) // 1000
        said: list[Json] = []
        for place in range(count):
            second += self.chance.choice((0, 0, 1, 7, 60, 900, 20_000))
            sender = self.chance.choice([*names, *left])
            message = self.make.message(group["id"], sender, second, said)
            if self.chance.random() < 0.12:
                message["attachments"] = self.attachments(sender, self.chance.randrange(1, 4))
            if index == NAMED_SENDERS and sender in names:
                message["sender"] = {"id": sender, "username": names[sender]}
            last = place == count - 1 and index in DELETED_LAST
            if last or index == ALL_DELETED or self.chance.random() < 0.02:
                message |= {"deleted": True, "deletedAt": second + 5, "content": None, "attachments": []}
            said.append(message)
        return said[::-1]

    def _busy(self) -> list[list[Json]]:
        """Conversations long enough to change a message in."""
        return [said for said in self.world.messages.values() if len(said) > 25]

    def lost_parents(self) -> None:
        """Answers to messages of a group that is not listed, of one that is gone, to lost and secret ones."""
        make, world = self.make, self.world
        hidden = {
            "id": make.id(START),
            "type": 2,
            "users": [world.me, self.fans[0], {"id": world.departed[1]["id"]}],
            "createdBy": world.departed[0]["id"],
            "lastMessageId": None,
        }
        world.hidden_groups[hidden["id"]] = hidden
        first = make.message(hidden["id"], world.departed[2]["id"], START // 1000)
        second = make.message(hidden["id"], self.fans[0]["id"], START // 1000 + 9)
        second["inReplyTo"] = first["id"]
        closed = make.message(make.fresh(), world.me["id"], START // 1000 + 30)
        world.hidden_messages = {one["id"]: one for one in (first, second, closed)}
        secret = make.fresh()
        world.forbidden |= {hidden["id"], secret}
        busy = self._busy()
        for place, id in enumerate((second["id"], closed["id"], secret, *(make.fresh() for _ in range(4)))):
            busy[place % len(busy)][9 + place]["inReplyTo"] = id

    def lost_people(self) -> None:
        """Messages whose sender can no longer be asked for, and a bundle that is no longer sold."""
        busy = self._busy()
        for said in busy[:2]:
            sender = self.make.fresh()
            for message in said[20:22]:
                message["senderId"] = sender
                message.pop("sender", None)
        lost = attachment(2, BUNDLE, self.make.fresh())
        busy[2][3]["attachments"] = [*self.attachments(self.world.me["id"], 2), lost]

    # -- timelines -------------------------------------------------------------------------------------

    def timeline(self, creator: Json) -> None:
        """What a creator posted."""
        posts: list[Json] = []
        for at in sorted(self.make.at() for _ in range(self.chance.randrange(6, 34))):
            post = self.make.post(creator, at, posts)
            post["attachments"] = self.attachments(creator["id"], self.chance.choice((0, 1, 1, 2)))
            if self.chance.random() < 0.1:
                named = self.chance.sample([*self.world.friends, *self.world.creators], 2)
                post["accountMentions"] = [one["id"] for one in named]
            posts.append(post)
        self.world.posts[creator["id"]] = posts[::-1]

    def other_posts(self) -> None:
        """Posts of people we do not follow, which ours answer."""
        listed = self._listed()
        for place, author in enumerate((*self.world.departed[:4], *self.world.friends[:2])):
            other = self.make.post(author, START + place)
            self.world.other_posts[other["id"]] = other
            listed[place * 40 + 3]["inReplyTo"] = other["id"]

    def lost_references(self) -> None:
        """What posts and bundles name, and is nowhere."""
        fresh, listed = self.make.fresh, self._listed()
        for place in range(3):
            listed[place * 50 + 7]["inReplyTo"] = fresh()
        listed[5]["accountMentions"] = [fresh(), self.world.friends[0]["id"]]
        listed[6]["walls"] = [fresh()]
        listed[8]["attachments"] = [attachment(0, MEDIA, fresh())]
        carried = next(
            one["contentId"] for post in listed for one in post["attachments"] if one["contentType"] == BUNDLE
        )
        content = self.world.bundles[carried]["bundleContent"]
        content.insert(0, {"accountMediaId": fresh(), "pos": len(content)})

    def _listed(self) -> list[Json]:
        """The posts that can be seen: the last creator has closed their timeline."""
        open_timelines = list(self.world.posts.values())[:-1]
        return [post for posts in open_timelines for post in posts]
