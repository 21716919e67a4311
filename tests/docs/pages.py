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
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()[1:-1]]
    lines += [
        line[4:] for line in FENCE.sub("", text).splitlines() if line.startswith("    ")
    ]
    return [
        found for line in lines if (found := re.sub(r"(^|\s)#.*", "", line).strip())
    ]


def command_lines(snippets: Iterable[str]) -> Iterator[list[str]]:
    """Yield the arguments of each ``orca-sweep`` command line; ``a|b`` stands for
    either.
    """
    programs = ("orca-sweep", "cluster/slurm.sbatch")
    for snippet in snippets:
        words = (
            shlex.split(snippet)
            if any(program in snippet for program in programs)
            else []
        )
        starts = [index for index, word in enumerate(words) if word in programs]
        if (
            starts
            and starts[0] < len(words) - 1
            and not {"COMMAND", "--help"} & {*words}
        ):
            options = [word.split("|") for word in words[starts[0] + 1 :]]
            yield from (list(choice) for choice in itertools.product(*options))


def parse(arguments: list[str]) -> Any:
    """Parse a command line as ``orca-sweep`` does, without running it; raise the
    parser's error.
    """
    command: Any = typer.main.get_command(app)
    context = command.make_context("orca-sweep", list(arguments))
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = command.make_context(name, rest, parent=context)
    return context
