"""A disk without space."""

import os
import subprocess
from pathlib import Path

from tests.cluster.faults.fault import Fault

_BYTES = 16 * 2**20


class FullDisk(Fault):
    """Fills the file system of the store, a small tmpfs."""

    codes = (2,)
    messages = ("space",)

    def prepare(self) -> str:
        if os.geteuid():
            return "only root mounts a small file system"
        self.run.store.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={_BYTES}", "tmpfs", str(self.run.store)]
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
        subprocess.run(["umount", str(self.run.store)], capture_output=True, check=False)

    @property
    def _filler(self) -> Path:
        return self.run.store / ".filler"
