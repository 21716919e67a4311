"""The documentation: links resolve, paths exist, parsers accept the command lines
shown, blocks run, the site builds.

A page is a session: its blocks run in order, in a directory of their own with a results
    store, `results`. A command of
``orca-sweep`` that no table of ``blocks.toml`` names runs as it stands and must
succeed. The site builds without a network and without a warning, and its pages load
nothing from elsewhere.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import typer
import yaml

from benchmarks import command_pages
from orca_ray.cli import output
from orca_ray.cli.app import app
from orca_ray.discovery import GROUPS
from orca_ray.methods.registry import all_methods
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.tasks.registry import all_tasks
from tests.cli.conftest import Command

from .pages import BLOCK, FENCE, PAGES, ROOT, code_lines, command_lines, name_of, parse

TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(
    r"(?:orca_ray|tests|sweeps|cluster|docs|benchmarks|examples)/[\w./*{},-]+"
)
NAME = re.compile(r"\borca_ray(?:\.[A-Za-z]\w*)+")


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


def code_spans(text: str) -> list[str]:
    """Return the code inside paragraphs and tables."""
    return [
        re.sub(r"\s+", " ", span)
        for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))
    ]


def links(page: Path, text: str) -> list[str]:
    """Return the relative links without a target."""
    wrong = []
    for link in LINK.findall(FENCE.sub("", text)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not re.match(r"[a-z]+:", link) and (
            not target.exists() or (anchor and anchor not in anchors(target))
        ):
            wrong.append(link)
    return wrong


def paths(text: str) -> list[str]:
    """Return the paths in code spans that do not exist."""
    wrong = []
    for path in (
        path
        for snippet in code_spans(text)
        if PATH.match(snippet)
        for path in PATH.findall(snippet)
    ):
        choice = re.search(r"\{(.*)\}", path)
        found = (
            [path.replace(choice[0], one) for one in choice[1].split(",")]
            if choice
            else [path]
        )
        wrong += [one for one in found if not list(ROOT.glob(one.rstrip("/")))]
    return wrong


def names(text: str) -> list[str]:
    """Return the dotted names in the text that are no module or object of orca-ray, nor
    a group of entry points.
    """
    wrong = []
    for name in {
        name
        for name in NAME.findall(FENCE.sub("", text))
        if name not in GROUPS.values()
    }:
        try:
            resolve_name(name)
        except (ImportError, AttributeError):
            wrong.append(name)
    return wrong


def commands(text: str) -> list[str]:
    """Return wrong command lines.

    In the text the arguments may lack; in a code block a command must be complete.
    """
    wrong = []
    spans = list(command_lines(code_spans(text)))
    lines = list(command_lines(code_lines(text)))
    for arguments in [*spans, *lines]:
        try:
            context = parse(arguments)
        except Exception as error:
            if arguments not in spans or not str(error).startswith(
                "Missing parameter: "
            ):
                wrong.append(f"orca-sweep {shlex.join(arguments)}: {error}")
            continue
        name = context.params.get("name", "")
        if context.info_name in ("benchmark", "leaderboard") and not name.endswith(
            ".yaml"
        ):
            wrong += [f"no benchmark {name}"] * (
                not (ROOT / "sweeps" / f"{name}.yaml").exists()
            )
    targets = (
        re.match(r"(?:\w+=\S+ )*make ([\w-]+)", snippet)
        for snippet in [*code_lines(text), *code_spans(text)]
    )
    return wrong + [
        target[0] for target in targets if target and target[1] not in TARGETS
    ]


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
    own = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    return own.union({"--help"}, *(all_options(child) for child in children))


def test_the_help_of_each_command_stands_once_and_is_current() -> None:
    stale = [
        page.name
        for page in command_pages.PAGES
        if command_pages.regenerated(page) != page.read_text()
    ]
    assert stale == [], "run `make boards`"
    shown = [
        name
        for page in command_pages.PAGES
        for name in command_pages.MARK.findall(page.read_text())
    ]
    assert sorted(shown) == sorted(
        ["all", *(name for name, _ in command_pages.commands())]
    )
    codes = (
        0,
        output.TRIALS_FAILED,
        output.USER_ERROR,
        output.INTERNAL_ERROR,
        output.CLUSTER_LOST,
        output.INTERRUPTED,
    )
    assert re.findall(r"^\| (\d+) \|", TEXTS["docs/usage.md"], re.MULTILINE) == [
        str(code) for code in codes
    ]


def test_the_readme_is_short_and_its_output_is_that_of_the_walk_through() -> None:
    text = TEXTS["README.md"]
    shown = (ROOT / "docs" / "own-data.md").read_text().splitlines()
    assert len(text.split()) <= 900
    assert len(text.splitlines()) <= 120
    answer, *tables = TEXTS["docs/findings.md"].split("<!-- findings: ")
    claims = (
        answer
        + TEXTS["docs/choosing.md"].partition("\n## ")[0]
        + text.partition("<!-- board: ")[0]
    )
    told, found = (
        set(re.findall(r"\b\d\.\d\d \[.*?\]", part))
        for part in (claims, "".join(tables))
    )
    assert told <= found, "numbers of the finding are those of the tables"
    printed = {
        line
        for language, block in BLOCK.findall(text)
        if language == "text"
        for line in block.splitlines()
    }
    assert printed <= {*shown, "…"}


def test_pages_install_from_a_clone_since_nothing_is_published_on_an_index() -> None:
    found = {
        name for name, text in TEXTS.items() if re.search(r"install '?orca-ray", text)
    }
    assert found <= {"docs/usage.md", "docs/decisions/0001-extras.md", "CHANGELOG.md"}


@pytest.mark.parametrize(
    "name", ["README.md", "docs/usage.md", "docs/benchmarks.md", "docs/cluster.md"]
)
def test_options_exist(name: str) -> None:
    spans = (
        snippet.split()
        for snippet in code_spans((ROOT / name).read_text())
        if snippet.startswith("--")
    )
    found = {word for words in spans for word in words if word.startswith("--")}
    assert found <= all_options(typer.main.get_command(app))


TABLES = tomllib.loads(Path(__file__).with_name("blocks.toml").read_text())


def entry(arguments: Sequence[str], table: Mapping[str, str]) -> str:
    """Return the value of the entry of ``table`` whose first word starts a command line
    that holds its other words.
    """
    for words, value in table.items():
        first, *others = words.split()
        if arguments[:1] == [first] and set(others) <= set(arguments):
            return value
    return ""


def altered(arguments: Sequence[str]) -> list[str]:
    """Return the command line that runs in place of ``arguments``."""
    kept = [TABLES["replaced"].get(word, word) for word in arguments]
    for option in TABLES["dropped"]:
        name, *value = shlex.split(option)
        if name in kept:
            place = kept.index(name)
            del kept[place : place + 1 + len(value)]
    added = TABLES["appended"].get(kept[0], [])
    return kept if set(added) <= set(kept) else [*kept, *added]


TEXTS = {
    name_of(page): page.read_text()
    for page in PAGES
    if name_of(page) not in TABLES["elsewhere"]
}
WITH_BLOCKS = [
    pytest.param(name, marks=[] if name == "README.md" else pytest.mark.exhaustive)
    for name, text in TEXTS.items()
    if code_lines(text)
]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a page's session a directory with the stores and sweep files of the
    repository, and its own cache.
    """
    for name in ("docs/stores", "sweeps"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs/stores/pocket-quick", tmp_path / "results")
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    for name in ("ORCA_RAY_RESULTS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(command: Command, arguments: list[str]) -> None:
    """Run a command line of ``orca-sweep`` as the tables say, and check how it ends."""
    if entry(arguments, TABLES["parsed_only"]):
        return
    instead = altered(arguments)
    refused = entry(arguments, TABLES["refused"])
    ended = command(*instead)
    as_said = ended.code == 2 and refused in ended.err if refused else ended.code == 0
    assert as_said, f"orca-sweep {shlex.join(instead)}: {ended.err}"


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_the_blocks_of_a_page_run_in_order(
    name: str, session: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = BLOCK.findall(TEXTS[name])
    command = Command(capsys)
    for language, content in blocks:
        if language == "yaml" and (sweep := yaml.safe_load(content).get("name")):
            (session / f"{sweep}.yaml").write_text(content)
    names: dict[str, object] = {"__name__": "page"}
    for language, content in [
        *blocks,
        ("sh", "\n".join(code_lines(FENCE.sub("", TEXTS[name])))),
    ]:
        if language == "python":
            exec(compile(content, name, "exec"), names)
        elif language == "csv":
            (session / "block.csv").write_text(content)
            check(command, ["results", "check", "block.csv"])
        elif language == "sh":
            for line in code_lines(f"```\n{content}```"):
                if line.startswith("mkdir "):
                    Path(line.split()[-1]).mkdir()
                for arguments in command_lines([line]):
                    check(command, arguments)


def test_every_block_is_of_a_known_kind() -> None:
    for language, content in (
        block for text in TEXTS.values() for block in BLOCK.findall(text)
    ):
        language = language.split(" ")[0]
        assert language in TABLES["languages"], (
            f"say in blocks.toml how a block of {language} is tested"
        )
        for line in code_lines(f"```\n{content}```") if language == "sh" else ():
            program = line.split()[0]
            assert program in {
                "orca-sweep",
                *TABLES["programs"],
            }, f"say in blocks.toml how {line} is tested"


NO_NETWORK = """
import socket, sys
def refuse(*given):
    raise OSError("the site is built without a network")
socket.socket.connect = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""
OPTIONS = next(
    line for line in (ROOT / "Makefile").read_text().splitlines() if "-m sphinx" in line
).split()[3:]
"""Options of ``make docs``."""


class Elements(HTMLParser):
    """The addresses that a page loads: those of all its elements but links to follow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            self.loaded += [
                value
                for name, value in attrs
                if name in ("src", "href", "srcset", "data") and value
            ]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_site(tmp_path: Path) -> None:
    """Built as ``make docs`` does: a link without a target would end the build."""
    command = [
        sys.executable,
        "-c",
        NO_NETWORK,
        "-d",
        f"{tmp_path}/doctrees",
        *OPTIONS[:-1],
        f"{tmp_path}/html",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "html"
    for page in site.rglob("*.html"):
        assert not [
            each
            for each in Elements(page.read_text()).loaded
            if re.match(r"(https?:)?//", each)
        ], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text()), (
            style.name
        )
    text = (site / "reference" / "registries.html").read_text()
    for name in (
        *all_methods(),
        *(task.short_name for task in all_tasks().values()),
        "minilm-l6",
        "otdd",
        "nrmse",
    ):
        assert f">{name}<" in text, name
    assert (
        'href="files/orca_ray/cli/app.py.html"'
        in (site / "way-of-a-trial.html").read_text()
    )
    assert (
        'class="highlight"'
        in (site / "files" / "orca_ray" / "cli" / "app.py.html").read_text()
    )
    assert "--trial-minutes" in (site / "commands" / "benchmark.html").read_text()
    assert {path.stem for path in (site / "boards").iterdir()} == {
        "pocket",
        "pocket-quick",
        "aligning",
    }
    assert (
        'id="orca_ray.tasks.task.Task.prepare"'
        in (site / "reference" / "python.html").read_text()
    )
