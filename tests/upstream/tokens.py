"""What stands for a place in a listing, on its way to a client and back."""

from __future__ import annotations

from functools import total_ordering
from typing import Any, Literal, NamedTuple


class BadRequest(Exception):
    """What was asked makes no sense to the server."""


@total_ordering
class Last:
    """Sorts after everything."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Last)

    def __lt__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


class Place(NamedTuple):
    """What a token stands for: the place after which a listing goes on, and what was asked with it."""

    stream: str
    partition: tuple[str, ...]
    after: tuple[Any, ...] | None
    since: str | None = None
    #: the page before this place was an empty one
    hole: bool = False


class Tokens:
    """Tokens and the places they stand for; they stay good for as long as the server is up."""

    def __init__(self, form: Literal["str", "int"]) -> None:
        self.form = form
        self._tokens: dict[Place, str] = {}
        self._places: dict[str, Place] = {}

    def token(self, place: Place) -> str:
        """The token that stands for a place: always the same one."""
        if place not in self._tokens:
            number = len(self._tokens) + 1
            # a token that is not quoted in a URL becomes another one
            token = str(number) if self.form == "int" else f"t{number}+/=&%2B"
            self._tokens[place], self._places[token] = token, place
        return self._tokens[place]

    def place(self, token: str) -> Place:
        """What a token stands for; BadRequest when nothing."""
        if token not in self._places:
            raise BadRequest("no such page token")
        return self._places[token]
