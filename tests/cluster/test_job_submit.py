"""``ray job submit`` to the two nodes of ``cluster/local.sh``, with token authentication."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "5f0c1d6a9b8e47d2a3f4e5d6c7b8a9f0"


@dataclass(frozen=True)
class Cluster:
    """A running head node."""

    port: int
    dashboard: str
    environment: dict[str, str]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    port, dashboard = free_ports(2)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_PORT": str(port),
        "RAY_DASHBOARD_PORT": str(dashboard),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    command = ["bash", str(ROOT / "cluster" / "local.sh"), "2", "1"]
    with (tmp_path_factory.mktemp("local") / "log").open("w") as log:
        script = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for_nodes(f"http://127.0.0.1:{dashboard}", script, 2)
            yield Cluster(port, f"http://127.0.0.1:{dashboard}", environment)
        finally:
            members = psutil.Process(script.pid).children(recursive=True) if script.poll() is None else []
            script.send_signal(signal.SIGTERM)
            try:
                script.wait(30)
            except subprocess.TimeoutExpired:
                script.kill()
            for process in psutil.wait_procs(members, timeout=10)[1]:
                process.kill()


def wait_for_nodes(address: str, script: subprocess.Popen[bytes], count: int) -> None:
    url = f"{address}/nodes?view=summary"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert script.poll() is None, "the cluster ended"
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                nodes = json.load(answer)["data"]["summary"]
        except (urllib.error.URLError, OSError):
            nodes = []
        if sum(node["raylet"].get("state") == "ALIVE" for node in nodes) == count:
            return
        time.sleep(0.5)
    raise AssertionError(f"the dashboard did not show {count} nodes")


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {'0' * 32}"}])
def test_the_dashboard_refuses_a_stranger(cluster: Cluster, headers: dict[str, str]) -> None:
    for body in (None, b'{"entrypoint": "true"}'):  # a look at the jobs, and a submission
        request = urllib.request.Request(f"{cluster.dashboard}/api/jobs/", body, headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code in (401, 403)


SWEEP = """\
name: tiny{number}
benchmark: pocket
methods: [linear_probe]
tasks: [pocket/wdbc]
bodies: {{sequence: "minilm-l6:layers=1"}}
resources: {{cpus: 1, gpus: 0}}
settings: {{embedder.sequence_length: 8, refine.epochs: 1, refine.warmup_epochs: 0}}
budgets: {{full: {{confirm_seeds: [1]}}}}
"""

SUBMIT = """
import json, sys, time
from ray.job_submission import JobSubmissionClient

def state(job):
    return str(client.get_job_status(job).value)

