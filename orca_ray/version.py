"""The version of orca-ray, also that of the distribution in pyproject.toml (a test
compares them), and of its code.
"""

import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

__version__ = "0.1.0"


@cache
def code_version() -> str:
    """Return the version with the code that runs, as a local version label (PEP 440),
    which records carry.

    ``0.1.0+g`` and 12 digits of the commit, in a checkout; ``….dirty.`` and 12 digits
    of the code where files of the package differ from that commit; ``0.1.0+w`` and 12
    digits of the code where there is no git, as in an installed wheel. The digits of
    the code are the SHA-256 over names and contents of the package's files, except
    compiled ones.
    """
    package = Path(__file__).parent
    commit = (
        _git(package, "rev-parse", "--short=12", "HEAD")
        if (package.parent / ".git").exists()
        else None
    )
    changed = commit and _git(package, "status", "--porcelain", "--", ".")
    if commit and changed == "":
        return f"{__version__}+g{commit}"
    code = hashlib.sha256()
    for path in sorted(
        each
        for each in package.rglob("*")
        if each.suffix not in (".pyc", ".tmp") and each.is_file()
    ):
        code.update(
            f"{path.relative_to(package).as_posix()}\0".encode()
            + path.read_bytes()
            + b"\0"
        )
    digits = code.hexdigest()[:12]
    return (
        f"{__version__}+g{commit}.dirty.{digits}"
        if commit and changed
        else f"{__version__}+w{digits}"
    )


def _git(directory: Path, *arguments: str) -> str | None:
    """Return what a command of git prints; None: it failed, or there is no git."""
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }  # a hook names another
    own["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(
            ["git", "-C", directory, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env=own,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
