"""Verification of raw files by hash: the published hash, or else the pin of the file's first complete reading."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orca_ray.data.partial_download import Digest, hash_file
from orca_ray.data.pins import NAME, Pin, Pins
from orca_ray.data.raw import RawFile
from orca_ray.data.thread_pool import Progress, ThreadPool
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

WORKERS = 4
_REPORTED_BYTES = 200 * 10**6
"""Size from which the hashing of a file is reported."""


@dataclass
class Verified:
    """Result of `verify`; sorted paths below the raw directory."""

    intact: list[str] = field(default_factory=list)
    first_seen: list[str] = field(default_factory=list)
    """Files without a published hash or a pin, which are now pinned."""
    absent: list[str] = field(default_factory=list)
    """Files that are missing, even if what was unpacked from them exists."""


def verify(
    files: Sequence[RawFile], directory: Path, progress: Progress | None = None, *, workers: int = WORKERS
) -> Verified:
    """Hash the raw files in ``directory`` and compare them with their published hashes or pins.

    Raises:
        UserError: names each file with another content, with the expected and the actual hash.
    """
    from orca_ray.data.archives import read_whole

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
    for name, expected, found in (("sha256", file.sha256, digest.sha256), ("md5", file.md5, digest.md5)):
        if expected and expected.lower() != found:
            return f"{name} is {found} ({digest.num_bytes} bytes), expected is {expected.lower()}, the published one"
    # A published SHA-256 has priority over the pin: it may have been corrected since.
    if known and not file.sha256 and (known.sha256, known.num_bytes) != (digest.sha256, digest.num_bytes):
        return (
            f"sha256 is {digest.sha256} ({digest.num_bytes} bytes), expected is {known.sha256} "
            f"({known.num_bytes} bytes), as it was first seen and pinned in {NAME}; if the new one is right, remove "
            f"the entry {file.path!r} from there"
        )
    return ""


def distinct(files: Iterable[RawFile]) -> list[RawFile]:
    """Return each file once."""
    return list({file.path: file for file in files}.values())


def raise_all(errors: Iterable[BaseException]) -> None:
    """Raise the first error that is no `UserError`, else all user errors as one; do nothing without errors."""
    found = list(errors)
    for error in found:
        if not isinstance(error, UserError):
            raise error
    if len(found) == 1:
        raise found[0]
    if found:
        raise UserError("\n".join(dict.fromkeys(map(str, found))))
