"""From whole arrays to the splits of a task: what most ``build`` functions end with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from orca_ray.data import prepared, splits

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]


def by_index(x: Array, y: Array, parts: Sequence[npt.NDArray[np.int64]]) -> list[Pair]:
    """Return (x, y) of train, validation and test, given their indices."""
    return [(x[part], y[part]) for part in parts]


def classification(parts: Sequence[Pair], *, axes: tuple[int, ...] | None = None) -> dict[str, Array]:
    """Return the arrays of a classification task from (x, y) of train, validation and test.

    ``x`` is standardised with the training statistics over ``axes``: all axes by default (one mean and deviation),
    ``(0,)`` for one a feature. NaN marks padding and becomes zero, the mean.
    """
    standardised = _standardised([x for x, _ in parts], axes)
    return _named(standardised, [y.astype(np.int64) for _, y in parts])


def regression(
    parts: Sequence[Pair], *, axes: tuple[int, ...] | None = None, target_axes: tuple[int, ...] = (0,)
) -> dict[str, Array]:
    """Return the arrays of a dense or scalar task: ``x`` as in :func:`classification`, ``y`` float32 and not scaled.

    ``y_mean`` and ``y_std`` are training statistics over ``target_axes`` (which include the sample axis 0).
    """
    targets = [y.astype(np.float32) for _, y in parts]
    mean, std = splits.statistics(targets[0], target_axes)
    named = _named(_standardised([x for x, _ in parts], axes), targets)
    return {**named, "y_mean": mean[0], "y_std": std[0]}


def _standardised(inputs: Sequence[Array], axes: tuple[int, ...] | None) -> list[Array]:
    mean, std = splits.statistics(inputs[0], axes)
    return [np.nan_to_num(splits.standardise(x, mean, std), nan=0.0) for x in inputs]


def _named(inputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, Array]:
    named: dict[str, Array] = {}
    for split, x, y in zip(prepared.SPLITS, inputs, targets, strict=True):
        named |= {f"{split}_x": x, f"{split}_y": y}
    return named
