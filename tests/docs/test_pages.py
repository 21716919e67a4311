"""The documentation: links resolve, paths exist, and every command line shown is accepted by the parsers."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from orca_ray.cli.app import app
from orca_ray.sweep.plan.loading import parse_spec

from .pages import (
    FENCE,
    LINK,
    PAGES,
    PATH,
    ROOT,
    all_options,
    anchors,
    code_lines,
    code_spans,
    command_lines,
    name_of,
    parse,
)  # fmt: skip


@pytest.fixture(params=PAGES, ids=name_of)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


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
        name = context.params.get("name", "")
        if context.info_name in ("benchmark", "leaderboard") and not name.endswith(".yaml"):
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
