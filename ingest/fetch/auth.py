"""Credentials: attached to one request at a time, only towards the configured origin, and shown to nobody.

A login's token is fetched when it is first needed and renewed when a 401 comes back for it. When
the renewed token meets a 401 as well, the 401s are taken to be about what is asked for, and it is
not renewed again for a while: some servers answer 401 for what one may not see.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable, Container, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ingest import types
from ingest.clock import Clock
from ingest.config import ConfiguredSource, Secret
from ingest.credential import NAMES, spellings, words
from ingest.errors import AuthFailed, ConfigError, IngestError
from ingest.fetch.body import NotJson, decode, excerpt, shortened
from ingest.fetch.courier import Attached
from ingest.paths import Path
from ingest.source import Auth, Login

if TYPE_CHECKING:
    from ingest.fetch.answer import Answer

Secrets: TypeAlias = Callable[[str, str], Secret]
#: seconds for which a fresh token that met a 401 is not renewed
BELIEVED = 60.0
#: a token shorter than this is not looked for in bodies, where it could be a word
SHORTEST_ECHO = 12
MASK = "…"
#: takes a credential's place in a body, where it must not change the encoding
ECHO_MASK = b"REDACTED"


class LoginAnswer(Protocol):
    """What a login request came back with."""

    @property
    def status(self) -> int: ...

    @property
    def body(self) -> bytes: ...


class Credentials:
    """The credentials of one source: what is attached to its requests, and kept out of everything else."""

    def __init__(
        self,
        source: ConfiguredSource,
        secrets: Secrets,
        clock: Clock,
        log_in: Callable[[str, bytes], Awaitable[LoginAnswer]],
    ) -> None:
        # recorded pages need no credentials, and must be readable by who has none
        auth = source.source.auth if source.replay is None else None
        kind = _kind(auth, source.where)
        #: the configuration key that an AuthFailed points to
        self.key = f"{source.where}.auth" + (f".{kind}" if kind else "")
        self._secrets = secrets
        self._clock = clock
        self._send = log_in
        self._known: set[str] = set()
        self._echoes: dict[bytes, re.Pattern[bytes]] = {}
        self._login = auth.login if auth else None
        self._login_body = b""
        if self._login is not None:
            self._login_body = json.dumps(self._filled(self._login.body)).encode()
        self._token: Attached | None = None
        self._believed: tuple[Attached, float] | None = None
        self._lock = asyncio.Lock()
        self._static = self._resolved(auth) if auth and self._login is None else Attached()
        #: query parameters that carry credentials, which no stored URL may have
        self.names = frozenset(name for name, _ in self._static.query)

    async def attached(self) -> Attached:
        """What the next request carries; logs in when there is no token yet."""
        if self._login is None:
            return self._static
        async with self._lock:
            if self._token is None:
                self._token = await self._log_in(self._login)
            return self._token

    async def renew(self, used: Attached) -> bool:
        """A 401 came back for `used`: whether there is a newer token now."""
        if self._login is None:
            return False
        async with self._lock:
            # another request may have renewed it meanwhile
            if self._token is used:
                if (
                    self._believed
                    and self._believed[0] is used
                    and self._clock.monotonic() < self._believed[1]
                ):
                    return False
                self._token = await self._log_in(self._login)
        return True

    def believe(self, fresh: Attached) -> None:
        """A renewed token met a 401 as well: it is about what was asked for."""
        self._believed = (fresh, self._clock.monotonic() + BELIEVED)

    def scrub(self, text: str) -> str:
        """The text without any credential, however it is escaped."""
        for known in sorted(self._known, key=len, reverse=True):
            text = text.replace(known, MASK)
        return text

    def excerpt(self, body: bytes) -> str:
        """What an error may show of a body."""
        return shortened(self.scrub(excerpt(body)))

    def without_echo(self, body: bytes) -> bytes:
        """A body without the credentials that some servers repeat (in next URLs, say)."""
        for echo, pattern in self._echoes.items():
            if echo in body:
                body = pattern.sub(ECHO_MASK, body)
        return body

    def safe(self, error: BaseException | None) -> BaseException | None:
        """The error when nothing in its chain shows a credential, else None."""
        return None if any(map(self._shows, _links(error))) else error

    def hushed(self, error: Exception) -> Exception:
        """The error, and all that a traceback would print of its causes, without credentials."""
        for link in _links(error):
            if isinstance(link, IngestError):
                link.message = self.scrub(link.message)
                link.where, link.hint = (text and self.scrub(text) for text in (link.where, link.hint))
            if self._shows(link):
                link.args = tuple(map(self._hushed, link.args))
        if self.safe(error) is not None:
            return error
        # it keeps what it says elsewhere than others do
        unsaid = RuntimeError(f"{type(error).__name__}, and what it says holds a credential")
        return unsaid.with_traceback(error.__traceback__)

    def _hushed(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.scrub(value)
        text = repr(value)
        return value if self.scrub(text) == text else self.scrub(text)

    def _shows(self, link: BaseException) -> bool:
        text = " ".join((str(link), repr(link), *getattr(link, "__notes__", ())))
        return self.scrub(text) != text

    async def _log_in(self, login: Login) -> Attached:
        answer = await self._send(login.path, self._login_body)
        asked = f"the login at {login.path}"
        if not 200 <= answer.status < 300:
            raise AuthFailed(
                f"{asked} was refused with status {answer.status}: {self.excerpt(answer.body)}",
                where=self.key,
                hint="check what its body's variables hold",
            )
        # nothing of a successful answer may be shown: it holds the token
        try:
            token = Path(login.token).first(decode(answer.body))
        except NotJson:
            raise AuthFailed(f"{asked} was not answered with JSON", where=self.key) from None
        if isinstance(token, int) and not isinstance(token, bool):
            token = str(token)
        if not isinstance(token, str) or not _fits_header(token):
            raise AuthFailed(
                f"{asked} gave no token at {login.token!r}", where=self.key, hint="set token to its path"
            )
        self._learn(token)
        self._learn_echo(token)
        if login.scheme.lower() == "bearer":
            return Attached(headers=(("Authorization", f"Bearer {token}"),))
        return Attached(headers=((login.scheme, token),))

    def _resolved(self, auth: Auth) -> Attached:
        if auth.bearer is not None:
            token = self._resolve(auth.bearer, self.key)
            self._learn_echo(token)
            return Attached(headers=(("Authorization", f"Bearer {token}"),))
        if auth.basic is not None:
            return Attached(headers=(("Authorization", f"Basic {self._basic(*auth.basic)}"),))
        if auth.query is not None:
            pairs = [(name, self._resolve(value, f"{self.key}.{name}")) for name, value in auth.query.items()]
            for name, value in pairs:
                self._learn_echo(value)
                for form in spellings(value):
                    self._echoes[f"{name}={form}".encode()] = _whole(form, after=f"{name}=")
            return Attached(query=tuple(pairs))
        headers = auth.header or {}
        values = [(name, self._resolve(headers[name], f"{self.key}.{name}")) for name in headers]
        for _, value in values:
            for word in words(value):
                self._learn(word)
                self._learn_echo(word)
        return Attached(headers=tuple(values))

    def _basic(self, user: str, password: str) -> str:
        pair = [self._secrets(reference, self.key).reveal() for reference in (user, password)]
        if ":" in pair[0]:
            raise ConfigError("a user name in basic authentication has no colon", where=self.key)
        coded = base64.b64encode(":".join(pair).encode()).decode()
        for text in (*pair, coded):
            self._learn(text)
        self._learn_echo(coded)
        self._learn_echo(pair[1])
        return coded

    def _resolve(self, reference: str, where: str) -> str:
        value = self._secrets(reference, where).reveal()
        # the HTTP library would quote the value in its complaint
        if not _fits_header(value):
            raise ConfigError(
                f"what {reference} holds cannot be sent",
                where=where,
                hint="a line break or space at its end?",
            )
        self._learn(value)
        return value

    def _filled(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {key: self._filled(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._filled(inner) for inner in value]
        if not isinstance(value, str) or not value.startswith("$"):
            return value
        revealed = self._secrets(value, f"{self.key}.body").reveal()
        self._learn(revealed)
        if key.lower() not in NAMES:
            self._learn_echo(revealed)
        return revealed

    def _learn(self, value: str) -> None:
        self._known.update(spellings(value))

    def _learn_echo(self, token: str) -> None:
        if len(token) >= SHORTEST_ECHO:
            self._echoes.update((form.encode(), _whole(form)) for form in spellings(token))


async def prove(client: Asks) -> None:
    """Ask the source's `check`; AuthFailed unless the answer is one that only the right credentials get."""
    check = client.source.source.check
    if check is None:
        return
    answer = await client.ask(types.Request(path=check.path), accept=(401, 403))
    key = f"{client.source.where}.auth"
    if answer.status in (401, 403):
        raise AuthFailed(
            f"{check.path} was answered with status {answer.status}", where=key, hint="check the credentials"
        )
    if check.expect is None:
        return
    found = Path(check.expect).first(answer.json)
    if found is None:
        raise AuthFailed(
            f"{check.path} was answered without {check.expect!r}",
            where=key,
            hint="the server takes us for a stranger",
        )
    text = found if isinstance(found, str) else types.canonical(found)
    if check.equals is not None and text != check.equals:
        raise AuthFailed(
            f"{check.path} says that {check.expect} is not {check.equals!r}",
            where=key,
            hint="another account's credentials?",
        )


