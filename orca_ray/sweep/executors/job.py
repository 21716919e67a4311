"""A command of orca-sweep as a job of a Ray cluster: packed, submitted and followed."""

import asyncio
import fnmatch
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orca_ray.errors import ClusterLostError, UserError
from orca_ray.results.marker import MARKER

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

logger = logging.getLogger(__name__)

ALWAYS_LEFT_OUT = (".git", ".venv", "__pycache__", ".mypy_cache", ".pytest_cache")
"""Names of folders that no job needs."""
MAX_FILES = 100_000
"""Largest number of files of a job. A larger folder is a mistake, e.g. a home folder.
"""
LOST_SECONDS = 60.0
"""Seconds without an answer after which a cluster counts as lost."""
RETRY_SECONDS = 1.0
"""Seconds between two attempts to follow a job whose log has ended or failed."""


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """Request to run a command as a job, with its files and its environment."""

    entrypoint: str
    """Command line for a shell of the head node."""
    directory: Path
    """Working directory whose files the job gets."""
    files: Sequence[Path]
    """The files, relative to the directory."""
    environment: Mapping[str, str]
    packages: Sequence[str] = ()
    """Requirements that pip installs on the nodes, for this job alone."""


def list_files(directory: Path, excluded: Sequence[str] = ()) -> list[Path]:
    """Return the files of ``directory`` that a job gets, as relative paths, sorted.

    In a checkout of git, these are the files that git tracks and the new ones that it
    does not ignore; elsewhere, all files but those of `ALWAYS_LEFT_OUT` and of results
    stores. ``excluded`` are patterns of paths, or of names, that are left out, too.
    Raises UserError if there are too many files.
    """
    listed = _git_files(directory)
    if listed is None:
        listed = _walk(directory)
    files: list[Path] = []
    for path in listed:
        if len(files) == MAX_FILES:
            raise UserError(
                f"{directory} has more than {MAX_FILES:,} files, which a job would"
                " take to every node: change to the folder of the sweep, or name it"
                " with --working-dir"
            )
        if not _is_excluded(path, excluded) and (directory / path).is_file():
            files.append(path)
    return sorted(files)


def _git_files(directory: Path) -> Iterable[Path] | None:
    """Return the paths that git tracks or would add; None outside a checkout."""
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *listing], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    names = {name for name in done.stdout.split(b"\0") if name}
    return [Path(os.fsdecode(name)) for name in names]


def _walk(directory: Path) -> Iterable[Path]:
    """Yield the relative paths of all files, without folders that no job needs."""
    for folder, subfolders, names in os.walk(directory):
        if MARKER in names:
            subfolders.clear()
            continue
        subfolders[:] = [name for name in subfolders if name not in ALWAYS_LEFT_OUT]
        for name in names:
            yield Path(folder, name).relative_to(directory)


def _is_excluded(path: Path, patterns: Sequence[str]) -> bool:
    """Return whether the path, one of its folders or its name matches a pattern."""
    candidates = [str(path), *map(str, path.parents), *path.parts]
    return any(
        fnmatch.fnmatch(candidate, pattern.rstrip("/"))
        for pattern in patterns
        for candidate in candidates
    )


def connect(address: str | None) -> "JobSubmissionClient":
    """Return a client of the job server at ``address`` (None: on this machine).

    Raises UserError if no job server answers there, or if it refuses the token.
    """
    from ray.job_submission import JobSubmissionClient

    # Ray's loggers have levels of their own, and log each upload and connection.
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # of requests, or Ray's own, by cause and version
        raise UserError(_refusal(address, error)) from error


def submit(
    client: "JobSubmissionClient", request: JobRequest, address: str | None
) -> str:
    """Upload the files and submit the job; return the job's id.

    Raises UserError if the job server refuses the job.
    """
    environment: dict[str, object] = {"env_vars": dict(request.environment)}
    if request.packages:
        environment["pip"] = list(request.packages)
    with tempfile.TemporaryDirectory(prefix="orca-ray-job-") as package:
        for file in request.files:
            target = Path(package, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(request.directory / file, target)
        environment["working_dir"] = package
        try:
            return str(
                client.submit_job(
                    entrypoint=request.entrypoint, runtime_env=environment
                )
            )
        except Exception as error:  # of requests, or Ray's own, by cause and version
            raise UserError(_refusal(address, error)) from error


def _refusal(address: str | None, error: Exception) -> str:
    """Return the message about a job server that does not accept a job."""
    where = address or "this machine"
    return (
        f"cannot submit a job to the Ray cluster at {where}: {error}\nGive the address"
        " of the cluster's dashboard with --address, e.g. http://10.0.0.1:8265, and"
        " its token with --token-path, if it needs one"
    )


class JobLog:
    """Reader that follows the log of a job until the job ends.

    If the connection is lost, it connects again.
    """

    def __init__(
        self, client: "JobSubmissionClient", job: str, write: Callable[[str], None]
    ) -> None:
        self._client = client
        self._job = job
        self._write = write
        self._num_written = 0

    def follow(self) -> "JobDetails":
        """Pass the log on while the job runs; return the job's details at the end.

        Raises ClusterLostError if the job server no longer answers.
        """
        last_answer = time.monotonic()
        while True:
            self._try_to_read()
            try:
                details = self._client.get_job_info(self._job)
            except Exception as error:  # of the connection, by cause and version
                if time.monotonic() - last_answer > LOST_SECONDS:
                    raise ClusterLostError(
                        f"the job server no longer answers ({error})"
                    ) from error
            else:
                if details.status.is_terminal():
                    self._try_to_read()  # what a lost connection has left out
                    return details
                last_answer = time.monotonic()
            time.sleep(RETRY_SECONDS)

    def _try_to_read(self) -> None:
        """Write new text of the log, until it ends or the connection is lost."""
        try:
            asyncio.run(self._read())
        except Exception as error:  # of the connection, by cause and version
            logger.debug("the log of %s ended", self._job, exc_info=error)

    async def _read(self) -> None:
        """Write the part of the log that was not written before."""
        num_read = 0
        async for text in self._client.tail_job_logs(self._job):
            num_old = max(0, self._num_written - num_read)
            num_read += len(text)
            if num_read > self._num_written:
                self._write(text[num_old:])
                self._num_written = num_read
