"""Rows (the samples of a split), targets, modalities and default bodies of tasks.

Rows are an array, which may be memory-mapped, or they are composite. Composite rows are
computed when they are read. Their parts are arrays in files ``<name>.<part>.npy``, and
``meta.json`` has their ``kind``.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
RowIndex = slice | npt.NDArray[np.int64]
"""Selection of rows: a slice, or an array of indices [b]."""
TargetKind = Literal["classes", "labels", "scalar", "dense"]
ModalityName = Literal["sequence", "image"]
PACKAGED_BODIES: Mapping[ModalityName, str] = {
    "sequence": "minilm-l6",
    "image": "vit-s14",
}
"""Default body of each modality, whose weights are read from a Python package."""
PAPER_BODIES: Mapping[ModalityName, str] = {
    "sequence": "roberta-base",
    "image": "microsoft/swin-base-patch4-window7-224-in22k",
}
"""Body of each modality in the ORCA paper, downloaded from the Hugging Face hub."""
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's pixels for red, green and blue.

They are for pixel values that are scaled to [0, 1].
"""


@dataclass(frozen=True)
class Target:
    """The prediction target of a task.

    ``kind`` determines model output and target array, with B samples:

    ========= ==================== ======================= =========================
    kind      model output         target array            meaning
    ========= ==================== ======================= =========================
    classes   [B, size] logits     [B] int64               one class of ``size``
    labels    [B, size] logits     [B, size] float32       several of ``size`` labels
    scalar    [B]                  [B] float32             one number
    dense     ``[B, *shape]``      ``[B, *shape]`` float32 a field, e.g. (16, 16)
    ========= ==================== ======================= =========================

    ``size`` 0 of ``classes`` means that the number of classes is read from the data.
    """

    kind: TargetKind
    size: int = 1
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "dense" and not self.shape:
            raise ValueError(
                "a dense target needs its shape, e.g. Target('dense', shape=(16, 16))"
            )
        least = 0 if self.kind == "classes" else 1
        if self.size < least:
            raise ValueError(
                f"a target of {self.kind} needs size >= 1, got {self.size}"
            )

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one model output without the batch axis."""
        return {
            "classes": (self.size,),
            "labels": (self.size,),
            "scalar": (),
            "dense": self.shape,
        }[self.kind]

    @property
    def num_outputs(self) -> int:
        """Number of values that the model predicts for one sample."""
        return math.prod(self.output_shape)


class Rows(Protocol):
    """Interface of N rows of equal shape and type.

    Rows are selected by a slice or by an array of indices.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows: (N, *shape of one row)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: RowIndex, /) -> Array:
        """Return the selected rows as an array [b, ...]."""


class PairwiseRows:
    """Composite rows: feature maps [N, 2 F + P, S, S] of pairs of positions.

    The positions are those of a sequence, e.g. for contact maps. The maps are computed
    from the parts ``positions`` [N, F, S] (features of single positions) and ``pairs``
    [N, P, S, S]. At map element (i, j), channels 0 to F − 1 are the features of
    position i, channels F to 2 F − 1 those of position j, and the last P are ``pairs``.
    For 57 channels of 512 × 512, the parts take a nineteenth of the maps' space.

    Two parts are optional. ``columns`` [N, F, S] are the features of position j, if
    rows and columns of a map are different positions. ``extents`` [N, 2, 2] are (start,
    end) of the valid rows and of the valid columns; outside (padding), the first 2 F
    channels are 0.
    """

    kind = "pairwise"

    def __init__(self, parts: Mapping[str, Array]) -> None:
        """Store the parts ``positions``, ``pairs``, ``columns`` and ``extents``.

        Arrays of other names are ignored. Raises ValueError if the shapes of the parts
        do not fit together.
        """
        self.parts = {
            name: parts[name]
            for name in ("positions", "pairs", "columns", "extents")
            if name in parts
        }
        num, features, side = parts["positions"].shape
        num_pairs = parts["pairs"].shape[1]
        self._features = features
        self.shape = (num, 2 * features + num_pairs, side, side)
        self.dtype = np.dtype(np.float32)
        fitting = {
            "pairs": (num, num_pairs, side, side),
            "columns": (num, features, side),
            "extents": (num, 2, 2),
        }
        for name, part in self.parts.items():
            if part.shape != fitting.get(name, part.shape):
                raise ValueError(
                    f"{name} {part.shape} do not belong to positions"
                    f" {(num, features, side)}"
                )

    def __len__(self) -> int:
        return len(self.parts["positions"])

    def __getitem__(self, part: RowIndex) -> Array:
        selected = {name: array[part] for name, array in self.parts.items()}
        along_rows = selected["positions"]
        along_columns = selected.get("columns", along_rows)
        features = self._features
        rows = np.zeros((len(along_rows), *self.shape[1:]), self.dtype)
        whole_field = np.broadcast_to((0, self.shape[-1]), (len(rows), 2, 2))
        extents = selected.get("extents", whole_field).tolist()
        for index, ((top, bottom), (left, right)) in enumerate(extents):
            inside = rows[index, :, top:bottom, left:right]
            inside[:features] = along_rows[index, :, top:bottom, None]
            inside[features : 2 * features] = along_columns[index, :, None, left:right]
        rows[:, 2 * features :] = selected["pairs"]
        return rows


