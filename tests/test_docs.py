"""The documentation: links resolve, paths exist, and every command line shown is accepted by the parsers."""

import itertools
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from orca_ray.cli.app import app
from orca_ray.sweep.planning.loading import parse_spec

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"(?:orca_ray|tests|sweeps|cluster|docs)/[\w./*{},-]+")


@pytest.fixture(params=PAGES, ids=NAMES)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def fenced_lines(text: str) -> Iterator[str]:
    for block in FENCE.findall(text):
        yield from block.splitlines()[1:-1]
    yield from (line[4:] for line in FENCE.sub("", text).splitlines() if line.startswith("    "))


def code_lines(text: str) -> list[str]:
    """Return the lines of code blocks without comments."""
    return [found for line in fenced_lines(text) if (found := re.sub(r"(^|\s)#.*", "", line).strip())]


def code_spans(text: str) -> list[str]:
    """Return the code inside paragraphs and tables."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def command_lines(snippets: Iterable[str]) -> Iterator[list[str]]:
    """Yield the arguments of each ``orca-sweep`` command line; ``a|b`` stands for either."""
    programs = ("orca-sweep", "cluster/slurm.sbatch")
    for snippet in snippets:
        words = shlex.split(snippet) if any(program in snippet for program in programs) else []
        starts = [index for index, word in enumerate(words) if word in programs]
        if starts and starts[0] < len(words) - 1 and not {"COMMAND", "--help"} & {*words}:
            options = [word.split("|") for word in words[starts[0] + 1 :]]
            yield from (list(choice) for choice in itertools.product(*options))


def parse(arguments: list[str]) -> Any:
    """Parse a command line as ``orca-sweep`` does, without running it; raise the parser's error."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("orca-sweep", list(arguments))
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context


def all_options(command: Any) -> set[str]:
    children = getattr(command, "commands", {}).values()
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return own.union({"--help"}, *(all_options(child) for child in children))


def test_relative_links_resolve(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} does not exist"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_paths_exist(page: Path) -> None:
    for snippet in code_spans(page.read_text()):
        for path in PATH.findall(snippet) if PATH.match(snippet) else ():
            choice = re.search(r"\{(.*)\}", path)
            for one in choice[1].split(",") if choice else [""]:
                found = path.replace(choice[0], one) if choice else path
                assert list(ROOT.glob(found.rstrip("/"))), f"{found} does not exist"


def test_command_lines_parse(page: Path) -> None:
    """In the text a command may be named without its arguments; in a code block it must be complete."""
    text = page.read_text()
    spans, lines = list(command_lines(code_spans(text))), list(command_lines(code_lines(text)))
    for arguments in [*spans, *lines]:
        try:
            context = parse(arguments)
        except Exception as error:
            if arguments in spans and str(error).startswith("Missing parameter: "):
                continue
            pytest.fail(f"orca-sweep {shlex.join(arguments)}: {error}")
        name = context.params.get("name")
        if context.info_name in ("benchmark", "leaderboard"):
            assert (ROOT / "sweeps" / f"{name}.yaml").exists(), f"no benchmark {name}"


def test_sweep_files_are_valid(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if re.search(r"^name:", block, re.MULTILINE):
            parse_spec(block, str(page))


@pytest.mark.parametrize("name", ["README.md", "docs/usage.md", "docs/benchmarks.md", "docs/cluster.md"])
def test_options_exist(name: str) -> None:
    known = all_options(typer.main.get_command(app))
    for snippet in code_spans((ROOT / name).read_text()):
        if snippet.startswith("--"):
            assert {word for word in snippet.split() if word.startswith("--")} <= known, snippet


def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    for snippet in [*code_lines(text), *code_spans(text)]:
        if match := re.match(r"(?:\w+=\S+ )*make ([\w-]+)", snippet):
            assert match[1] in targets, snippet


@pytest.mark.parametrize(
    "arguments",
    [["benchmark"], ["benchmark", "pocket", "--trails", "1"], ["benchmark", "pocket", "--protocol", "x"], ["sweep"]],
)
def test_a_wrong_command_line_is_noticed(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"Missing parameter|No such option|is not one of|No such command"):
        parse(arguments)


def test_the_pages_are_read() -> None:
    """Guard against patterns that match nothing."""
    text = "\n".join(page.read_text() for page in PAGES)
    assert len(list(command_lines(code_lines(text)))) > 25
    assert len(LINK.findall(text)) > 25
    assert len([snippet for snippet in code_spans(text) if PATH.match(snippet)]) > 8
    assert len(re.findall(r"^```yaml\nextends:", text, re.MULTILINE)) > 1
