"""The pages of the documentation, and what their code blocks hold."""

import itertools
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from orca_ray.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_lines(text: str) -> list[str]:
    """Return the lines of code blocks, fenced ones first, without comments."""
    lines = []
    for block in FENCE.findall(text):
        lines += block.splitlines()[1:-1]
    for line in FENCE.sub("", text).splitlines():
        if line.startswith("    "):
            lines.append(line[4:])
    without_comments = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    return [line for line in without_comments if line]


def command_lines(snippets: Iterable[str]) -> Iterator[list[str]]:
    """Yield the arguments of each ``orca-sweep`` command line.

    ``a|b`` stands for either: both are yielded.
    """
    programs = ("orca-sweep", "cluster/slurm.sbatch")
    for snippet in snippets:
        if not any(program in snippet for program in programs):
            continue
        words = shlex.split(snippet)
        starts = [index for index, word in enumerate(words) if word in programs]
        if not starts or {"COMMAND", "--help"} & {*words}:
            continue
        arguments = words[starts[0] + 1 :]
        if arguments:
            choices = itertools.product(*(word.split("|") for word in arguments))
            yield from map(list, choices)


def parse(arguments: list[str]) -> Any:
    """Parse a command line as ``orca-sweep`` does, without running it.

    Raises the parser's error.
    """
    command: Any = typer.main.get_command(app)
    context = command.make_context("orca-sweep", list(arguments))
    while hasattr(command, "commands"):
        name, command, arguments_left = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = command.make_context(name, arguments_left, parent=context)
    return context
