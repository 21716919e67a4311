"""Verification of raw files by hash: the published hash, or else the pin of the file's first complete reading."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from orca_ray.data import cache
from orca_ray.data.archives import read_whole
from orca_ray.data.pins import NAME, Pin, Pins
from orca_ray.data.raw import RawFile
from orca_ray.data.thread_pool import Progress, ThreadPool
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

WORKERS = 4
_REPORTED_BYTES = 200 * 10**6
"""Size from which the hashing of a file is reported."""


class Digest(NamedTuple):
    """Hashes and size of a file."""

    sha256: str
    num_bytes: int
    md5: str = ""
    """"": not computed."""


def hash_file(path: Path, *, with_md5: bool = False) -> Digest:
    """Return the hashes and the size of a regular file; MD5 takes twice as long as SHA-256."""
    hashes = [hashlib.sha256(), *([hashlib.md5(usedforsecurity=False)] if with_md5 else [])]
    num_bytes = 0
    with cache.open_file(path) as stream, cache.read_errors(path):
        while block := stream.read(1 << 20):
            num_bytes += len(block)
            for each in hashes:
                each.update(block)
    sha256, *md5 = [each.hexdigest() for each in hashes]
    return Digest(sha256, num_bytes, *md5)


@dataclass
class Verified:
    """Result of `verify`: paths below the raw directory."""

    intact: list[str] = field(default_factory=list)
    first_seen: list[str] = field(default_factory=list)
    """Files without a published hash or a pin, which are now pinned."""
    absent: list[str] = field(default_factory=list)
    """Files that are missing, even if what was unpacked from them exists."""


def verify(
    files: Sequence[RawFile], directory: Path, progress: Progress | None = None, *, workers: int = WORKERS
) -> Verified:
    """Compare the hashes of the raw files in ``directory`` with the published ones or the pins.

    Raises UserError naming each file with another content, with the expected and the actual hash.
    """
    pool, pins, found = ThreadPool(progress), Pins(directory), Verified()

    def check(file: RawFile) -> None:
        path = directory / file.path
        if not path.is_file():
            found.absent.append(file.path)
            return
        digest, known = check_hash(file, directory, pins, pool)
        if not known:
            if not file.unpacked or not file.present(directory):
                read_whole(path)
            pin(file, pins, digest)
        (found.intact if known or file.md5 else found.first_seen).append(file.path)

    raise_all(error for _, error in pool.map(distinct(files), check, workers))
    return Verified(sorted(found.intact), sorted(found.first_seen), sorted(found.absent))


def check_hash(file: RawFile, directory: Path, pins: Pins, pool: ThreadPool) -> tuple[Digest, bool]:
    """Return the hash of an existing file, and whether a published SHA-256 or a pin confirmed it.

    Raises UserError for another content than expected.
    """
    path = directory / file.path
    if path.stat().st_size >= _REPORTED_BYTES:
        pool.report(f"checking the hash of {file.path}")
    digest, known = hash_file(path, with_md5=bool(file.md5)), pins.read().get(file.path)
    if wrong := mismatch(file, known, digest):
        unpacked = f" and what was unpacked from it ({directory / file.unpacked})" if file.unpacked else ""
        raise UserError(f"{path} is not the file that is expected: {wrong}. Remove it{unpacked} and fetch it again.")
    return digest, bool(file.sha256) or known is not None


def pin(file: RawFile, pins: Pins, digest: Digest, url: str = "") -> None:
    """Pin a file without a published SHA-256; call this only after the file was read whole."""
    if file.sha256:
        return
    try:
        pins.add(file.path, Pin(digest.sha256, digest.num_bytes, url))
    except UserError as error:  # a shared directory that is read-only
        if url:
            raise
        logger.warning("%s cannot be pinned: %s", file.path, error)


def mismatch(file: RawFile, known: Pin | None, digest: Digest) -> str:
    """Return how a file differs from its published hashes or its pin; "" where it does not."""
    found = f"({digest.num_bytes} bytes), expected is"
    for name, expected, actual in (("sha256", file.sha256, digest.sha256), ("md5", file.md5, digest.md5)):
        if expected and expected.lower() != actual:
            return f"{name} is {actual} {found} {expected.lower()}, the published one"
    # A published SHA-256 has priority over the pin: it may have been corrected since.
    if known and not file.sha256 and (known.sha256, known.num_bytes) != (digest.sha256, digest.num_bytes):
        return (
            f"sha256 is {digest.sha256} {found} {known.sha256} ({known.num_bytes} bytes), as it was first seen and "
            f"pinned in {NAME}; if the new one is right, remove the entry {file.path!r} from there"
        )
    return ""


def distinct(files: Iterable[RawFile]) -> list[RawFile]:
    """Return each file once."""
    return list({file.path: file for file in files}.values())


def raise_all(errors: Iterable[BaseException]) -> None:
    """Raise the first error that is no `UserError`, else all user errors as one; do nothing without errors."""
    found = sorted(errors, key=lambda error: isinstance(error, UserError))
    if len(found) > 1 and isinstance(found[0], UserError):
        raise UserError("\n".join(dict.fromkeys(map(str, found))))
    if found:
        raise found[0]
