"""The documentation: links resolve, paths exist, and every command line shown is accepted by the parsers."""

import re
import shlex
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import typer

from orca_ray.cli.app import app
from orca_ray.discovery import GROUPS
from orca_ray.sweep.plan.loading import parse_spec

from .pages import BLOCK, FENCE, PAGES, ROOT, code_lines, command_lines, name_of, parse

TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?:orca_ray|tests|sweeps|cluster|docs|benchmarks|examples)/[\w./*{},-]+")
NAME = re.compile(r"\borca_ray(?:\.[A-Za-z]\w*)+")


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_spans(text: str) -> list[str]:
    """Return the code inside paragraphs and tables."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def links(page: Path, text: str) -> list[str]:
    """Return the relative links without a target."""
    wrong = []
    for link in LINK.findall(FENCE.sub("", text)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not re.match(r"[a-z]+:", link) and (not target.exists() or (anchor and anchor not in anchors(target))):
            wrong.append(link)
    return wrong


def paths(text: str) -> list[str]:
    """Return the paths in code spans that do not exist."""
    wrong = []
    for path in (path for snippet in code_spans(text) if PATH.match(snippet) for path in PATH.findall(snippet)):
        choice = re.search(r"\{(.*)\}", path)
        found = [path.replace(choice[0], one) for one in choice[1].split(",")] if choice else [path]
        wrong += [one for one in found if not list(ROOT.glob(one.rstrip("/")))]
    return wrong


def names(text: str) -> list[str]:
    """Return the dotted names in the text that are no module or object of orca-ray, nor a group of entry points."""
    wrong = []
    for name in {name for name in NAME.findall(FENCE.sub("", text)) if name not in GROUPS.values()}:
        try:
            resolve_name(name)
        except (ImportError, AttributeError):
            wrong.append(name)
    return wrong


def commands(text: str) -> list[str]:
    """Return wrong command lines. In the text the arguments may lack; in a code block a command must be complete."""
    wrong = []
    spans, lines = list(command_lines(code_spans(text))), list(command_lines(code_lines(text)))
    for arguments in [*spans, *lines]:
        try:
            context = parse(arguments)
        except Exception as error:
            if arguments not in spans or not str(error).startswith("Missing parameter: "):
                wrong.append(f"orca-sweep {shlex.join(arguments)}: {error}")
            continue
        name = context.params.get("name", "")
        if context.info_name in ("benchmark", "leaderboard") and not name.endswith(".yaml"):
            wrong += [f"no benchmark {name}"] * (not (ROOT / "sweeps" / f"{name}.yaml").exists())
    targets = (re.match(r"(?:\w+=\S+ )*make ([\w-]+)", snippet) for snippet in [*code_lines(text), *code_spans(text)])
    return wrong + [target[0] for target in targets if target and target[1] not in TARGETS]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    assert links(page, text) == []
    assert paths(text) == []
    assert names(text) == []
    assert commands(text) == []
    for language, block in BLOCK.findall(text):
        if language == "yaml" and re.search(r"^name:", block, re.MULTILINE):
            parse_spec(block, str(page))


def all_options(command: Any) -> set[str]:
    children = getattr(command, "commands", {}).values()
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return own.union({"--help"}, *(all_options(child) for child in children))


@pytest.mark.parametrize("name", ["README.md", "docs/usage.md", "docs/benchmarks.md", "docs/cluster.md"])
def test_options_exist(name: str) -> None:
    spans = (snippet.split() for snippet in code_spans((ROOT / name).read_text()) if snippet.startswith("--"))
    found = {word for words in spans for word in words if word.startswith("--")}
    assert found <= all_options(typer.main.get_command(app))
