"""``ray job submit`` against a cluster that ``ray start --head`` has started, with token authentication."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

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
    folder = Path("/tmp") / f"orca-head-{os.getpid()}"  # Unix sockets: the path must be short
    port, dashboard, agent, client = free_ports(4)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [
        "ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}", "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}", "--object-store-memory=134217728", f"--temp-dir={folder}",
    ]  # fmt: skip
    log = (tmp_path_factory.mktemp("head") / "log").open("w")
    head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    members: list[psutil.Process] = []
    try:
        wait_for_dashboard(f"http://127.0.0.1:{dashboard}", head)
        yield Cluster(port, f"http://127.0.0.1:{dashboard}", environment)
    finally:
        with_children = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        members += with_children
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(20)
        except subprocess.TimeoutExpired:
            head.kill()
        for process in psutil.wait_procs(members, timeout=10)[1]:
            process.kill()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_dashboard(address: str, head: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert head.poll() is None, "the head node ended"
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                assert answer.status == 200
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError("the dashboard did not answer")


def test_the_dashboard_refuses_a_stranger(cluster: Cluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{cluster.dashboard}/api/jobs/", timeout=10)
    assert caught.value.code in (401, 403)


def test_a_submitted_sweep_joins_the_cluster_and_leaves_its_records(cluster: Cluster, tmp_path: Path) -> None:
    results = tmp_path / "results"
    sweep = [
        "orca-sweep", "benchmark", "pocket", "--trials", "1", "--tasks", "wdbc", "--methods", "linear_probe",
        "--results", str(results),
    ]  # fmt: skip
    submit = ["ray", "job", "submit", f"--address={cluster.dashboard}", "--working-dir", str(ROOT), "--", *sweep]
    done = subprocess.run(submit, env=cluster.environment, capture_output=True, text=True, timeout=280, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert re.search(rf"Ray cluster at \S+:{cluster.port}\b", output), output
    [record] = ResultsStore(results).load("pocket/full-trials1").values()
    assert record.status is Status.COMPLETED
    assert record.test_score is not None
    assert record.executor == "ray"
    again = subprocess.run(submit, env=cluster.environment, capture_output=True, text=True, timeout=280, check=False)
    assert "up to date" in again.stdout + again.stderr
    wrong = {**cluster.environment, "RAY_AUTH_TOKEN": "0" * 32}
    refused = subprocess.run(submit, env=wrong, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode != 0


def test_the_templates_parse() -> None:
    documents = list(yaml.safe_load_all((ROOT / "cluster" / "kuberay-rayjob.yaml").read_text()))
    assert {document["kind"] for document in documents} >= {"RayJob"}
    for script in ("local.sh", "slurm.sbatch"):
        subprocess.run(["bash", "-n", str(ROOT / "cluster" / script)], check=True)
