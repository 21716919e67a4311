"""``data generate``: options, progress, endings."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orca_ray.simulation import run as simulation_run
from orca_ray.simulation.simulation import Fields
from tests.cli.conftest import Command

FILE = "1D_Advection_Sols_beta0.4.hdf5"


def test_a_file_is_made_where_its_task_reads_it(command: Command, own_cache: Path) -> None:
    ending = command("data", "generate", "pdebench/advection", "--samples", "2")
    path = own_cache / "raw" / "pdebench_generated" / FILE
    assert ending.code == 0, ending.err
    assert path.is_file()
    assert f"pdebench/advection: 2 samples, 1.6 MiB, {path}" in ending.out
    assert ending.err == ""
    again = command("data", "generate", "pdebench/advection", "--samples", "2")
    assert (again.code, again.err) == (0, "")
    assert "already there" in again.out


def test_quiet_says_nothing(command: Command, tmp_path: Path) -> None:
    options = ("-n", "1", "--seed", "9", "--out", str(tmp_path / "new"), "-q")
    ending = command("data", "generate", "pdebench/advection", *options)
    assert (ending.code, ending.out, ending.err) == (0, "", "")
    assert (tmp_path / "new" / FILE).is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pdebench/advection"], "--samples"),
        (["pdebench/advektion", "--samples", "2"], "Did you mean 'pdebench/advection'?"),
        (["pdebench/advection", "--samples", "0"], "--samples"),
        (["pdebench/advection", "--samples", "few"], "--samples"),
        (["pdebench/advection", "--samples", "2", "--seed", "-1"], "--seed"),
        (["pdebench/advection", "--samples", "2", "--workers", "0"], "--workers"),
        (["pdebench/advection", "--samples", "2", "--sead", "1"], "'--seed'"),
        (["--samples", "2"], "TASK"),
    ],
)
def test_bad_options_exit_with_2(command: Command, own_cache: Path, arguments: list[str], told: str) -> None:
    ending = command("data", "generate", *arguments)
    assert ending.code == 2
    assert told in ending.err
    assert "Traceback" not in ending.err
    assert ending.out == ""
    assert not (own_cache / "raw").exists()


def test_a_file_in_the_way_is_told(command: Command, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("a download")
    ending = command("data", "generate", "pdebench/advection", "--samples", "1", "--out", str(tmp_path), "--overwrite")
    assert ending.code == 2
    assert "left alone" in ending.err
    assert (tmp_path / FILE).read_text() == "a download"


def test_an_interruption_exits_with_130(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation_run, "_solve", interrupt)
    ending = command("data", "generate", "pdebench/advection", "--samples", "1", "--out", str(tmp_path / "new"))
    assert ending.code == 130
    assert ending.err.startswith("interrupted: no file was written\n")
    assert not (tmp_path / "new").exists()


def test_an_interruption_tells_how_many_samples_are_kept(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = simulation_run._solve

    def interrupt(name: str, seed: int, start: int, stop: int) -> Fields:
        if start:
            raise KeyboardInterrupt
        return original(name, seed, start, stop)

    monkeypatch.setattr(simulation_run, "_solve", interrupt)
    arguments = ("data", "generate", "pdebench/advection", "--samples", "20", "--out", str(tmp_path))
    ending = command(*arguments)
    assert ending.code == 130
    told = "interrupted: no file was written: 16 samples are stored, and the same command continues from there\n"
    assert told in ending.err
    monkeypatch.setattr(simulation_run, "_solve", original)
    ending = command(*arguments)
    assert ending.code == 0
    assert ending.err == ""


def test_an_interruption_after_the_file_is_whole_says_so(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text("an older one")

    def interrupt(*_: object, **__: object) -> None:
        (tmp_path / "new").write_text("another")
        (tmp_path / "new").replace(tmp_path / FILE)
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation_run, "generate", interrupt)
    ending = command("data", "generate", "pdebench/advection", "--samples", "1", "--out", str(tmp_path))
    assert ending.code == 130
    assert ending.err.startswith(f"interrupted, but {tmp_path / FILE} is complete\n")


@pytest.mark.slow
def test_ctrl_c_during_work_with_two_workers_leaves_neither_file_nor_process(tmp_path: Path) -> None:
    """As a terminal does it: the signal goes to the whole process group."""
    code = (
        "import signal\nfrom orca_ray.cli.main import entry\nif __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
        "    entry()\n"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    out = tmp_path / "out"
    arguments = ["data", "generate", "pdebench/cfd_2d", "--samples", "50", "--workers", "2", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "ORCA_RAY_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
    ) as process:
        deadline = time.monotonic() + 60
        while not (out.exists() and list(out.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)  # the workers are at work, or still coming up
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "interrupted: no file was written" in err
    assert "Traceback" not in err
    assert not list(out.glob("*.hdf5"))
    assert not list(out.rglob("*.tmp*"))
    assert _gone(process.pid)


def _gone(group: int) -> bool:
    """Whether the processes of a group end within some seconds; what tracks shared memory follows the others."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