@dataclass(frozen=True)
class LazyRows:
    """Rows that are read when they are selected.

    The function ``read`` reads them from a file or from other rows.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[RowIndex], Array]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: RowIndex) -> Array:
        return self.read(part)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> Array:
        """Return all rows as an array in memory, for ``np.asarray``.

        Raises ValueError if ``copy`` is False.
        """
        if copy is False:
            raise ValueError(
                "rows that are read when they are selected cannot be one array without"
                " a copy"
            )
        return self[:].astype(dtype or self.dtype, copy=False)


def joined_rows(first: Rows, second: Rows) -> LazyRows:
    """Return the rows of ``first``, then of ``second``, read when selected.

    Raises ValueError if shape or type differs.
    """
    first_kind = (first.shape[1:], first.dtype)
    second_kind = (second.shape[1:], second.dtype)
    if first_kind != second_kind:
        raise ValueError(f"rows of {first_kind} and {second_kind} do not join")
    num_first = len(first)
    total = len(first) + len(second)

    def read(part: RowIndex) -> Array:
        indices = np.arange(total)[part]
        is_first = indices < num_first
        rows = np.empty((len(indices), *first.shape[1:]), first.dtype)
        rows[is_first] = first[indices[is_first]]
        rows[~is_first] = second[indices[~is_first] - num_first]
        return rows

    return LazyRows((total, *first.shape[1:]), first.dtype, read)


def selected_rows(rows: Rows, indices: npt.NDArray[np.int64]) -> LazyRows:
    """Return a view of the rows at ``indices`` [N] of ``rows``.

    A row is copied only when it is read from the view.
    """
    return LazyRows(
        (len(indices), *rows.shape[1:]), rows.dtype, lambda part: rows[indices[part]]
    )


KINDS: Mapping[str, type[PairwiseRows]] = {PairwiseRows.kind: PairwiseRows}
"""Classes of composite rows by the ``kind`` in ``meta.json``.

Each is constructed from its parts by name.
"""


def num_bytes(rows: Rows) -> int:
    """Return how many bytes all rows take as one array."""
    return int(np.prod(rows.shape, dtype=np.int64)) * rows.dtype.itemsize


def row_slices(rows: Rows, most_bytes: int = 64 * 2**20) -> list[slice]:
    """Return consecutive slices that cover all rows.

    A slice has at most ``most_bytes``, or is a single row.
    """
    row_bytes = num_bytes(rows) // max(1, len(rows))
    size = max(1, most_bytes // max(1, row_bytes))
    starts = range(0, len(rows), size)
    return [slice(start, min(start + size, len(rows))) for start in starts]


def stacked(samples: Iterable[Any]) -> Array | list[Array]:
    """Return samples of equal shape as one array [N, ...].

    Samples of different shapes become a list of arrays.
    """
    arrays = [np.asarray(sample) for sample in samples]
    shapes = {array.shape for array in arrays}
    return np.stack(arrays) if len(shapes) == 1 else arrays
