"""The faults that `benchmarks.fault_harness` makes while a sweep runs."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path

import psutil

from benchmarks.faults.fault import Fault, wait
from benchmarks.faults.requests import REQUEST_FAULTS
from benchmarks.faults.run import Run
from benchmarks.faults.site import NAME
from benchmarks.faults.stores import (
    BrokenStore,
    FrozenStore,
    SlowStore,
    disturbed_requests,
)
from orca_ray.results.marker import MARKER, SCHEMA_VERSION
from tests.cluster.processes import find_descendants, find_free_ports


class _Signal(Fault):
    """Sends a signal to some processes of a sweep that has its own Ray cluster."""

    number = signal.SIGKILL

    @abstractmethod
    def targets(self) -> "Sequence[psutil.Process | subprocess.Popen[bytes]]":
        """Return the processes."""

    def inject(self) -> bool:
        found = self.targets()
        for each in found:
            each.send_signal(self.number)
        return bool(found)


class KillDriver(_Signal):
    """Kills the command itself."""

    codes: Collection[int] = (-signal.SIGKILL,)

    def targets(self) -> "Sequence[subprocess.Popen[bytes]]":
        return [self.run.command]


class Interrupt(KillDriver):
    """Sends SIGINT to the command alone, as ``kill -INT`` does."""

    codes = (130, 143)
    number = signal.SIGINT


class Terminate(Interrupt):
    """Sends SIGTERM, as SLURM, Kubernetes and systemd do."""

    number = signal.SIGTERM


class KillWorker(_Signal):
    """Kills the worker of a trial."""

    def targets(self) -> Sequence[psutil.Process]:
        workers = self.run.workers()
        return [self.chance.choice(workers)] if workers else []


class Hang(KillWorker):
    """Stops the worker of a trial for ever."""

    options = ("--hang-minutes", "0.5")
    number = signal.SIGSTOP


class KillRaylet(_Signal):
    """Kills the raylet of the driver."""

    codes = (75,)
    messages = ("does not answer any more", "the same command continues")
    process = "raylet"

    def targets(self) -> Sequence[psutil.Process]:
        return self.run.named(self.process)


class KillGcs(KillRaylet):
    """Kills the head's service, the GCS."""

    process = "gcs_server"


class FullDisk(Fault):
    """Fills the file system of the store, a small tmpfs."""

    codes = (2,)
    messages = ("space",)

    def prepare(self) -> str:
        if os.geteuid():
            return "only root mounts a small file system"
        self.run.store.mkdir()
        command = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={16 * 2**20}",
            "tmpfs",
            str(self.run.store),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stderr.strip()

    def inject(self) -> bool:
        # The store ignores hidden names.
        with self._filler.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(2**12))
            except OSError:
                return True

    def relieve(self) -> None:
        self._filler.unlink()

    def clean(self) -> None:
        subprocess.run(
            ["umount", str(self.run.store)], capture_output=True, check=False
        )

    @property
    def _filler(self) -> Path:
        return self.run.store / ".filler"


