"""README's generated sections: what code can print is not written by hand.

`python -m tests.readme` rewrites them; tests/unit/test_readme.py fails while one is out of date.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import typer

from ingest import config, errors, source
from ingest.cli.edge import EXITS
from ingest.cli.main import app

README = Path(__file__).parent.parent / "README.md"

#: every table of config.toml, in the order it is explained in
JOB: dict[str, type[msgspec.Struct]] = {
    "[database]": config.Database,
    "[sources.NAME]": config.SourceConfig,
    "[staging]": config.Staging,
    "[fetch]": config.Fetch,
    "[heal]": config.Heal,
    "[deletes]": config.Deletes,
}
#: every table of source.toml
SOURCE: dict[str, type[msgspec.Struct]] = {
    "source.toml": source.Source,
    "[streams.NAME]": source.Stream,
    "since": source.Since,
    "changes": source.Reread,
    "by_id": source.ById,
    "opens": source.Opens,
    "[[streams.NAME.also]]": source.Also,
    "auth": source.Auth,
    "auth.login": source.Login,
    "[[errors]]": source.ErrorBody,
    "[check]": source.Check,
    "[transport]": source.Transport,
}
PAGINATION: tuple[type[msgspec.Struct], ...] = get_args(source.Pagination)

_MARK = "<!-- generated:{name} -->\n{text}\n<!-- end:{name} -->"
_SECTION = re.compile(
    r"<!-- generated:(?P<name>[\w-]+) -->\n(?P<text>.*?)\n?<!-- end:(?P=name) -->", re.DOTALL
)
_EXAMPLE = re.compile(r"<!-- example:(?P<name>[\w.-]+) -->\n```\w*\n(?P<text>.*?)\n```", re.DOTALL)
_COMMAND = re.compile(r"<!-- command:(?P<name>[\w-]+) -->\n```\w*\n(?P<text>.*?)\n```", re.DOTALL)


def sections(text: str) -> dict[str, str]:
    """The generated sections a README has, by name."""
    return {found["name"]: found["text"] for found in _SECTION.finditer(text)}


def commands(text: str) -> dict[str, str]:
    """The commands a README asks its reader to type, by name."""
    return {found["name"]: found["text"] for found in _COMMAND.finditer(text)}


def examples(text: str) -> dict[str, str]:
    """The files a README shows, by name."""
    return {found["name"]: found["text"] for found in _EXAMPLE.finditer(text)}


def generated() -> dict[str, str]:
    """What each section has to say. `run` is a picture of a real run, and is made elsewhere."""
    return {
        "commands": _commands(),
        "exits": _exits(),
        "errors": _errors(),
        "config": "\n\n".join(_table(name, struct) for name, struct in JOB.items()),
        "source": "\n\n".join([*(_table(name, struct) for name, struct in SOURCE.items()), _pagination()]),
    }


def renewed(text: str) -> str:
    """The README with every generated section made anew."""
    fresh = generated()

    def renew(found: re.Match[str]) -> str:
        name = found["name"]
        return _MARK.format(name=name, text=fresh[name]) if name in fresh else found[0]

    return _SECTION.sub(renew, text)


def documented(struct: type[msgspec.Struct]) -> dict[str, str]:
    """What the `#:` comments above a struct's fields say, inherited ones included."""
    said: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        if issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct:
            said |= _comments(kind)
    return said


def _comments(kind: type) -> dict[str, str]:
    text = textwrap.dedent(inspect.getsource(kind))
    lines, body = text.splitlines(), ast.parse(text).body[0]
    assert isinstance(body, ast.ClassDef)
    said = {}
    for field in body.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            above = []
            at = field.lineno - 2
            while lines[at].strip().startswith("#:"):
                above.insert(0, lines[at].strip().removeprefix("#:").strip())
                at -= 1
            said[field.target.id] = " ".join(above)
    return said


def _table(name: str, struct: type[msgspec.Struct]) -> str:
    rows = [
        f"| `{key}` | {_kind(annotation)} | {default} | {meaning} |"
        for key, annotation, default, meaning in keys(struct)
    ]
    head = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"**`{name}`**: {_flat(struct.__doc__ or '')}", "", *head, *rows])


