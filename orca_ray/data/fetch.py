"""Raw files from the web: fetched in parallel, verified, unpacked; what is there already is held to what it must be.

A file that arrives half stays as ``<file>.part`` beside its place and is continued later (`orca_ray.data.part`). Its
hash is the published one, or else the one that it had when it was first seen (`orca_ray.data.pins`).
"""

import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from orca_ray.data import cache
from orca_ray.data.crew import Crew, Progress, Stopped
from orca_ray.data.download import Failed, Patience, content_length, download
from orca_ray.data.hold import WORKERS, distinct, hold, mismatch, raise_all
from orca_ray.data.part import Part, left_of
from orca_ray.data.pins import Pin, Pins
from orca_ray.data.raw import LOCKS, RawFile
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
    """Fetch what is missing of ``files`` into ``directory``; hold what is there to its hash.

    Several processes may do so at once: each file is fetched by one of them. A file that fails does not keep the others
    from being fetched. What a user put there is never overwritten or removed.

    Args:
        files: what is wanted; their addresses are tried in order.
        directory: the raw directory; made where it is missing.
        progress: is told lines of progress, in the calling thread.
        workers: files fetched at a time.
        patience: with servers that break off, are busy or silent.

    Raises:
        UserError: a file has no address and is not there, or the disk is too small for all, in both of which cases
            nothing is fetched; no address gives a file, or not the one that is expected (says what was expected and
            found); a file that is there is another one; an archive does not hold what it must.
    """
    wanted = distinct(files)
    _refuse_manual(wanted, directory)
    cache.make_directory(directory)
    _require_space([file for file in wanted if not file.present(directory)], directory, workers, patience)
    crew = Crew(progress)
    failed = crew.each(wanted, _Fetcher(directory, crew, patience).obtain, workers)
    for file, error in failed:
        if file.optional and isinstance(error, UserError):
            logger.warning("going on without %s, which is optional: %s", file.path, error)
    raise_all(error for file, error in failed if not (file.optional and isinstance(error, UserError)))


