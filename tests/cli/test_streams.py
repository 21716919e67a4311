"""The console script as a process: what it imports, its standard streams, its environment, and Ctrl-C at its start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "ray", "transformers", "pandas", "pyarrow", "numpy", "sklearn", "timm", "optuna")


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``orca`` is the console script."""
    line = f'orca() {{ {sys.executable} -m orca_ray.cli.main "$@"; }}; {command}'
    variables = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=variables, timeout=60)


def test_help_and_version_import_nothing_heavy_and_write_nothing(own_cache: Path) -> None:
    code = f"""
import sys
from orca_ray.cli.app import run
for arguments in (["--help"], ["benchmark", "--help"], ["data", "fetch", "--help"], ["--version"]):
    assert run(arguments) == 0
assert "typer" in sys.modules
print("LOADED", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert not own_cache.exists()


@pytest.mark.slow
def test_streams_that_are_closed_or_full() -> None:
    commands = {
        "orca tasks pocket <&- >&- 2>&-": 0,
        "orca tasks --json >/dev/full": 2,
        "orca nosuch 2>/dev/full": 2,
        "set -o pipefail; orca tasks --json | head -c 1": 0,
        "set -o pipefail; orca nosuch 2>&1 | true": 2,
    }
    for command, code in commands.items():
        done = shell(command)
        assert done.returncode == code, command
        assert not done.stderr or done.stderr.startswith("error: no space left")
        assert len(done.stderr.splitlines()) <= 1, done.stderr


def test_no_arguments_an_absurd_width_and_few_characters() -> None:
    done = shell("orca", COLUMNS="99999999999")
    assert done.returncode == 2
    assert "leaderboard" in done.stdout + done.stderr
    assert "error" not in done.stderr
    done = shell("orca tasks pocket", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"1\xd7427" in done.stdout


def test_ctrl_c_during_the_imports_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    done = shell("orca tasks", PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
