"""Fencing: a file that a driver appended after it had lost the lease of its sweep does not count.

The name of each file that a driver appends ends with the sweep and its lease number. A driver that takes the lease
stores, before it reads anything else, the list of the files of lower numbers: from then on, only these count. Of
several lists, the one with the highest number decides. No clock is involved (docs/decisions/0028-fencing.md).
"""

import re
from collections.abc import Iterable

import pyarrow as pa

from orca_ray.errors import UserError
from orca_ray.results import live
from orca_ray.results.folder import Folder

_SEALED = re.compile(r"(.+)\.(\d+)\.sealed")
_APPENDED = re.compile(r"\d{20}-[0-9a-f]{32}\.(.+-[0-9a-f]{8})\.(\d+)\.(?:.+\.)?parquet")
"""Matches the name of a file that a driver appended; files of compactions and of other writers have other names."""


def suffix(sweep: str, number: int) -> str:
    """Return what the names of files that a driver appends have before ``.parquet``."""
    return f".{live.file_name(sweep)}.{number}"


def _owner(path: str) -> tuple[str, int] | None:
    match = _APPENDED.fullmatch(path.rpartition("/")[2])
    return (match[1], int(match[2])) if match else None


def _sealed_path(name: str, number: int) -> str:
    return f"{live.DIRECTORY}/{name}.{number}.sealed"


class Fences:
    """Which appended files of a store count; threads may share it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._sealed: dict[tuple[str, int], frozenset[str]] = {}

    def seal(self, sweep: str, number: int, directories: Iterable[str]) -> None:
        """Store which files in ``directories``, listed in this order, count of drivers with numbers below ``number``.

        What the list before decided stays: a file that has arrived since then does not count.
        """
        own, paths = live.file_name(sweep), list[str]()
        for directory in directories:
            for name in self._folder.names(directory):
                if (owner := _owner(name)) and owner[0] == own and owner[1] < number:
                    paths.append(f"{directory}/{name}")
        lost, _ = self.judge(paths)
        content = "\n".join(path for path in paths if path not in lost).encode()
        self._folder.write(_sealed_path(own, number), pa.py_buffer(live.checksum(content).encode() + b"\n" + content))

    def judge(self, paths: Iterable[str]) -> tuple[set[str], set[str]]:
        """Return which of the files ``paths``, listed before this call, do not count, and which are undecided.

        A file is undecided as long as the driver with the highest number has not stored its list. That list may differ
        from the one before, by which readers go until then: a compaction must neither merge nor delete the file.
        """
        owners = {path: owner for path in paths if (owner := _owner(path))}
        lost, undecided = set[str](), set[str]()
        present = self._folder.names(live.DIRECTORY) if owners else []
        sealed = dict(sorted((match[1], int(match[2])) for name in present if (match := _SEALED.fullmatch(name))))
        highest = live.highest_numbers(present)
        for path, (sweep, number) in owners.items():
            last = sealed.get(sweep, 0)
            if number < last and path not in self._read(sweep, last):
                lost.add(path)
            if max(number, last) < highest.get(sweep, 0):
                undecided.add(path)
        return lost, undecided

    def _read(self, sweep: str, number: int) -> frozenset[str]:
        if (sweep, number) not in self._sealed:  # such a file never changes
            path = _sealed_path(sweep, number)
            checksum, _, content = bytes(self._folder.read(path)).partition(b"\n")
            if checksum != live.checksum(content).encode():
                where = f"{self._folder.name}/{path}, the list of files of earlier drivers that count,"
                raise UserError(f"{where} is damaged. Restore it from a copy, or delete it: then all of them count.")
            self._sealed[sweep, number] = frozenset(content.decode().splitlines())
        return self._sealed[sweep, number]
