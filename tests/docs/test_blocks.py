"""The code blocks of the documentation run. ``blocks.toml`` lists which of them run otherwise than they stand, and why.

A page is a session: its blocks run in order, in a directory of their own with a results store, `results`. A command of
``orca-sweep`` that no table names runs as it stands and must succeed.
"""

import shlex
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from orca_ray.cli.app import run

from .pages import BLOCK, FENCE, PAGES, ROOT, code_lines, command_lines, name_of

TABLES = tomllib.loads(Path(__file__).with_name("blocks.toml").read_text())


def has(arguments: Sequence[str], words: str) -> bool:
    """Return whether a command line starts with the first of ``words`` and holds the others."""
    first, *others = words.split()
    return arguments[:1] == [first] and set(others) <= set(arguments)


def entry(arguments: Sequence[str], table: Mapping[str, str]) -> str:
    """Return the value of the entry of ``table`` that a command line has; "" if there is none."""
    return next((value for words, value in table.items() if has(arguments, words)), "")


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


TEXTS = {name_of(page): page.read_text() for page in PAGES if name_of(page) not in TABLES["elsewhere"]}
WITH_BLOCKS = [
    pytest.param(name, marks=[] if name == "README.md" else pytest.mark.exhaustive)
    for name, text in TEXTS.items()
    if code_lines(text)
]

Run = Callable[[list[str]], None]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a page's session a directory with the stores and sweep files of the repository, and its own cache."""
    for name in ("docs/stores", "sweeps"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs/stores/pocket-quick", tmp_path / "results")
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path / "home"))
    for name in ("ORCA_RAY_RESULTS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line of ``orca-sweep`` as the tables say, and check how it ends."""

    def call(arguments: list[str]) -> None:
        if entry(arguments, TABLES["parsed_only"]):
            return
        instead = altered(arguments)
        capsys.readouterr()
        code = run(instead)
        errors = capsys.readouterr().err
        refused = entry(arguments, TABLES["refused"])
        as_said = code == 2 and refused in errors if refused else code == 0
        assert as_said, f"orca-sweep {shlex.join(instead)}: {errors}"

    return call


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_the_blocks_of_a_page_run_in_order(name: str, session: Path, command: Run) -> None:
    blocks = BLOCK.findall(TEXTS[name])
    for language, content in blocks:
        if language == "yaml" and (sweep := yaml.safe_load(content).get("name")):
            (session / f"{sweep}.yaml").write_text(content)
    names: dict[str, object] = {"__name__": "page"}
    for language, content in [*blocks, ("", "\n".join(code_lines(FENCE.sub("", TEXTS[name]))))]:
        if language == "python":
            exec(compile(content, name, "exec"), names)
        elif language == "csv":
            (session / "block.csv").write_text(content)
            command(["results", "check", "block.csv"])
        elif language == "":
            for line in code_lines(f"```\n{content}```"):
                if line.startswith("mkdir "):
                    Path(line.split()[-1]).mkdir()
                for arguments in command_lines([line]):
                    command(arguments)


def test_every_block_is_of_a_known_kind() -> None:
    for language, content in (block for text in TEXTS.values() for block in BLOCK.findall(text)):
        language = language.split(" ")[0]
        assert language in TABLES["languages"], f"say in blocks.toml how a block of {language} is tested"
        for line in code_lines(f"```\n{content}```") if language == "" else ():
            program = line.split()[0]
            assert program in {"orca-sweep", *TABLES["programs"]}, f"say in blocks.toml how {line} is tested"
