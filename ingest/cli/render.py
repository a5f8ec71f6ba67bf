"""Reports on a terminal or in a file: tables, the certificate, and what is known.

Text from upstream is shown as it is, but never obeyed: markup is not read, and control characters
are spelled out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingest.cli.timeline import timeline
from ingest.report import (
    Certificate,
    Copied,
    DeadLetter,
    Difference,
    Erased,
    Gap,
    MissingParent,
    Preview,
    Pruned,
    Status,
    Trace,
    TracedPage,
)

#: columns of a line where there is no terminal to fit it to
WIDE = 200
#: lines of one kind before the rest is only counted; `--json` lists all
SHOWN = 10
#: characters of a rejected record in a list
EXCERPT = 60
#: rows of a page that a preview shows, and characters of each value
PREVIEWED = 3
CELL = 32

VERDICTS = {
    0: "certified",
    1: "failed",
    3: "certified, but incomplete",
    4: "NOT PROVEN",
    130: "interrupted",
}


class _Console(Console):
    """A console that leaves a closed pipe to its caller, instead of ending the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(stream: TextIO) -> Console:
    """A console that fits a terminal, and writes no escape code anywhere else."""
    terminal = stream.isatty()
    return _Console(
        file=stream,
        force_terminal=None if terminal else False,
        width=None if terminal else WIDE,
        highlight=False,
        markup=False,
        emoji=False,
    )


def plain(value: Any) -> str:
    """A value as one line of text that can do nothing to a terminal."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(out: Console, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows under their names; numbers to the right. Nothing at all for no rows."""
    listed = list(rows)
    if not listed:
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name in listed[0]:
        numbers = all(_is_number(row[name]) for row in listed)
        drawn.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
    for row in listed:
        drawn.add_row(*(Text(plain(value)) for value in row.values()))
    out.print(drawn)


def lines(out: Console, named: Iterable[tuple[str, str]]) -> None:
    """Short texts beside their names."""
    listed = list(named)
    width = max((len(name) for name, _ in listed), default=0)
    for name, text in listed:
        out.print(f"{name:<{width}}  {text}", soft_wrap=True)


def certificate(out: Console, proof: Certificate) -> None:
    """What a run did and proved, ending in the line that says whether it may be relied upon."""
    table(out, (msgspec.structs.asdict(row) for row in proof.tables))
    if proof.tables:
        out.print()
    lines(out, [*_done(proof), *_proven(proof), *_remarks(proof)])
    out.print()
    out.print(verdict(proof), style="bold" if proof.exit == 0 else "bold red", soft_wrap=True)


def verdict(proof: Certificate) -> str:
    """The certificate in one line."""
    word = VERDICTS.get(proof.exit, f"exit {proof.exit}")
    over = "every row" if proof.scope == "whole" else "every row that may have changed"
    dangling = sum(reference.dangling for reference in proof.references)
    wrong = sum(derived.wrong for derived in proof.derived)
    checked = (
        f"{_count(len(proof.references), 'foreign key')} checked over {over}, {dangling:,} dangling; "
        f"{_count(len(proof.derived), 'pointer or counter', 'pointers and counters')}, {wrong:,} wrong"
    )
    return f"{word}: {checked} ({proof.command}, run {proof.run}, {_took(proof)})"


def missing(out: Console, parents: Sequence[MissingParent]) -> None:
    """Every reference whose target is not in the mirror."""
    names = ("table", "key", "state", "attempts", "references", "by")
    times = ("since", "next_try")
    table(
        out,
        (
            {name: getattr(parent, name) for name in names}
            | {name.replace("_", " "): _minute(getattr(parent, name)) for name in times}
            for parent in parents
        ),
    )
    _total(out, len(parents), "missing parent")


def explained(out: Console, parents: Sequence[MissingParent]) -> None:
    """Every reference whose target is not in the mirror, and why."""
    for one in parents:
        more = one.references - len(one.rows)
        rows = ", ".join(map(plain, one.rows)) + (f" and {more:,} more" if more > 0 else "")
        lines(
            out,
            [
                (plain(f"{one.table} {one.key}"), f"{one.state}, asked for {_count(one.attempts, 'time')}"),
                (
                    "  wanted by",
                    " of ".join(filter(None, [plain(one.by), rows])) or "itself: a row not complete",
                ),
                ("  wanted since", _minute(one.since)),
                ("  asked again", _minute(one.next_try) if one.next_try else _when(one)),
                ("  policies", ", ".join(one.policies) or "-"),
                ("  answered", plain(one.answered) if one.answered else "not asked yet"),
            ],
        )
        out.print()
    _total(out, len(parents), "missing parent")


