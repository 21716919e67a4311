"""Temporary directories that do not stay after a SIGKILL: later processes on the machine delete those of dead ones."""

import contextlib
import logging
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Context manager that makes a temporary directory, whose name holds this process's id and time of creation."""
    import psutil

    process = psutil.Process()
    prefix = f"{_prefix()}{process.pid}-{process.create_time():.2f}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as path:
        yield Path(path)


def remove_abandoned() -> None:
    """Delete the directories of `scratch_directory` that killed processes of this machine have left."""
    import psutil

    for path in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        found = re.fullmatch(r"(\d+)-([\d.]+)-.*", path.name.removeprefix(_prefix()))
        if found is None:  # of a machine whose name begins with the name of this one
            continue
        pid, created = found.groups()
        with contextlib.suppress(psutil.NoSuchProcess):
            if abs(psutil.Process(int(pid)).create_time() - float(created)) < 1:
                continue
        logger.info("deleting %s, which a killed process has left", path)
        shutil.rmtree(path, ignore_errors=True)


def _prefix() -> str:
    """Return how the names begin; with the machine's name, because containers may share a directory but no ids."""
    return f"orca-ray-{platform.node()}-"
