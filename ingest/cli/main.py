"""The commands: what each asks of the job, and how the answer is shown.

Nothing heavy is imported here, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ingest import __version__
from ingest.cli.job import CONFIG, Invocation, ask, ask_config, certify, print_line, show

if TYPE_CHECKING:
    from ingest.config import Config
    from ingest.report import Copied, Difference, Observer, Preview

#: columns of a help page, on any terminal
HELP_WIDTH = 100

app = typer.Typer(
    name="ingest",
    help="Mirror a paginated API into a relational database whose foreign keys hold.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": HELP_WIDTH, "help_option_names": ["-h", "--help"]},
)
letters = typer.Typer(
    help="Pages and records that could not be stored, and why.",
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode=None,
)
app.add_typer(letters, name="dead-letters")


class LogFormat(StrEnum):
    """How events are written to stderr."""

    text = "text"
    json = "json"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
AllowDeletes = Annotated[
    bool,
    typer.Option("--allow-deletes", help="Carry out deletes however many there are, and those held back."),
]
SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="A source of config.toml.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    _open_standard_streams()
    command = typer.main.get_command(app)
    try:
        command.main(args=None if arguments is None else list(arguments), prog_name="ingest")
    except SystemExit as ended:
        return _status(ended.code)
    return 0


def _open_standard_streams() -> None:
    """A stream that was closed before we began leads nowhere, or the next open file would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode))


def _status(code: object) -> int:
    return code if isinstance(code, int) else int(code is not None)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(sys.stdout, f"ingest {__version__}")
        raise typer.Exit


@app.callback()
def before(
    ctx: typer.Context,
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The job; its paths are relative to this file.")
    ] = CONFIG,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(
            "--log-format",
            metavar="text|json",
            help="Write every event as a line on stderr, instead of a progress display.",
            show_default=False,
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Mirror a paginated API into a relational database whose foreign keys hold."""
    ctx.obj = Invocation(config=config, log_format=log_format.value if log_format else None)


@app.command()
def sync(
    ctx: typer.Context,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE", help="Only these sources of config.toml.")
    ] = None,
    allow_deletes: AllowDeletes = False,
    as_json: AsJson = False,
) -> None:
    """Fetch what changed, load it, reconcile, and certify.

    An interrupted run is finished first.
    """
    certify(
        _of(ctx),
        lambda job: job.sync(tuple(sources or ())),
        as_json=as_json,
        allow_deletes=allow_deletes,
    )


@app.command()
def backfill(
    ctx: typer.Context,
    source: SourceName,
    stream: Annotated[str | None, typer.Option(help="Only this stream.", show_default=False)] = None,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="Back to this time (ISO 8601) or key.", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="T", help="From this time or key back.", show_default=False)
    ] = None,
    allow_deletes: AllowDeletes = False,
    as_json: AsJson = False,
) -> None:
    """Fetch older history.

    It can be stopped at any time, and goes on where it was.
    """
    certify(
        _of(ctx),
        lambda job: job.backfill(source, stream=stream, since=since, until=until),
        as_json=as_json,
        allow_deletes=allow_deletes,
    )


@app.command()
def recover(ctx: typer.Context, allow_deletes: AllowDeletes = False, as_json: AsJson = False) -> None:
    """Finish an interrupted import without the network."""
    certify(_of(ctx), lambda job: job.recover(), as_json=as_json, allow_deletes=allow_deletes)


@app.command()
def replay(
    ctx: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="A folder of recorded pages."),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the database anew from the page log.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Only say what --rebuild would alter under today's models.")
    ] = False,
    allow_deletes: AllowDeletes = False,
    as_json: AsJson = False,
) -> None:
    """Run recorded pages through the same pipeline.

    The network is not used.
    """
    if sum((path is not None, rebuild, diff)) != 1:
        raise typer.BadParameter("say one of these: the PATH of recorded pages, --rebuild, --diff")
    if diff:
        from ingest.cli import render

        found = ask_config(_of(ctx), _compare)
        show(found, lambda out: render.difference(out, found), as_json=as_json)
        return
    certify(
        _of(ctx),
        lambda job: job.replay(path, rebuild=rebuild),
        as_json=as_json,
        allow_deletes=allow_deletes,
    )


@app.command()
def record(
    ctx: typer.Context,
    source: SourceName,
    to: Annotated[Path, typer.Option("--to", metavar="PATH", help="The folder to write to.")],
) -> None:
    """Write a source's pages as fixtures, without credentials."""
    pages = ask(_of(ctx), lambda job: job.record(source, to), write=False)
    print_line(sys.stdout, f"{pages:,} {'page' if pages == 1 else 'pages'} written to {to}")


@app.command()
def preview(
    ctx: typer.Context,
    source: SourceName,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="A stream of the source.")],
    as_json: AsJson = False,
) -> None:
    """Map one page and write nothing.

    Shows its rows by table, and the keys that no column takes.
    """
    from ingest.cli import render

    async def look(config: Config, observe: Observer) -> Preview:
        from ingest.pipeline import preview

        return await preview(config, source, stream, observe=observe)

    found = ask_config(_of(ctx), look)
    show(found, lambda out: render.preview(out, found), as_json=as_json)