def _when(one: MissingParent) -> str:
    return "in the next run" if one.state == "wanted" else "when `ingest missing --retry` was run"


def _minute(time: str | None) -> str:
    """A time to the minute."""
    return plain(time)[:16].replace("T", " ") if time else "-"


def dead_letters(out: Console, letters: Sequence[DeadLetter]) -> None:
    """Every page or record that could not be stored."""
    rows = []
    for letter in letters:
        exact = {"id": str(letter.id), "stamp": str(letter.stamp), "raw": _excerpt(letter.raw, EXCERPT)}
        rows.append({**msgspec.structs.asdict(letter), **exact})
    table(out, rows)
    _total(out, len(letters), "dead letter")


def gaps(out: Console, holes: Sequence[Gap]) -> None:
    """Every hole in what has been fetched, and a picture of where it lies in its partition."""
    table(
        out,
        (
            {name: value for name, value in msgspec.structs.asdict(hole).items() if name != "fetched"}
            for hole in holes
        ),
    )
    partitions = groupby(holes, key=lambda hole: (hole.source, hole.stream, hole.partition))
    drawn = [(where, line) for where, group in partitions if (line := timeline(list(group))) is not None]
    if drawn:
        out.print()
    for (source, stream, partition), line in drawn[:SHOWN]:
        out.print(plain(f"{source}.{stream} {partition}"), soft_wrap=True)
        out.print(plain("  ".join(("", *filter(None, line)))), soft_wrap=True)
    if len(drawn) > SHOWN:
        out.print(f"and {len(drawn) - SHOWN:,} more; --json lists all")
    _total(out, len(holes), "gap")


def runs(out: Console, proofs: Sequence[Certificate]) -> None:
    """One line a run."""
    table(
        out,
        (
            {
                "run": proof.run,
                "command": proof.command,
                "started": proof.started,
                "took": _took(proof),
                "requests": proof.fetch.requests,
                "pages": proof.load.pages,
                "written": proof.load.written,
                "rejected": proof.load.rejected,
                "exit": proof.exit,
                "verdict": VERDICTS.get(proof.exit, ""),
            }
            for proof in proofs
        ),
    )
    _total(out, len(proofs), "run")


def trace(out: Console, found: Trace) -> None:
    """A row's values, and under them the pages they are from, newest first."""
    lines(out, [(plain(f"{found.table} {found.key}"), plain(found.state))])
    out.print()
    table(
        out,
        (
            {
                "column": one.column,
                "shown": _excerpt(_exact(one.shown), CELL),
                "stated": "" if one.reason is None else _excerpt(_exact(one.stated), CELL),
                "why": one.reason or "",
                "page": "" if one.stamp is None else str(one.stamp),
            }
            for one in found.values
        ),
    )
    lines(out, [("", ""), *_some("event", found.events)] if found.events else [])
    for page in found.pages:
        out.print()
        lines(out, _traced(page))


def _traced(page: TracedPage) -> list[tuple[str, str]]:
    if page.run is None:
        return [(f"page {page.stamp}", page.body)]
    ran = f"{plain(page.command)}, run {plain(page.run)}" + (f", {page.started}" if page.started else "")
    body = "" if page.body == "kept" else f" (its body is {page.body})"
    return [
        (f"page {page.stamp}", f"{plain(page.source)}.{plain(page.stream)} {plain(page.partition)}{body}"),
        ("asked", f"{plain(page.request)} -> {page.status}"),
        ("loaded", f"{plain(page.loaded)}" + ("" if page.load is None else f" by load {page.load}")),
        ("run", ran),
        *(("record", _excerpt(plain(one), WIDE)) for one in page.records),
    ]


