"""``cluster/ssh.sh`` with an ``ssh`` that runs commands on this machine.

Its raylets are real.
"""

import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orca_ray.results.store import ResultsStore

from .processes import (
    ROOT,
    TOKEN,
    find_free_ports,
    interrupt,
    make_checkout,
    make_script_environment,
    run_script,
    wait_until,
    write_programs,
)

SCRIPT = str(ROOT / "cluster" / "ssh.sh")
SSH = (Path(__file__).parent / "fakes" / "ssh.sh").read_text()


def make_settings(folder: Path) -> dict[str, str]:
    port, dashboard = find_free_ports(2)
    return make_script_environment(
        write_programs(folder / ".venv" / "bin", {"ssh": SSH}),
        CALLS=str(folder / "calls"),
        RAY_AUTH_TOKEN=TOKEN,
        RAY_PORT=str(port),
        RAY_DASHBOARD_PORT=str(dashboard),
        ORCA_HEAD_IP="127.0.0.1",
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(
    600
)  # it starts and ends two raylets, on a machine with other tests
def test_a_sweep_runs_on_this_machine_and_a_host_and_ctrl_c_interrupts_it(
    tmp_path: Path,
) -> None:
    folder = make_checkout(tmp_path / "a clone", "hosts", 12)
    log = folder / "log"
    results = folder / "results"
    folders = set(Path("/tmp").glob("orca-ssh-*"))
    sweep = ["orca-sweep", "run", str(folder / "sweep.yaml"), "--results", str(results)]
    command = ["bash", SCRIPT, "--head-cpus", "0", "me@host1", "--", *sweep]
    seen_arguments: set[str] = set()

    def has_records() -> bool:
        """Collect the arguments of all processes until there is a record."""
        for process in psutil.Process(script.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                seen_arguments.update(process.cmdline())
        if not (results / "records").exists():
            return False
        return len(ResultsStore(results).load("hosts/full")) > 0

    with run_script(command, make_settings(folder), log) as script:
        wait_until(has_records, script, 300, log)
        assert interrupt(script, signal.SIGINT) == 130, log.read_text()
    assert "2 node(s)" in log.read_text()
    assert "interrupted; the same command continues" in log.read_text()
    assert (folder / "calls").read_text().split()[-3:] == ["me@host1", "bash", "-s"]
    assert any("--address=127.0.0.1:" in argument for argument in seen_arguments)
    assert not [argument for argument in seen_arguments if TOKEN in argument]
    assert set(Path("/tmp").glob("orca-ssh-*")) <= folders


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_a_host_that_cannot_be_reached_ends_the_script(tmp_path: Path) -> None:
    env = make_settings(tmp_path)
    write_programs(
        tmp_path / ".venv" / "bin", {"ssh": "echo 'no route to host' >&2; exit 255\n"}
    )
    log = tmp_path / "log"
    with run_script(
        ["bash", SCRIPT, "--head-cpus", "0", "nowhere"], env, log
    ) as script:
        wait_until(lambda: bool(psutil.Process(script.pid).children()), script, 30, log)
        assert script.wait(300) == 1
    assert "nowhere did not join" in log.read_text()


def test_a_dry_run_prints_what_would_run(tmp_path: Path) -> None:
    env = {
        **make_settings(tmp_path),
        "RAY_PORT": "6380",
        "ORCA_REMOTE_BIN": "/opt/orca-ray/bin",
    }
    completed = subprocess.run(
        ["bash", SCRIPT, "--dry-run", "a", "me@b"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = completed.stdout.splitlines()
    assert lines[0].startswith(
        "here: ray start --block --head --node-ip-address=127.0.0.1 --port=6380 "
    )
    login = "ssh -T -o BatchMode=yes -o ServerAliveInterval=20 -o ServerAliveCountMax=3"
    assert lines[1:3] == [f"a: {login} a bash -s", f"me@b: {login} me@b bash -s"]
    assert lines[-1] == "join_cluster /opt/orca-ray/bin 127.0.0.1:6380"
    assert TOKEN not in completed.stdout


def test_a_wrong_command_line_is_refused(tmp_path: Path) -> None:
    for given in ([], ["--dry-run"], ["--hots", "a"]):
        completed = subprocess.run(
            ["bash", SCRIPT, *given],
            env=make_settings(tmp_path),
            capture_output=True,
            text=True,
        )
        assert completed.returncode == 2
        assert (
            "cluster/ssh.sh [--dry-run] [--head-cpus N] HOST... [-- COMMAND...]"
            in completed.stderr
        )
