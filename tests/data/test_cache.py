import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

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
    def unknown(_: Path) -> Path:  # as in a container whose user has no entry
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("ORCA_RAY_HOME", given)
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(UserError, match=f"ORCA_RAY_HOME {told}.*set it to a directory's path"):
        cache.home()


def test_subdirectories_are_created_below_home(cache_home: Path) -> None:
    made = {cache.subdirectory(name) for name in ("packages", "bodies", "prepared", "source", "raw")}
    assert len(made) == 5
    assert all(path.is_dir() and path.parent == cache_home for path in made)


def test_a_file_in_the_way_of_home_is_a_user_error(cache_home: Path) -> None:
    cache_home.write_text("not a directory")
    with pytest.raises(UserError, match="a file is in the way"):
        cache.subdirectory("packages")


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EROFS, "cannot write")],
)
def test_disk_errors_become_user_errors(code: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message), cache.disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))


def test_a_file_elsewhere_is_one_that_was_read(tmp_path: Path) -> None:
    place, file = tmp_path / "out", tmp_path / "raw" / "x.npy"
    with pytest.raises(UserError, match=r"cannot open .*/raw/x\.npy: Permission denied$"), cache.disk_errors(place):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))
    for written in (place / "y.npy", tmp_path):  # below it, or a directory in which it would be made
        with (
            pytest.raises(UserError, match=r"cannot write to .*/out \(.*\): name another directory"),
            cache.disk_errors(place),
        ):
            raise PermissionError(errno.EACCES, "Permission denied", str(written))


def test_the_home_is_named_where_it_is_the_place(cache_home: Path, tmp_path: Path) -> None:
    for place, advice in (
        (cache_home / "raw", "or set ORCA_RAY_HOME"),
        (tmp_path / "out", "or name another directory"),
    ):
        with pytest.raises(UserError, match=f"Free some space, {advice}"), cache.disk_errors(place):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*/x: Input/output error"), cache.read_errors(tmp_path / "x"):
        raise OSError(errno.EIO, "Input/output error")


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), cache.disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_space_is_checked_before_writing(tmp_path: Path) -> None:
    cache.check_space(tmp_path, 1)
    with pytest.raises(UserError, match=r"no space: .* needs about 1000000000000 MB"):
        cache.check_space(tmp_path, 1e18)


def test_little_space_is_told_in_units_that_say_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=8192))
    with pytest.raises(UserError, match=r"needs about 70 kB and its disk has 8 kB free"):
        cache.check_space(tmp_path, 70_000)


def test_a_home_where_nothing_can_be_made_is_a_user_error(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:  # as below /proc
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(Path, "mkdir", refuse)
    for make in (lambda: cache.subdirectory("packages"), lambda: cache.make_directory(cache_home / "raw/toy")):
        with pytest.raises(UserError, match=r"cannot write to .*set ORCA_RAY_HOME"):
            make()


def test_atomic_directory_appears_whole_and_replaces_the_old(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for content in ("first", "second"):
        with cache.atomic_directory(target) as filling:
            (filling / "file").write_text(content)
            assert not target.exists() or (target / "file").read_text() != content
        assert (target / "file").read_text() == content
    assert os.listdir(tmp_path) == ["made"]


def test_atomic_directory_leaves_the_old_one_when_filling_fails(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with cache.atomic_directory(target) as filling:
        (filling / "file").write_text("old")
    with pytest.raises(UserError, match="no space left"):
        _fill_until_the_disk_is_full(target)
    assert (target / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["made"]


def _fill_until_the_disk_is_full(target: Path) -> None:
    with cache.atomic_directory(target) as filling:
        (filling / "file").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")


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
    path = tmp_path / "thing"
    holder_code = (
        "import sys, time; from pathlib import Path; from orca_ray.data import cache\n"
        "with cache.lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder_code, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waiter_code = holder_code.replace("time.sleep(60)", "pass")
        with subprocess.Popen(
            [sys.executable, "-c", waiter_code, str(path)], stdout=subprocess.PIPE, text=True
        ) as waiter:
            time.sleep(1.0)
            assert waiter.poll() is None
            holder.kill()
            output, _ = waiter.communicate(timeout=20)
            assert output == "held\n"
