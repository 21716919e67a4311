"""The documentation: links, paths, command lines, blocks and the site.

Links resolve, paths exist, parsers accept the command lines shown. A page is a session:
its blocks run in order, in a directory of their own with a results store, `results`. A
command of ``orca-sweep`` that no table of ``blocks.toml`` names runs as it stands and
must succeed. The site builds without a network and without a warning, and its pages
load nothing from elsewhere.
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

from benchmarks import command_pages, draw_peers
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
LINE = re.compile(r"- \[[^\]]+\]\([^)]+\): .+\.")
"""Matches a line of llms.txt: a link and a sentence."""
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
    for snippet in code_spans(text):
        if not PATH.match(snippet):
            continue
        for pattern in PATH.findall(snippet):
            choice = re.search(r"\{(.*)\}", pattern)
            names = [pattern]
            if choice:
                names = [
                    pattern.replace(choice[0], word) for word in choice[1].split(",")
                ]
            wrong += [name for name in names if not list(ROOT.glob(name.rstrip("/")))]
    return wrong


def names(text: str) -> list[str]:
    """Return the dotted names in the text that do not exist.

    They are neither modules or objects of orca-ray nor groups of entry points.
    """
    wrong = []
    for name in {*NAME.findall(FENCE.sub("", text))} - {*GROUPS.values()}:
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
            is_incomplete = str(error).startswith("Missing parameter: ")
            if arguments not in spans or not is_incomplete:
                wrong.append(f"orca-sweep {shlex.join(arguments)}: {error}")
            continue
        if context.info_name not in ("benchmark", "leaderboard"):
            continue
        name = context.params["name"]
        sweep = ROOT / "sweeps" / f"{name}.yaml"
        if not name.endswith(".yaml") and not sweep.exists():
            wrong.append(f"no benchmark {name}")
    for snippet in [*code_lines(text), *code_spans(text)]:
        target = re.match(r"(?:\w+=\S+ )*make ([\w-]+)", snippet)
        if target and target[1] not in TARGETS:
            wrong.append(target[0])
    return wrong


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


def test_llms_txt_is_a_title_a_summary_and_links_with_a_sentence_each() -> None:
    file = ROOT / "llms.txt"
    text = file.read_text()
    assert links(file, text) == []
    assert paths(text) == names(text) == commands(text) == []
    assert re.match(r"# orca-ray\n\n> .+\n", text)
    _, *sections = re.split(r"^## .+\n\n", text, flags=re.MULTILINE)
    lines = [line for section in sections for line in section.strip().splitlines()]
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    linked = LINK.findall(text)
    assert sorted(set(linked)) == sorted(linked)


def all_options(command: Any) -> set[str]:
    """Return the options of a command and of its subcommands."""
    options = {"--help"}
    for parameter in command.params:
        options.update(parameter.opts, parameter.secondary_opts)
    for child in getattr(command, "commands", {}).values():
        options |= all_options(child)
    return options


def test_the_help_of_each_command_stands_once_and_is_current() -> None:
    stale = []
    documented = []
    for page in command_pages.PAGES:
        text = page.read_text()
        documented += command_pages.MARK.findall(text)
        if command_pages.regenerated(page) != text:
            stale.append(page.name)
    assert stale == [], "run `make boards`"
    commands = [name for name, _ in command_pages.commands()]
    assert sorted(documented) == sorted(["all", *commands])
    codes = (
        0,
        output.TRIALS_FAILED,
        output.USER_ERROR,
        output.INTERNAL_ERROR,
        output.CLUSTER_LOST,
        output.INTERRUPTED,
    )
    documented_codes = re.findall(r"^\| (\d+) \|", TEXTS["docs/usage.md"], re.MULTILINE)
    assert documented_codes == [str(code) for code in codes]


def test_the_first_sentence_is_the_same_everywhere() -> None:
    first = re.search(r"^\*\*(.+)\*\*$", TEXTS["README.md"], re.MULTILINE)
    assert first is not None
    sentence = first[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    help_text = " ".join((typer.main.get_command(app).help or "").split())
    assert project["description"].startswith(sentence.removesuffix("."))
    assert citation["abstract"].startswith(sentence)
    assert help_text == sentence
    assert f"\n> {sentence} " in (ROOT / "llms.txt").read_text()


def test_the_readme_is_short_and_its_output_is_that_of_the_walk_through() -> None:
    text = TEXTS["README.md"]
    walk_through = (ROOT / "docs" / "own-data.md").read_text().splitlines()
    assert len(text.split()) <= 900
    assert len(text.splitlines()) <= 120
    for language, block in BLOCK.findall(text):
        if language == "text":
            assert set(block.splitlines()) <= {*walk_through, "…"}


NUMBER = re.compile(r"\b\d(?:\.\d+)?e-\d+|\b\d\.\d\d+(?: \[.*?\])?")
"""Matches a ratio, with its interval if it has one, and a p-value."""
GENERATED = re.compile(r"^<!-- (\w+): .*?^<!-- /\1 -->$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["README.md", "docs/findings.md", "docs/choosing.md"])
def test_numbers_of_the_finding_are_computed_from_the_stores(name: str) -> None:
    """Only paragraphs that say so have numbers of the study of six epochs."""
    computed = {
        page: {
            number
            for block in GENERATED.finditer(TEXTS[f"docs/{page}.md"])
            for number in NUMBER.findall(block[0])
        }
        for page in ("findings", "trained", "six-epochs")
    }
    six_epochs = computed["six-epochs"]
    # Pages that compare both studies have ratios of six epochs, too.
    ratios_before = {number for number in six_epochs if "[" in number}
    trained = (computed["trained"] | computed["findings"]) - ratios_before
    text = GENERATED.sub("", TEXTS[name])
    if name == "README.md":
        text = text.partition("\n## The finding\n")[2]
    if name != "docs/findings.md":
        text = text.partition("\n## ")[0]
    paragraphs = re.split(r"\n\n|\n- ", text)
    for paragraph in paragraphs:
        is_short = "fter six epochs" in paragraph
        known = six_epochs if is_short else trained
        assert set(NUMBER.findall(paragraph)) <= known, paragraph
    assert set(NUMBER.findall(text)) & computed["trained"]


def test_the_picture_of_own_data_is_drawn_from_the_table_of_results() -> None:
    logs = draw_peers.read_log_ratios(TEXTS["docs/results.md"])
    assert draw_peers.draw(logs) == draw_peers.PICTURE.read_text(encoding="utf-8")


def test_pages_install_from_a_clone_since_nothing_is_published_on_an_index() -> None:
    pages = {
        name for name, text in TEXTS.items() if re.search(r"install '?orca-ray", text)
    }
    assert pages <= {"docs/usage.md", "docs/decisions/0001-extras.md", "CHANGELOG.md"}


@pytest.mark.parametrize(
    "name", ["README.md", "docs/usage.md", "docs/benchmarks.md", "docs/cluster.md"]
)
def test_options_exist(name: str) -> None:
    options = set()
    for snippet in code_spans((ROOT / name).read_text()):
        if snippet.startswith("--"):
            options |= {word for word in snippet.split() if word.startswith("--")}
    assert options <= all_options(typer.main.get_command(app))


TABLES = tomllib.loads(Path(__file__).with_name("blocks.toml").read_text())


def entry(arguments: Sequence[str], table: Mapping[str, str]) -> str:
    """Return the value of the entry of ``table`` that fits a command line.

    The first word of the entry starts the command line, which holds all other words.
    """
    for words, value in table.items():
        first, *required = words.split()
        if arguments[:1] == [first] and set(required) <= set(arguments):
            return value
    return ""


def altered(arguments: Sequence[str]) -> list[str]:
    """Return the command line that runs in place of ``arguments``."""
    words = [TABLES["replaced"].get(word, word) for word in arguments]
    for option in TABLES["dropped"]:
        name, *value = shlex.split(option)
        if name in words:
            place = words.index(name)
            del words[place : place + 1 + len(value)]
    appended = TABLES["appended"].get(words[0], [])
    return words if set(appended) <= set(words) else [*words, *appended]


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
    """Give a page's session a directory and a cache of its own.

    The directory has the stores and sweep files of the repository.
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
    words = altered(arguments)
    refusal = entry(arguments, TABLES["refused"])
    ending = command(*words)
    if refusal:
        is_expected = ending.code == 2 and refusal in ending.err
    else:
        is_expected = ending.code == 0
    assert is_expected, f"orca-sweep {shlex.join(words)}: {ending.err}"


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_the_blocks_of_a_page_run_in_order(
    name: str, session: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = BLOCK.findall(TEXTS[name])
    for language, content in blocks:
        if language == "yaml":
            sweep = yaml.safe_load(content).get("name")
            if sweep:
                (session / f"{sweep}.yaml").write_text(content)
    command = Command(capsys)
    indented = "\n".join(code_lines(FENCE.sub("", TEXTS[name])))
    variables: dict[str, object] = {"__name__": "page"}
    for language, content in [*blocks, ("sh", indented)]:
        if language == "python":
            exec(compile(content, name, "exec"), variables)
        elif language == "csv":
            (session / "block.csv").write_text(content)
            check(command, ["results", "check", "block.csv"])
        elif language == "sh":
            run_shell_block(content, command)


def run_shell_block(content: str, command: Command) -> None:
    """Run the lines of a block of shell commands that make directories or sweep."""
    for line in code_lines(f"```\n{content}```"):
        if line.startswith("mkdir "):
            Path(line.split()[-1]).mkdir()
        for arguments in command_lines([line]):
            check(command, arguments)


def test_every_block_is_of_a_known_kind() -> None:
    programs = {"orca-sweep", *TABLES["programs"]}
    for text in TEXTS.values():
        for info, content in BLOCK.findall(text):
            language = info.split(" ")[0]
            assert language in TABLES["languages"], (
                f"say in blocks.toml how a block of {language} is tested"
            )
            if language != "sh":
                continue
            for line in code_lines(f"```\n{content}```"):
                assert line.split()[0] in programs, (
                    f"say in blocks.toml how {line} is tested"
                )


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
    """The addresses that a page loads: those of all elements but links to follow."""

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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as ``make docs`` does: a link without a target ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-c",
        NO_NETWORK,
        "-d",
        f"{folder}/doctrees",
        *OPTIONS[:-1],
        f"{folder}/html",
    ]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    return folder / "html"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_site(site: Path) -> None:
    def text_of(page: str) -> str:
        return (site / page).read_text()

    for page in site.rglob("*.html"):
        for address in Elements(page.read_text()).loaded:
            assert not re.match(r"(https?:)?//", address), page.name
    for style in site.rglob("*.css"):
        external = re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text())
        assert not external, style.name
    registries = text_of("reference/registries.html")
    tasks = [task.short_name for task in all_tasks().values()]
    for name in (*all_methods(), *tasks, "minilm-l6", "otdd", "nrmse"):
        assert f">{name}<" in registries, name
    source = "files/orca_ray/cli/app.py.html"
    assert f'href="{source}"' in text_of("way-of-a-trial.html")
    assert 'class="highlight"' in text_of(source)
    assert "--trial-minutes" in text_of("commands/benchmark.html")
    boards = {path.stem for path in (site / "boards").iterdir()}
    assert boards == {path.name for path in (ROOT / "docs/stores").iterdir()}
    anchor = 'id="orca_ray.tasks.task.Task.prepare"'
    assert anchor in text_of("reference/python.html")


