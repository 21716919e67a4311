"""Rows: what training reads a split from, in memory, memory-mapped, or put together when they are read.

An array is rows as it stands. Other kinds hold their parts as arrays in ``<name>.<part>.npy`` files and are named, by
their ``kind``, in ``meta.json``.
"""

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Part = slice | npt.NDArray[np.int64]
"""Which rows: a slice, or indices [b]."""


class Rows(Protocol):
    """N rows of one shape and type; reading is by slice or by indices, and always whole rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape of a row)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: Part, /) -> Array:
        """Return the rows [b, ...] of a slice or of indices [b]."""
        ...


class CompositeRows(Rows, Protocol):
    """Rows put together from parts when they are read."""

    kind: str
    """Name in `KINDS`."""
    parts: Mapping[str, Array]
    """What is stored, by name."""


class JoinedRows:
    """The rows of one set after those of another, nothing copied."""

    def __init__(self, first: Rows, second: Rows) -> None:
        if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
            raise ValueError(
                f"rows of {first.shape[1:]} {first.dtype} and {second.shape[1:]} {second.dtype} do not join"
            )
        self._first, self._second = first, second
        self.shape = (len(first) + len(second), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: Part) -> Array:
        indices = np.arange(len(self))[part]
        ahead = indices < len(self._first)
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        rows[ahead] = self._first[indices[ahead]]
        rows[~ahead] = self._second[indices[~ahead] - len(self._first)]
        return rows

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Return all rows in memory, as ``np.asarray`` asks for; raises ValueError where that must not copy."""
        if copy is False:
            raise ValueError("rows that are joined when they are read cannot be one array without a copy")
        return np.concatenate([self._first[:], self._second[:]]).astype(dtype or self.dtype, copy=False)


KINDS: Mapping[str, str] = {"pairwise": "orca_ray.data.pairwise:PairwiseRows"}
"""Composite rows by kind: where their class is, which is built from its parts."""


def restore(kind: str, parts: Mapping[str, Array]) -> CompositeRows:
    """Rebuild composite rows; raises KeyError for a kind or a part that is not known."""
    module, name = KINDS[kind].split(":")
    return cast(CompositeRows, getattr(importlib.import_module(module), name)(parts))


def num_bytes(rows: Rows) -> int:
    """Return what all rows would take in memory."""
    return int(np.prod(rows.shape, dtype=np.int64)) * rows.dtype.itemsize


def row_slices(rows: Rows, most_bytes: int = 64 * 2**20) -> list[slice]:
    """Return slices that cover all rows, each of at most ``most_bytes`` or of a single row."""
    size = max(1, most_bytes // max(1, num_bytes(rows) // max(1, len(rows))))
    return [slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
