"""Partial download: the bytes that have arrived, their running hash, and the file version that they belong to."""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from orca_ray.data import cache
from orca_ray.errors import UserError

_BLOCK_BYTES = 1 << 20


class Digest:
    """Running hashes and size of a file."""

    def __init__(self, with_md5: bool) -> None:
        """Start with no bytes; MD5 takes twice as long as SHA-256 and is "" where it is not requested."""
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
        self.num_bytes = 0

    def update(self, block: bytes) -> None:
        """Add the next bytes."""
        self._sha256.update(block)
        if self._md5 is not None:
            self._md5.update(block)
        self.num_bytes += len(block)

    @property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """MD5 in hexadecimal."""
        return "" if self._md5 is None else self._md5.hexdigest()


def hash_file(path: Path, *, with_md5: bool = False) -> Digest:
    """Return the hashes and the size of a regular file."""
    digest = Digest(with_md5)
    with cache.open_file(path) as stream, cache.read_errors(path):
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest


class PartialDownload:
    """The bytes ``<target>.part`` of one file, and ``<target>.part.json``, which names the version they belong to.

    The JSON file stores the URL, the length and the server's validator (a strong ETag, else Last-Modified). A later
    process continues only the same version. Another URL continues it only if a known hash verifies the result.
    """

    def __init__(self, target: Path, url: str, *, hash_known: bool, with_md5: bool) -> None:
        """Load what an earlier process left of the file at ``url``, if it can be continued.

        If the result will be verified by a known hash, a part without a validator or from another address is
        continued, too.
        """
        self.path = target.with_name(f"{target.name}.part")
        self.url = url
        self._description = target.with_name(f"{target.name}.part.json")
        self._with_md5 = with_md5
        self._reset()
        self._load(hash_known)
        self.continued = self.size > 0
        """Whether its first bytes were fetched by an earlier process or from another address."""

    def _reset(self) -> None:
        self.digest = Digest(self._with_md5)
        self.total: int | None = None
        self.validator, self.continued = "", False

    @property
    def size(self) -> int:
        """Number of bytes that have arrived."""
        return self.digest.num_bytes

    @property
    def complete(self) -> bool:
        """Whether the length is known and all bytes have arrived."""
        return self.total is not None and self.size == self.total

    def start(self, headers: Mapping[str, str], total: int | None) -> None:
        """Start from the first byte of the version that the response headers describe."""
        # Emptied before the description changes: a process killed in between leaves no bytes under a wrong version.
        cache.create_file(self.path).close()
        self._reset()
        self.total, self.validator = total, validator_of(headers)
        description = {"url": self.url, "bytes": total, "validator": self.validator}
        cache.write_text(self._description, json.dumps(description))

    def is_continued_by(self, headers: Mapping[str, str]) -> bool:
        """Return whether a response of status 206 contains the next bytes of the same version."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != self.size:
            return False
        if found[2] != "*" and self.total is not None and int(found[2]) != self.total:
            return False
        return not self.validator or validator_of(headers) in ("", self.validator)

    def open(self) -> BinaryIO:
        """Open the file to append to it; add what is written to `digest`."""
        self._refuse_link()
        return self.path.open("ab")

    def discard(self) -> None:
        """Remove the partial download from the disk."""
        self.path.unlink(missing_ok=True)
        self._description.unlink(missing_ok=True)
        self._reset()

    def finish(self, target: Path) -> None:
        """Move the complete and verified file to ``target``."""
        cache.replace_file(self.path, target)
        self._description.unlink(missing_ok=True)

    def _refuse_link(self) -> None:
        if self.path.is_symlink():
            raise UserError(f"{self.path} is a symbolic link, and no file is written through it: remove it")

    def _load(self, hash_known: bool) -> None:
        self._refuse_link()
        description = self._read_description()
        if description is None:
            return
        validator = description["validator"] if description["url"] == self.url else ""
        if not (validator or hash_known):
            return
        if self.path.exists():
            self.digest = hash_file(self.path, with_md5=self._with_md5)
        self.total, self.validator = description["bytes"], validator
        if self.total is not None and self.size > self.total:
            self._reset()

    def _read_description(self) -> dict[str, Any] | None:
        with contextlib.suppress(UserError, OSError, ValueError), cache.open_file(self._description) as stream:
            found = json.load(stream)
            kinds = {"url": str, "validator": str, "bytes": int | None}
            if isinstance(found, dict) and all(isinstance(found.get(key, ...), kind) for key, kind in kinds.items()):
                return found
        return None


def size_left(target: Path) -> int:
    """Return the number of bytes that an earlier fetch left of a file, whether or not they can be continued."""
    try:
        return target.with_name(f"{target.name}.part").stat().st_size
    except OSError:
        return 0


def validator_of(headers: Mapping[str, str]) -> str:
    """Return the header that identifies one version of a file byte for byte; "" where the server sends none."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
