"""A cache, a sweep file and a way to run a command, for the tests of commands."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orca_ray.cli.app import run
from orca_ray.sweep.plan import loading

SWEEP = Path(__file__).with_name("sweep.yaml").read_text()
MISTAKES = tomllib.loads(Path(__file__).with_name("mistakes.toml").read_text())


@dataclass(frozen=True)
class Ending:
    """Exit code of a command, and what it printed."""

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

    def succeed(self, *arguments: str) -> Ending:
        """Run a command that must succeed."""
        ending = self(*arguments)
        assert ending.code == 0, ending
        return ending

    def fail(self, *arguments: str) -> str:
        """Run a command that must end with bad input, and return what it says."""
        ending = self(*arguments)
        assert ending.code == 2, ending
        assert "Traceback" not in ending.err, ending
        return ending.err


EndBy = Callable[[BaseException | Callable[..., Any]], Ending]
"""Function from an error, or a function that raises it, to the end of a command."""


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
    """Return a function that runs a command in which an error is raised."""

    def run_with(cause: BaseException | Callable[..., Any]) -> Ending:
        def load_spec(*_: object, **__: object) -> None:
            if isinstance(cause, BaseException):
                raise cause
            cause()

        monkeypatch.setattr(loading, "load_spec", load_spec)
        return command("benchmark", "pocket")

    return run_with


@pytest.fixture
def sweep_file() -> str:
    Path("sweep.yaml").write_text(SWEEP)
    return "sweep.yaml"
