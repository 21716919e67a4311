"""Limits that a container sets to CPUs and memory, in both versions of control groups."""

import os
from pathlib import Path

import psutil
import pytest

from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.process import allowed_cpus, allowed_memory, free_memory

VERSION_2 = {
    "pod/cpu.max": "350000 100000\n", "pod/box/cpu.max": "max 100000\n", "pod/box/memory.max": f"{2**31}\n",
    "memory.max": "max\n",
}  # fmt: skip
VERSION_1 = {
    "cpu/docker/1/cpu.cfs_quota_us": "50000", "cpu/docker/1/cpu.cfs_period_us": "100000",
    "memory/memory.limit_in_bytes": str(2**63 - 4096),
}  # fmt: skip


@pytest.mark.parametrize(
    ("own", "files", "cpus", "memory"),
    [
        (None, {}, 16, None),
        ("0::/pod/box\n", VERSION_2, 3, 2**31),
        ("4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n", VERSION_1, 1, None),  # half a core is one worker
        ("4:memory:/docker/1\n", {**VERSION_1, "memory/docker/1/memory.limit_in_bytes": str(2**30)}, 16, 2**30),
    ],
)
def test_limits_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, files: dict[str, str], cpus: int, memory: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    root = tmp_path / "groups"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if own is not None:
        (tmp_path / "own").write_text(own)
    assert (allowed_cpus(root, tmp_path / "own"), allowed_memory(root, tmp_path / "own")) == (cpus, memory)


def test_memory_is_what_is_available_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orca_ray.process.allowed_memory", lambda: None)
    assert free_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    monkeypatch.setattr("orca_ray.process.allowed_memory", lambda: 2**20)
    assert free_memory() == 0
    with pytest.raises(UserError, match=r"a table: 1\.0 GiB, and 0\.0 GiB of memory are free; split it"):
        cache.check_memory(2**30, "a table", "split it")
