"""Parallel fetching of raw files: download, verify by hash, unpack, pin.

An incomplete file stays as ``<file>.part`` and is continued later (`orca_ray.data.download`). A file without a
published hash is pinned (`orca_ray.data.pins`) after it was read whole: unpacked, or decompressed to its end.
"""

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from orca_ray.data import archives, cache
from orca_ray.data.download import Download, Failed, Patience, content_length, size_left
from orca_ray.data.gzip_stream import DamagedFile
from orca_ray.data.pins import Pin, Pins
from orca_ray.data.raw import LOCKS, RawFile
from orca_ray.data.thread_pool import Progress, Stopped, ThreadPool
from orca_ray.data.verification import WORKERS, Digest, check_hash, distinct, hash_file, mismatch, pin, raise_all
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

_PATIENCE = Patience()


def fetch(
    files: Sequence[RawFile],
    directory: Path,
    progress: Progress | None = None,
    *,
    workers: int = WORKERS,
    patience: Patience = _PATIENCE,
) -> None:
    """Fetch the files that are missing in ``directory``, and verify the others.

    Several processes may fetch at once; each file is fetched by one of them, its addresses are tried in order. A failed
    file does not stop the others. Files that the user put there are never overwritten or removed. ``progress`` receives
    lines in the calling thread.

    Raises:
        UserError: before anything is fetched, for a missing file without an address and for a disk that is too small;
            afterwards for files that no address supplies, files with another hash than expected, and archives that
            are damaged or lack the expected member.
    """
    wanted = distinct(files)
    _refuse_manual(wanted, directory)
    cache.make_directory(directory)
    _require_space([file for file in wanted if not file.present(directory)], directory, workers, patience)
    pool = ThreadPool(progress)
    failed = pool.map(wanted, _Fetcher(directory, pool, patience).obtain, workers)
    errors = []
    for file, error in failed:
        if file.optional and isinstance(error, UserError):
            logger.warning("going on without %s, which is optional: %s", file.path, error)
        else:
            errors.append(error)
    raise_all(errors)


