"""Who may ask: credentials as a source describes them, and a login whose tokens wear out."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from ingest.paths import Path
from ingest.source import Login, Source
from ingest.types import Json
from tests.upstream.dialect import put
from tests.upstream.wire import Answer, Request, answer_json


class Gate:
    """Lets requests with the right credentials through.

    A secret `$NAME` is what `secrets` says, else the environment, else `secret-NAME`.
    """

    def __init__(
        self, source: Source, secrets: Mapping[str, str] | None = None, *, token_uses: int | None = None
    ) -> None:
        self.source, self.auth = source, source.auth
        self._given = dict(secrets or {})
        #: every secret the source refers to, by name
        self.secrets: dict[str, str] = {}
        self._uses = token_uses
        self._issued = 0
        #: requests that the newest token is still good for; None: for ever
        self._left: int | None = 0
        if self.auth is not None:
            self._real(msgspec.to_builtins(self.auth))

    def expire(self) -> None:
        """The token that was handed out last is worth nothing from now on."""
        self._left = 0

    def login(self, request: Request, path: str) -> Answer | None:
        """A new token, or the refusal of one; None when the request is no login."""
        login = self.auth.login if self.auth else None
        if login is None or path != login.path or request.method != "POST":
            return None
        if request.json() != self._real(login.body):
            return answer_json({"error": "wrong name or password"}, 403)
        self._issued += 1
        self._left = self._uses
        body: dict[str, Json] = {"expires_in": 3600}
        put(body, Path(login.token).keys, self._token())
        return answer_json(body)

    def admits(self, request: Request) -> bool:
        """Whether the request's credentials are the right ones."""
        auth = self.auth
        if auth is None:
            return True
        if auth.login is not None:
            return self._admits_token(auth.login, request)
        if auth.bearer is not None:
            return request.header("authorization") == f"Bearer {self._real(auth.bearer)}"
        if auth.header is not None:
            return all(request.header(name) == self._real(value) for name, value in auth.header.items())
        if auth.query is not None:
            return set(request.query) >= {(name, self._real(value)) for name, value in auth.query.items()}
        assert auth.basic is not None
        pair = ":".join(map(self._real, auth.basic)).encode()
        return request.header("authorization") == f"Basic {base64.b64encode(pair).decode()}"

    def _admits_token(self, login: Login, request: Request) -> bool:
        if login.scheme == "bearer":
            shown, wanted = request.header("authorization"), f"Bearer {self._token()}"
        else:
            shown, wanted = request.header(login.scheme), self._token()
        if self._issued == 0 or shown != wanted or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def _token(self) -> str:
        return f"token-{self._issued}"

    def _real(self, value: Any) -> Any:
        """A value with every `$NAME` in it replaced."""
        if isinstance(value, dict):
            return {name: self._real(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._real(inner) for inner in value]
        if not isinstance(value, str) or not value.startswith("$"):
            return value
        name = value[1:]
        self.secrets[name] = self._given.get(name) or os.environ.get(name) or f"secret-{name}"
        return self.secrets[name]
