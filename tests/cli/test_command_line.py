"""The frozen command line: no option appears, disappears or changes its default by accident."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
