"""`UserData`: samples and targets from a user's file, folder or arrays."""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, Union

import numpy as np

from orca_ray.data.rows import Array, RowIndex
from orca_ray.errors import UserError
from orca_ray.own_data.options import Options

if TYPE_CHECKING:
    import pandas as pd

_MOST_ROWS = 1024

Kind = Literal["table", "array", "images", "audio"]


class Samples(Protocol):
    """N samples that are read when they are selected: as one array [b, ...], or a list of arrays of unequal shapes."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: RowIndex, /) -> "Array | list[Array]":
        """Return the selected samples."""


Inputs = Union[Array, Samples, list[Array], "pd.DataFrame"]


@dataclass(frozen=True, kw_only=True)
class UserData:
    """N samples of a user, with their targets if there are any.

    Raises UserError if the lengths of the parts differ.
    """

    x: Inputs
    """Inputs: an array [N, ...] (memory-mapped where the format allows it), samples that are read when selected, a list
    of arrays of unequal shapes, or a table."""
    y: Array | None = None
    """Targets: [N] numbers or text, [N, K] for several labels or numbers, or fields [N, ...]; None: only inputs."""
    kind_hint: Kind = "array"
    source: str = "the data"
    """Path that the samples were read from, for messages."""
    names: Sequence[str] = ()
    """Names of the samples, such as paths of files; empty: they are numbered."""
    target_names: tuple[str, ...] = ()
    """Columns or key that the targets were read from."""
    rate: float | None = None
    """Sampling rate in Hz; None: unknown."""
    groups: Array | None = None
    """Group of each sample [N]; samples of one group must not be in different splits."""
    times: Array | None = None
    """Times of the samples [N], by which they are split."""
    splits: Array | None = None
    """Splits that the data declare: [N] of ``train``, ``validation`` and ``test``."""
    notes: tuple[str, ...] = ()
    """One sentence for each choice or omission of the reader."""
    options: Options = field(default_factory=Options)
    """Options that the samples were read with, those of a ``task.yaml`` included."""

    def __post_init__(self) -> None:
        for what, part in (
            ("targets", self.y), ("groups", self.groups), ("times", self.times), ("splits", self.splits),
            ("names", self.names or None),
        ):  # fmt: skip
            if part is not None and len(part) != len(self.x):
                raise UserError(
                    f"{self.source}: {len(self.x)} samples but {len(part)} {what}; give one of {what} a sample"
                )

    def __len__(self) -> int:
        return len(self.x)

    def select(self, part: RowIndex) -> Self:
        """Return the selected samples in memory."""
        rows = np.arange(len(self))[part]

        def taken(values: Array | None) -> Array | None:
            return None if values is None else np.asarray(values[part])

        return replace(
            self, x=_taken(self.x, part), y=taken(self.y), groups=taken(self.groups), times=taken(self.times),
            splits=taken(self.splits), names=[self.names[row] for row in rows] if self.names else (),
        )  # fmt: skip

    def batches(self, size: int | None = None) -> Iterator[Self]:
        """Yield the samples in memory, in order, ``size`` at a time; None: as many as `batch_size` returns.

        Memory of a memory-mapped file is released after each batch, so that files may be larger than the memory.
        """
        size = size or self.batch_size()
        for start in range(0, len(self), size):
            yield self.select(slice(start, min(start + size, len(self))))
            mapped = getattr(self.x, "_mmap", None)
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def batch_size(self, most_bytes: int = 2**26) -> int:
        """Return how many samples, at most 1024, take ``most_bytes`` as float32; at least 1. Reads the first sample."""
        if hasattr(self.x, "columns") or not len(self):
            return _MOST_ROWS
        first = np.asarray(_taken(self.x, slice(0, 1))[0])
        return max(1, min(_MOST_ROWS, most_bytes // max(1, 4 * first.size)))

    def place(self, row: int) -> str:
        """Return the source and the name or number of a sample, for messages."""
        return f"{self.source}, {self.names[row]}" if self.names else f"{self.source}, row {row + 1}"


def _taken(x: Inputs, part: RowIndex) -> Any:
    if isinstance(x, list):
        return [x[row] for row in np.arange(len(x))[part]]
    return x.iloc[part] if hasattr(x, "iloc") else x[part]
