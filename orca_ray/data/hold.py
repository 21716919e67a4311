"""Raw files held to what they must be: the hash that was published, or else the one that was first seen."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orca_ray.data import cache
from orca_ray.data.crew import Crew, Progress
from orca_ray.data.part import Received, hash_file
from orca_ray.data.pins import NAME, Pin, Pins
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

WORKERS = 4
_TOLD_BYTES = 200 * 10**6
"""Hashing a file from this size on is told: it takes a while."""


@dataclass
class Verified:
    """What `verify` found; paths below the raw directory, sorted."""

    intact: list[str] = field(default_factory=list)
    first_seen: list[str] = field(default_factory=list)
    """Have no published hash and had no pin; they are pinned now."""
    absent: list[str] = field(default_factory=list)
    """Not there, or only what was unpacked from them."""


def verify(
    files: Sequence[RawFile], directory: Path, progress: Progress | None = None, *, workers: int = WORKERS
) -> Verified:
    """Hash the raw files that are in ``directory``, and hold them to what was published or first seen.

    Raises:
        UserError: naming each file that is not what it must be, with what was expected and found.
    """
    crew = Crew(progress)
    pins = Pins(directory)
    found = Verified()

    def check(file: RawFile) -> None:
        if not (directory / file.path).is_file():
            found.absent.append(file.path)
        elif hold(file, directory, pins, crew):
            found.intact.append(file.path)
        else:
            found.first_seen.append(file.path)

    raise_all(error for _, error in crew.each(distinct(files), check, workers))
    return Verified(sorted(found.intact), sorted(found.first_seen), sorted(found.absent))


def hold(file: RawFile, directory: Path, pins: Pins, crew: Crew) -> bool:
    """Hash one file that is there; return whether it was known what it must be, pinning it otherwise.

    Raises:
        UserError: it is another file than is expected.
    """
    path = directory / file.path
    with cache.read_errors(path):
        if path.stat().st_size >= _TOLD_BYTES:
            crew.tell(f"checking the hash of {file.path}")
        received = hash_file(path, with_md5=bool(file.md5))
    pin = pins.read().get(file.path)
    if wrong := mismatch(file, pin, received):
        unpacked = f" and what was unpacked from it ({directory / file.unpacked})" if file.unpacked else ""
        raise UserError(f"{path} is not the file that is expected: {wrong}. Remove it{unpacked} and fetch it again.")
    if file.sha256 or pin is not None:
        return True
    try:
        pins.add(file.path, Pin(received.sha256, received.num_bytes))
    except UserError as error:  # of a shared directory that is read-only
        logger.warning("%s cannot be pinned: %s", file.path, error)
    return bool(file.md5)


def mismatch(file: RawFile, pin: Pin | None, received: Received) -> str:
    """Say in what a file differs from what it must be: "" where it does not."""
    if file.sha256:
        pin = None  # a published hash may have been corrected since; it goes before what we saw once
    for name, expected, found in (("sha256", file.sha256, received.sha256), ("md5", file.md5, received.md5)):
        if expected and expected.lower() != found:
            return f"{name} is {found} ({received.num_bytes} bytes), expected is {expected.lower()}, the published one"
    if pin is not None and (pin.sha256, pin.num_bytes) != (received.sha256, received.num_bytes):
        return (
            f"sha256 is {received.sha256} ({received.num_bytes} bytes), expected is {pin.sha256} "
            f"({pin.num_bytes} bytes), as it was first seen and pinned in {NAME}; if the new one is right, remove the "
            f"entry {file.path!r} from there"
        )
    return ""


def distinct(files: Iterable[RawFile]) -> list[RawFile]:
    """Return each file once."""
    return list({file.path: file for file in files}.values())


def raise_all(errors: Iterable[BaseException]) -> None:
    """Raise what went wrong, if anything did: a defect first, else all user errors as one."""
    found = list(errors)
    for error in found:
        if not isinstance(error, UserError):
            raise error
    if len(found) == 1:
        raise found[0]
    if found:
        raise UserError("\n".join(dict.fromkeys(map(str, found))))
