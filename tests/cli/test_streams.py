"""The console script as a process: its standard streams, its environment, and Ctrl-C while it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ORCA_SWEEP = f"{sys.executable} -m orca_ray.cli.main"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``orca`` is the console script."""
    line = f'orca() {{ {ORCA_SWEEP} "$@"; }}; {command}'
    variables = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=variables, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("orca tasks pocket >&-", 0),
        ("orca tasks pocket <&- >&- 2>&-", 0),
        ("orca nosuch 2>&-", 2),
        ("orca --version >/dev/full", 2),
        ("orca tasks --json >/dev/full", 2),
        ("orca nosuch 2>/dev/full", 2),
        ("set -o pipefail; orca tasks --json | head -c 1", 0),
        ("set -o pipefail; orca nosuch 2>&1 | true", 2),
    ],
)
def test_streams_that_are_closed_or_full(command: str, code: int) -> None:
    done = shell(command)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) <= 1, done.stderr
    assert not done.stderr or done.stderr.startswith("error: no space left")


def test_an_absurd_width_is_ignored() -> None:
    done = shell("orca --help", COLUMNS="99999999999")
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_during_the_imports_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    done = shell("orca tasks", PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_the_traceback_of_a_defect_goes_to_the_log_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import orca_ray.tasks.registry as registry\nregistry.all_tasks = lambda: 1 / 0\n"
    )
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = shell("orca data prepare pocket", PYTHONPATH=paths, ORCA_RAY_HOME=str(tmp_path))
    log = tmp_path / "logs" / "orca-sweep.log"
    assert done.returncode == 70
    assert done.stderr.splitlines() == [
        "error: unexpected ZeroDivisionError: division by zero",
        f"This is a defect of orca-ray; the traceback is in {log}",
    ]
    assert "Traceback" in log.read_text()
