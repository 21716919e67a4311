"""The code blocks of the documentation run; `running` lists what runs otherwise, and why."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orca_ray.cli.app import run

from . import running
from .pages import BLOCK, FENCE, PAGES, ROOT, code_lines, command_lines, name_of

TEXTS = {name_of(page): page.read_text() for page in PAGES if name_of(page) not in running.ELSEWHERE}
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
    """Run a command line of ``orca-sweep`` as `running` says, and check how it ends."""

    def call(arguments: list[str]) -> None:
        if running.entry(arguments, running.PARSED_ONLY):
            return
        instead = running.altered(arguments)
        capsys.readouterr()
        code = run(instead)
        errors = capsys.readouterr().err
        refused = running.entry(arguments, running.REFUSED)
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
        assert language in running.LANGUAGES, f"say in tests/docs/running.py how a block of {language} is tested"
        for line in code_lines(f"```\n{content}```") if language == "" else ():
            program = line.split()[0]
            assert program in {"orca-sweep", *running.PROGRAMS}, f"say in tests/docs/running.py how {line} is tested"


def test_no_entry_is_superfluous() -> None:
    lines = [line for text in TEXTS.values() for line in code_lines(text)]
    used = list(command_lines(lines))
    for words in (*running.PARSED_ONLY, *running.APPENDED, *running.REFUSED):
        assert any(running.has(arguments, words) for arguments in used), words
    words_used = {word for arguments in used for word in arguments}
    assert {*running.REPLACED, *(option.split()[0] for option in running.DROPPED)} <= words_used
    assert set(running.PROGRAMS) <= {line.split()[0] for line in lines}
    assert set(running.LANGUAGES) == {
        found.split(" ")[0] for text in TEXTS.values() for found, _ in BLOCK.findall(text)
    }


def test_reasons_name_files_that_exist() -> None:
    for name, test in running.ELSEWHERE.items():
        assert Path(name).name in (ROOT / test).read_text()
    for table in (running.PARSED_ONLY, running.PROGRAMS):
        for reason in table.values():
            for path in re.findall(r"tests/[\w/.]+", reason):
                assert (ROOT / path).exists(), path