def status(out: Console, known: Status) -> None:
    """What is known, pending and open."""
    lines(
        out,
        [
            ("database", plain(known.database)),
            (
                "page log",
                f"{plain(known.log)} ({plain(known.log_id)}, {_count(known.loaded_pages, 'page')} loaded)",
            ),
            ("pending", f"{_count(known.pending_pages, 'page')}, {_count(known.pending_records, 'record')}"),
            ("lock", f"held by {plain(known.holder)} since {plain(known.since)}" if known.holder else "free"),
            ("integrity window", f"OPEN: {plain(known.window)}" if known.window else "closed"),
            ("dead letters", f"{known.dead_letters:,}"),
            *_some("deletes held", map(str, known.held)),
            *_some("unmapped", known.unmapped),
            *(("last run", verdict(proof)) for proof in known.last),
        ],
    )
    out.print()
    table(out, ({"table": name, "rows": count} for name, count in known.rows.items()))


def preview(out: Console, page: Preview) -> None:
    """The rows of one page: a line a column, the first few rows beside each other."""
    lines(out, [("asked", plain(page.request)), ("records", f"{page.records:,}")])
    for one in page.tables:
        out.print()
        out.print(f"{plain(one.table)}: {_count(len(one.rows), 'row')}", style="bold")
        names = dict.fromkeys(name for row in one.rows for name in row)
        shown = list(enumerate(one.rows[:PREVIEWED], 1))
        table(
            out,
            (
                {
                    "column": name,
                    **{f"row {at}": _excerpt(_exact(row.get(name, "")), CELL) for at, row in shown},
                }
                for name in names
            ),
        )
    out.print()
    lines(out, [*_some("unmapped", page.unmapped), *_some("rejected", page.rejected)])


def _done(proof: Certificate) -> list[tuple[str, str]]:
    load, fetch = proof.load, proof.fetch
    extras = [
        _count(fetch.retries, "retry", "retries") if fetch.retries else "",
        f"{_count(fetch.skipped, 'partition')} unchanged" if fetch.skipped else "",
    ]
    said = ", ".join(filter(None, [f"{_count(fetch.requests, 'request')}, {fetch.bytes:,} bytes", *extras]))
    return [
        ("fetched", f"{_count(fetch.pages, 'page')} in {said}"),
        ("loaded", f"{_count(load.pages, 'page')}, {load.quarantined:,} quarantined"),
        (
            "records",
            f"{load.records:,} = {load.written:,} written + {load.kept:,} kept + {load.rejected:,} rejected",
        ),
    ]


def _proven(proof: Certificate) -> list[tuple[str, str]]:
    dangling = sum(reference.dangling for reference in proof.references)
    derived = {
        kind: sum(each.set for each in proof.derived if each.kind == kind) for kind in ("pointer", "counter")
    }
    wrong = sum(each.wrong for each in proof.derived)
    said = [
        ("references", f"{_count(len(proof.references), 'foreign key')} checked, {dangling:,} dangling"),
        ("parents", f"{proof.healed:,} healed, {_by_name(proof.missing)} missing"),
        (
            "derived",
            f"{_count(derived['pointer'], 'pointer')} and {_count(derived['counter'], 'counter')} set, "
            f"{wrong:,} wrong",
        ),
    ]
    if proof.withheld:
        said.append(("withheld", _by_name(proof.withheld)))
    if proof.tombstones:
        said.append(("deleted", f"{_count(proof.tombstones, 'row')} upstream"))
    said += _some("deletes held", map(str, proof.held))
    return [*said, ("dead letters", f"{proof.dead_letters:,}"), ("gaps", f"{proof.gaps:,}")]


def _remarks(proof: Certificate) -> list[tuple[str, str]]:
    dangling = [r for r in proof.references if r.dangling]
    wrong = [d for d in proof.derived if d.wrong]
    failures = proof.fetch.failures
    return [
        *_some(
            "dangling", (f"{r.table}({', '.join(r.columns)}) -> {r.target}: {r.dangling:,}" for r in dangling)
        ),
        *_some("wrong", (f"{d.table}.{d.column}: {d.wrong:,}" for d in wrong)),
        *_some("gave up", (f"{f.source}.{f.stream} {f.partition}: {f.cause}" for f in failures)),
        *_some("not seen", proof.fetch.unseen),
        *_some("unmapped", proof.unmapped),
        *_some("remark", proof.remarks),
    ]


