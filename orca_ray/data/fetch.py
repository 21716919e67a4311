"""Parallel download, hash verification and unpacking of raw files.

An incomplete file stays as ``<file>.part`` and is continued later
(`orca_ray.data.download`). A file is compared with its published hash. Without a
published SHA-256, it is compared with its pin: the hash that was recorded in the lock
file (`orca_ray.data.raw`) when the file was first unpacked or decompressed to its end
without an error.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from urllib.parse import urlsplit

from orca_ray.data import archives, cache
from orca_ray.data.archives import DamagedFile
from orca_ray.data.download import Failed, Patience, Stopped, discard, download
from orca_ray.data.packages import SayText
from orca_ray.data.raw import LOCKS, PINS, Pin, Pins, RawFile, hash_file, missing
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

_WORKERS = 4
"""Number of files that are downloaded at the same time."""
_PATIENCE = Patience()
_PROGRESS_SECONDS = 5.0
"""Seconds between two reports on one file."""
GRACE_SECONDS = 2.0
"""Seconds that worker threads get to clean up after an interruption."""
_REPORTED_BYTES = 200 * 10**6
"""Least size of a file whose hashing is reported as progress."""


def fetch(
    files: Sequence[RawFile],
    directory: Path,
    progress: SayText | None = None,
    *,
    workers: int = _WORKERS,
    patience: Patience = _PATIENCE,
) -> None:
    """Download the files that are missing in ``directory``, verify and unpack all.

    Several processes may call this at the same time; each file is downloaded by one of
    them. The URLs of a file are tried in order. A failed file does not stop the
    download of the other files. Existing files are never overwritten or removed.
    ``progress`` is called with lines of text, by one thread at a time.

    Raises UserError before any download if a missing file has no URL or the disk is too
    small. Raises UserError at the end if a file could not be downloaded or has a wrong
    hash, or if an archive is damaged or lacks the expected path.
    """
    unique_files = list({file.path: file for file in files}.values())
    absent = missing(unique_files, directory)
    _check_urls(absent, directory)
    cache.make_directory(directory)
    needed = sum(_needed_bytes(file, directory) for file in absent)
    if needed:  # a download of unknown size checks the space itself
        cache.check_space(directory, needed)
    raw = _RawDirectory(directory, progress, patience)
    raw.each(unique_files, raw.obtain, workers)


def _check_urls(absent: Sequence[RawFile], directory: Path) -> None:
    """Raise UserError if there are files that only the user can supply."""
    paths = [directory / file.path for file in absent if not file.urls]
    manual = [path for path in paths if not path.is_file()]
    if not manual:
        return
    places = "".join(f"\n  {path}" for path in manual)
    raise UserError(
        f"no address is known for {len(manual)} of the files; get them from the"
        f" data set's own page and put them here:{places}\nor name the directory"
        " that has them: 'orca-sweep data prepare TASK --raw DIR'"
    )


def difference(file: RawFile, content: Pin, pins: Pins) -> str:
    """Return a text on how hash and size of a file differ from the expected ones.

    The expected ones were published, or recorded in the lock file. Returns "" if there
    is no difference.
    """
    size = f"({content.num_bytes} bytes)"
    for name, expected, actual in (
        ("sha256", file.sha256, content.sha256),
        ("md5", file.md5, content.md5),
    ):
        if expected and expected.lower() != actual:
            return (
                f"{name} is {actual} {size}, expected is {expected.lower()}, the"
                " published one"
            )
    # A published SHA-256 has priority over the recorded hash: it may have been
    # corrected since.
    if file.sha256:
        return ""
    pin = pins.read().get(file.path)
    if pin is None or pin[:2] == content[:2]:
        return ""
    return (
        f"sha256 is {content.sha256} {size}, expected is {pin.sha256}"
        f" ({pin.num_bytes} bytes), as it was first seen and pinned in {PINS}; if"
        f" the new one is right, remove the entry {file.path!r} from there"
    )


def _needed_bytes(file: RawFile, directory: Path) -> int:
    """Return about how many more bytes an absent file will take on the disk."""
    target = directory / file.path
    held = [path for path in (target, part_of(target)) if path.is_file()]
    held_bytes = sum(path.stat().st_size for path in held)
    return max(0, file.disk_bytes - held_bytes)


class _RawDirectory:
    def __init__(
        self, directory: Path, progress: SayText | None, patience: Patience
    ) -> None:
        self._directory = directory
        self._progress = progress
        self._patience = patience
        self._pins = Pins(directory)
        self._stop = threading.Event()
        self._reporting = threading.Lock()

    def each(
        self, files: Sequence[RawFile], work: Callable[[RawFile], None], workers: int
    ) -> None:
        """Call ``work`` on every file in ``workers`` threads.

        Raises the first exception of ``work`` that is not a `UserError`, else one
        `UserError` with the messages of all UserErrors of ``work``. An exception in the
        calling thread (e.g. Ctrl-C) is raised when all threads have ended, or after
        `GRACE_SECONDS`. The threads are daemons, unlike those of
        ``concurrent.futures``, which would delay the end of the process until the
        connection to a silent server times out.
        """

        def outcome(file: RawFile) -> BaseException | None:
            try:
                if not self._stop.is_set():
                    work(file)
            except BaseException as error:
                return error
            return None

        pool = ThreadPool(max(1, min(workers, len(files))))
        outcomes = pool.map_async(outcome, files, chunksize=1)
        try:
            errors = [error for error in outcomes.get() if error is not None]
        finally:
            self._stop.set()
            outcomes.wait(GRACE_SECONDS)
            pool.terminate()
        # Other exceptions than UserError come first.
        errors.sort(key=lambda error: isinstance(error, UserError))
        if len(errors) > 1 and isinstance(errors[0], UserError):
            raise UserError("\n".join(dict.fromkeys(map(str, errors))))
        if errors:
            raise errors[0]

    def _report(self, line: str) -> None:
        logger.debug("%s", line)
        if self._progress:
            with self._reporting:
                self._progress(line)

    def _byte_progress(self, name: str) -> Callable[[int, int | None], None]:
        """Return a function that reports the progress of a file every five seconds.

        Its arguments are the number of bytes done and the total number (None: unknown).
        It raises Stopped after Ctrl-C.
        """
        start = last = time.monotonic()
        first: int | None = None

        def report(num_bytes: int, total: int | None) -> None:
            nonlocal first, last
            if self._stop.is_set():
                raise Stopped
            if first is None:
                first = num_bytes
            now = time.monotonic()
            if now - last < _PROGRESS_SECONDS:
                return
            last = now
            rate = _readable((num_bytes - first) / (now - start))
            self._report(f"{name}: {_amount(num_bytes, total)}, {rate}/s")

        return report

    def obtain(self, file: RawFile) -> None:
        """Download a file if it is missing, then verify and unpack it.

        The hash of its content is recorded if no hash was known.
        """
        target = self._directory / file.path
        content = None
        if not target.is_file():
            if not file.urls or file.present(self._directory):
                return
            lock = self._directory / LOCKS / file.path.replace("/", "+")
            with cache.lock(lock, file.path):
                if not target.is_file():  # else another process has downloaded it
                    content = self._download(file, target)
        content = content or self.check(file)
        is_known = self.is_known(file)
        try:
            if file.unpacked and not file.present(self._directory):
                self._unpack(file, target)
            elif not is_known:
                archives.read_whole(target)
        except DamagedFile as error:
            raise UserError(f"{error}. Remove {target} first") from error
        if not is_known:
            self.pin(file, content)

    def is_known(self, file: RawFile) -> bool:
        """Return whether the file has a published SHA-256 or a pin."""
        return bool(file.sha256) or file.path in self._pins.read()

    def check(self, file: RawFile) -> Pin:
        """Return hash and size of an existing file.

        Raises UserError if they are not the published or recorded ones.
        """
        path = self._directory / file.path
        if path.stat().st_size >= _REPORTED_BYTES:
            self._report(f"checking the hash of {file.path}")
        content = hash_file(path, with_md5=bool(file.md5))
        problem = difference(file, content, self._pins)
        if not problem:
            return content
        unpacked = ""
        if file.unpacked:
            place = self._directory / file.unpacked
            unpacked = f" and what was unpacked from it ({place})"
        raise UserError(
            f"{path} is not the file that is expected: {problem}. Remove it"
            f"{unpacked} and fetch it again."
        )

    def pin(self, file: RawFile, content: Pin) -> None:
        """Record the hash of a file without a published SHA-256.

        Call this only after the file was read to its end.
        """
        try:
            self._pins.add(file.path, content)
        except UserError as error:  # e.g. a shared directory that is read-only
            if content.url:
                raise
            logger.warning("%s cannot be pinned: %s", file.path, error)

    def _download(self, file: RawFile, target: Path) -> Pin:
        """Download a file from the first of its URLs that works; return its hash.

        Raises UserError if none works.
        """
        cache.make_directory(target.parent)
        reasons = []
        for url in file.urls:
            try:
                return self._from(url, file, target)
            except Failed as error:
                self._report(f"{file.path}: {error}; address {url}")
                reasons.append(f"\n  {url}: {error}")
        advice = f"Try again later, or get the file elsewhere and put it at {target}."
        raise UserError(f"{file.path} cannot be fetched:{''.join(reasons)}\n{advice}")

    def _from(self, url: str, file: RawFile, target: Path) -> Pin:
        """Download a file from one URL, and return its hash and size.

        A file with a wrong hash is removed, and Failed is raised with the reason.
        """
        start = time.monotonic()
        size = f" ({_readable(file.num_bytes)})" if file.num_bytes else ""
        self._report(f"fetching {file.path}{size} from {urlsplit(url).hostname}")
        part = part_of(target)
        hash_known = bool(file.md5) or self.is_known(file)
        with cache.disk_errors(target.parent):
            while True:
                is_continued = part.exists()
                download(
                    url,
                    part,
                    hash_known=hash_known,
                    patience=self._patience,
                    stop=self._stop,
                    report=self._byte_progress(file.path),
                )
                content = hash_file(part, with_md5=bool(file.md5))
                problem = difference(file, content, self._pins)
                if not problem:
                    break
                discard(part)
                if not is_continued:
                    raise Failed(problem)
                # The bytes that were there before may be wrong: once more from the
                # start.
            cache.replace_file(part, target)
            discard(part)
        self._report(
            f"{file.path}: fetched, {_readable(content.num_bytes)} in"
            f" {time.monotonic() - start:.1f} s"
        )
        return content._replace(url=url)

    def _unpack(self, file: RawFile, archive: Path) -> None:
        """Unpack an archive beside itself, unless another process has done so."""
        into = archive.parent
        required = (self._directory / file.unpacked).relative_to(into)
        # One archive at a time: two may unpack to the same directory.
        lock = self._directory / LOCKS / "unpack"
        with cache.lock(lock, f"archives in {self._directory}"):
            # scratch directories of processes that were killed
            for abandoned in into.glob(f"{archives.SCRATCH}*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            if not file.present(self._directory):
                self._report(f"unpacking {file.path}")
                report = self._byte_progress(f"{file.path}: unpacked")
                archives.unpack(archive, into, report, str(required))


def part_of(target: Path) -> Path:
    """Return the path of the incomplete file ``target``."""
    return target.with_name(f"{target.name}.part")


def _readable(num_bytes: float) -> str:
    """Return a number of bytes with its unit."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} bytes"


def _amount(num_bytes: int, total: int | None) -> str:
    """Return the numbers of done and of all bytes as text, such as "3 of 20 MB"."""
    size = total or num_bytes
    unit = 10**6 if size >= 10**7 else 10**3
    name = "MB" if size >= 10**7 else "kB"
    if not total:
        return f"{num_bytes // unit} {name}"
    return f"{num_bytes // unit} of {total // unit} {name}"
