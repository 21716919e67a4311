"""A cache, a sweep file and a way to run a command, for the tests of commands."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from orca_ray.cli.app import run
from orca_ray.sweep.plan import loading

SWEEP = Path(__file__).with_name("sweep.yaml").read_text()
MISTAKES = tomllib.loads(Path(__file__).with_name("mistakes.toml").read_text())


@dataclass(frozen=True)
class Ending:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """Runs command lines in this process, as the console script would."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ending:
        self._capsys.readouterr()
        code = run(arguments)
        captured = self._capsys.readouterr()
        return Ending(code, captured.out, captured.err)

    def done(self, *arguments: str) -> Ending:
        """Return how a command ends; it must succeed."""
        ending = self(*arguments)
        assert ending.code == 0, ending
        return ending

    def refused(self, *arguments: str) -> str:
        """Return what a command prints to stderr; it must end with bad input."""
        ending = self(*arguments)
        assert (ending.code, "Traceback" in ending.err) == (2, False), ending
        return ending.err


EndBy = Callable[[BaseException | Callable[..., Any]], Ending]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep logs and caches of a test, and its working directory, to itself."""
    home = tmp_path / "home"
    monkeypatch.setenv("ORCA_RAY_HOME", str(home))
    for name in ("ORCA_RAY_RESULTS", "RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return home


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def end_by(command: Command, monkeypatch: pytest.MonkeyPatch) -> EndBy:
    """Return a function that runs a command in which an error is raised.

    The error is raised by itself or by a function.
    """

    def ending(cause: BaseException | Callable[..., Any]) -> Ending:
        effect = cause if isinstance(cause, BaseException) else lambda *_, **__: cause()
        monkeypatch.setattr(loading, "load_spec", Mock(side_effect=effect))
        return command("benchmark", "pocket")

    return ending


@pytest.fixture
def sweep_file() -> str:
    Path("sweep.yaml").write_text(SWEEP)
    return "sweep.yaml"
