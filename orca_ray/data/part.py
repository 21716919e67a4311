"""A file that is still arriving: its bytes so far, hashed, and what tells whether the rest still belongs to them."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_ray.data import cache

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Received:
    """What a file turned out to be."""

    sha256: str
    num_bytes: int
    md5: str = ""
    """"": not asked for; it costs more than twice the time of the other."""


class _Hashes:
    def __init__(self, with_md5: bool) -> None:
        self.sha256 = hashlib.sha256()
        self.md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
        self.num_bytes = 0

    def update(self, block: bytes) -> None:
        self.sha256.update(block)
        if self.md5 is not None:
            self.md5.update(block)
        self.num_bytes += len(block)

    def result(self) -> Received:
        return Received(self.sha256.hexdigest(), self.num_bytes, "" if self.md5 is None else self.md5.hexdigest())


def hash_file(path: Path, *, with_md5: bool = False) -> Received:
    """Return the hashes and the size of a file, read once."""
    hashes = _Hashes(with_md5)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            hashes.update(block)
    return hashes.result()


class Part:
    """The part of one address's file that is there: ``<target>.part``, and ``<target>.part.json``, which says of what.

    The second holds the address, the length and the validator that the server gave (a strong ETag, else the time of
    its last change), so that a later process continues only a file that is still the same. Another address continues
    it only where the hash will tell whether it was the same file.
    """

    def __init__(self, target: Path, url: str, *, checked_later: bool, with_md5: bool) -> None:
        """Take up what an earlier process left of the file at ``url``, if it can be continued.

        Args:
            target: where the file goes in the end.
            url: its address.
            checked_later: whether its hash is known: then it may be continued without a validator, and what came from
                another address may be, too.
            with_md5: whether its MD5 is wanted, too.
        """
        self.path = target.with_name(f"{target.name}.part")
        self.url = url
        self.validator = ""
        self.total: int | None = None
        self._note = target.with_name(f"{target.name}.part.json")
        self._with_md5 = with_md5
        self._hashes = _Hashes(with_md5)
        self._take_up(checked_later)
        self.continued = self.size > 0
        """Whether its first bytes were fetched by an earlier process, or from another address."""

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self._hashes.num_bytes

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, as far as its length is known."""
        return self.total is not None and self.size == self.total

    def received(self) -> Received:
        """Return the hashes and the size of what is there."""
        return self._hashes.result()

    def begin(self, headers: Mapping[str, str], total: int | None) -> None:
        """Start from nothing, the server having told what is coming."""
        # Emptied before the note changes: a process killed between the two leaves no bytes under another's name.
        self._empty()
        self.total, self.validator = total, validator_of(headers)
        temporary = self._note.with_name(f"{self._note.name}.tmp")
        temporary.write_text(json.dumps({"url": self.url, "bytes": total, "validator": self.validator}))
        os.replace(temporary, self._note)

    def continues_with(self, headers: Mapping[str, str]) -> bool:
        """Whether an answer of status 206 brings the very next bytes of the same file."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != self.size:
            return False
        if found[2] != "*" and self.total is not None and int(found[2]) != self.total:
            return False
        return not self.validator or validator_of(headers) in ("", self.validator)

    def append(self, block: bytes) -> None:
        """Count bytes in that were written to `path`."""
        self._hashes.update(block)

    def discard(self) -> None:
        """Remove it from the disk."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self._forget()

    def finish(self, target: Path) -> None:
        """Move it, whole and verified, to where it belongs."""
        cache.replace_file(self.path, target)
        self._note.unlink(missing_ok=True)

    def _empty(self) -> None:
        self.path.write_bytes(b"")
        self._forget()

    def _forget(self) -> None:
        self._hashes = _Hashes(self._with_md5)
        self.total, self.validator, self.continued = None, "", False

    def _take_up(self, checked_later: bool) -> None:
        note = self._read_note()
        if note is None:
            return
        validator = note["validator"] if note["url"] == self.url else ""
        if not (validator or checked_later):
            return
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                self._hashes.update(block)
        self.total, self.validator = note["bytes"], validator
        if self.total is not None and self.size > self.total:
            self._forget()

    def _read_note(self) -> dict[str, Any] | None:
        try:
            note = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return None
        kinds = {"url": str, "validator": str, "bytes": int | None}
        whole = isinstance(note, dict) and all(key in note and isinstance(note[key], kinds[key]) for key in kinds)
        return note if whole else None


def left_of(target: Path) -> int:
    """Return how many bytes of a file an earlier fetch left beside it, whether or not they can be continued."""
    try:
        return target.with_name(f"{target.name}.part").stat().st_size
    except OSError:
        return 0


def validator_of(headers: Mapping[str, str]) -> str:
    """Return what tells one version of a file from another byte for byte; "" where a server does not say."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
