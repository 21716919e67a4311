"""What is told where raw files are not there."""

import re
from pathlib import Path

import pytest

from orca_ray.data import cache
from orca_ray.data.raw import RawFile, missing, refuse_missing
from orca_ray.errors import UserError

URLS = ("https://example.org/a",)
PLAIN = RawFile(path="x.npy", urls=URLS)
PACKED = RawFile(path="a.zip", urls=URLS, unpacked="inside/x")


def test_what_is_there_but_not_unpacked_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    told = f"1 of 2 raw files are not in {tmp_path}: x.npy; 1 of 2 raw files are in {tmp_path} but not unpacked: a.zip;"
    with pytest.raises(UserError, match=re.escape(told)):
        refuse_missing("toy/one", (PLAIN, PACKED), tmp_path)
    with pytest.raises(UserError, match="own; download them yourself, or name the directory"):
        refuse_missing("toy/one", (RawFile(path="own"),), tmp_path)


def test_what_is_unpacked_is_enough_unless_its_move_was_cut_short(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/x").write_bytes(b"")
    assert not missing((PACKED,), tmp_path)
    PACKED.unpacking(tmp_path).parent.mkdir()
    PACKED.unpacking(tmp_path).touch()
    assert missing((PACKED,), tmp_path) == [PACKED]


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
            refuse_missing("toy/one", (file,), directory)
        assert f"; run {command + added!r}, or name the directory" in str(caught.value)
