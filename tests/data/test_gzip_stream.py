import gzip
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.data import gzip_stream
from orca_ray.data.gzip_stream import open_gzip
from orca_ray.errors import UserError


@given(st.binary(max_size=5000), st.lists(st.integers(-1, 700), max_size=5))
def test_a_gzip_stream_is_its_content(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, sizes: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "content.gz"
    path.write_bytes(gzip.compress(content))
    with open_gzip(path) as stream:
        assert b"".join([*(stream.read(size) for size in sizes), stream.read()]) == content


def test_a_damaged_gzip_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "s2.gz"
    with pytest.raises(UserError, match=r"cannot read .*no such file"):
        open_gzip(path)
    content = gzip.compress(random.Random(0).randbytes(1000), mtime=0)
    flipped = bytearray(content)
    flipped[500] ^= 1
    for damaged in (*(content[:size] for size in range(2, len(content), 50)), content[:-1], bytes(flipped)):
        path.write_bytes(damaged)
        with open_gzip(path) as stream, pytest.raises(UserError, match=r"s2\.gz: expected a whole gzip file"):
            stream.read()
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(UserError, match=r"s2\.gz: expected a gzip file, found one that begins with"):
        open_gzip(path)


def test_a_gzip_bomb_is_refused_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_stream, "_ANY_RATIO_BYTES", 2**20)
    path = tmp_path / "s2.gz"
    path.write_bytes(gzip.compress(bytes(64 * 2**20)))
    with open_gzip(path) as stream, pytest.raises(UserError, match="unfolds to more than 200 times its size"):
        stream.read()