class _Fetcher:
    """Fetches single files into one raw directory."""

    def __init__(self, directory: Path, pool: ThreadPool, patience: Patience) -> None:
        self._directory = directory
        self._pins = Pins(directory)
        self._pool = pool
        self._patience = patience

    def obtain(self, file: RawFile) -> None:
        """Download a file if it is missing, verify it, unpack it, and pin it."""
        target, url = self._directory / file.path, ""
        if target.is_file():
            digest, known = check_hash(file, self._directory, self._pins, self._pool)
        elif not file.urls or file.present(self._directory):
            return
        else:
            with cache.lock(file.lock(self._directory), file.path):
                if target.is_file():  # another process was faster
                    digest, known = check_hash(file, self._directory, self._pins, self._pool)
                else:
                    digest, url = self._download(file, target)
                    known = bool(file.sha256) or file.path in self._pins.read()
        try:
            if file.unpacked and not file.present(self._directory):
                self._unpack(file, target)
            elif not known:
                archives.read_whole(target)
        except DamagedFile as error:
            raise UserError(f"{error}. Remove {target} first") from error
        if not known:
            pin(file, self._pins, digest, url)

    def _download(self, file: RawFile, target: Path) -> tuple[Digest, str]:
        cache.make_directory(target.parent)
        expected = self._pins.read().get(file.path)
        reasons = []
        for url in file.urls:
            try:
                return self._from(url, file, target, expected), url
            except Failed as error:
                self._pool.report(f"{file.path}: {error}; address {url}")
                reasons.append(f"\n  {url}: {error}")
        raise UserError(
            f"{file.path} cannot be fetched:{''.join(reasons)}\n"
            f"Try again later, or get the file elsewhere and put it at {target}."
        )

    def _from(self, url: str, file: RawFile, target: Path, expected: Pin | None) -> Digest:
        """Fetch from one address; raises Failed, with the reason, for a wrong file, which is discarded."""
        start = time.monotonic()
        size = f" ({_readable(file.num_bytes)})" if file.num_bytes else ""
        self._pool.report(f"fetching {file.path}{size} from {urlsplit(url).hostname}")
        part, digest = self._complete(url, file, target, expected)
        if mismatch(file, expected, digest) and part.continued:
            part.discard()  # bytes of an earlier process may be at fault
            part, digest = self._complete(url, file, target, expected)
        if wrong := mismatch(file, expected, digest):
            part.discard()
            raise Failed(wrong)
        with cache.disk_errors(target.parent):
            part.finish()
        self._pool.report(f"{file.path}: fetched, {_readable(part.size)} in {time.monotonic() - start:.1f} s")
        return digest

    def _complete(self, url: str, file: RawFile, target: Path, expected: Pin | None) -> tuple[Download, Digest]:
        with cache.disk_errors(target.parent):
            part = Download(target, url, hash_known=bool(file.sha256 or file.md5 or expected))
        part.run(self._patience, self._pool.stop, _ByteProgress(file.path, self._pool.report))
        return part, hash_file(part.path, with_md5=bool(file.md5))

    def _unpack(self, file: RawFile, archive: Path) -> None:
        progress = _ByteProgress(f"{file.path}: unpacked", self._pool.report)

        def report(done: int, total: int) -> None:
            if self._pool.stop.is_set():
                raise Stopped
            progress(done, total)

        into = archive.parent
        required = (self._directory / file.unpacked).relative_to(into)
        # One at a time: two archives may share a directory.
        with cache.lock(self._directory / LOCKS / "unpack", f"archives in {self._directory}"):
            for left in into.glob(f"{archives.SCRATCH}*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            if not file.present(self._directory):
                self._pool.report(f"unpacking {file.path}")
                archives.unpack(archive, into, report, stamp=file.unpacking(self._directory), required=str(required))


class _ByteProgress:
    """Reports bytes done: one line per percent, at most one per second and at least one in ten seconds.

    The end is always reported if any line was.
    """

    def __init__(self, name: str, report: Progress) -> None:
        self._name, self._report = name, report
        self._percent, self._reported = 0, False
        self._start = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        percent = 100 * done // total if total else 0
        ends = self._reported and percent >= 100 > self._percent
        if not ends and now - self._last < (1.0 if percent != self._percent else 10.0):
            return
        self._last, self._percent, self._reported = now, percent, True
        rate = _readable((done - self._first) / max(now - self._start, 1e-3))
        unit, name = (10**6, "MB") if (total or done) >= 10**7 else (10**3, "kB")
        whole = f" of {total // unit}" if total else ""
        self._report(f"{self._name}: {done // unit}{whole} {name}, {rate}/s")


def _refuse_manual(files: Sequence[RawFile], directory: Path) -> None:
    """Refuse missing files that have no address."""
    manual = [directory / file.path for file in files if not (file.urls or file.optional or file.present(directory))]
    if manual := [path for path in manual if not path.is_file()]:
        places = "".join(f"\n  {path}" for path in manual)
        raise UserError(
            f"no address is known for {len(manual)} of the files; get them from the data set's own page and put "
            f"them here:{places}\nor name the directory that has them: 'orca-sweep data prepare TASK --raw DIR'"
        )


def _require_space(absent: Sequence[RawFile], directory: Path, workers: int, patience: Patience) -> None:
    """Refuse to start where the disk does not hold all absent files; servers are asked for unknown sizes."""
    existing = {file.path: (directory / file.path).is_file() for file in absent}
    sizes = {f.path: (directory / f.path).stat().st_size if existing[f.path] else f.num_bytes for f in absent}

    def ask(file: RawFile) -> None:
        sizes[file.path] = content_length(file.urls[0], patience)

    ThreadPool(None).map([file for file in absent if file.urls and not sizes[file.path]], ask, workers)
    needed = 0
    for file in absent:
        size = sizes[file.path]
        needed += 0 if existing[file.path] else max(0, size - size_left(directory / file.path))
        needed += size * file.unpacked_factor
    if needed:
        cache.require_space(directory, needed)


def _readable(num_bytes: float) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} bytes"
