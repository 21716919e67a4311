"""The version of orca-ray and of its code.

``__version__`` is also that of the distribution in pyproject.toml; a test compares
them.
"""

import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

__version__ = "0.2.0"


@cache
def code_version() -> str:
    """Return the version with a digest of the running code, which records carry.

    The version is a local version label (PEP 440). In a checkout, it is ``0.2.0+g`` and
    12 digits of the commit; where files of the package differ from that commit,
    ``….dirty.`` and 12 digits of the code follow. Where there is no git, as in an
    installed wheel, it is ``0.2.0+w`` and 12 digits of the code. The digits of the code
    are the SHA-256 over names and contents of the package's files, except compiled
    ones.
    """
    package = Path(__file__).parent
    commit = None
    if (package.parent / ".git").exists():
        commit = _run_git(package, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return f"{__version__}+w{_code_digits(package)}"
    changes = _run_git(package, "status", "--porcelain", "--", ".")
    if changes == "":
        return f"{__version__}+g{commit}"
    if changes is None:  # git failed, so the state of the files is unknown
        return f"{__version__}+w{_code_digits(package)}"
    return f"{__version__}+g{commit}.dirty.{_code_digits(package)}"


def _code_digits(package: Path) -> str:
    """Return 12 digits of the SHA-256 over names and contents of a package's files."""
    code = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.suffix in (".pyc", ".tmp") or not path.is_file():
            continue
        name = path.relative_to(package).as_posix()
        code.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return code.hexdigest()[:12]


def _run_git(directory: Path, *arguments: str) -> str | None:
    """Return what a git command prints; None if it fails or there is no git."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }  # a hook sets variables that name another repository
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        completed = subprocess.run(
            ["git", "-C", directory, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout.strip() if completed.returncode == 0 else None
