"""``data generate``: options, progress, endings."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from orca_ray.simulation import run as simulation_run
from orca_ray.simulation.simulation import Fields
from tests.cli.conftest import Command

FILE = "1D_Advection_Sols_beta0.4.hdf5"
GENERATE = ("data", "generate", "pdebench/advection")


def test_a_file_is_made_where_its_task_reads_it(command: Command, own_cache: Path) -> None:
    ending = command(*GENERATE, "--samples", "2")
    path = own_cache / "raw" / "pdebench_generated" / FILE
    assert (ending.code, ending.err) == (0, "")
    assert path.is_file()
    assert f"pdebench/advection: 2 samples, 1.6 MiB, {path}" in ending.out
    assert "already there" in command(*GENERATE, "--samples", "2").out
    ending = command(*GENERATE, "-n", "1", "--seed", "9", "--out", "new", "-q")
    assert (ending.code, ending.out, ending.err) == (0, "", "")
    assert Path("new", FILE).is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pdebench/advection"], "--samples"),
        (["pdebench/advektion", "--samples", "2"], "Did you mean 'pdebench/advection'?"),
        (["pdebench/advection", "--samples", "0"], "--samples"),
        (["pdebench/advection", "--samples", "2", "--seed", "-1"], "--seed"),
        (["pdebench/advection", "--samples", "2", "--seed", str(2**64)], "9223372036854775807"),
        (["pdebench/advection", "--samples", "2", "--workers", "0"], "--workers"),
        (["pdebench/advection", "--samples", "1", "--out", ".", "--overwrite"], "left alone"),
    ],
)
def test_bad_options_exit_with_2(command: Command, own_cache: Path, arguments: list[str], expected: str) -> None:
    Path(FILE).write_text("a download")
    ending = command("data", "generate", *arguments)
    assert (ending.code, ending.out) == (2, "")
    assert expected in ending.err
    assert "Traceback" not in ending.err
    assert not (own_cache / "raw").exists()
    assert Path(FILE).read_text() == "a download"


def test_interruptions_before_and_after_the_file_is_complete(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*GENERATE, "--samples", "1", "--out", "new")
    monkeypatch.setattr(simulation_run, "_solve", Mock(side_effect=KeyboardInterrupt))
    ending = command(*arguments)
    assert ending.code == 130
    assert ending.err.startswith("interrupted: no file was written\n")
    assert not Path("new").exists()

    def late(*_: object, **__: object) -> None:
        Path("new").mkdir()
        Path("new", FILE).write_text("complete")
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation_run, "generate", late)
    ending = command(*arguments)
    assert ending.code == 130
    assert ending.err.startswith(f"interrupted, but {Path('new', FILE)} is complete\n")


def test_an_interruption_prints_how_many_samples_are_kept(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    original = simulation_run._solve

    def interrupt(name: str, seed: int, start: int, stop: int) -> Fields:
        if start:
            raise KeyboardInterrupt
        return original(name, seed, start, stop)

    monkeypatch.setattr(simulation_run, "_solve", interrupt)
    arguments = (*GENERATE, "--samples", "20", "--out", "new")
    ending = command(*arguments)
    assert ending.code == 130
    assert "no file was written: 16 samples are stored, and the same command continues from there\n" in ending.err
    monkeypatch.setattr(simulation_run, "_solve", original)
    ending = command(*arguments)
    assert (ending.code, ending.err) == (0, "")


@pytest.mark.slow
def test_ctrl_c_during_work_with_two_workers_leaves_neither_file_nor_process(tmp_path: Path) -> None:
    """As a terminal does it: the signal goes to the whole process group."""
    script, out = tmp_path / "main.py", tmp_path / "out"
    script.write_text(
        "import signal\nfrom orca_ray.cli.main import entry\nif __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
        "    entry()\n"
    )
    command = [sys.executable, str(script), "data", "generate", "pdebench/cfd_2d", "--samples", "50", "--workers", "2"]
    with subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not (out.exists() and list(out.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)  # the workers are at work, or still coming up
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert b"interrupted: no file was written" in err
    assert b"Traceback" not in err
    assert not [path for path in out.rglob("*") if path.suffix == ".hdf5" or ".tmp" in path.name]
    wait_for_the_end(process.pid)


def wait_for_the_end(group: int) -> None:
    """Fail if the processes of a group do not end soon; what tracks shared memory ends after the others."""
    deadline = time.monotonic() + 10
    with suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            assert time.monotonic() < deadline
            time.sleep(0.05)