class Asks(Protocol):
    """As much of a client as `prove` needs."""

    @property
    def source(self) -> ConfiguredSource: ...

    async def ask(self, request: types.Request, *, accept: Container[int] = ()) -> Answer: ...


def _kind(auth: Auth | None, where: str) -> str | None:
    kinds = [name for name in Auth.__struct_fields__ if getattr(auth, name, None) is not None]
    if len(kinds) > 1:
        raise ConfigError(
            f"states both {kinds[0]} and {kinds[1]}", where=f"{where}.auth", hint="state one of them"
        )
    if auth is not None and not kinds:
        raise ConfigError(
            "says nothing",
            where=f"{where}.auth",
            hint="state bearer, header, query, basic or login, or leave it out",
        )
    return kinds[0] if kinds else None


def _fits_header(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable() and value == value.strip()


def _links(error: BaseException | None) -> Iterator[BaseException]:
    """An error and everything that a traceback would print below it."""
    todo, seen = [error], set[int]()
    while todo:
        link = todo.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            todo += [link.__cause__, link.__context__]


def _whole(form: str, after: str = "") -> re.Pattern[bytes]:
    """Finds a credential that is not a part of a longer word; `after` goes before it and stays."""
    behind = re.escape(after.encode())
    before = rb"(?<![\w-])" if not after else rb"(?<![\w-]" + behind + rb")(?<=" + behind + rb")"
    return re.compile(before + re.escape(form.encode()) + rb"(?![\w%.~-])")
