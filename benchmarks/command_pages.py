"""Writes what ``orca-sweep COMMAND --help`` says into the pages of docs/commands.

A page has the help of a command between two marks, ``<!-- help: benchmark -->`` and
``<!-- /help -->``; docs/usage.md has the list of all commands between ``<!-- help: all
-->`` and the same end. ``python -m benchmarks.command_pages`` writes the pages again,
and a test fails if one differs.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from orca_ray.cli.app import app

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [DOCS / "usage.md", *sorted((DOCS / "commands").glob("*.md"))]
MARK = re.compile(
    r"^<!-- help: ([\w -]+) -->\n.*?^<!-- /help -->$", re.DOTALL | re.MULTILINE
)
_CODE = re.compile(r"(`[^`]*`)|(--[a-z][\w-]*|\b[A-Z]+(?:_[A-Z]+)+\b)")


def commands(command: Any = None, *names: str) -> Iterator[tuple[str, Any]]:
    """Yield the name, such as ``data fetch``, and the parser of each command."""
    command = command or typer.main.get_command(app)
    children = getattr(command, "commands", {})
    if not children:
        yield " ".join(names), command
    for name, child in children.items():
        yield from commands(child, *names, name)


def regenerated(page: Path) -> str:
    """Return the text of a page with the help between its marks written again."""
    known = dict(commands())

    def written(match: re.Match[str]) -> str:
        text = _all() if match[1] == "all" else _help(match[1], known[match[1]])
        return f"<!-- help: {match[1]} -->\n\n{text}\n\n<!-- /help -->"

    return MARK.sub(written, page.read_text())


def _all() -> str:
    """Return a table of all commands, each with a link to its page."""
    pages = {
        name: page
        for page in PAGES
        for name in MARK.findall(page.read_text())
        if name != "all"
    }
    rows = []
    for name, command in commands():
        first = " ".join(command.help.split("\n\n")[0].split())
        rows.append(
            (f"[`{name}`](commands/{pages[name].name}#{_anchor(name)})", _text(first))
        )
    return _table(("command", "what it does"), rows)


def _help(name: str, command: Any) -> str:
    """Return the section of one command: its purpose, arguments and options."""
    arguments = {
        each.metavar or each.name.upper(): each
        for each in command.params
        if each.param_type_name == "argument"
    }
    rows = [
        (f"`{metavar}`", "", _text(each.help or ""))
        for metavar, each in arguments.items()
    ]
    for each in command.params:
        if each.param_type_name == "option":
            words = ", ".join(
                f"`{word}`" for word in [*each.opts, *each.secondary_opts]
            )
            rows.append((words, _default(each), _text(each.help or "")))
    paragraphs = "\n\n".join(
        _text(" ".join(each.split())) for each in command.help.split("\n\n")
    )
    table = _table(("argument or option", "default", "meaning"), rows)
    return f"### {name}\n\n{paragraphs}\n\n{table}"


def _default(option: Any) -> str:
    value = option.default
    if value in (None, False, True, (), []) or callable(value):
        return "required" if option.required else ""
    return f"`{getattr(value, 'value', value)}`"


def _text(words: str) -> str:
    """Return help as Markdown: options and variables of the environment are code."""
    return _CODE.sub(
        lambda match: match[1] or f"`{match[2]}`", words.replace("``", "`")
    )


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _table(columns: tuple[str, ...], rows: list[Any]) -> str:
    cells = [
        [" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows
    ]
    return "\n".join(
        f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *cells]
    )


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text()
        page.write_text(new := regenerated(page))
        sys.stdout.write(
            f"{page.relative_to(DOCS.parent)}:"
            f" {'up to date' if new == text else 'written'}\n"
        )
