"""Log lines, and the mask that keeps credentials out of everything that is written.

An event of a run becomes one line: text for people, or JSON for machines. Nothing here knows where
the lines go; the CLI passes a stream.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TextIO
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from ingest.clock import Clock, SystemClock
from ingest.config import Config
from ingest.credential import MASK, names_a_secret, spellings, words
from ingest.report import Observer

__all__ = [
    "MASK",
    "Format",
    "Libraries",
    "Redactor",
    "observer",
    "only_notable",
    "passwords_of",
    "secrets_of",
]

Format = Literal["text", "json"]

#: characters below which a value is not looked for in text: it would mask ordinary words
SHORTEST = 4
#: events that a person should see even when nothing else is shown
NOTABLE = frozenset(
    {
        "cursor_expired",
        "gave_up",
        "library",
        "log.generation",
        "walk_left_open",
        "window.open",
        "window.opened",
    }
)
#: libraries that write whole URLs at INFO, with what their query holds
TALKATIVE = ("httpcore", "httpx")


class Redactor:
    """Masks registered credentials wherever they stand, and the value of every key that names one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: list[str] = []
        self.register(*secrets)

    def register(self, *secrets: str) -> None:
        """Mask these credentials from now on, however they are spelled."""
        forms = (form for secret in secrets if len(secret) >= SHORTEST for form in spellings(secret))
        known = {*self._forms, *forms}
        self._forms = sorted(known, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text without the registered credentials."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return text

    def value(self, value: Any) -> Any:
        """The value without credentials, however deep they lie in it."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: MASK if names_a_secret(key) else self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            if len(value) == 2 and names_a_secret(value[0]):  # a header, or a pair of a query
                return [value[0], MASK]
            return [self.value(inner) for inner in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.text(value.decode(errors="replace") if isinstance(value, bytes) else str(value))

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The same, as a structlog processor."""
        masked: EventDict = self.value(dict(event))
        return masked


def secrets_of(config: Config) -> Iterator[str]:
    """Every credential a job refers to, as far as the environment has it."""
    yield from passwords_of(config.database_url)
    for source in config.sources.values():
        yield from _password(source.base_url)
        stated = msgspec.to_builtins((source.source.auth, source.source.headers))
        held = (os.environ.get(text[1:]) for text in _texts(stated) if text.startswith("$"))
        yield from (word for value in held if value for word in words(value))
        if source.source.auth is not None and source.source.auth.basic is not None:
            pair = [os.environ.get(name[1:], "") for name in source.source.auth.basic]
            yield base64.b64encode(":".join(pair).encode()).decode()


def passwords_of(url: str) -> Iterator[str]:
    """The password in a database's URL, as it stands there and as the database is told it.

    Unlike in other URLs, `/`, `?` and `#` may stand in it as they are; an `@` may not, but is meant to.
    """
    rest = url.partition("://")[2]
    if "@" in rest:
        for credentials in (rest.partition("@")[0], rest.rpartition("@")[0]):
            password = credentials.partition(":")[2]
            yield from {password, unquote(password)}
    yield from (value for key, value in parse_qsl(url.rpartition("?")[2]) if names_a_secret(key))


def observer(stream: TextIO, form: Format, redactor: Redactor, *, clock: Clock | None = None) -> Observer:
    """An observer that writes every event as one line."""
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            _stamped(clock or SystemClock()),
            redactor,
            _rendered_json if form == "json" else _rendered,
        ],
        wrapper_class=structlog.BoundLogger,
    )

    def observe(event: str, /, **fields: Any) -> None:
        (logger.warning if event in NOTABLE else logger.info)(event, **fields)

    return observe


def only_notable(observe: Observer) -> Observer:
    """The same observer, told only of what a person should see."""

    def notable(event: str, /, **fields: Any) -> None:
        if event in NOTABLE:
            observe(event, **fields)

    return notable


class Libraries(logging.Handler):
    """Sends what libraries warn of the same way as our own events, masked like them."""

    def __init__(self, observe: Observer) -> None:
        super().__init__(logging.WARNING)
        self.observe = observe

    def emit(self, record: logging.LogRecord) -> None:
        """Tell the observer; a traceback is part of the message."""
        self.observe("library", name=record.name, message=self.format(record))

    def __enter__(self) -> Libraries:
        logging.captureWarnings(True)
        logging.getLogger().addHandler(self)
        self._levels = {name: logging.getLogger(name).level for name in TALKATIVE}
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        return self

    def __exit__(self, *exception: object) -> None:
        logging.getLogger().removeHandler(self)
        logging.captureWarnings(False)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)


def _password(url: str) -> Iterator[str]:
    try:
        password = urlsplit(url).password
    except ValueError:
        # no URL: it is refused where it is used, and not shown
        return
    if password:
        yield from {password, unquote(password)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _stamped(clock: Clock) -> structlog.typing.Processor:
    def stamped(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        at = clock.now().isoformat(timespec="milliseconds")
        return {"at": at, "level": method, "event": event.pop("event"), **event}

    return stamped


def _rendered_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    # ASCII: a line stays valid JSON whatever the encoding of the stream
    return json.dumps(event, ensure_ascii=True)


def _rendered(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    said = " ".join(
        f"{key}={_plain(value)}" for key, value in event.items() if key not in ("at", "level", "event")
    )
    return f"{event['at']} {event['level']:<7} {event['event']} {said}".rstrip()


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
