"""The console script: its options, imports and streams, and what the base installs."""

import fcntl
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import typer
from packaging.requirements import Requirement

import orca_ray
from orca_ray.cli import doctor
from orca_ray.cli.app import app
from orca_ray.cli.main import entry
from orca_ray.errors import HEAVY_PACKAGES
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from tests.cli.conftest import Ending
from tests.docs.pages import ROOT
from tests.results.factories import make_record

FROZEN = Path(__file__).with_name("command_line.txt")
"""One line a command: arguments, then options with their defaults.

Update it together with the command line.
"""


def _describe_command(command: Any, path: str) -> Iterator[str]:
    """Yield the lines of `FROZEN` for a command and its subcommands."""
    arguments = []
    options = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            arguments.append(parameter.metavar or parameter.name.upper())
            continue
        names = "/".join([*parameter.opts, *parameter.secondary_opts])
        value = getattr(parameter.default, "value", parameter.default)
        if parameter.required:
            value = "required"
        options.append(f"{names}={value}")
    yield " ".join([path, *arguments, *sorted(options)])
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _describe_command(child, f"{path} {name}")


def test_every_command_has_the_frozen_options_and_defaults() -> None:
    lines = list(_describe_command(typer.main.get_command(app), "orca-sweep"))
    assert lines == FROZEN.read_text().splitlines()


HEAVY = (
    "torch",
    "ray",
    "transformers",
    "pandas",
    "pyarrow",
    "numpy",
    "sklearn",
    "timm",
    "optuna",
)


def run_line(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``orca`` is the console script."""
    line = f'orca() {{ {sys.executable} -m orca_ray.cli.main "$@"; }}; {command}'
    variables = {**os.environ, **environment}
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=variables, timeout=60
    )


def test_help_and_version_import_nothing_heavy_and_write_nothing(
    own_cache: Path,
) -> None:
    code = f"""
import sys
from orca_ray.cli.app import run
for line in ("--help", "benchmark --help", "data fetch --help", "--version"):
    assert run(line.split()) == 0
assert "typer" in sys.modules
print("LOADED", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    completed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert completed.stdout.splitlines()[-1] == "LOADED []"
    assert not own_cache.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("orca tasks pocket <&- >&- 2>&-", 0),
        ("orca tasks --json >/dev/full", 2),
        ("orca nosuch 2>/dev/full", 2),
        ("set -o pipefail; orca tasks --json | head -c 1", 0),
        ("set -o pipefail; orca nosuch 2>&1 | true", 2),
    ],
)
def test_streams_may_be_closed_or_full(line: str, code: int) -> None:
    completed = run_line(line)
    assert completed.returncode == code
    if completed.stderr:
        assert completed.stderr.startswith("error: no space left")
        assert len(completed.stderr.splitlines()) == 1


def test_without_arguments_the_commands_are_listed_at_any_width() -> None:
    completed = run_line("orca", COLUMNS="99999999999")
    assert completed.returncode == 2
    assert "leaderboard" in completed.stdout + completed.stderr
    assert "error" not in completed.stderr


