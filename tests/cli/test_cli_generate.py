"""``data generate``: options, progress, endings."""

from pathlib import Path

import pytest

from orca_ray.simulation import run as simulation_run
from orca_ray.simulation.run import BatchStore
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


def test_a_download_is_left_alone(command: Command) -> None:
    Path(FILE).write_text("a download")
    ending = command(*GENERATE, "--samples", "1", "--out", ".", "--overwrite")
    assert (ending.code, ending.out) == (2, "")
    assert "left alone" in ending.err
    assert Path(FILE).read_text() == "a download"


def test_an_interruption_prints_what_is_kept(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    original, arguments, allowed = simulation_run._solve, (*GENERATE, "--samples", "20", "--out", "new"), [0, 16]

    def interrupt(store: BatchStore, name: str, seed: int, start: int, stop: int) -> None:
        if start == allowed[0]:
            raise KeyboardInterrupt
        original(store, name, seed, start, stop)

    monkeypatch.setattr(simulation_run, "_solve", interrupt)
    assert command(*arguments).err.startswith("interrupted: no file was written\n")
    assert not Path("new").exists()
    allowed.pop(0)
    ending = command(*arguments)
    kept = "16 samples are stored, and the same command continues from there"
    assert (ending.code, ending.err.splitlines()[0]) == (130, f"interrupted: no file was written: {kept}")
