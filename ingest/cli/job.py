"""One command against one job: read the configuration, open, ask, and tell how it went."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO, TypeVar

import msgspec
import typer

from ingest.cli.edge import INTERRUPTED, Interrupted, run_until_asked_to_stop, told
from ingest.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from ingest.cli.progress import Watch
    from ingest.config import Config
    from ingest.log import Format, Redactor
    from ingest.pipeline import Job
    from ingest.report import Certificate, Observer

T = TypeVar("T")

CONFIG = Path("config.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Invocation:
    """What was said before the command's name."""

    config: Path = CONFIG
    #: None: a progress display on a terminal, and only what is notable elsewhere
    log_format: Format | None = None


def ask(invocation: Invocation, question: Callable[[Job], Awaitable[T]], *, write: bool) -> T:
    """The answer of a job, open for it."""

    async def answer(config: Config, observe: Observer) -> T:
        from ingest.pipeline import open_job

        async with open_job(config, observe=observe, write=write) as job:
            return await question(job)

    return ask_config(invocation, answer, write=write)


def ask_config(
    invocation: Invocation,
    question: Callable[[Config, Observer], Awaitable[T]],
    *,
    write: bool = False,
    urls: Sequence[str] = (),
) -> T:
    """What is answered of a configuration, and of databases whose `urls`, or `$NAME`s, the command line has.

    Faults and signals are told on stderr and end the command with their status.
    """
    from ingest.config import resolve
    from ingest.log import Redactor, passwords_of

    redactor = Redactor()
    try:
        for url in urls:
            redactor.register(*passwords_of(resolve(url, "the command line")))
        with _observed(invocation, redactor) as (observe, say):
            return run_until_asked_to_stop(_asked(invocation, question, observe, redactor), say)
    except (Interrupted, KeyboardInterrupt):
        print_line(sys.stderr, f"ingest: interrupted{'; nothing that was staged is lost' if write else ''}")
        if write:
            print_line(
                sys.stderr, "hint: run it again to go on, or `ingest recover` to finish without the network"
            )
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        raise _ended_by(error, redactor) from None


def show(answer: object, draw: Callable[[Console], None], *, as_json: bool) -> None:
    """Print an answer: drawn for people, or as JSON and nothing else."""
    from ingest.cli.render import console

    try:
        if as_json:
            sys.stdout.flush()
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answer), indent=2) + b"\n")
        else:
            draw(console(_writable(sys.stdout)))
        sys.stdout.flush()
    except OSError as error:
        # the rest has nowhere to go; and if a reader has only left, the run's own status stands
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise _ended_by(error) from None


def certify(
    invocation: Invocation,
    question: Callable[[Job], Awaitable[Certificate]],
    *,
    as_json: bool,
    allow_deletes: bool = False,
) -> NoReturn:
    """Run what ends in a certificate, show it, and exit with its status."""
    from ingest.cli import render

    async def run(job: Job) -> Certificate:
        if allow_deletes:
            job.allow_deletes()
        return await question(job)

    proof = ask(invocation, run, write=True)
    show(proof, lambda out: render.certificate(out, proof), as_json=as_json)
    raise typer.Exit(proof.exit)


def print_line(stream: TextIO, text: str) -> None:
    """A line of text, whatever the stream's encoding can say."""
    print(text, file=_writable(stream), flush=True)


def _ended_by(error: BaseException, redactor: Redactor | None = None) -> typer.Exit:
    """Tell a fault on stderr, and return the exit it ends in."""
    fault = told(error)
    for line in fault.lines:
        print_line(sys.stderr, redactor.text(line) if redactor else line)
    return typer.Exit(fault.exit)


async def _asked(
    invocation: Invocation,
    question: Callable[[Config, Observer], Awaitable[T]],
    observe: Observer,
    redactor: Redactor,
) -> T:
    from ingest.config import read_config
    from ingest.log import secrets_of

    if not invocation.config.exists():
        raise ConfigError(
            "there is no such file",
            where=str(invocation.config),
            hint="run ingest in the folder that holds config.toml, or say --config FILE before the command",
        )
    config = read_config(invocation.config)
    redactor.register(*secrets_of(config))
    return await question(config, observe)


@contextmanager
def _observed(invocation: Invocation, redactor: Redactor) -> Iterator[tuple[Observer, Callable[[str], None]]]:
    """Who is told of the run's events: a display on a terminal, otherwise lines on stderr."""
    from ingest import log

    stream = _writable(sys.stderr)
    with ExitStack() as stack:
        observe = log.observer(stream, invocation.log_format or "text", redactor)
        watch: Watch | None = None
        if invocation.log_format is None and stream.isatty():
            observe = watch = stack.enter_context(_watch(stream, redactor))
        elif invocation.log_format is None:
            observe = log.only_notable(observe)
        stack.enter_context(log.Libraries(observe))

        def say(text: str) -> None:
            if watch is not None:
                watch.say(text)
            elif invocation.log_format == "json":
                observe("stopping", reason=text)
            else:
                print_line(stream, f"ingest: {text}")

        yield observe, say


def _watch(stream: TextIO, redactor: Redactor) -> Watch:
    from ingest.cli.progress import Watch
    from ingest.cli.render import console

    return Watch(console(stream), redactor)


def _writable(stream: TextIO) -> TextIO:
    """The stream, which spells out what its encoding cannot say instead of failing."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and stream.errors in ("strict", "surrogateescape"):
        reconfigure(errors="backslashreplace")
    return stream
