"""A node of a cluster that dies."""

import subprocess
import sys
from pathlib import Path

from tests.cluster.faults.fault import Fault
from tests.cluster.processes import descendants
from tests.cluster.test_job_submit import free_ports


class KillNode(Fault):
    """Kills all processes of the second node of a cluster, which the driver has joined at the first."""

    def prepare(self) -> str:
        (port,) = free_ports(1)
        self.options = ("--address", f"127.0.0.1:{port}")
        self.head = self._start("--head", f"--port={port}", "--include-dashboard=false", "--ray-client-server-port=0")
        self.run.wait_for_port(port)
        self.node = self._start(f"--address=127.0.0.1:{port}")
        self.run.options = self.options
        return ""

    def inject(self) -> bool:
        for process in [*descendants(self.node.pid), self.node]:
            process.kill()
        self.node.wait()
        return True

    def clean(self) -> None:
        for ray in (self.head, self.node):
            for process in [*descendants(ray.pid), ray]:
                process.kill()
            ray.wait()

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        ray = str(Path(sys.executable).parent / "ray")
        command = [ray, "start", "--block", "--num-cpus=1", "--object-store-memory=80000000", *options]
        return self.run.popen([*command, "--dashboard-agent-listen-port=0"])