class _Fetcher:
    """Brings single files into one raw directory."""

    def __init__(self, directory: Path, crew: Crew, patience: Patience) -> None:
        self._directory = directory
        self._pins = Pins(directory)
        self._crew = crew
        self._patience = patience

    def obtain(self, file: RawFile) -> None:
        """Have one file in the directory, verified and unpacked."""
        target = self._directory / file.path
        if target.is_file():
            hold(file, self._directory, self._pins, self._crew)
        elif file.urls and not file.present(self._directory):
            with cache.lock(file.lock(self._directory), file.path):
                if not target.is_file():  # another process may have been faster
                    self._download(file, target)
        if file.unpacked and target.is_file() and not file.present(self._directory):
            self._unpack(file, target)

    def _download(self, file: RawFile, target: Path) -> None:
        cache.make_directory(target.parent)
        pin = self._pins.read().get(file.path)
        reasons = []
        for url in file.urls:
            try:
                wrong = self._from(url, file, target, pin)
            except Failed as error:
                wrong = str(error)
            if not wrong:
                return
            self._crew.tell(f"{file.path}: {wrong}; address {url}")
            reasons.append(f"\n  {url}: {wrong}")
        raise UserError(
            f"{file.path} cannot be fetched:{''.join(reasons)}\n"
            f"Try again later, or get the file elsewhere and put it at {target}."
        )

    def _from(self, url: str, file: RawFile, target: Path, pin: Pin | None) -> str:
        """Fetch from one address; return what is wrong with the file that came, which is discarded then."""
        begin = time.monotonic()
        size = f" ({_readable(file.num_bytes)})" if file.num_bytes else ""
        self._crew.tell(f"fetching {file.path}{size} from {urlsplit(url).hostname}")
        part = self._part(url, file, target, pin)
        if (wrong := mismatch(file, pin, part.received())) and part.continued:
            part.discard()  # what an earlier process left may be at fault
            part = self._part(url, file, target, pin)
            wrong = mismatch(file, pin, part.received())
        if wrong:
            part.discard()
            return wrong
        received = part.received()
        if not file.sha256:  # pinned before it appears: from then on it is held to what came from the web
            self._pins.add(file.path, Pin(received.sha256, received.num_bytes, url))
        with cache.disk_errors(target.parent):
            part.finish(target)
        self._crew.tell(f"{file.path}: fetched, {_readable(received.num_bytes)} in {time.monotonic() - begin:.1f} s")
        return ""

    def _part(self, url: str, file: RawFile, target: Path, pin: Pin | None) -> Part:
        hash_known = bool(file.sha256 or file.md5 or pin)
        with cache.disk_errors(target.parent):
            part = Part(target, url, checked_later=hash_known, with_md5=bool(file.md5))
        told = _Ticker(file.path, self._crew.tell)
        download(part, hash_known=hash_known, patience=self._patience, stop=self._crew.stop, told=told)
        return part

    def _unpack(self, file: RawFile, archive: Path) -> None:
        from orca_ray.data.archives import SCRATCH, unpack

        ticker = _Ticker(f"{file.path}: unpacked", self._crew.tell)

        def told(done: int, total: int) -> None:
            if self._crew.stop.is_set():
                raise Stopped
            ticker(done, total)

        # One at a time: two archives may share a directory.
        with cache.lock(self._directory / LOCKS / "unpack", f"archives in {self._directory}"):
            for left in archive.parent.glob(f"{SCRATCH}*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            if not file.present(self._directory):
                self._crew.tell(f"unpacking {file.path}")
                unpack(archive, archive.parent, told, stamp=file.unpacking(self._directory))
        if not file.present(self._directory):
            raise UserError(f"{archive} holds no {file.unpacked}, which is expected in it: it is another archive")


class _Ticker:
    """Words how far a file is: a line a percent, at most one a second and at least one in ten.

    The end is told where anything was, however soon it comes.
    """

    def __init__(self, name: str, tell: Progress) -> None:
        self._name, self._tell = name, tell
        self._percent, self._told = 0, False
        self._begin = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        percent = 100 * done // total if total else 0
        ends = self._told and percent >= 100 > self._percent
        if not ends and now - self._last < (1.0 if percent != self._percent else 10.0):
            return
        self._last, self._percent, self._told = now, percent, True
        rate = _readable((done - self._first) / max(now - self._begin, 1e-3))
        unit, name = (10**6, "MB") if (total or done) >= 10**7 else (10**3, "kB")
        whole = f" of {total // unit}" if total else ""
        self._tell(f"{self._name}: {done // unit}{whole} {name}, {rate}/s")


def _refuse_manual(files: Iterable[RawFile], directory: Path) -> None:
    """Refuse files that are not there and that nothing can be fetched from."""
    manual = [file for file in files if not (file.urls or file.optional or _there(file, directory))]
    if manual:
        places = "".join(f"\n  {directory / file.path}" for file in manual)
        raise UserError(
            f"no address is known for {len(manual)} of the files; get them from the data set's own page and put "
            f"them here:{places}\nor name the directory that has them: 'orca-sweep data prepare TASK --raw DIR'"
        )


def _there(file: RawFile, directory: Path) -> bool:
    return file.present(directory) or (directory / file.path).is_file()


def _require_space(absent: Sequence[RawFile], directory: Path, workers: int, patience: Patience) -> None:
    """Refuse to begin where the disk does not hold all that is to come, as far as sizes are known."""
    sizes = {file.path: _size(directory / file.path, file) for file in absent}

    def ask(file: RawFile) -> None:
        sizes[file.path] = content_length(file.urls[0], patience)

    Crew(None).each([file for file in absent if file.urls and not sizes[file.path]], ask, workers)
    needed = 0
    for file in absent:
        target, size = directory / file.path, sizes[file.path]
        needed += 0 if target.is_file() else max(0, size - left_of(target))
        needed += size * file.unpacked_factor
    if needed:
        cache.require_space(directory, needed)


def _size(target: Path, file: RawFile) -> int:
    """Return the size of a file that is there, else the declared one; 0 where none is."""
    return target.stat().st_size if target.is_file() else file.num_bytes


def _readable(num_bytes: float) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} bytes"