TABLES_OF_A_PAGE = """() => {
  const sidebar = document.querySelector(".sidebar-drawer").getBoundingClientRect();
  const tables = [...document.querySelectorAll(".table-wrapper")].map(wrapper => ({
    clipped: wrapper.scrollWidth > wrapper.clientWidth + 1,
    columns: wrapper.querySelectorAll("tr:first-child > th").length,
    share: wrapper.clientWidth / (innerWidth - Math.max(sidebar.right, 0)),
  }));
  return {width: document.documentElement.scrollWidth - innerWidth, tables};
}"""
"""Returns by how much a page is wider than its window, and its tables. ``share`` is
that of a table's container in the width beside the navigation."""
MOST_COLUMNS = 14
"""Largest number of columns of a table that must fit into a window of 1400 pixels."""


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("width", [1400, 390])
def test_no_table_makes_a_page_wider_than_its_window(
    width: int, site: Path, browser: Any
) -> None:
    """A table may scroll on a telephone, and with very many columns elsewhere."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems = []
    num_tables = 0
    for source in sorted((ROOT / "docs").rglob("*.md")):
        file = site / source.relative_to(ROOT / "docs").with_suffix(".html")
        page.goto(file.as_uri())
        found = page.evaluate(TABLES_OF_A_PAGE)
        num_tables += len(found["tables"])
        if found["width"] > 0:
            problems.append(f"{file.name} is {found['width']} pixels too wide")
        for table in found["tables"] if width == 1400 else []:
            uses_width = table["columns"] > MOST_COLUMNS and table["share"] > 0.9
            if table["clipped"] and not uses_width:
                problems.append(f"{file.name}: a table is cut: {table}")
    page.close()
    assert num_tables > 100
    assert problems == []
