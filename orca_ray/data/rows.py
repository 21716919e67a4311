"""Rows of a split: an array in memory or memory-mapped, or rows that are assembled when they are read.

Composite rows store their parts as arrays in ``<name>.<part>.npy`` files; ``meta.json`` names their ``kind``.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
RowIndex = slice | npt.NDArray[np.int64]
"""Index of rows: a slice, or indices [b]."""


class Rows(Protocol):
    """N rows of one shape and type, which are read whole, by slice or by indices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape of a row)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: RowIndex, /) -> Array:
        """Return the rows [b, ...] of a slice or of indices [b]."""
        ...


class PairwiseRows:
    """Features of position pairs, such as contact maps: x [N, 2 F + P, S, S].

    Built from positions [N, F, S] and pairs [N, P, S, S], a nineteenth of the space for 57 channels of 512 × 512.
    Channel f of the first F is position feature f of the row index, channel F + f that of the column index; the P pair
    maps follow.

    Optional parts: ``columns`` [N, F, S], for columns of other positions than the rows (a window off the diagonal), and
    ``extents`` [N, 2, 2], the first and the end of the rows, then of the columns; outside of them (padding) tiled
    features are 0.
    """

    kind = "pairwise"
    """Name in `KINDS`."""

    def __init__(self, parts: Mapping[str, Array]) -> None:
        """Store ``positions``, ``pairs`` and the optional parts; raises ValueError for shapes that do not fit."""
        self.parts = {name: parts[name] for name in ("positions", "pairs", "columns", "extents") if name in parts}
        num, features, side = parts["positions"].shape
        num_pairs = parts["pairs"].shape[1]
        self._features = features
        self.shape = (num, 2 * features + num_pairs, side, side)
        self.dtype = np.dtype(np.float32)
        fitting = {"pairs": (num, num_pairs, side, side), "columns": (num, features, side), "extents": (num, 2, 2)}
        for name, part in self.parts.items():
            if part.shape != fitting.get(name, part.shape):
                raise ValueError(f"{name} {part.shape} do not belong to positions {(num, features, side)}")

    def __len__(self) -> int:
        return len(self.parts["positions"])

    def __getitem__(self, part: RowIndex) -> Array:
        read = {name: array[part] for name, array in self.parts.items()}
        along_rows, features = read["positions"], self._features
        along_columns = read.get("columns", along_rows)
        rows = np.zeros((len(along_rows), *self.shape[1:]), self.dtype)
        everything = np.broadcast_to((0, self.shape[-1]), (len(rows), 2, 2))
        for index, ((top, bottom), (left, right)) in enumerate(read.get("extents", everything).tolist()):
            inside = rows[index, :, top:bottom, left:right]
            inside[:features] = along_rows[index, :, top:bottom, None]
            inside[features : 2 * features] = along_columns[index, :, None, left:right]
        rows[:, 2 * features :] = read["pairs"]
        return rows


class JoinedRows:
    """The rows of two sets, one after the other, without a copy."""

    def __init__(self, first: Rows, second: Rows) -> None:
        if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
            one, other = ((rows.shape[1:], rows.dtype) for rows in (first, second))
            raise ValueError(f"rows of {one} and {other} do not join")
        self._first, self._second = first, second
        self.shape = (len(first) + len(second), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: RowIndex) -> Array:
        indices = np.arange(len(self))[part]
        ahead = indices < len(self._first)
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        rows[ahead] = self._first[indices[ahead]]
        rows[~ahead] = self._second[indices[~ahead] - len(self._first)]
        return rows

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Return all rows in memory, for ``np.asarray``; raises ValueError if a copy is forbidden."""
        if copy is False:
            raise ValueError("rows that are joined when they are read cannot be one array without a copy")
        return np.concatenate([self._first[:], self._second[:]]).astype(dtype or self.dtype, copy=False)


KINDS: Mapping[str, type[PairwiseRows]] = {PairwiseRows.kind: PairwiseRows}
"""Classes of composite rows by kind; each is built from its parts."""


def num_bytes(rows: Rows) -> int:
    """Return the size of all rows in memory."""
    return int(np.prod(rows.shape, dtype=np.int64)) * rows.dtype.itemsize


def row_slices(rows: Rows, most_bytes: int = 64 * 2**20) -> list[slice]:
    """Return slices that cover all rows, each of at most ``most_bytes`` or of a single row."""
    size = max(1, most_bytes // max(1, num_bytes(rows) // max(1, len(rows))))
    return [slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
