"""What all runs of the fault harness share: the sweep, its body and data, and the
scores of an undisturbed run.
"""

import logging
import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from orca_ray.results.store import ResultsStore
from orca_ray.testing.suite import make_home
from tests.cluster.processes import ROOT, TOKEN
from tests.sweep.real import TEXT, make_tiny_text, read_facts

SWEEP = (
    TEXT.replace("name: tiny", "name: faults")
    .replace("parallel: 1", "resources: {cpus: 1, gpus: 0}\ndeterministic: true")
    .replace("min_epochs: 1", "min_epochs: 4")
    .replace("refine.epochs: 3", "refine.epochs: 48")
    .replace("search_trials: 3", "search_trials: 2")
)
NAME = "faults/full-deterministic"
BUCKET = "bucket"
_ACCESS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "word"}


class Site:
    """A directory with the sweep and its reference; each run has its own directory in
    it.

    Args:
        folder: a directory, empty or of an earlier site; its path is short, because
            sockets of Ray lie in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sweep = folder / "sweep.yaml"
        self.home = folder / "home"
        store = folder / "reference"
        if not store.exists():
            self.home.mkdir(parents=True)
            make_home(self.home)
            self.sweep.write_text(make_tiny_text(folder, SWEEP))
            self.run_reference(store)
        self.reference: dict[str, dict[str, Any]] = read_facts(
            ResultsStore(store), NAME
        )
        """What is equal in every run, by trial key."""
        self._server: Any = None

    def environment(self) -> dict[str, str]:
        """Return the environment of commands, without that of any other cluster."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "ORCA_", "AWS_"))
        }
        own = {
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        # A token in a file may change meanwhile.
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        return {
            **kept,
            **own,
            **token,
            **_ACCESS,
            "ORCA_RAY_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
        }

    def command(self, store: str, *options: str) -> list[str]:
        """Return the command that runs the sweep."""
        start = [
            sys.executable,
            "-m",
            "orca_ray.cli.main",
            "run",
            str(self.sweep),
            "--results",
            store,
        ]
        return [*start, "--quiet", *options]

    def run_reference(self, store: Path) -> None:
        """Run the sweep undisturbed, in one process."""
        command = self.command(str(store), "--executor", "inline")
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def s3_port(self) -> int:
        """Return the port of this site's S3 server, which the first call starts."""
        if self._server is None:
            from moto.server import ThreadedMotoServer

            # The server logs every request.
            logging.getLogger("werkzeug").setLevel(logging.ERROR)
            self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
            self._server.start()
            _, self._port = self._server.get_host_and_port()
            pafs.S3FileSystem(
                access_key="key",
                secret_key="word",
                endpoint_override=f"127.0.0.1:{self._port}",
                scheme="http",
                allow_bucket_creation=True,
            ).create_dir(BUCKET)
        return int(self._port)

    def close(self) -> None:
        """End the S3 server."""
        if self._server is not None:
            self._server.stop()

    @cached_property
    def num_trials(self) -> int:
        """Number of trials of the sweep."""
        return len(self.reference)
