"""One run of the fault harness: its directory, its store, and the processes of its
commands.
"""

import contextlib
import os
import socket
import subprocess
import time
import uuid
from pathlib import Path

import psutil

from benchmarks.faults.hooks import HOOK, SITECUSTOMIZE
from benchmarks.faults.site import BUCKET, NAME, Site
from orca_ray.errors import UserError
from orca_ray.results import live
from orca_ray.results.folder import open_folder
from orca_ray.results.store import ResultsStore

MARKER = "ORCA_FAULT_RUN"


class Run:
    """Starts the commands of one run.

    All their processes belong to sessions that `popen` has started.
    """

    command: subprocess.Popen[bytes]
    """The command that runs now, or ran last."""

    def __init__(self, site: Site, number: int) -> None:
        self.site = site
        self.folder = site.folder / str(number)
        self.store = self.folder / "results"
        self.log = self.folder / "log"
        self.temporary = self.folder / "t"
        self.temporary.mkdir(parents=True)
        self.uri = self.direct_uri = str(self.store)
        self.options: tuple[str, ...] = ()
        """Options of every command."""
        temporary = {"TMPDIR": str(self.temporary), "RAY_TMPDIR": str(self.temporary)}
        self._environment = {
            **site.environment(),
            **temporary,
            MARKER: str(self.folder),
        }
        self._sessions: set[int] = set()

    def use_s3(self, port: int) -> None:
        """Use a store on the S3 server; commands reach it through ``port``."""
        place = f"{BUCKET}/{uuid.uuid4().hex}"
        rest = "&scheme=http&region=us-east-1"
        self.uri = f"s3://key:word@{place}?endpoint_override=127.0.0.1:{port}{rest}"
        self.direct_uri = f"s3://key:word@{place}?endpoint_override=127.0.0.1:{self.site.s3_port()}{rest}"

    def hook(self, kind: str) -> Path:
        """Install a hook of `hooks` in every command from now on; return the file whose
        creation makes it act.
        """
        folder = self.folder / "hook"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        path = f"{folder}{os.pathsep}{self._environment['PYTHONPATH']}"
        self.environment(PYTHONPATH=path, **{HOOK: f"{kind}:{folder / 'go'}"})
        return folder / "go"

    def environment(self, **variables: str) -> None:
        """Set variables of the environment of the commands that start from now on."""
        self._environment |= variables

    def popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own."""
        with self.log.open("ab") as stream:
            process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self._sessions.add(process.pid)
        return process

    def start(self, *options: str) -> None:
        """Start the command of the sweep."""
        self.command = self.popen(self.site.command(self.uri, *self.options, *options))

    def wait_for_trials(self, num_done: int, seconds: float) -> bool:
        """Wait until a trial runs and ``num_done`` have ended; return False if the
        command or the time ends before.
        """
        folder = open_folder(self.direct_uri)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.command.poll() is None:
            time.sleep(0.2)
            with contextlib.suppress(UserError):
                state = live.read(folder, NAME)
                if state is None or not any(trial.node for trial in state.running):
                    continue
                if sum(row.done for row in state.rows) >= num_done:
                    return True
        return False

    def num_records(self) -> int:
        """Return the number of trials that have a record."""
        try:
            return len(ResultsStore(self.direct_uri).load(NAME))
        except UserError:
            return 0

    def wait_for_port(self, port: int, seconds: float = 60.0) -> None:
        """Wait until something listens on a port of this machine."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.2)

    def processes(self) -> list[psutil.Process]:
        """Return the living processes that this run has started, those of its clusters
        included.
        """
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def named(self, name: str) -> list[psutil.Process]:
        """Return the processes of a program."""
        return [process for process in self.processes() if process.name() == name]

    def workers(self) -> list[psutil.Process]:
        """Return the workers that run a trial."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if title.startswith(
                    "ray::ResourceTrainable"
                ):  # the class that Tune makes of ours
                    found.append(process)
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether this run started a process; Ray overwrites the environment of
        workers, but not their session.
        """
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return os.getsid(process.pid) in self._sessions or process.environ().get(
                MARKER
            ) == str(self.folder)
        return False

    def kill(self) -> None:
        """Kill all processes of the run, after its checks."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def tail(self, path: Path | None = None, lines: int = 5) -> str:
        """Return the last lines of the log."""
        return "\n".join(
            (path or self.log).read_text(errors="replace").splitlines()[-lines:]
        )
