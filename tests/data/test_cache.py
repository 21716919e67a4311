import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import IO, cast
from unittest import mock

import pytest

from orca_ray.data import cache
from orca_ray.errors import UserError


def test_home_follows_the_variable_and_expands_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ORCA_RAY_HOME", "~/elsewhere")
    assert cache.home() == tmp_path / "elsewhere"
    monkeypatch.delenv("ORCA_RAY_HOME")
    assert cache.home() == tmp_path / ".cache" / "orca-ray"
    assert not cache.home().exists()


@pytest.mark.parametrize(("given", "told"), [("~nobody-of-this-name/x", "is '~nobody"), ("", "is not set")])
def test_a_home_that_nobody_has_is_a_user_error(given: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_RAY_HOME", given)
    unknown = mock.Mock(side_effect=RuntimeError)  # as in a container whose user has no entry
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(UserError, match=f"ORCA_RAY_HOME {told}.*set it to a directory's path"):
        cache.home()


def test_subdirectories_are_created_below_home(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("packages", "raw"):
        assert cache.subdirectory(name) == cache_home / name
        assert (cache_home / name).is_dir()
    shutil.rmtree(cache_home)
    cache_home.write_text("not a directory")
    with pytest.raises(UserError, match="a file is in the way"):
        cache.subdirectory("packages")
    monkeypatch.setattr(Path, "mkdir", mock.Mock(side_effect=FileNotFoundError(errno.ENOENT, "as below /proc")))
    for make in (lambda: cache.subdirectory("packages"), lambda: cache.make_directory(cache_home / "raw/toy")):
        with pytest.raises(UserError, match=r"cannot write to .*set ORCA_RAY_HOME"):
            make()


@pytest.mark.parametrize(
    ("place", "code", "file", "message"),
    [
        ("home/raw", errno.ENOSPC, None, "no space left on the disk.*Free some space, or set ORCA_RAY_HOME"),
        ("out", errno.ENOSPC, None, "Free some space, or name another directory"),
        ("out", errno.EDQUOT, None, "no space left"),
        ("out", errno.EROFS, None, "cannot write"),
        ("out", errno.EACCES, "raw/x.npy", r"cannot open .*/raw/x\.npy: Permission denied$"),
        ("out", errno.EACCES, "out/y.npy", r"cannot write to .*/out \(.*\): name another directory"),
        ("out", errno.EACCES, "", r"cannot write to .*/out \(.*\): name another directory"),  # where it would be made
    ],
)
def test_disk_errors_become_user_errors(place: str, code: int, file: str | None, message: str, tmp_path: Path) -> None:
    named = () if file is None else (str(tmp_path / file),)
    with pytest.raises(UserError, match=message), cache.disk_errors(tmp_path / place):
        raise OSError(code, os.strerror(code), *named)
    with pytest.raises(FileNotFoundError), cache.disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_space_is_checked_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.check_space(tmp_path, 1)
    with pytest.raises(UserError, match=r"no space: .* needs about 1000000000000 MB"):
        cache.check_space(tmp_path, 1e18)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=8192))
    with pytest.raises(UserError, match=r"needs about 70 kB and its disk has 8 kB free"):
        cache.check_space(tmp_path, 70_000)


def test_atomic_directory_appears_whole_and_replaces_the_old(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for content in ("first", "second"):
        with cache.atomic_directory(target) as filling:
            (filling / "file").write_text(content)
            assert not target.exists() or (target / "file").read_text() != content
        assert (target / "file").read_text() == content
    with pytest.raises(UserError, match="no space left"), cache.atomic_directory(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (target / "file").read_text() == "second"
    assert os.listdir(tmp_path) == ["made"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_lock_that_cannot_be_made_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "thing.lock").symlink_to(tmp_path / "elsewhere")
    for path in (Path("/proc/out"), tmp_path / "thing"):
        with pytest.raises(UserError, match=rf"cannot write to {path.parent} \(.*\.lock: .*name another directory"):  # noqa: SIM117
            with cache.lock(path):
                raise AssertionError
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_lock_excludes_other_processes_and_dies_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from orca_ray.data import cache\n"
        "with cache.lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(float(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "thing")]
    with subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True) as holder:
        assert cast(IO[str], holder.stdout).readline() == "held\n"
        with subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True) as waiter:
            time.sleep(1.0)
            assert waiter.poll() is None
            holder.kill()
            assert waiter.communicate(timeout=20)[0] == "held\n"