def test_characters_that_a_terminal_lacks_are_escaped() -> None:
    completed = run_line("orca tasks pocket", PYTHONIOENCODING="ascii")
    assert completed.returncode == 0
    assert completed.stderr == ""
    assert r"1\xd7427" in completed.stdout


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("OS=Windows_NT", "On Windows, install WSL"),
        ("PYTHON=./old", "Python 3.11.4 or newer is needed, ./old is 3.9.2"),
        ("NEEDED_MIB=999999999", "free some, or move the clone"),
        ("NEEDED_WITH_CUDA_MIB=1", "another make installs into"),
    ],
)
def test_an_installation_that_cannot_work_is_refused_in_one_line(
    tmp_path: Path, variable: str, expected: str
) -> None:
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    values = "sys.version, sys.version_info = '3.9.2 (x)', (3, 9, 2)"
    (folder / "old").write_text(
        f"#!{sys.executable}\nimport sys\n{values}\nexec(sys.argv[2])\n"
    )
    (folder / "old").chmod(0o755)
    with (folder / "Makefile").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        completed = subprocess.run(
            ["make", "demo", variable],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert completed.returncode == 2
    assert expected in completed.stderr.splitlines()[0]


@pytest.mark.parametrize("variable", ["", "1"])
def test_libraries_are_compiled_where_processes_may_not(variable: str) -> None:
    planned = subprocess.run(
        ["make", "--dry-run", "--always-make", "venv"],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": variable},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert planned.returncode == 0, planned.stderr
    assert ("-m compileall" in planned.stdout) is bool(variable)


def test_windows_is_refused_before_anything_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="2"):
        entry()


def test_ctrl_c_during_the_imports_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    completed = run_line("orca tasks", PYTHONPATH=path)
    assert completed.returncode == 130
    assert completed.stdout == ""
    assert completed.stderr == "interrupted\n"


HIDE = f"""
import contextlib, io, json, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(HEAVY_PACKAGES)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
from orca_ray.cli.app import run
endings = []
for arguments in json.loads(sys.argv[1]):
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    endings.append((code, *texts))
print(json.dumps(endings))
"""


def run_without_extras(*commands: str) -> list[Ending]:
    """Run commands, one after another, in one process without the heavy packages."""
    arguments = json.dumps([command.split() for command in commands])
    completed = subprocess.run(
        [sys.executable, "-c", HIDE, arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [Ending(*ending) for ending in json.loads(completed.stdout)]


STUDY = """\
name: study
benchmark: pocket
methods: [nft]
tasks: [pocket/digits]
grid: {refine.epochs: [3, 6]}
"""


def make_record_of_study(epochs: int, score: float) -> Record:
    """Return a record of the study with a number of epochs."""
    return make_record(
        f"k{epochs}",
        method="nft",
        sweep="study/full",
        seed=1,
        hyperparameters=f'{{"refine.epochs": {epochs}}}',
        test_score=score,
    )


@pytest.mark.slow
def test_boards_effects_catalogue_and_status_need_the_base_alone() -> None:
    lost = make_record("b", status=Status.LOST, test_score=None, validation_score=None)
    completed = make_record("a", test_score=0.125)
    ResultsStore("store", create=True).append([completed, lost])
    Path("study.yaml").write_text(STUDY)
    records_of_study = [
        make_record_of_study(3, 0.5),
        make_record_of_study(6, 0.25),
        make_record_of_study(9, 0.1),
    ]
    ResultsStore("grid", create=True).append(records_of_study)
    board, effects, status, log, *lists = run_without_extras(
        "leaderboard pocket --results store",
        "leaderboard study.yaml --results grid --format markdown",
        "status pocket --results store",
        "logs a --results store",
        "tasks --json",
        "bodies --json",
        "methods --json",
        "data list pocket --json",
        "doctor --json",
    )
    for ending in (board, effects, status, log, *lists):
        assert ending.code == 0
        assert ending.err == ""
    assert "0.125" in board.out
    assert "## Effect of refine.epochs, relative to 3\n" in effects.out
    assert "| 6 | all | 0.50 | 0 | 0 | 1/3 | 0.50 |" in effects.out
    assert "- 1 trial(s) that are not in the grid left out" in effects.out
    assert "pocket/quick: 2/? trials, 0 running, 1 lost" in status.out
    assert "no driver runs" in status.out
    assert log.out.startswith("trial a of pocket/quick has no log")
    assert all(ending.json for ending in lists)


@pytest.mark.slow
def test_mistakes_and_missing_extras_are_named_by_the_base_alone() -> None:
    Path("study.yaml").write_text(STUDY)
    ResultsStore("grid", create=True).append([make_record_of_study(3, 0.5)])
    misspelt, sweep = run_without_extras(
        "leaderboard study.yaml --results grid --budget ful", "benchmark pocket"
    )
    assert misspelt.code == 2
    assert "Did you mean 'full'?" in misspelt.err
    assert sweep.code == 2
    assert "pip install 'orca-ray[sweep]'" in sweep.err
    assert "Traceback" not in sweep.err
    assert not Path("results").exists()


def test_every_package_of_the_extras_is_known_by_its_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*extras["predict"], *extras["sweep"]]
    packages = {Requirement(line).name.lower() for line in lines} - {"orca-ray"}
    modules: dict[str, set[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(distribution.lower(), set()).add(module)
    for package in packages:
        assert modules.get(package, set()) & HEAVY_PACKAGES, package


@pytest.mark.parametrize(
    ("name", "extra", "package"),
    [
        ("load", "predict", "torch"),
        ("CrossModalClassifier", "predict", "torch"),
        ("adapt", "sweep", "optuna"),
    ],
)
def test_a_missing_package_is_named_in_python(
    name: str, extra: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ModuleNotFoundError(f"No module named {package!r}", name=package)
    monkeypatch.setattr(orca_ray, "resolve_name", Mock(side_effect=error))
    message = rf"orca_ray\.{name} needs .*'{package}'.*orca-ray\[{extra}\]"
    with pytest.raises(ModuleNotFoundError, match=message):
        getattr(orca_ray, name)


@pytest.mark.parametrize(
    ("absent", "working"),
    [
        (["ray", "optuna"], "leaderboards and models"),
        (["ray", "timm"], "leaderboards"),
    ],
)
def test_doctor_says_what_works_without_packages(
    absent: list[str], working: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name in absent:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    *_, missing = doctor._versions()
    assert missing.item == "missing"
    assert missing.value == ", ".join(absent)
    assert missing.state == "problem"
    assert missing.advice.startswith(f"{working} work, sweeps do not")
