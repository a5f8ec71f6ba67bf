"""A second process that decodes pages, while this one writes what they say.

    feed ── pages ──▶ worker ── batches ──▶ feed ── loads ──▶ database

It is told of the models and the streams, and nothing of the database, the network or any credential. It is
only ever a help: what it cannot decode, or has not answered when it dies, this process decodes itself.
"""

from __future__ import annotations

import asyncio
import marshal
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from dataclasses import replace
from threading import Condition, Thread
from typing import IO, Any, NamedTuple, TypeAlias

import msgspec

from ingest.catalog import read_catalog
from ingest.config import Config, models_of
from ingest.load.batch import Batch
from ingest.load.decoders import Decoders
from ingest.pipeline.machine import decoders_of
from ingest.types import Page

#: what comes of a page
_Answer: TypeAlias = "asyncio.Future[bytes]"

#: run by the second process. Its modules are looked for where ours are, and nowhere else
_BEGIN = "import sys; sys.path[:] = sys.argv[1:]; from ingest.pipeline.worker import work; work()"
#: bytes of a frame's length
_LENGTH = 8
#: file descriptors that the second process is given
_IN, _OUT = 0, 1


class Worker:
    """The second process, as seen from the first; it is started when it is first wanted."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[Thread] = []
        #: set once it can be asked
        self.ready = asyncio.Event()
        #: what is on its way to it
        self._line = _Line()

    def start(self) -> None:
        """Have it started, once, where there is a processor for it; it takes a moment to be of use."""
        if self._process is not None or not _has_room():
            return
        with suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BEGIN, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            loop = asyncio.get_running_loop()
            self._threads = [
                Thread(target=self._send, args=(self._process.stdin,), daemon=True),
                Thread(target=self._receive, args=(self._process.stdout, loop), daemon=True),
            ]
            for thread in self._threads:
                thread.start()
            self._line.put(_Asked(None, pickle.dumps(_without_secrets(self._config))))

    def ask(self, page: Page) -> _Answer | None:
        """Have a page decoded: a batch as bytes, none where it cannot; None while there is no help."""
        if not self.ready.is_set():
            return None
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._line.put(_Asked(answer, pickle.dumps(page, pickle.HIGHEST_PROTOCOL)))
        return answer

    def take_back(self) -> _Answer | None:
        """The last page asked for that is not on its way yet, and now never will be; None without any."""
        asked = self._line.take_back()
        return None if asked is None else asked.answer

    async def close(self) -> None:
        """End it. What it has not answered is answered with nothing."""
        if self._process is None:
            return
        self._line.close()
        self._process.kill()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._process.wait()
        self._lost()

    def _send(self, pipe: IO[bytes]) -> None:
        with suppress(OSError), pipe:
            while (asked := self._line.take()) is not None:
                _write(pipe, asked.frame)

    def _receive(self, pipe: IO[bytes], loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError), pipe:  # the loop was closed, and nobody waits
            while (frame := _read(pipe)) is not None:
                loop.call_soon_threadsafe(self._answered, frame)
            loop.call_soon_threadsafe(self._lost)

    def _answered(self, frame: bytes) -> None:
        if not self.ready.is_set():
            self.ready.set()
            return
        answer = self._line.taken.popleft()
        if not answer.done():
            answer.set_result(frame)

    def _lost(self) -> None:
        self.ready.clear()
        while (answer := self.take_back()) is not None or self._line.taken:
            answer = answer or self._line.taken.popleft()
            if not answer.done():
                answer.set_result(b"")


class _Asked(NamedTuple):
    """A frame, and where its answer goes; None: it has none."""

    answer: _Answer | None
    frame: bytes


class _Line:
    """A queue between two threads, whose last one can be called back."""

    def __init__(self) -> None:
        self._waiting: deque[_Asked] = deque()
        #: what has yet to be answered of what was taken, in order
        self.taken: deque[_Answer] = deque()
        self._changed = Condition()
        self._closed = False

    def put(self, asked: _Asked) -> None:
        with self._changed:
            self._waiting.append(asked)
            self._changed.notify()

    def take(self) -> _Asked | None:
        """The first, as soon as there is one; None when no more are wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            asked = self._waiting.popleft()
            if asked.answer is not None:
                # under the lock: whoever empties the line finds it here or there
                self.taken.append(asked.answer)
            return asked

    def take_back(self) -> _Asked | None:
        """The last that has an answer to come; None when there is none in the line."""
        with self._changed:
            return self._waiting.pop() if self._waiting and self._waiting[-1].answer is not None else None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()


def pack(batch: Batch) -> bytes:
    """What a page says, as bytes for another process of the same python."""
    plain = {name: (list(rows), list(rows.values())) for name, rows in batch.full.items()}
    try:
        # rows in stored form are what python itself has the shortest form for, and are most of it
        rows = marshal.dumps(plain)
    except ValueError:
        rows = b""
    rest = replace(batch, full={}) if rows else batch
    return len(rows).to_bytes(_LENGTH) + rows + pickle.dumps(rest, pickle.HIGHEST_PROTOCOL)


def unpack(answer: bytes) -> Batch | None:
    """What a page says; None where it has to be decoded here."""
    if not answer:
        return None
    view, length = memoryview(answer), _LENGTH + int.from_bytes(answer[:_LENGTH])
    batch: Batch = pickle.loads(view[length:])
    if length > _LENGTH:
        plain = marshal.loads(view[_LENGTH:length])
        batch.full = {name: dict(zip(keys, rows, strict=True)) for name, (keys, rows) in plain.items()}
    return batch


def work() -> None:
    """The second process: decode pages from stdin until there are no more."""
    # whoever interrupts the run interrupts this process too; it ends when the other does
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pages, answers = open(_IN, "rb"), open(os.dup(_OUT), "wb")  # noqa: SIM115 (until it ends)
    # models are their author's code, and may print
    os.dup2(os.open(os.devnull, os.O_WRONLY), _OUT)
    config = _read(pages)
    if config is None:
        return
    decoders = _decoders(pickle.loads(config))
    with suppress(BrokenPipeError):
        _write(answers, b"ready")
        while (frame := _read(pages)) is not None:
            _write(answers, _decode(decoders, frame))


def _decoders(config: Config) -> Decoders:
    return decoders_of(config, read_catalog(models_of(config)))


def _decode(decoders: Decoders, frame: bytes) -> bytes:
    batch = Batch()
    try:
        decoders.add(pickle.loads(frame), batch)
        return pack(batch)
    except Exception:  # it is decoded once more where what it says can be told
        return b""


def _write(pipe: IO[bytes], frame: bytes) -> None:
    pipe.write(len(frame).to_bytes(_LENGTH))
    pipe.write(frame)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes | None:
    length = pipe.read(_LENGTH)
    if len(length) < _LENGTH:
        return None
    size = int.from_bytes(length)
    frame = pipe.read(size)
    return frame if len(frame) == size else None


def _has_room() -> bool:
    """True when more than one thing can be computed at a time."""
    allowed: Any = getattr(os, "sched_getaffinity", None)
    return (len(allowed(0)) if allowed else os.cpu_count() or 1) > 1


def _without_secrets(config: Config) -> Config:
    """What is needed to decode, and no credential."""
    sources = {
        name: msgspec.structs.replace(
            one,
            base_url="",
            source=msgspec.structs.replace(one.source, base_url=None, auth=None, check=None, headers={}),
        )
        for name, one in config.sources.items()
    }
    return msgspec.structs.replace(config, database_url="", sources=sources)
