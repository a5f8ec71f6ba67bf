"""The API over a world: pages that repeat a record, come short, or are empty in the middle."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from ingest.types import Request
from tests.fixtures_fansly.records import END, Json
from tests.fixtures_fansly.world import World


class Answer(NamedTuple):
    """What the API answers."""

    status: int
    body: Json


class Upstream:
    """The API over a world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, request: Request) -> Answer:
        query = dict(request.query)
        match request.path.strip("/").split("/"):
            case ["account", "me"]:
                return _ok({"account": self.world.me})
            case ["account", "following"]:
                return self._page("accounts", self.world.creators, query, repeat=True)
            case ["messaging", "groups"]:
                return self._groups(query)
            case ["timeline", id]:
                return self._timeline(id, query)
            case ["message"]:
                return self._messages(query)
            case ["account", id, "media"]:
                return _ok({"accountMedia": _older(self.world.offers[id], query)})
            case path:
                return self._by_id(path, query)

    def _by_id(self, path: list[str], query: dict[str, str]) -> Answer:
        world = self.world
        match path:
            case ["account"]:
                return _found([_seen(world.accounts.get(query["ids"]))])
            case ["account", "media"]:
                return _found([world.private_offers.get(query["ids"])])
            case ["account", "media", "bundle"]:
                return _found([world.bundles.get(query["ids"])])
            case ["post"]:
                return _found([world.other_posts.get(query["ids"])])
            case ["message", id] if id in world.forbidden:
                return _error(403, "you are not in this conversation")
            case ["message", id] if id in world.hidden_messages:
                return _ok(world.hidden_messages[id])
            case ["messaging", "groups", id] if id in world.hidden_groups:
                return _ok(world.hidden_groups[id])
        return _error(404, "not found")

    def _page(
        self, name: str, rows: list[Json], query: dict[str, str], *, repeat: bool, empty: int = -1
    ) -> Answer:
        """One page by an opaque token; with `repeat` it begins with the last record of the page before."""
        at, blank = _read_token(query.get("cursor"))
        limit = int(query["limit"])
        if at == empty and not blank:
            return _ok({name: [], "nextCursor": _token(at, blank=True)})
        found = rows[max(0, at - repeat) : at + limit]
        more = at + limit < len(rows)
        return _ok({name: found, "nextCursor": _token(at + limit) if more else None})

    def _groups(self, query: dict[str, str]) -> Answer:
        """The listing; a group that stands on two pages lost somebody in between."""
        answer = self._page("groups", self.world.groups, query, repeat=True)
        if _read_token(query.get("cursor"))[0]:
            groups = answer.body["response"]["groups"]
            groups[0] = groups[0] | {"users": groups[0]["users"][:-1]}
        return answer

    def _timeline(self, id: str, query: dict[str, str]) -> Answer:
        owners = list(self.world.posts)
        if owners.index(id) == len(owners) - 1:
            return _error(404, "this account has closed its timeline")
        return self._page("posts", self.world.posts[id], query, repeat=owners.index(id) % 3 == 0, empty=10)

    def _messages(self, query: dict[str, str]) -> Answer:
        group = query["groupId"]
        if group in self.world.forbidden:
            return _error(403, "you are not in this conversation")
        rows = self.world.messages[group]
        return _ok({"messages": _older(rows, query, repeat=2, short=7 * (int(group) % 2))})


def _older(rows: list[Json], query: dict[str, str], *, repeat: int = 0, short: int = 0) -> list[Json]:
    """Rows below `before`; after the first page it repeats some, and is short of a few; then none."""
    before = query.get("before")
    at = 0 if before is None else next(place for place, row in enumerate(rows) if row["id"] == before) + 1
    found = rows[at : at + int(query["limit"]) - (short if at else 0)]
    return rows[max(0, at - repeat) : at] + found if found else []


def _seen(account: Json | None) -> Json | None:
    return account and account | {"lastSeenAt": END}


def _token(at: int, *, blank: bool = False) -> str:
    return base64.urlsafe_b64encode(f"{at}:{int(blank)}".encode()).decode().rstrip("=")


def _read_token(token: str | None) -> tuple[int, bool]:
    if token is None:
        return 0, False
    at, _, blank = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().partition(":")
    return int(at), blank == "1"


def _ok(response: Any) -> Answer:
    return Answer(200, {"success": True, "response": response})


def _found(records: list[Json | None]) -> Answer:
    return _ok([record for record in records if record is not None])


def _error(status: int, details: str) -> Answer:
    return Answer(status, {"success": False, "error": {"code": status, "details": details}})