class KillNode(Fault):
    """Kills all processes of the second node of a cluster, which the driver has joined
    at the first.
    """

    def __init__(self, run: Run, chance: random.Random) -> None:
        super().__init__(run, chance)
        self._started: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> str:
        port, client = find_free_ports(2)
        head = (
            "--head",
            f"--port={port}",
            f"--ray-client-server-port={client}",
            "--include-dashboard=false",
        )
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
        command = [
            ray,
            "start",
            "--block",
            "--num-cpus=1",
            "--object-store-memory=80000000",
            *options,
        ]
        self._started.append(
            self.run.popen([*command, "--dashboard-agent-listen-port=0"])
        )
        return self._started[-1]


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants."""
    for each in find_descendants(process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.wait()


class _Hooked(Fault):
    """The driver acts on itself at one exact place (`hooks`)."""

    kind = ""
    seconds = 200.0
    """How long the sweep may take until it comes to that place."""

    def prepare(self) -> str:
        self.order = self.run.hook(self.kind)
        return ""

    def inject(self) -> bool:
        self.order.write_text(str(self.chance.random()))
        deadline = time.monotonic() + self.seconds
        while self.order.exists():
            if self.run.command.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


class KillCompaction(_Hooked):
    """The driver is killed while it compacts the store, between any two of its
    requests.
    """

    kind = "compaction"
    codes = (-signal.SIGKILL,)


class LoseClusterBeforeStaging(_Hooked):
    """The raylet or the GCS is killed before the first data are staged."""

    kind = "staging"
    before_trials = True
    codes = (75,)
    messages = ("the same command continues",)


class FailingCompaction(_Hooked):
    """The compaction at the end of the sweep fails: a warning, and exit code 0."""

    kind = "closing"

    def problems(self) -> list[str]:
        if "all scores are stored" in self.run.log.read_text():
            return []
        return [f"no warning about the compaction: {self.run.tail()}"]


class NewerMarker(Fault):
    """The marker of the store says that a newer orca-ray writes there."""

    codes = (2,)
    messages = ("written by a newer orca-ray", "continues after the upgrade")

    def inject(self) -> bool:
        self._content = self._marker.read_text()
        newer = {**json.loads(self._content), "schema_version": SCHEMA_VERSION + 1}
        self._marker.write_text(json.dumps(newer))
        return True

    def relieve(self) -> None:
        self._marker.write_text(self._content)

    @property
    def _marker(self) -> Path:
        return self.run.store / MARKER


class StopBeforeWrite(_Hooked):
    """The driver stands still between the check of its lease and the write, until
    another driver has done the rest.
    """

    kind = "stop"
    codes = (2,)
    messages = ("has taken over: this one ends",)

    def inject(self) -> bool:
        if not super().inject():
            return False
        first = self.run.command
        self.run.start()
        self._code = wait(self.run.command, self.seconds)
        self.run.command = first
        first.send_signal(signal.SIGCONT)
        return True

    def problems(self) -> list[str]:
        return (
            []
            if self._code == 0
            else [f"the second driver ended with {self._code}: {self.run.tail()}"]
        )


class TwoDrivers(Fault):
    """The same command is started a second time: it names the first driver and ends."""

    early = True

    def inject(self) -> bool:
        first = self.run.command
        self.run.start()
        self._code = wait(self.run.command, 100.0)
        self.run.command = first
        # With 0, the first one had left the lease when the second one looked.
        return self._code != 0

    def problems(self) -> list[str]:
        said = "another driver runs" in self.run.log.read_text()
        return (
            []
            if self._code == 2 and said
            else [f"the second driver ended with {self._code}: {self.run.tail()}"]
        )


class ClockStep(_Hooked):
    """The driver's clock is set forward or back by a minute to two hours."""

    kind = "clock"

    def inject(self) -> bool:
        self.order.write_text(
            str(self.chance.choice((-1, 1)) * self.chance.randrange(60, 7200))
        )
        return True


class Sleep(Fault):
    """The machine sleeps: all processes of the sweep stand still, for longer or shorter
    than a lease.
    """

    codes: Collection[int] = (0, 75)
    messages = ("the same command continues",)

    def inject(self) -> bool:
        found = self.run.processes()
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            if number == signal.SIGSTOP:
                time.sleep(self.chance.uniform(5.0, 50.0))
        return bool(found)


READER = """
import sys
from pathlib import Path
from orca_ray.results.status import sweep_status
from orca_ray.results.store import ResultsStore
count = 0
while not Path(sys.argv[2]).exists():
    store = ResultsStore(sys.argv[1])
    keys = set(store.records()["trial_key"])
    store.curves()
    store.artefacts()
    store.logs()
    store.journal(sys.argv[3])
    sweep_status(store, sys.argv[3])
    assert keys <= set(store.scan().values("trial_key")), "a record has vanished"
    count += 1
assert count > 1
"""


class Reader(Fault):
    """Another process reads all tables, again and again, until the sweep is done."""

    def inject(self) -> bool:
        self._end = self.run.folder / "end"
        self._reader = self.run.popen(
            [sys.executable, "-c", READER, self.run.direct_uri, str(self._end), NAME]
        )
        return True

    def relieve(self) -> None:
        self._end.touch()
        self._code = wait(self._reader, 60.0)

    def problems(self) -> list[str]:
        return (
            []
            if self._code == 0
            else [f"the reader ended with {self._code}: {self.run.tail()}"]
        )


KINDS: dict[str, type[Fault]] = {
    "driver": KillDriver,
    "worker": KillWorker,
    "raylet": KillRaylet,
    "gcs": KillGcs,
    "node": KillNode,
    "sigterm": Terminate,
    "sigint": Interrupt,
    "hang": Hang,
    "disk": FullDisk,
    "store-freeze": FrozenStore,
    "store-slow": SlowStore,
    "store-break": BrokenStore,
    **{kind: disturbed_requests(kind) for kind in REQUEST_FAULTS},
    "stop-write": StopBeforeWrite,
    "two-drivers": TwoDrivers,
    "clock": ClockStep,
    "sleep": Sleep,
    "reader": Reader,
    "compaction": KillCompaction,
    "staging": LoseClusterBeforeStaging,
    "closing": FailingCompaction,
    "newer": NewerMarker,
}
