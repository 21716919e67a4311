"""Seeded, stratified splits of a table in which every class is in every split."""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orca_ray.data import splits
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

LEAST_ROWS = 3
"""Least number of rows of a class: one for each split, so that the metric is defined."""


def frequent(name: str, labels: Array, classes: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return the mask [N] of rows whose class has at least `LEAST_ROWS` rows, and log the other classes.

    ``name`` is the task's, ``labels`` [N] count from 0 with −1 for missing ones, which are left out, and ``classes``
    are their names. Raises UserError if fewer than two classes are left.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    rare = [k for k in range(len(classes)) if 0 < counts[k] < LEAST_ROWS]
    if rare:
        told = ", ".join(f"{classes[k]} ({counts[k]})" for k in rare)
        logger.warning(
            "%s: classes with fewer than %d rows cannot be in every split, and are left out: %s", name, LEAST_ROWS, told
        )
    if (counts >= LEAST_ROWS).sum() < 2:
        found = ", ".join(f"{each}: {count}" for each, count in zip(classes, counts, strict=True))
        raise UserError(f"{name}: expected two classes or more of {LEAST_ROWS} rows each, found {found or 'none'}")
    return np.asarray((labels >= 0) & ~np.isin(labels, rare))


def split(labels: Array, seed: int) -> tuple[Indices, Indices, Indices]:
    """Return indices of train, validation and test, each in random order.

    Test is a tenth of all rows and validation a tenth of the rest, both rounded up and divided among the classes in
    proportion, with at least one row for each class. ``labels`` [N] count from 0 without gaps, and each class has at
    least `LEAST_ROWS` rows.
    """
    (order,) = splits.split(len(labels), [len(labels)], seed)
    counts = np.bincount(labels)
    test = _shares(counts)
    validation = _shares(counts - test)
    part = np.zeros(len(labels), dtype=np.int8)
    for k in range(len(counts)):
        members = order[labels[order] == k]
        part[members[: test[k]]] = 2
        part[members[test[k] : test[k] + validation[k]]] = 1
    return order[part[order] == 0], order[part[order] == 1], order[part[order] == 2]


def _shares(counts: Array) -> npt.NDArray[np.int64]:
    """Return the number of rows of each class in a tenth of all; the largest remainders are rounded up."""
    size = -(-int(counts.sum()) // 10)
    exact = counts * size / counts.sum()
    shares: npt.NDArray[np.int64] = np.maximum(np.floor(exact), 1).astype(np.int64)
    spare = max(0, size - int(shares.sum()))
    shares[np.argsort(shares - exact, kind="stable")[:spare]] += 1
    return shares
