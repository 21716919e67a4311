"""``cluster/slurm.sbatch`` with an ``srun`` and ``scontrol`` that use this machine.

Its raylets are real, and two jobs run at once.
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
    find_descendants,
    have_ended,
    interrupt,
    make_checkout,
    make_script_environment,
    run_script,
    wait_until,
    write_programs,
)

SCRIPT = ROOT / "cluster" / "slurm.sbatch"
FAKES = {
    name: (Path(__file__).parent / "fakes" / f"{name}.sh").read_text()
    for name in ("srun", "scontrol")
}


def make_job_environment(folder: Path, number: int, nodes: int) -> dict[str, str]:
    """Return the environment that Slurm gives to a job script."""
    return make_script_environment(
        write_programs(folder / "bin", FAKES),
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
    mine = make_checkout(tmp_path / "mine clone", "mine", 12)
    other = make_checkout(tmp_path / "other clone", "other", 1)
    command = ["bash", str(SCRIPT), "run", "sweep.yaml"]
    folders = set(Path("/tmp").glob("orca-slurm-*"))
    log = mine / "log"
    calls = mine / "calls"
    store = mine / "results"

    def has_records() -> bool:
        if not (store / "records").exists():
            return False
        return len(ResultsStore(store).load("mine/full")) > 0

    with run_script(
        command, make_job_environment(mine, number, nodes=2), log
    ) as script:
        wait_until(lambda: "2 node(s)" in log.read_text(), script, 300, log)
        with run_script(
            command, make_job_environment(other, number + 1, nodes=1), other / "log"
        ) as second:
            wait_until(has_records, script, 300, log)
            assert interrupt(script, signal.SIGUSR1) == 130, log.read_text()
            members = find_descendants(second.pid)
            assert second.wait(300) == 0, (other / "log").read_text()
            assert have_ended(members)
    before = ResultsStore(store).load("mine/full")
    assert 0 < len(before) < 12
    assert len(ResultsStore(other / "results").load("other/full")) == 1
    lines = calls.read_text().splitlines()
    requeues = [line for line in lines if line.startswith("scontrol")]
    assert requeues == [f"scontrol requeue {number}"]
    assert any("--exclude=node1" in line and "--nodes=1" in line for line in lines)

    with run_script(
        command, make_job_environment(mine, number, nodes=1), log
    ) as script:
        assert script.wait(300) == 0, log.read_text()
    records = ResultsStore(store).load("mine/full")
    assert len(records) == 12
    for key, record in before.items():
        assert records[key] == record, "it has not run again"
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
def test_the_shell_accepts_the_script(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    checker = shutil.which("shellcheck")
    if checker is not None:
        checked = subprocess.run(
            [checker, "--severity=warning", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout
