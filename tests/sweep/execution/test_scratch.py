import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orca_ray.sweep.worker.scratch import remove_abandoned, scratch_directory

CHILD = """\
import os, signal
from orca_ray.sweep.worker.scratch import scratch_directory
with scratch_directory() as path:
    print(path, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_only_directories_of_dead_processes_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False)
    left = Path(done.stdout.strip())
    assert left.parent == tmp_path
    assert left.is_dir()
    others = [f"orca-ray-{platform.node()}-a-1-2.00-x", "orca-ray-other"]  # a machine whose name begins as ours does
    for name in others:
        (tmp_path / name).mkdir()
    with scratch_directory() as own:
        remove_abandoned()
        assert not left.exists()
        assert own.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