@app.command()
def verify(
    ctx: typer.Context,
    digest: Annotated[
        bool, typer.Option("--digest", help="Print the canonical digest of the mirror instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Audit every row, and certify.

    References, pointers, counters, coverage and accounting.
    """
    if not digest:
        certify(_of(ctx), lambda job: job.verify(), as_json=as_json)
    text = ask(_of(ctx), lambda job: job.digest(), write=False)
    show({"digest": text}, lambda out: out.print(text, soft_wrap=True), as_json=as_json)


@app.command()
def status(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show what is known, pending and open.

    The database, the page log, the lock, and the last certificate.
    """
    from ingest.cli import render

    known = ask(_of(ctx), lambda job: job.status(), write=False)
    show(known, lambda out: render.status(out, known), as_json=as_json)


@app.command()
def missing(
    ctx: typer.Context,
    retry: Annotated[
        bool, typer.Option("--retry", help="Ask for all of them again in the next run.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say who refers to each, and what the server answered.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List references whose target is not in the mirror."""
    from ingest.cli import render

    if retry:
        wanted = ask(_of(ctx), lambda job: job.retry_missing(), write=True)
        text = f"{wanted:,} missing {'parent' if wanted == 1 else 'parents'} wanted again in the next run"
        show({"wanted": wanted}, lambda out: out.print(text), as_json=as_json)
        return
    parents = ask(_of(ctx), lambda job: job.missing(explain=explain), write=False)
    drawn = render.explained if explain else render.missing
    show(parents, lambda out: drawn(out, parents), as_json=as_json)


@letters.callback()
def dead_letters(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List pages and records that could not be stored, and why."""
    if ctx.invoked_subcommand is not None:
        return
    from ingest.cli import render

    found = ask(_of(ctx), lambda job: job.dead_letters(), write=False)
    show(found, lambda out: render.dead_letters(out, found), as_json=as_json)


@letters.command("retry")
def retry_dead_letters(
    ctx: typer.Context, allow_deletes: AllowDeletes = False, as_json: AsJson = False
) -> None:
    """Try to store them again.

    For when the models or the configuration were mended.
    """
    certify(_of(ctx), lambda job: job.retry_dead_letters(), as_json=as_json, allow_deletes=allow_deletes)


@app.command()
def gaps(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List holes in what has been fetched.

    The next sync tries to fill them.
    """
    from ingest.cli import render

    holes = ask(_of(ctx), lambda job: job.gaps(), write=False)
    show(holes, lambda out: render.gaps(out, holes), as_json=as_json)


# a key may begin with a minus
@app.command(context_settings={"ignore_unknown_options": True})
def trace(
    ctx: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A mirrored table.")],
    key: Annotated[list[str], typer.Argument(metavar="KEY", help="The row's key, part by part.")],
    as_json: AsJson = False,
) -> None:
    """Show why a row is as it is.

    What is shown and what was stated, the pages that stated it, what was asked for them, and the runs.
    """
    from ingest.cli import render

    found = ask(_of(ctx), lambda job: job.trace(table, key), write=False)
    show(found, lambda out: render.trace(out, found), as_json=as_json)


@app.command()
def runs(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List past runs and what they proved."""
    from ingest.cli import render

    proofs = ask(_of(ctx), lambda job: job.runs(), write=False)
    show(proofs, lambda out: render.runs(out, proofs), as_json=as_json)


@app.command()
def migrate(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Bring the database to this version and these models."""
    steps = ask(_of(ctx), lambda job: job.migrate(), write=True)
    text = "\n".join(steps) or "nothing to do"
    show(steps, lambda out: out.print(text, soft_wrap=True), as_json=as_json)


@app.command()
def prune(
    ctx: typer.Context,
    keep: Annotated[str, typer.Option(metavar="AGE", help="Of pages younger than this: `90d`, `12h`.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop old bodies from the page log that nothing needs.

    What was fetched stays known. The database cannot be made anew from what was pruned.
    """
    from ingest.cli import render

    done = ask(_of(ctx), lambda job: job.prune(keep, carry_out=not dry_run), write=True)
    show(done, lambda out: render.pruned(out, done), as_json=as_json)


# a key may begin with a minus
@app.command(context_settings={"ignore_unknown_options": True})
def erase(
    ctx: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A mirrored table.")],
    key: Annotated[list[str], typer.Argument(metavar="KEY", help="The row's key, part by part.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a row's values out of all that is kept, and prove it.

    Tables, page log, dead letters, withheld values. Only its key stays, so that nothing brings it back.
    """
    from ingest.cli import render

    done = ask(_of(ctx), lambda job: job.erase(table, key, carry_out=not dry_run), write=True)
    show(done, lambda out: render.erased(out, done), as_json=as_json)
    raise typer.Exit(done.exit)


@app.command("copy")
def copy_mirror(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="The URL of the mirror's database, or $NAME.")
    ],
    target: Annotated[str, typer.Argument(metavar="TO", help="The URL of an empty database, or $NAME.")],
    as_json: AsJson = False,
) -> None:
    """Copy the mirror into another database, and prove that it is the same.

    Broken off, the same command goes on where it was.
    """
    from ingest.cli import render

    async def carry_out(config: Config, observe: Observer) -> Copied:
        from ingest.config import database_url, resolve
        from ingest.pipeline import copy

        urls = [database_url(resolve(url, "the command line"), config.file) for url in (source, target)]
        return await copy(config, *urls, observe=observe)

    done = ask_config(_of(ctx), carry_out, write=True, urls=(source, target))
    show(done, lambda out: render.copied(out, done), as_json=as_json)


async def _compare(config: Config, observe: Observer) -> Difference:
    from ingest.pipeline import compare

    return await compare(config, observe=observe)


def _of(ctx: typer.Context) -> Invocation:
    return cast(Invocation, ctx.obj)
