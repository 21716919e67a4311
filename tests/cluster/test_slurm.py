"""``cluster/slurm.sbatch``, with an ``srun`` and ``scontrol`` that use this machine:
real raylets, two jobs at once.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from orca_ray.results.store import ResultsStore

from .processes import (
    ROOT,
    checkout,
    descendants,
    environment,
    gone,
    interrupt,
    programs,
    running,
    wait_until,
)

SCRIPT = ROOT / "cluster" / "slurm.sbatch"
FAKES = {
    name: (Path(__file__).parent / "fakes" / f"{name}.sh").read_text()
    for name in ("srun", "scontrol")
}


def job(folder: Path, number: int, nodes: int) -> dict[str, str]:
    """Return the environment that Slurm gives to a job script."""
    return environment(
        programs(folder / "bin", FAKES),
        CALLS=str(folder / "calls"),
        SLURM_SUBMIT_DIR=str(folder),
        SLURM_JOB_ID=str(number),
        SLURM_JOB_NUM_NODES=str(nodes),
        SLURM_JOB_NODELIST="node[1-2]",
        SLURM_CPUS_PER_TASK="1",
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(1200)  # it starts and ends four raylets
def test_a_job_is_requeued_before_its_time_limit_and_continues_beside_another(
    tmp_path: Path,
) -> None:
    number = 100 + os.getpid() % 2000
    mine, other = (
        checkout(tmp_path / f"{name} clone", name, seeds)
        for name, seeds in (("mine", 12), ("other", 1))
    )
    command = ["bash", str(SCRIPT), "run", "sweep.yaml"]
    folders = set(Path("/tmp").glob("orca-slurm-*"))
    log = mine / "log"
    calls = mine / "calls"
    store = mine / "results"

    def finished() -> int:
        return (
            len(ResultsStore(store).load("mine/full"))
            if (store / "records").exists()
            else 0
        )

    with running(command, job(mine, number, nodes=2), log) as script:
        wait_until(lambda: "2 node(s)" in log.read_text(), script, 300, log)
        with running(command, job(other, number + 1, nodes=1), other / "log") as second:
            wait_until(lambda: finished() > 0, script, 300, log)
            assert interrupt(script, signal.SIGUSR1) == 130, log.read_text()
            members = descendants(second.pid)
            assert second.wait(300) == 0, (other / "log").read_text()
            assert gone(members)
    before = ResultsStore(store).load("mine/full")
    assert 0 < len(before) < 12
    assert len(ResultsStore(other / "results").load("other/full")) == 1
    called = calls.read_text().splitlines()
    assert [line for line in called if line.startswith("scontrol")] == [
        f"scontrol requeue {number}"
    ]
    assert any("--exclude=node1" in line and "--nodes=1" in line for line in called)

    with running(command, job(mine, number, nodes=1), log) as script:
        assert script.wait(300) == 0, log.read_text()
    records = ResultsStore(store).load("mine/full")
    assert len(records) == 12
    assert {key: records[key] for key in before} == before  # not run again
    assert calls.read_text().count("scontrol requeue") == 1
    assert set(Path("/tmp").glob("orca-slurm-*")) <= folders, "a node's folder is left"


def test_the_script_asks_for_a_signal_and_a_requeue() -> None:
    options = {
        line.split()[1]
        for line in SCRIPT.read_text().splitlines()
        if line.startswith("#SBATCH")
    }
    assert {"--requeue", "--signal=B:USR1@120", "--open-mode=append"} <= options


@pytest.mark.parametrize(
    "path", sorted(SCRIPT.parent.glob("*.s[hb]*")), ids=lambda path: path.name
)
def test_the_scripts_are_clean(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    if checker := shutil.which("shellcheck"):
        done = subprocess.run(
            [checker, "--severity=warning", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
