import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from orca_ray.sweep.executors import cleanup
from orca_ray.sweep.executors.cleanup import note_processes, reap_orphans

pytestmark = pytest.mark.usefixtures("empty_home")

DRIVER = """
import subprocess, sys, time
from orca_ray.sweep.executors.cleanup import descendants, note_processes
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
note_processes(descendants())
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_what_a_killed_driver_left_behind_is_ended_and_nothing_else() -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    orphan = int(driver.stdout.readline())
    try:
        assert reap_orphans() == [], "the driver lives"
        driver.kill()
        driver.wait()
        assert psutil.pid_exists(orphan)
        assert reap_orphans() == [orphan]
        time.sleep(0.2)
        assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE
        assert reap_orphans() == []
    finally:
        driver.kill()
        driver.stdout.close()


def test_a_recycled_process_id_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        created = psutil.Process(bystander.pid).create_time()
        note_processes(()).write_text(
            json.dumps({"driver": [2**22 + 1, 0], "started": [[bystander.pid, created - 100]]})
        )
        assert reap_orphans() == []
        assert bystander.poll() is None
        bystander.kill()


def test_what_was_there_before_is_neither_noted_nor_killed() -> None:
    """E.g. the process of a tracker, or one of a program that calls `run_sweep`."""
    code = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True); input()"
    with subprocess.Popen(["sleep", "60"]) as earlier:
        before = cleanup.descendants()
        service = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert service.stdout is not None
            worker = psutil.Process(int(service.stdout.readline()))
            started = cleanup.descendants() - before
            noted = json.loads(note_processes(started).read_text())["started"]
            assert {pid for pid, _ in noted} == {service.pid, worker.pid}
            cleanup.kill_with_descendants([each for each in started if each.pid == service.pid])
            assert service.wait(10) == -9
            assert psutil.wait_procs([worker], timeout=10)[1] == []
            cleanup.kill_with_descendants(started)
            assert earlier.poll() is None
        finally:
            earlier.kill()
            service.kill()
            service.communicate()


@pytest.mark.parametrize("content", ["{", '{"driver": ["x", 0]}', "[" * 100_000, None])
def test_a_broken_note_is_dropped(content: str | None) -> None:
    note = note_processes(())
    note.unlink()
    if content is None:
        os.mkfifo(note)
    else:
        note.write_text(content)
    assert reap_orphans() == []
    assert not note.exists()


CHILD = """\
import os, signal
from orca_ray.sweep.executors.cleanup import scratch_directory
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
    with cleanup.scratch_directory() as own:
        cleanup.remove_abandoned()
        assert not left.exists()
        assert own.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
