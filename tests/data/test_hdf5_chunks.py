"""Tests of `orca_ray.data.hdf5_chunks`, and of what reads by it."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.data.hdf5_chunks import ChunkedArray, map_chunks
from orca_ray.data.hdf5_process import Hdf5Process

X = np.arange(7 * 5 * 4).reshape(7, 5, 4)


def write(path: Path, array: Any, user_block: int = 0, **settings: Any) -> Path:
    with h5py.File(path, "w", userblock_size=user_block) as file:
        file.create_dataset("x", data=array, **settings)
    return path


def refuse(*_: Any) -> None:
    raise AssertionError("the process was asked for numbers")


@pytest.fixture
def is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test if a process sends numbers of a data set."""
    monkeypatch.setattr(Hdf5Process, "_read", refuse)


@pytest.mark.usefixtures("is_mapped")
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "u1"])
@pytest.mark.parametrize("user_block", [0, 512])
def test_uncompressed_chunks_are_mapped(
    dtype: str, user_block: int, tmp_path: Path
) -> None:
    array = X.astype(dtype)
    path = write(tmp_path / "d.h5", array, user_block, chunks=(3, 5, 3))
    read = Hdf5Process(path).open_rows("x")
    whole = read(slice(None))
    assert whole.dtype == array.dtype
    np.testing.assert_array_equal(whole, array)
    np.testing.assert_array_equal(read((..., slice(1, 3))), array[..., 1:3])
    whole[:] = 0  # the caller owns it


SELECTIONS = st.one_of(
    st.slices(7).filter(lambda part: part.step is None or part.step > 0),
    st.sets(st.integers(0, 6)).map(lambda rows: np.array(sorted(rows), int)),
)


@given(SELECTIONS, st.integers(1, 7), st.integers(1, 5), st.booleans())
@settings(max_examples=100)
def test_any_ascending_rows(part: Any, rows: int, columns: int, is_last: bool) -> None:
    array = X[..., 0]
    shape = (rows, columns)
    selection = part
    if is_last:
        array = array.T
        shape = (columns, rows)
        selection = (..., part)
    chunked = chunked_array(array, shape)
    np.testing.assert_array_equal(chunked.read(selection), array[selection])


def chunked_array(array: Any, chunk_shape: tuple[int, int]) -> ChunkedArray:
    """Return an array whose chunks stand one after another, from the last one on."""
    grid = tuple(
        -(-size // step) for size, step in zip(array.shape, chunk_shape, strict=True)
    )
    padding = [
        (0, number * step - size)
        for number, step, size in zip(grid, chunk_shape, array.shape, strict=True)
    ]
    padded = np.pad(array, padding)
    chunks = []
    for place in np.ndindex(grid):
        corner = np.multiply(place, chunk_shape)
        ends = corner + chunk_shape
        chunks.append(padded[corner[0] : ends[0], corner[1] : ends[1]])
    content = b"".join(chunk.tobytes() for chunk in reversed(chunks))
    starts = np.arange(len(chunks))[::-1].reshape(grid) * chunks[0].nbytes
    return ChunkedArray(
        np.frombuffer(content, "u1"), array.shape, array.dtype, chunk_shape, starts
    )


def test_rows_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="expected ascending rows"):
        chunked_array(X[..., 0], (2, 2)).read(np.array([3, 1]))


@pytest.mark.parametrize("start", [-1, 25])
def test_a_chunk_outside_of_the_file_is_refused(start: int, tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    path.write_bytes(bytes(40))
    starts = np.array([0, start])
    with pytest.raises(ValueError, match="between 0 and 24"):
        map_chunks(path, (3,), np.dtype("f8"), (2,), starts)


def test_chunks_that_were_not_written_have_the_fill_value(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (6,), "f4", chunks=(2,), fillvalue=7)
        x[2:4] = [1, 2]
    read = Hdf5Process(path).open_rows("x")
    np.testing.assert_array_equal(read(slice(None)), [7, 7, 1, 2, 7, 7])


@pytest.mark.parametrize(
    "settings", [{"compression": "gzip"}, {"shuffle": True}, {"fletcher32": True}]
)
def test_filtered_chunks_are_read_by_the_process(settings: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "d.h5", X, chunks=(3, 5, 3), **settings)
    np.testing.assert_array_equal(Hdf5Process(path).open_rows("x")(slice(None)), X)
