"""Raw files that are not there, and the lock file: shared by processes, never rewritten, refused when it is not one."""

import errno
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from orca_ray.data import cache
from orca_ray.data.raw import PINS, Pin, Pins, RawFile, check_missing
from orca_ray.errors import UserError

URLS = ("https://example.org/a",)
PLAIN = RawFile(path="x.npy", urls=URLS)
PACKED = RawFile(path="a.zip", urls=URLS, unpacked="inside/x")


def test_what_is_there_but_not_unpacked_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    told = f"1 of 2 raw files are not in {tmp_path}: x.npy; 1 of 2 raw files are in {tmp_path} but not unpacked: a.zip;"
    with pytest.raises(UserError, match=re.escape(told)):
        check_missing("toy/one", (PLAIN, PACKED), tmp_path)
    with pytest.raises(UserError, match="own; download them yourself, or name the directory"):
        check_missing("toy/one", (RawFile(path="own"),), tmp_path)


@pytest.mark.parametrize(
    ("file", "command", "option"),
    [
        (PACKED, "orca-sweep data fetch toy/one", "--raw"),
        (RawFile(path="x", made_by="orca-sweep data fetch toy/2"), "orca-sweep data fetch toy/2", "--raw"),
        (RawFile(path="x", made_by="orca-sweep data generate toy/g"), "orca-sweep data generate toy/g", "--out"),
    ],
)
def test_the_command_brings_it_to_where_it_was_looked_for(
    cache_home: Path, file: RawFile, command: str, option: str
) -> None:
    for directory, added in ((cache.home() / "raw/toy", ""), (Path("/my data"), f" {option} '/my data'")):
        with pytest.raises(UserError) as caught:
            check_missing("toy/one", (file,), directory)
        assert f"; run {command + added!r}, or name the directory" in str(caught.value)


PIN = Pin("a" * 64, 3, "https://example.org/x")


def test_pins_come_back_and_the_first_one_stays(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "raw")
    assert pins.read() == {}
    assert pins.add("x", PIN) == PIN
    assert pins.add("x", Pin("b" * 64, 4)) == PIN
    assert Pins(tmp_path / "raw").read() == {"x": PIN}


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    def add(number: int) -> None:
        Pins(tmp_path).add(f"file{number}", Pin(hashlib.sha256(bytes([number])).hexdigest(), number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert {pin.num_bytes for pin in Pins(tmp_path).read().values()} == set(range(24))
    assert not (tmp_path / f"{PINS}.tmp").exists()


ENTRY = {"sha256": "a" * 64, "bytes": 1, "url": ""}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\0\x80",
        "[]",
        '{"version": 2, "files": {}}',
        '{"version": 1}',
        '{"version": 1, "files": []}',
        json.dumps({"version": 1, "files": {"x": {**ENTRY, "sha256": "short"}}}),
        json.dumps({"version": 1, "files": {"x": {**ENTRY, "bytes": "1"}}}),
        json.dumps({"version": 1, "files": {"x": {**ENTRY, "bytes": -1}}}),
        json.dumps({"version": 1, "files": {"x": {**ENTRY, "url": 1}}}),
        json.dumps({"version": 1, "files": {"x": 5}}),
        json.dumps({"version": 1, "files": {"x": ENTRY}})[:-5],
    ],
)
def test_what_is_no_lock_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / PINS).write_text(content)
    for use in (Pins(tmp_path).read, lambda: Pins(tmp_path).add("y", PIN)):
        with pytest.raises(UserError, match=rf"{PINS} is no lock file"):
            use()
    assert (tmp_path / PINS).read_text() == content


def test_a_pin_that_cannot_be_synced_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match="no space left"):
        Pins(tmp_path).add("x", PIN)
    assert Pins(tmp_path).read() == {}
