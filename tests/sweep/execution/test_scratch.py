import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orca_ray.sweep.execution.scratch import remove_abandoned, scratch_directory

CHILD = """\
import os, signal
from orca_ray.sweep.execution.scratch import scratch_directory
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
    (tmp_path / "orca-ray-other").mkdir()
    with scratch_directory() as own:
        remove_abandoned()
        assert not left.exists()
        assert own.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["orca-ray-other"]
