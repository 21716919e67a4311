"""The console script: its frozen options; as a process, what it imports, its streams, its environment, and Ctrl-C."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from orca_ray.cli.app import app

FROZEN = Path(__file__).with_name("command_line.txt")
"""One line a command: arguments, then options with their defaults. Update it together with the command line."""


def _lines(command: Any, path: str) -> Iterator[str]:
    shown = []
    for parameter in command.params:
        names = "/".join([*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            name = parameter.metavar or parameter.name.upper()
            shown.append(name)
        else:
            default = parameter.default
            value = "required" if parameter.required else getattr(default, "value", default)
            shown.append(f"{names}={value}")
    arguments = [each for each in shown if "=" not in each]
    options = sorted(each for each in shown if "=" in each)
    yield " ".join([path, *arguments, *options])
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _lines(child, f"{path} {name}")


def test_every_command_has_the_frozen_options_and_defaults() -> None:
    assert list(_lines(typer.main.get_command(app), "orca-sweep")) == FROZEN.read_text().splitlines()


def test_the_help_of_every_command_shows_its_options() -> None:
    for line in FROZEN.read_text().splitlines():
        words = line.split()[1:]
        path = [word for word in words if word.islower() and not word.startswith("-")]
        options = [word.partition("=")[0].split("/")[0] for word in words if word.startswith("-")]
        ending = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
        assert ending.exit_code == 0
        assert [option for option in options if option not in ending.output] == [], path


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
