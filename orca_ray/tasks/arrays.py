"""Steps that most ``build`` functions share: held-out samples, inputs filled batch by batch, arrays by split."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from orca_ray.data import prepared, splits
from orca_ray.data.raw import Workspace
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError

Pair = tuple[Array, Array]
_BATCH_BYTES = 64 * 2**20


def hold_out(path: Path, samples: Array | int, num_held_out: int, seed: int) -> tuple[Indices, Indices]:
    """Sample validation samples from the training set in the file ``path``: return indices of the rest and of them.

    Both are in random order. ``samples`` are labels [N], each class of which has its share in both sets, or the number
    of samples. Raises UserError if the file holds too few.
    """
    count = samples if isinstance(samples, int) else len(samples)
    if count <= num_held_out:
        raise UserError(
            f"{path}: expected more than {num_held_out} training samples, because as many are held out for "
            f"validation, found {count}; get the whole file"
        )
    sizes = (count - num_held_out, num_held_out)
    try:
        if isinstance(samples, int):
            kept, held_out = splits.split(count, sizes, seed)
        else:
            kept, held_out = splits.stratified_split(samples, sizes, seed)
    except UserError as error:
        raise UserError(f"{path}: cannot hold out {num_held_out} of {count} samples for validation: {error}") from error
    return kept, held_out


def filled(
    workspace: Workspace, split: str, indices: Indices, rows: Callable[[Indices], Array], shape: tuple[int, ...]
) -> Array:
    """Return inputs [len(indices), *shape] float32 on the disk, filled with ``rows(indices[b])`` batch by batch."""
    x = workspace.array(f"{split}_x", (len(indices), *shape))
    size = max(1, _BATCH_BYTES // (4 * int(np.prod(shape))))
    for part in workspace.batches(split, len(indices), size, x):
        x[part] = rows(indices[part])
    return x


def each(function: Callable[[int], Array]) -> Callable[[Indices], Array]:
    """Return the ``rows`` of `filled` from a function of one index."""
    return lambda indices: np.stack([function(int(index)) for index in indices])


def by_index(x: Array, y: Array, parts: Sequence[Indices]) -> list[Pair]:
    """Return (x, y) of train, validation and test, given their indices."""
    return [(x[part], y[part]) for part in parts]


def classification(parts: Sequence[Pair], *, axes: tuple[int, ...] | None = None) -> dict[str, Array]:
    """Return the arrays of a classification task from (x, y) of train, validation and test.

    ``x`` is standardised with the training statistics over ``axes``: all axes by default (one mean and deviation),
    ``(0,)`` for one a feature. NaN marks padding and becomes zero, the mean.
    """
    return named([(x, y.astype(np.int64)) for x, y in _standardised(parts, axes)])


def regression(
    parts: Sequence[Pair], *, axes: tuple[int, ...] | None = None, target_axes: tuple[int, ...] = (0,)
) -> dict[str, Array]:
    """Return the arrays of a dense or scalar task: ``x`` as in :func:`classification`, ``y`` float32 and not scaled.

    ``y_mean`` and ``y_std`` are training statistics over ``target_axes`` (which include the sample axis 0).
    """
    arrays = named([(x, y.astype(np.float32)) for x, y in _standardised(parts, axes)])
    mean, std = splits.statistics(arrays["train_y"], target_axes)
    return {**arrays, "y_mean": mean[0], "y_std": std[0]}


def named(parts: Sequence[Pair]) -> dict[str, Array]:
    """Return the arrays of (x, y) of train, validation and test by name."""
    pairs = zip(prepared.SPLITS, parts, strict=True)
    return {f"{split}_{axis}": array for split, pair in pairs for axis, array in zip("xy", pair, strict=True)}


def _standardised(parts: Sequence[Pair], axes: tuple[int, ...] | None) -> list[Pair]:
    mean, std = splits.statistics(parts[0][0], axes)
    return [(np.nan_to_num(splits.standardise(x, mean, std), nan=0.0), y) for x, y in parts]