def keys(struct: type[msgspec.Struct]) -> Iterator[tuple[str, str, str, str]]:
    meanings = documented(struct)
    annotations = {
        name: annotation
        for kind in reversed(struct.__mro__)
        for name, annotation in vars(kind).get("__annotations__", {}).items()
    }
    for field in msgspec.structs.fields(struct):
        yield field.encode_name, annotations[field.name], _default(field), meanings.get(field.name, "")


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT or value is None or value == {} or value == ():
        return ""
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return msgspec.json.encode(value).decode()


def _kind(annotation: str) -> str:
    """A type in words a person who writes TOML uses."""
    plain = {
        "str": "text",
        "bool": "true or false",
        "int": "number",
        "Positive": "number",
        "Scalar": "text or number",
    }
    said = []
    for part in _alternatives(ast.parse(annotation, mode="eval").body):
        text = ast.unparse(part)
        if text == "None":
            continue
        if text.startswith("Literal["):
            said += [f"`{_toml(value)}`" for value in ast.literal_eval(f"[{text[8:-1]}]")]
        elif text.startswith("Annotated[int"):
            said.append("number")
        elif text.startswith(("tuple[", "list[")):
            said.append("list")
        else:
            said.append(plain.get(text, "table"))
    return ", ".join(dict.fromkeys(said))


def _alternatives(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [*_alternatives(node.left), *_alternatives(node.right)]
    return [node]


def _pagination() -> str:
    rows = []
    for struct in PAGINATION:
        keys = [
            f"`{field.encode_name}`"
            + ("" if field.required else f" = {_default(field)}" if _default(field) else "")
            for field in msgspec.structs.fields(struct)
            if field.name not in ("limit", "limit_param", "max_idle", "max_pages")
        ]
        tag = struct.__struct_config__.tag
        rows.append(f"| `{tag}` | {_flat(inspect.cleandoc(struct.__doc__ or ''))} | {', '.join(keys)} |")
    shared = ", ".join(
        f"`{name}` ({meaning})" for name, meaning in documented(PAGINATION[0]).items() if meaning
    )
    return "\n".join(
        [
            f"**`paginate`**: how the next page is asked for, and the server's own sign that there is none. "
            f"All kinds take {shared} and `limit_param`.",
            "",
            "| kind | how | keys |",
            "|---|---|---|",
            *rows,
        ]
    )


def _commands() -> str:
    rows = ["| command | does |", "|---|---|"]
    for words, command in _flattened("ingest", typer.main.get_command(app)):
        usage = " ".join([words, *(said for param in command.params if (said := _usage(param)))])
        options = (f"`{_spelled(param)}`: {param.help}" for param in command.params if _is_told(param))
        rows.append(f"| `{usage}` | {'<br>'.join([_flat(command.help or ''), *options])} |")
    return "\n".join(rows)


def _flattened(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _flattened(f"{words} {name}", inner)


def _usage(param: Any) -> str:
    """How a parameter stands in the command's line; nothing for an option that may be left out."""
    if param.param_type_name == "option":
        return _spelled(param) if param.required else ""
    return (param.metavar if param.required else f"[{param.metavar}]") + ("..." if param.nargs == -1 else "")


def _is_told(param: Any) -> bool:
    # --json and --help are said once, above the table
    return param.param_type_name == "option" and param.name not in ("as_json", "help")


def _spelled(param: Any) -> str:
    name = max(param.opts, key=len)
    return _flat(name if param.is_flag else f"{name} {param.metavar or param.name.upper()}")


def _exits() -> str:
    return "\n".join(
        ["| status | meaning |", "|---|---|", *(f"| {number} | {said} |" for number, said in EXITS.items())]
    )


def _errors() -> str:
    tree = inspect.cleandoc(errors.__doc__ or "").partition("\n\n")[2]
    return f"```\n{textwrap.dedent(tree)}\n```"


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
