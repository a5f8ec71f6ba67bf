"""Keeps credentials out of recordings: replaced where that is safe, and refused where it is not."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote, unquote_plus

from ingest.config import ConfiguredSource, secret
from ingest.credential import NAMES, spellings, words
from ingest.errors import ConfigError
from ingest.fetch.courier import without
from ingest.replay.exchange import is_json
from ingest.types import Request

#: what stands in a recording where a credential was
MARKER = "REDACTED"
#: characters from which on a credential is replaced wherever it stands; a shorter one could be a word
SHORTEST = 8

#: a word's beginning and end, where a hyphen is part of a word
_EDGES = rb"(?<![\w-])", rb"(?![\w-])"
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)


def credentials(source: ConfiguredSource) -> list[str]:
    """Every credential that the source refers to; ConfigError where the environment does not hold one.

    The token of a login is not among them: it is masked before a page is staged.
    """
    auth = source.source.auth
    if auth is None:
        return []
    references = [*filter(None, [auth.bearer]), *(auth.query or {}).values()]
    references += _references(auth.login.body) if auth.login is not None else ()
    found = [_revealed(reference, source) for reference in references]
    for reference in (auth.header or {}).values():
        found += words(_revealed(reference, source))
    if auth.basic is not None:
        user, password = (_revealed(reference, source) for reference in auth.basic)
        # a user's name that is short is no secret, and often a word
        found += [user] if len(user) >= SHORTEST else []
        found += [password, base64.b64encode(f"{user}:{password}".encode()).decode()]
    return [value for value in found if value]


def _references(value: Any) -> Iterator[str]:
    """The references in a login's body, but for those that only say who logs in."""
    if isinstance(value, str) and value.startswith("$"):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if not (isinstance(inner, str) and name.lower() in NAMES):
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _revealed(reference: str, source: ConfiguredSource) -> str:
    try:
        return secret(reference, f"{source.where}.auth").reveal()
    except ConfigError as error:
        # recorded pages can be read without credentials, and have none in them
        if source.replay is not None:
            return ""
        raise ConfigError(
            error.message, where=error.where, hint="what it holds must be known to be kept out of a recording"
        ) from None


class Redaction:
    """Takes credentials out of what is recorded.

    One of at least SHORTEST characters is replaced by MARKER wherever it stands, in every way in
    which URLs and JSON usually spell it. A shorter one that stands alone is an error, and so is a
    longer one whose replacement would break the JSON around it. What a server signs a page's URL with is
    replaced by a number of its own, so that two URLs stay two.
    """

    def __init__(self, secrets: Iterable[str], names: Iterable[str] = ()) -> None:
        """`names`: query parameters that are left out altogether."""
        known = {secret for secret in secrets if secret}
        self._names = frozenset(names)
        self._long = sorted(secret for secret in known if len(secret) >= SHORTEST)
        self._replaced = _any_of(self._long)
        self._refused = _any_of(known.difference(self._long), *_EDGES)
        #: every signature met so far, and what stands for it
        self._numbers: dict[str, str] = {}
        #: (a spelling of a signature of the page at hand, what stands for it)
        self._signed: list[tuple[bytes, bytes]] = []

    def number(self, signatures: Iterable[str]) -> None:
        """Replace these signatures, as URLs have them, until the next call."""
        self._signed = []
        for written in signatures:
            value = unquote_plus(written)
            if len(value) >= SHORTEST:
                stands = self._numbers.setdefault(value, f"{MARKER}-{len(self._numbers) + 1}").encode()
                self._signed += [(form.encode(), stands) for form in (written, *spellings(value))]
        self._signed.sort(key=lambda pair: len(pair[0]), reverse=True)

    def request(self, request: Request, where: str) -> Request:
        """The request without credentials."""
        body = None if request.body is None else self.text(request.body, where)
        query = tuple(
            (name, self.text(value, where)) for name, value in request.query if name not in self._names
        )
        path, _, asked = request.path.partition("?")
        asked = without(asked, self._names)
        path = self.text(f"{path}?{asked}" if asked else path, where)
        return Request(method=request.method, path=path, query=query, body=body)

    def text(self, text: str, where: str) -> str:
        """A text without credentials."""
        return self.data(text.encode(), where).decode()

    def data(self, data: bytes, where: str) -> bytes:
        """A body without credentials; ConfigError where one cannot be taken out safely."""
        if self._refused is not None and self._refused.search(data):
            raise ConfigError(
                f"a credential of fewer than {SHORTEST} characters stands there, or a word like it",
                where=where,
                hint="use a longer one; what is no secret may be spelled out in the configuration",
            )
        clean = self._replaced.sub(MARKER.encode(), data) if self._replaced is not None else data
        for form, stands in self._signed:
            clean = clean.replace(form, stands)
        broken = clean != data and is_json(data) and not is_json(clean)
        if broken or self._hides(clean):
            raise ConfigError(
                "a credential stands there as a number, or spelled so that it cannot be replaced",
                where=where,
                hint="mirror the source with another credential into a new database, and record that",
            )
        return clean

    def _hides(self, data: bytes) -> bool:
        """Whether a credential stands there in another spelling: escaped character by character, say."""
        if not self._long:
            return False
        text = _ESCAPE.sub(
            lambda found: chr(int(found[1], 16)) if found[1] else found[2], data.decode("utf-8", "replace")
        )
        readings = text, unquote(text), unquote_plus(text)
        return any(secret in reading for secret in self._long for reading in readings)


def _any_of(secrets: Iterable[str], before: bytes = b"", after: bytes = b"") -> re.Pattern[bytes] | None:
    forms = {form.encode() for secret in secrets for form in spellings(secret)}
    # the longest first: one may be the beginning of another
    words = b"|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    return re.compile(before + b"(?:" + words + b")" + after) if words else None
