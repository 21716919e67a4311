"""``--help``: quick, light, and complete."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orca_ray.cli.main import app

HEAVY = ("torch", "ray", "transformers", "pandas", "pyarrow", "numpy", "sklearn", "timm", "optuna")
SWEEP_OPTIONS = (
    "--json", "--quiet", "--results", "--executor", "--budget", "--tasks", "--methods", "--body", "--trials", "--seeds",
    "--protocol", "--deterministic", "--dry-run", "--address",
)  # fmt: skip


def _subprocess(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["benchmark", "--help"], ["data", "fetch", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from orca_ray.cli.main import run
assert run({arguments!r}) == 0
assert "typer" in sys.modules
print("LOADED", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    assert _subprocess(code).splitlines()[-1] == "LOADED []"


def test_help_takes_less_than_half_a_second() -> None:
    """The best of a few runs, because the machine is shared; processor time and wall time are both bounded."""
    script = Path(sys.executable).with_name("orca-sweep")
    assert script.is_file(), "install the package: pip install -e ."
    best = float("inf")
    for _ in range(5):
        begin = time.monotonic()
        subprocess.run([script, "--help"], stdout=subprocess.DEVNULL, check=True, timeout=30)
        best = min(best, time.monotonic() - begin)
    assert best < 0.5


def test_help_writes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "untouched"
    environment = {**os.environ, "ORCA_RAY_HOME": str(home)}
    script = Path(sys.executable).with_name("orca-sweep")
    subprocess.run([script, "--help"], stdout=subprocess.DEVNULL, check=True, timeout=30, env=environment)
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("benchmark", SWEEP_OPTIONS),
        ("run", SWEEP_OPTIONS),
        ("plan", [option for option in SWEEP_OPTIONS if option not in ("--quiet", "--dry-run")]),
        ("leaderboard", ("--format", "--json", "--results", "--protocol")),
        ("tasks", ("--json",)),
        ("bodies", ("--json", "--fetch")),
        ("methods", ("--json",)),
        ("doctor", ("--json", "--address", "--results")),
    ],
)
def test_each_command_has_its_options(name: str, options: tuple[str, ...]) -> None:
    ending = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert ending.exit_code == 0
    assert [option for option in options if option not in ending.output] == []


def test_no_arguments_print_the_help() -> None:
    ending = subprocess.run([sys.executable, "-m", "orca_ray.cli.main"], capture_output=True, text=True, timeout=30)
    assert ending.returncode == 2
    assert "leaderboard" in ending.stdout + ending.stderr
    assert "error" not in ending.stderr