def _some(name: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    listed = [plain(text) for text in texts]
    said = [(name, text) for text in listed[:SHOWN]]
    if len(listed) > SHOWN:
        said.append((name, f"and {len(listed) - SHOWN:,} more; --json lists all"))
    return said


def _by_name(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    said = ", ".join(f"{plain(name)} {count:,}" for name, count in sorted(counts.items()) if count)
    return f"{total:,} ({said})" if said else f"{total:,}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _total(out: Console, number: int, one: str) -> None:
    out.print(_count(number, one) if number else f"no {one}s")


def _took(proof: Certificate) -> str:
    try:
        seconds = (
            datetime.fromisoformat(proof.ended) - datetime.fromisoformat(proof.started)
        ).total_seconds()
    except (TypeError, ValueError):  # a run that has not ended
        return "-"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _exact(value: Any) -> str:
    """A value of a row: a number there may be a key, which nobody wants to read in groups of three."""
    return str(value) if _is_number(value) else plain(value)


def _excerpt(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def difference(out: Console, found: Difference) -> None:
    """What the page log would make of the mirror today."""
    table(
        out,
        (
            {
                "table": one.table,
                "added": one.added,
                "removed": one.removed,
                "changed": one.changed,
                "columns": ", ".join(f"{name} {count:,}" for name, count in one.columns.items()) or "-",
                "for example": " ".join(one.examples),
            }
            for one in found.tables
        ),
    )
    said = [*_some("new", found.new), *_some("gone", found.gone)]
    if found.letters[0] != found.letters[1]:
        said.append(("dead letters", f"{found.letters[0]:,} now, {found.letters[1]:,} then"))
    if found.exit:
        said.append(("exit", f"{found.exit}: {VERDICTS.get(found.exit, '')}"))
    lines(out, said)
    if not found.tables:
        out.print("every row would be as it is")


def pruned(out: Console, done: Pruned) -> None:
    """How many bodies went, and why others stay."""
    gone = "pruned" if done.done else "would go"
    said = [(gone, f"the bodies of {_count(done.pages, 'page')} of runs before {done.before}")]
    said += [("kept", f"{_count(count, 'page')}: {why}") for why, count in sorted(done.kept.items())]
    if done.earlier:
        said.append(("earlier", f"{_count(done.earlier, 'page')} had none any more"))
    lines(out, said)
    if done.pages and done.done:
        out.print(
            "\nthe database has what they said, and `ingest replay --rebuild` could not have it again",
            soft_wrap=True,
        )


def erased(out: Console, done: Erased) -> None:
    """What went of a row, and the proof of it."""
    out.print(f"{plain(done.table)} {plain(done.key)}  {'erased' if done.done else 'would be erased'}")
    lines(
        out,
        [
            ("table", "the row" if done.shown else "no row"),
            ("page log", f"{_count(done.records, 'record')}; {_count(done.pages, 'page')} with its values"),
            *[("emptied", f"page {stamp}, which could not be read") for stamp in done.emptied],
            ("withheld", _count(done.withheld, "entry", "entries")),
            ("dead letters", f"{done.letters:,}"),
            *[("referring", f"{_count(n, 'row')} of {plain(name)}") for name, n in done.referring.items()],
        ],
    )
    if not done.done:
        return
    proof = [("looked for", _count(done.values, "value")), *_some("looked into", done.files)]
    if done.unsearched:
        proof.append(("not looked for", f"{_count(done.unsearched, 'more value')}: too many"))
    proof += [*_some("still said by", done.said), *_some("left", done.faults)]
    lines(out, proof)
    gone = "its values are gone, but for what others say, too" if done.said else "its values are gone"
    out.print(f"\n{'something of it is left: see above' if done.faults else gone}", soft_wrap=True)


def copied(out: Console, done: Copied) -> None:
    """What a copy brought over, and what is left to do."""
    table(out, [{"table": one.table, "rows": one.rows} for one in done.tables])
    lines(out, [("from", done.source), ("to", done.target), ("digest", f"{done.digest}, the same in both")])
    if done.already:
        lines(out, [("remark", "all of it was there already: nothing was done")])
    if not done.configured:
        out.print("\nset database.url in config.toml to the new database", soft_wrap=True)
    if done.log is not None:
        out.print(f'\nkeep the page log: [staging] path = "{done.log}"', soft_wrap=True)
