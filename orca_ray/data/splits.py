"""Seeded splits and normalisation that come out the same on every machine and with every library version.

Splits use ``numpy.random.RandomState``, whose streams are frozen (NEP 19). Statistics are computed in float64 and
rounded to six digits, because the order in which a sum is taken depends on the processor.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.errors import UserError

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


def split(num_samples: int, sizes: Sequence[int], seed: int) -> list[Indices]:
    """Draw disjoint index sets of the given sizes, each in random order, from ``range(num_samples)``."""
    runs = _runs(num_samples, sizes)
    order = np.random.RandomState(seed).permutation(num_samples).astype(np.int64)
    return [order[start:end] for start, end in runs]


def stratified_split(labels: Array, sizes: Sequence[int], seed: int) -> list[Indices]:
    """Draw disjoint index sets in which every class of ``labels`` [N] has its share, rounded up or down.

    Raises :class:`UserError` when a set would be smaller than the number of classes, or samples do not suffice.
    """
    labels = np.asarray(labels)
    classes = np.unique(labels)
    for size in sizes:
        if size < len(classes):
            raise UserError(f"a split of {size} samples cannot hold {len(classes)} classes; take at least as many")
    runs = _runs(len(labels), sizes)
    (order,) = split(len(labels), [len(labels)], seed)
    # Dealing the classes out evenly along [0, 1) makes every contiguous run contain each class in proportion.
    position = np.empty(len(labels))
    for label in classes:
        members = np.flatnonzero(labels[order] == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    # Ties go by class, so that classes of one size take strict turns.
    dealt = order[np.lexsort((labels[order], position))]
    shuffler = np.random.RandomState(seed + 1)
    return [shuffler.permutation(dealt[start:end]) for start, end in runs]


def _runs(num_samples: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    if sum(sizes) > num_samples:
        raise UserError(f"splits of {list(sizes)} samples need {sum(sizes)}, only {num_samples} are there")
    ends = np.cumsum(sizes)
    return [(int(end) - size, int(end)) for size, end in zip(sizes, ends, strict=True)]


def statistics(x: Array, axes: tuple[int, ...] | None = None) -> tuple[Array, Array]:
    """Return mean and standard deviation over ``axes`` (all by default), kept as axes of length 1, as float32.

    Both are computed in float64 and rounded to six digits of the standard deviation, of which a zero becomes one.
    NaN (padding) does not count.
    """
    wide = x.astype(np.float64)
    mean = np.nanmean(wide, axis=axes, keepdims=True)
    std = np.nanstd(wide, axis=axes, keepdims=True)
    # In a constant column, rounding alone leaves a deviation of about 1e-17 that must not become a divisor.
    std = np.where(std > 1e-9 * np.abs(mean), std, 0.0)
    std = np.where(std > 0, std, 1.0)
    return _rounded(mean, std), _rounded(std, std)


def standardise(x: Array, mean: Array, std: Array) -> Array:
    """Return ``(x - mean) / std`` elementwise in float32."""
    return ((x.astype(np.float32) - mean) / std).astype(np.float32)


def _rounded(values: Array, scale: Array) -> Array:
    """Round to six digits below the leading digit of ``scale``: a mean that is zero but for noise becomes zero."""
    decimals = [5 - math.floor(math.log10(each)) for each in np.ravel(scale)]
    flat = [round(float(value), places) for value, places in zip(np.ravel(values), decimals, strict=True)]
    return np.array(flat, dtype=np.float64).astype(np.float32).reshape(values.shape)
