"""A node of a cluster that dies."""

import contextlib
import random
import subprocess
import sys
from pathlib import Path

import psutil

from tests.cluster.faults.fault import Fault
from tests.cluster.faults.run import Run
from tests.cluster.processes import descendants
from tests.cluster.test_job_submit import free_ports


class KillNode(Fault):
    """Kills all processes of the second node of a cluster, which the driver has joined at the first."""

    def __init__(self, run: Run, chance: random.Random) -> None:
        super().__init__(run, chance)
        self._started: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> str:
        port, client = free_ports(2)
        head = ("--head", f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false")
        self._start(*head)
        self.run.wait_for_port(port)
        self.node = self._start(f"--address=127.0.0.1:{port}")
        self.run.options = ("--address", f"127.0.0.1:{port}")
        return ""

    def inject(self) -> bool:
        kill(self.node)
        return True

    def clean(self) -> None:
        for ray in self._started:
            kill(ray)

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        ray = str(Path(sys.executable).parent / "ray")
        command = [ray, "start", "--block", "--num-cpus=1", "--object-store-memory=80000000", *options]
        self._started.append(self.run.popen([*command, "--dashboard-agent-listen-port=0"]))
        return self._started[-1]


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants."""
    for each in descendants(process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.wait()
