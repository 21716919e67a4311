"""Inputs of pairs, such as contact maps: features of single positions, tiled along both axes when they are read."""

from collections.abc import Mapping

import numpy as np

from orca_ray.data.rows import Array, Part


class PairwiseRows:
    """x [N, 2 F + P, S, S] from positions [N, F, S] and pairs [N, P, S, S].

    Channel f of the first F is position feature f of the row index, channel F + f that of the column index; the P pair
    maps follow. Stored so, 57 channels of 512 × 512 take a nineteenth.

    Optional parts: ``columns`` [N, F, S], where the columns stand for other positions than the rows (a window off the
    diagonal), and ``extents`` [N, 2, 2], the first and the end of the rows, then of the columns, outside of which there
    are no positions and tiled features are 0 (padding).
    """

    kind = "pairwise"

    def __init__(self, parts: Mapping[str, Array]) -> None:
        """Take ``positions`` and ``pairs``, and the optional parts; raises ValueError for shapes that do not fit."""
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

    def __getitem__(self, part: Part) -> Array:
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
