"""docs/serving.md: its commands parse, its Python block is valid, and its answer has the fields of the endpoint."""

import ast
import json
import re
import shlex
from pathlib import Path

import typer

from orca_ray.cli.app import app

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_commands_parse() -> None:
    lines = [line for block in BLOCKS for line in block.splitlines() if line.startswith("orca-sweep ")]
    assert len(lines) == 2
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)[1:]
        command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
        command.make_context(name, arguments)


def test_other_blocks_are_valid() -> None:
    (code,) = [block for block in BLOCKS if block.startswith("import ")]
    ast.parse(code)
    (answer,) = [json.loads(block) for block in BLOCKS if block.startswith("{")]
    assert list(answer) == ["predictions", "probabilities", "labels", "warnings"]