def wait(most):
    while sum(state(job) not in ENDED for job in jobs) > most:
        time.sleep(0.3)

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
client, entrypoint, jobs = JobSubmissionClient(sys.argv[1]), sys.argv[2], []
for folder in sys.argv[3:]:
    wait(2)
    jobs.append(client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": folder}))
wait(0)
print(json.dumps([[state(job), client.get_job_logs(job)] for job in jobs]))
"""


def test_ten_jobs_in_a_row_all_succeed(cluster: Cluster, tmp_path: Path) -> None:
    """The command of the README, then nine small jobs whose files both nodes unpack while the jobs run in them."""
    results = tmp_path / "results"
    sweep = [
        "orca-sweep", "benchmark", "pocket", "--trials", "1", "--tasks", "wdbc", "--methods", "linear_probe",
        "--results", str(results),
    ]  # fmt: skip
    submit = ["ray", "job", "submit", f"--address={cluster.dashboard}", "--working-dir", str(ROOT), "--", *sweep]
    done = subprocess.run(submit, env=cluster.environment, capture_output=True, text=True, timeout=280, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert re.search(rf"Ray cluster at \S+:{cluster.port}, 2 node\(s\)", output), output
    [record] = ResultsStore(results).load("pocket/full-trials1").values()
    assert record.status is Status.COMPLETED
    assert record.test_score is not None
    assert record.executor == "ray"
    folders = [tmp_path / f"job{number}" for number in range(9)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "sweep.yaml").write_text(SWEEP.format(number=number))
    entrypoint = f"orca-sweep run sweep.yaml --results {results}"
    command = [sys.executable, "-c", SUBMIT, cluster.dashboard, entrypoint, *map(str, folders), str(folders[0])]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    jobs = json.loads(done.stdout.splitlines()[-1])
    assert [state for state, _ in jobs] == ["SUCCEEDED"] * 10, "\n".join(log for _, log in jobs)
    assert "up to date" in jobs[-1][1]  # the first one again
    records = ResultsStore(results).records()
    assert sorted(records["sweep"]) == ["pocket/full-trials1", *(f"tiny{number}/full" for number in range(9))]
    assert set(records["status"]) == {"completed"}


def test_orca_sweep_submit(cluster: Cluster, tmp_path: Path) -> None:
    for command in (["init", "-q"], ["add", "sweep.yaml"]):
        (tmp_path / "sweep.yaml").write_text(SWEEP.format(number=10))
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    submit = ["orca-sweep", "submit", "--address", cluster.dashboard, "--", "plan", "sweep.yaml"]
    program = [sys.executable, "-m", "orca_ray.cli.main", *submit[1:]]
    done = subprocess.run(program, cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, follow, _ = done.stdout.splitlines()
    assert first.endswith(": orca-sweep plan sweep.yaml")
    command = follow.removeprefix("follow it: ").split()
    log = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=200).stdout
    assert "tiny10/full, protocol held-out: 1 trials, 0 done" in log


@contextlib.contextmanager
def gpu_node(cluster: Cluster, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a node with two logical GPUs; it is killed, with all of its processes, at the end of the block."""
    command = [
        "ray", "start", "--block", f"--address=127.0.0.1:{cluster.port}", "--num-cpus=2", "--num-gpus=2",
        "--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--dashboard-agent-listen-port=0",
        f"--temp-dir={folder}",
    ]  # fmt: skip
    node = subprocess.Popen(command, env=cluster.environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield node
    finally:
        kill_family(node)


def kill_family(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
            each.kill()
    process.wait(30)


def steps_of(file: Path) -> list[tuple[str, str, str]]:
    """Return the trial key, node id and process id of each step so far."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [(key, node, process) for key, node, process in map(str.split, lines)]


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_four_trials_share_two_gpus_and_move_when_their_node_dies(cluster: Cluster, tmp_path: Path) -> None:
    """The nodes of the cluster have no GPU; a worker with two logical ones joins, dies, and another one joins."""
    steps = tmp_path / "steps"
    with short_directory() as one, short_directory() as two, gpu_node(cluster, one) as node:
        program = [sys.executable, "-m", "tests.cluster.logical_gpus", str(tmp_path)]
        submit = ["ray", "job", "submit", f"--address={cluster.dashboard}", "--working-dir", str(ROOT), "--", *program]
        job = subprocess.Popen(submit, env=cluster.environment, stdout=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: len({process for *_, process in steps_of(steps)[-8:]}) == 4, 150, "not four at a time")
            assert len({process for *_, process in steps_of(steps)}) == 4, "and never five"
            [first] = {node_id for _, node_id, _ in steps_of(steps)}
            kill_family(node)
            moved = {key for key, *_ in steps_of(steps)[-4:]}
            with gpu_node(cluster, two):
                output, _ = job.communicate(timeout=200)
        finally:
            job.kill()
    assert '{"completed": 8}' in output
    ran = {key: {node_id for each, node_id, _ in steps_of(steps) if each == key} for key in moved}
    assert all(len(nodes) == 2 and first in nodes for nodes in ran.values()), "they went on elsewhere"


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Context manager: a directory with a short path, because Ray has Unix sockets below it."""
    with tempfile.TemporaryDirectory(prefix="orca-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)
