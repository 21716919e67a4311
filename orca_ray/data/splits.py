"""Random splits and normalisation, whose results are the same on every machine.

The results do not depend on the versions of libraries, either. Splits use
``numpy.random.RandomState``, whose random numbers never change between NumPy versions
(NEP 19). Statistics are computed in float64 and rounded to six digits, because the
order of a summation depends on the processor.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orca_ray.data.rows import Array
from orca_ray.errors import UserError

Indices = npt.NDArray[np.int64]


def split(num_samples: int, sizes: Sequence[int], seed: int) -> list[Indices]:
    """Return random, unsorted, disjoint index arrays of the given ``sizes``.

    Raises UserError if ``sum(sizes)`` > ``num_samples``.
    """
    bounds = _bounds(num_samples, sizes)
    order = np.random.RandomState(seed).permutation(num_samples).astype(np.int64)
    return [order[start:end] for start, end in bounds]


def stratified_split(labels: Array, sizes: Sequence[int], seed: int) -> list[Indices]:
    """Randomly draw disjoint index arrays of the given ``sizes``.

    Each has the class proportions of ``labels`` [N]. Raises :class:`UserError` if a
    size is smaller than the number of classes, or if ``sizes`` sum to more than N.
    """
    labels = np.asarray(labels)
    classes = np.unique(labels)
    bounds = _bounds(len(labels), sizes)
    for size in sizes:
        if size < len(classes):
            raise UserError(
                f"a split of {size} samples cannot hold {len(classes)} classes; take at"
                " least as many"
            )
    (order,) = split(len(labels), [len(labels)], seed)
    # Each class is spread evenly over [0, 1): any contiguous part then has the
    # proportions of the whole.
    position = np.empty(len(labels))
    for label in classes:
        members = np.flatnonzero(labels[order] == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    # Equal positions are ordered by class, so that classes of equal size alternate
    # strictly.
    dealt = order[np.lexsort((labels[order], position))]
    shuffler = np.random.RandomState(seed + 1)
    return [shuffler.permutation(dealt[start:end]) for start, end in bounds]


def stratified_share(labels: Array, fraction: float, seed: int) -> Indices:
    """Randomly draw a share of each class, and return the sorted indices.

    ``fraction`` is in (0, 1]. At least one sample of each class in ``labels`` [N] is
    drawn. With the same ``seed``, the samples of a smaller fraction are among those of
    a larger one.
    """
    (order,) = split(len(labels), [len(labels)], seed)
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    classes = np.split(by_class, np.cumsum(counts)[:-1])
    shares = [members[: max(1, round(fraction * len(members)))] for members in classes]
    return np.sort(np.concatenate(shares))


def _bounds(num_samples: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return start and end of consecutive parts of the given ``sizes``.

    Raises UserError if there are too few samples.
    """
    if min(sizes) < 0 or sum(sizes) > num_samples:
        needed = sum(size for size in sizes if size > 0)
        raise UserError(
            f"splits of {list(sizes)} samples need {needed}, only {num_samples} are"
            " there: add samples"
        )
    ends = np.cumsum(sizes).tolist()
    return [(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def statistics(x: Array, axes: tuple[int, ...] | None = None) -> tuple[Array, Array]:
    """Return mean and standard deviation over ``axes`` (None: all), float32.

    ``axes`` are kept with length 1. Mean and deviation are rounded to the sixth
    significant digit of the deviation. A deviation of 0 becomes 1. NaN is ignored.
    """
    wide = x.astype(np.float64)
    mean = np.nanmean(wide, axis=axes, keepdims=True)
    std = np.nanstd(wide, axis=axes, keepdims=True)
    # Rounding errors leave a standard deviation of about 1e-17 in a constant column.
    std = np.where(std > 1e-9 * np.abs(mean), std, 0.0)
    std = np.where(std > 0, std, 1.0)
    return _rounded(mean, std), _rounded(std, std)


def standardise(x: Array, mean: Array, std: Array) -> Array:
    """Return ``(x - mean) / std`` as float32."""
    return ((x.astype(np.float32) - mean) / std).astype(np.float32)


def _rounded(values: Array, scale: Array) -> Array:
    """Round each value to the place of the sixth digit of its ``scale``.

    A mean that is only rounding error becomes 0.
    """
    rounded = []
    for value, unit in zip(np.ravel(values), np.ravel(scale), strict=True):
        # The first digit of ``unit`` is digit 1, the sixth is five places further.
        decimals = 5 - math.floor(math.log10(unit))
        rounded.append(round(float(value), decimals))
    flat = np.array(rounded, dtype=np.float64).astype(np.float32)
    return flat.reshape(values.shape)
