"""Checkpoints and outcomes of trials that have no record yet.

They are files in the folder of the results store: ``checkpoints/<key>.state`` is the
state of a running trial, ``checkpoints/<key>.outcome`` the last report of a trial that
has ended. The first line of both is JSON: the version of orca-ray, the `SCHEMA`, the
key of the trial and its last report. In a state, the file of `TrialTrainer.save`
follows.
"""

import contextlib
import json
import logging
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orca_ray.data.cache import scratch_directory
from orca_ray.errors import UserError
from orca_ray.results.folder import InStore, LocalFolder
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.version import __version__

logger = logging.getLogger(__name__)

DIRECTORY = "checkpoints"
SCHEMA = 1
"""Version of the format, to increase when it changes without the version of orca-ray.
"""
FLOOR_BYTES = 2 * 2**30
"""Free space that checkpoints leave on the disk of a local store.

The records of the sweep need it.
"""
_ABANDONED_SECONDS = 24 * 3600.0
_MOST_HEADER_BYTES = 2**24
"""Largest size of the first line of a file.

The line of a trial with 50,000 epochs has 10 MB. Python takes up to 25 times the bytes
of hostile JSON.
"""
_KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{20}(?![0-9a-f])")


class Checkpoints(InStore):
    """The checkpoints of a results store.

    Any machine that reaches the store reads, writes and deletes them.

    A file of another version of orca-ray, another `SCHEMA` or another trial counts as
    missing. Reading and deleting raise no exceptions: errors are logged, and a trial
    without its checkpoint starts from its beginning.
    """

    def save(
        self, key: str, report: TrialReport, write: Callable[[Path], None]
    ) -> None:
        """Store the state of a running trial, and its ``report`` with all epochs.

        ``write`` is called with a path, and writes the state to it.

        Raises UserError or OSError if that fails. On the disk of a local store, states
        that no running trial needs are deleted if less than `FLOOR_BYTES` are free. If
        that is not enough, UserError is raised, too.
        """
        self._make_room()
        self._write(f"{key}.state", key, report, write)

    def restore(self, key: str, read: Callable[[Path], bool]) -> TrialReport | None:
        """Load the last checkpoint of a trial, and return its report.

        ``read`` is called with the path of a local file, and loads the state from it.
        Returns None if there is no checkpoint, or if ``read`` returns False.
        """
        return self._read(f"{key}.state", key, read)

    def save_outcome(self, key: str, report: TrialReport) -> None:
        """Store the last report of a trial, with all its epochs.

        Raises UserError or OSError if that fails.
        """
        self._write(f"{key}.outcome", key, report)

    def outcome(self, key: str) -> TrialReport | None:
        """Return the last report of a trial that has ended; None if none is stored."""
        return self._read(f"{key}.outcome", key)

    def _make_room(self) -> None:
        """Delete states that no running trial needs until `FLOOR_BYTES` are free.

        Raises UserError if there is not enough space without them either. Does nothing
        in an object store.
        """
        if not isinstance(self._folder, LocalFolder):
            return
        unneeded = self._unneeded(self._folder.path / DIRECTORY)
        while True:
            free = shutil.disk_usage(self._folder.path).free
            if free >= FLOOR_BYTES:
                return
            path = next(unneeded, None)
            if path is None:
                floor = f"the {FLOOR_BYTES / 2**30:.0f} GiB that are kept for records"
                raise UserError(
                    f"{self._folder.name} has {free / 2**30:.1f} GiB free, less than"
                    f" {floor}"
                )
            logger.warning(
                "the disk is nearly full: deleting the checkpoint %s", path.name
            )
            path.unlink(missing_ok=True)

    @staticmethod
    def _unneeded(directory: Path) -> Iterator[Path]:
        """Yield states that no running trial needs, in the order of deletion.

        States of trials that have an outcome come first, then states that were last
        written more than a day ago. Both are sorted by time, the oldest first.
        """
        states = [path for path in directory.glob("*.state") if path.is_file()]
        aged = sorted((path.stat().st_mtime, path) for path in states)
        yield from (path for _, path in aged if path.with_suffix(".outcome").exists())
        before = time.time() - _ABANDONED_SECONDS
        yield from (path for changed, path in aged if changed < before)

    def remove(self, *keys: str) -> None:
        """Delete all files of the trials ``keys``.

        This includes files of other versions, and partial files of killed writers.
        """
        try:
            for name in self._folder.names(DIRECTORY, hidden=True):
                if not set(_KEY.findall(name)).isdisjoint(keys):
                    self._folder.delete(f"{DIRECTORY}/{name}")
        except (UserError, OSError) as error:
            logger.warning(
                "checkpoints of %d trials cannot be deleted: %s", len(keys), error
            )

    def deletion_advice(self) -> str:
        """Return a sentence on how to delete the states of trials that have not ended.

        "" if there are no states.
        """
        with contextlib.suppress(
            UserError, OSError
        ):  # another driver may delete one meanwhile
            names = [
                name
                for name in self._folder.names(DIRECTORY)
                if name.endswith(".state")
            ]
            if not names:
                return ""
            place = f"{self._folder.name}/{DIRECTORY}"
            amount = ""
            if isinstance(self._folder, LocalFolder):
                size = sum(Path(place, name).stat().st_size for name in names)
                amount = f"{size / 1e6:.0f} MB: rm -r "
            return (
                f"{len(names)} checkpoints stay until the same command continues their"
                f" trials; if none will, delete {amount}{shlex.quote(place)}"
            )
        return ""

    def remove_directory(self) -> None:
        """Delete the directory of a local store if it is empty."""
        if isinstance(self._folder, LocalFolder):
            try:
                (self._folder.path / DIRECTORY).rmdir()
            except (
                OSError
            ) as error:  # it does not exist, or holds another sweep's checkpoints
                logger.debug("%s", error)

    def _write(
        self,
        name: str,
        key: str,
        report: TrialReport,
        write: Callable[[Path], None] | None = None,
    ) -> None:
        """Store a file of the trial ``key``: a JSON line, then the output of ``write``.

        The line has the stamp of this version, and the report.
        """
        header = {**_stamp(key), "report": json.loads(report.to_json())}
        with scratch_directory() as scratch:
            path = scratch / name
            payload = scratch / "payload"
            if write is not None:
                write(payload)
            with path.open("wb") as stream:
                stream.write(json.dumps(header).encode() + b"\n")
                if write is not None:
                    with payload.open("rb") as content:
                        shutil.copyfileobj(content, stream, 2**20)
            self._folder.upload(path, f"{DIRECTORY}/{name}")

    def _read(
        self, name: str, key: str, read: Callable[[Path], bool] | None = None
    ) -> TrialReport | None:
        """Return the report in a file of the trial ``key``; give its state to ``read``.

        Returns None if the file is missing or damaged, or if ``read`` returns False.
        """
        try:
            with scratch_directory() as scratch:
                path = scratch / name
                self._folder.download(f"{DIRECTORY}/{name}", path)
                with path.open("rb") as stream:
                    report = _report(stream.readline(_MOST_HEADER_BYTES), key)
                    payload = scratch / "payload"
                    if read is not None:
                        with payload.open("wb") as content:
                            shutil.copyfileobj(stream, content, 2**20)
                return report if read is None or read(payload) else None
        except FileNotFoundError:
            return None
        except (
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
            OSError,
        ) as error:  # ValueError: also UserError
            logger.warning(
                "%s of trial %s is not used: %s", name.rpartition(".")[2], key, error
            )
            return None


def _stamp(key: str) -> dict[str, Any]:
    return {"orca_ray": __version__, "schema": SCHEMA, "trial": key}


def _report(line: bytes, key: str) -> TrialReport:
    """Return the report in the first line of a file of the trial ``key``.

    Raises ValueError if the line is of another trial, or of another version.
    """
    header = json.loads(line)
    expected = _stamp(key)
    different = {
        name: header.get(name)
        for name, value in expected.items()
        if header.get(name) != value
    }
    if different:
        raise ValueError(f"it has {different}, expected {expected}")
    return TrialReport.from_json(json.dumps(header["report"]))
