"""The code blocks of the documentation run. Tables list which of them run otherwise than they stand, and why.

A page is a session: its blocks run in order, in a directory of their own with a results store, `results`. A command of
``orca-sweep`` that no table names runs as it stands and must succeed.
"""

import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from orca_ray.cli.app import run

from .pages import BLOCK, FENCE, PAGES, ROOT, code_lines, command_lines, name_of

ELSEWHERE: Mapping[str, str] = {
    "docs/plug-ins.md": "tests/test_plug_ins.py",
    "docs/own-data.md": "tests/examples/test_own_data.py",
    "docs/serving.md": "tests/serving/test_application.py",
}
"""Pages whose blocks a test of their own runs."""

PARSED_ONLY: Mapping[str, str] = {
    "submit": "needs a Ray cluster; tests/cluster/test_job_submit.py",
    "adapt": "trains for minutes; tests/examples/test_own_data.py",
    "predict": "needs a model; tests/examples/test_own_data.py",
    "export": "needs a model; tests/export",
    "serve": "does not end; tests/serving/test_serve.py",
    "reproduce": "trains for minutes; tests/sweep/run",
    "data fetch": "downloads; tests/data and tests/cli/test_cli_data.py",
    "data generate": "simulates for minutes; tests/cli/test_cli_generate.py",
    "bodies --fetch": "downloads; tests/models/test_packaged.py",
}
"""Words of command lines that are only parsed."""

APPENDED: Mapping[str, Sequence[str]] = {
    "benchmark": ["--dry-run"],
    "run": ["--dry-run"],
    "extend": ["--dry-run", "--budget", "quick"],
}
"""Options added to a command, because a sweep takes minutes to days, and because the store is that of a budget."""

DROPPED: Mapping[str, str] = {
    "--address VALUE": "needs a Ray cluster",
    "--staging VALUE": "needs a bucket",
    "--open": "starts a browser",
    "--watch": "does not end",
    "-f": "does not end",
}
"""Options that are left out."""

REPLACED: Mapping[str, str] = {
    "3f2a91": "ca245e7f6090",
    "pocket/full": "pocket/quick",
    "vowels/short": "pocket/quick",
    "s3://bucket/orca-ray": "results",
    "s3://bucket/results": "results",
}
"""Arguments that stand for others: a trial, a sweep and a store that a session has."""

REFUSED: Mapping[str, str] = {
    "stop": "no driver runs pocket/quick",
    "pause": "no driver runs pocket/quick",
    "cancel": "no trial with the key",
    "retry": "pocket/quick has no failed trials",
    "data prepare": "raw files are not in",
    "data verify": "nothing to verify",
}
"""Commands that need a running sweep, a failed trial or fetched data: here they end with this error and exit code 2."""

PROGRAMS: Mapping[str, str] = {
    "make": "the targets exist: test_pages.py",
    "pip": "changes the environment",
    "source": "changes the shell",
    "export": "changes the shell",
    "mkdir": "runs",
    "cluster/local.sh": "needs Ray nodes; tests/cluster",
    "cluster/ssh.sh": "needs hosts; tests/cluster/test_ssh.py",
    "sbatch": "needs SLURM; tests/cluster/test_slurm.py",
    "kubectl": "needs Kubernetes; tests/cluster/test_kubernetes.py",
    "docker": "needs Docker; tests/cluster/test_dockerfile.py",
    "ray": "needs machines; tests/cluster/test_ray_up.py",
}
"""Other programs that a block may call, and where they are tested or why not."""

LANGUAGES: Mapping[str, str] = {
    "": "each line calls orca-sweep or one of PROGRAMS",
    "python": "runs; all blocks of a page share their names",
    "yaml": "a block with a name is written to NAME.yaml before the page runs; test_pages.py parses it",
    "csv": "`orca-sweep results check` accepts it",
    "bibtex": "text",
    "{include}": "part of the site",
    "{toctree}": "part of the site",
    "{eval-rst}": "part of the site",
}
"""Languages of blocks, and what becomes of them."""


def has(arguments: Sequence[str], words: str) -> bool:
    """Return whether a command line starts with the first of ``words`` and holds the others."""
    first, *others = words.split()
    return arguments[:1] == [first] and set(others) <= set(arguments)


def entry(arguments: Sequence[str], table: Mapping[str, str]) -> str:
    """Return the value of the entry of ``table`` that a command line has; "" if there is none."""
    return next((value for words, value in table.items() if has(arguments, words)), "")


def altered(arguments: Sequence[str]) -> list[str]:
    """Return the command line that runs in place of ``arguments``."""
    kept = [REPLACED.get(word, word) for word in arguments]
    for option in DROPPED:
        name, *value = shlex.split(option)
        if name in kept:
            place = kept.index(name)
            del kept[place : place + 1 + len(value)]
    added = APPENDED.get(kept[0], [])
    return kept if set(added) <= set(kept) else [*kept, *added]


TEXTS = {name_of(page): page.read_text() for page in PAGES if name_of(page) not in ELSEWHERE}
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
        if entry(arguments, PARSED_ONLY):
            return
        instead = altered(arguments)
        capsys.readouterr()
        code = run(instead)
        errors = capsys.readouterr().err
        refused = entry(arguments, REFUSED)
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
        assert language in LANGUAGES, f"say in the tables above how a block of {language} is tested"
        for line in code_lines(f"```\n{content}```") if language == "" else ():
            program = line.split()[0]
            assert program in {"orca-sweep", *PROGRAMS}, f"say in the tables above how {line} is tested"
