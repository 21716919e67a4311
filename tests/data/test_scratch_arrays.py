import io
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import npy
from orca_ray.errors import UserError

CONTENT = np.arange(6.0)


@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_an_array_comes_from_memory_or_from_a_nameless_file(
    in_memory: int, monkeypatch: pytest.MonkeyPatch, cache_home: Path
) -> None:
    monkeypatch.setattr(npy, "IN_MEMORY", in_memory)
    found = npy.from_stream(io.BytesIO(CONTENT.tobytes() + b"padding"), CONTENT.dtype, (3, 2), "F")
    np.testing.assert_array_equal(found, CONTENT.reshape(3, 2, order="F"))
    assert not found.flags.writeable
    assert isinstance(found, np.memmap) == (in_memory == 0)
    assert not cache_home.exists() or not list(cache_home.iterdir())


@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_a_stream_that_ends_early(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy, "IN_MEMORY", in_memory)
    with pytest.raises(EOFError, match="48 bytes expected, 47 found"):
        npy.from_stream(io.BytesIO(CONTENT.tobytes()[:-1]), CONTENT.dtype, (3, 2), "C")


def test_more_than_is_free() -> None:
    with pytest.raises(UserError, match="no space"):
        npy.from_stream(io.BytesIO(), CONTENT.dtype, (2**50,), "C")
