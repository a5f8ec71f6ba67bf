"""Records as the API spells them, one at a time; chance decides what is in them, the seed decides chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

#: milliseconds since 1970: ids count from EPOCH, everything happens from START to END
EPOCH, START, END = 1_577_836_800_000, 1_709_251_200_000, 1_751_328_000_000
DAY = 86_400_000
#: what an attachment names: an offer, a bundle, or no media at all
MEDIA, BUNDLE, TIP_GOAL = 1, 2, 7001

WORDS = (
    "good morning ☀️",
    "did you see the new set?",
    "haha 😂",
    "спасибо!",
    "ありがとう",
    "très bien, à demain",
    "مرحبا كيف حالك",
    "see you on friday",
    "👩🏽‍🚀🚀",
    "not today, sorry",
    "that is 50 % off",
    "…",
    "line one\nline two",
    "e\u0301 is not é here",
    '\\o/ "quoted"',
    "Grüße aus Köln",
)
TAGS = ("sunset", "behindthescenes", "cosplay", "fitness", "travel", "日本", "straße", "bts2025")
PLACES = ("Lisbon", "Köln", "São Paulo", "東京", "somewhere warm")


class Records:
    """Makes records; the same seed makes the same ones, in the same order."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self._serial = 0

    def id(self, at: int) -> str:
        """A 64-bit id that grows with time, as text."""
        self._serial += 1
        return str(((at - EPOCH) << 22) | (self._serial & 0x3FFFFF))

    def at(self, low: int = START, high: int = END) -> int:
        """A moment, in milliseconds."""
        return self.chance.randrange(low, high)

    def fresh(self) -> str:
        """An id that nothing else has."""
        return self.id(self.at())

    def person(self, name: str) -> Json:
        """An account as others mention it."""
        return {"id": self.id(self.at()), "username": name, "displayName": f"{name} ✨"}

    def account(self, name: str, *, walls: int = 0, id: str = "") -> Json:
        """An account's own record; a time in milliseconds."""
        joined, some = self.at(EPOCH, START), self.chance.randrange
        id = id or self.id(joined)
        account = {
            "id": id,
            "username": name,
            "displayName": name.replace("_", " ").title(),
            "flags": some(8),
            "version": some(3, 40),
            "createdAt": joined,
            "followCount": some(9000),
            "subscriberCount": some(900),
            "postLikes": some(50_000),
            "accountMediaLikes": some(90_000),
            "statusId": some(3),
            "about": f"{self.chance.choice(WORDS)} {self.chance.choice(WORDS)}",
            "avatar": self.file(id, joined, video=False),
            "timelineStats": {
                "imageCount": some(500),
                "videoCount": some(90),
                "bundleCount": some(60),
                "fetchedAt": END,
            },
            "walls": [self.wall(id, pos) for pos in range(walls)],
        }
        if some(6):
            account["location"] = self.chance.choice(PLACES)
        return account

    def wall(self, owner: str, pos: int) -> Json:
        return {"id": self.fresh(), "accountId": owner, "pos": pos, "name": f"Wall {pos}", "description": ""}

    def file(self, owner: str, at: int, *, video: bool) -> Json:
        """A file; made in seconds, processed in milliseconds."""
        id = self.id(at)
        width, height = self.chance.choice(((1080, 1920), (1920, 1080), (2160, 3840)))
        where = f"/{owner}/{id}.{'mp4' if video else 'jpeg'}"
        file: Json = {
            "id": id,
            "accountId": owner,
            "type": 2 if video else 1,
            "status": 1,
            "mimetype": "video/mp4" if video else "image/jpeg",
            "width": width,
            "height": height,
            "location": where,
            "createdAt": at // 1000,
            "updatedAt": at + 90_000,
            "metadata": {"duration": self.chance.randrange(30, 9000) / 10} if video else None,
            "locations": [{"locationId": "1", "location": f"https://cdn.fansly.example{where}"}],
        }
        if video:
            file["variants"] = [self._stream(file)]
        return file

    def _stream(self, file: Json) -> Json:
        taken = ("accountId", "status", "createdAt", "updatedAt")
        made = {"id": self.fresh(), "type": 302, "mimetype": "application/vnd.apple.mpegurl"}
        return made | {"width": 480, "height": 854} | {key: file[key] for key in taken}

    def offer(self, owner: str) -> Json:
        """What an account offers, its files nested in it; a time in seconds."""
        at, chance = self.at(), self.chance
        media = self.file(owner, at, video=chance.random() < 0.3)
        preview = self.file(owner, at, video=False) if chance.random() < 0.3 else None
        return {
            "id": self.id(at),
            "accountId": owner,
            "mediaId": media["id"],
            "media": media,
            "previewId": preview["id"] if preview else None,
            "preview": preview,
            "price": chance.choice((0, 0, 4990, 9990)),
            "access": chance.random() < 0.7,
            "permissionFlags": chance.choice((0, 1, 3)),
            "createdAt": at // 1000,
            "deleted": False,
            "deletedAt": None,
        }

    def bundle(self, owner: str, offers: Sequence[str]) -> Json:
        """A bundle of offers; its list comes in no order."""
        at = self.at()
        content = [{"accountMediaId": id, "pos": pos} for pos, id in enumerate(offers)]
        self.chance.shuffle(content)
        return {
            "id": self.id(at),
            "accountId": owner,
            "price": 14_990,
            "access": False,
            "permissionFlags": 1,
            "createdAt": at // 1000,
            "deleted": False,
            "deletedAt": None,
            "bundleContent": content,
        }

    def message(self, group: str, sender: str, second: int, before: Sequence[Json] = ()) -> Json:
        """A message, some of them answers to one before; a time in seconds, so that ties are common."""
        chance = self.chance
        message = {
            "id": self.id(max(second * 1000, _moment(before))),
            "type": 1,
            "groupId": group,
            "senderId": sender,
            "content": chance.choice(WORDS),
            "createdAt": second,
            "deleted": False,
            "totalTipAmount": chance.choice((0, 0, 0, 0, 5000)),
            "attachments": [],
        }
        if before and chance.random() < 0.2:
            message["inReplyTo"] = chance.choice(before)["id"]
        if chance.random() < 0.1:
            message["correlationId"] = f"c-{chance.randrange(10**6):06}"
        return message

    def post(self, account: Json, at: int, before: Sequence[Json] = ()) -> Json:
        """A post, some of them answers to one before; a time in milliseconds."""
        chance = self.chance
        tags = chance.sample(range(len(TAGS)), chance.choice((0, 0, 1, 2)))
        post = {
            "id": self.id(at),
            "accountId": account["id"],
            "content": chance.choice(WORDS),
            "createdAt": at,
            "likeCount": chance.randrange(900),
            "mediaLikeCount": chance.randrange(900),
            "totalTipAmount": chance.choice((0, 0, 2500)),
            "attachments": [],
            "accountMentions": [],
            "walls": [wall["id"] for wall in account["walls"] if chance.random() < 0.3],
            "hashtags": [{"id": str(700_000_000_000_000_000 + tag), "value": TAGS[tag]} for tag in tags],
        }
        if before and chance.random() < 0.12:
            post["inReplyTo"] = chance.choice(before)["id"]
        if chance.random() < 0.08:
            post["expiresAt"] = at + 30 * DAY
        if chance.random() < 0.2:
            post["fypFlags"] = chance.randrange(4)
        return post


def attachment(pos: int, kind: int, id: str) -> Json:
    """What hangs on a post or message."""
    attachment = {"pos": pos, "contentType": kind, "contentId": id}
    typed = {MEDIA: "accountMediaId", BUNDLE: "accountMediaBundleId"}.get(kind)
    return attachment | {typed: id} if typed else attachment


def _moment(before: Sequence[Json]) -> int:
    """The millisecond in the last id; within it the serial number grows."""
    return (int(before[-1]["id"]) >> 22) + EPOCH if before else 0
