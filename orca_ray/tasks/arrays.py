"""Steps that most `Task.build` functions share: hold out samples, fill inputs batch by batch, name arrays by split."""

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
    """Return random indices of the samples kept for training, and of ``num_held_out`` ones held out for validation.

    ``samples`` is the number N of training samples, or their labels [N]; then both sets have their class proportions.
    ``path``, the file with the samples, is named in errors. Raises UserError if there are too few samples.
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
    workspace: Workspace,
    name: str,
    indices: Indices,
    rows: Callable[[Indices], Array],
    shape: tuple[int, ...],
    most: int | None = None,
) -> Array:
    """Return the array ``name`` [N, *shape] float32 of a workspace, filled by ``rows(indices[b])`` for each batch b.

    A batch has 64 MiB at most, and ``most`` of the N indices.
    """
    array = workspace.array(name, (len(indices), *shape))
    size = max(1, _BATCH_BYTES // (4 * int(np.prod(shape))))
    for part in workspace.batches(name, len(indices), min(size, most or size), array):
        array[part] = rows(indices[part])
    return array


def each(function: Callable[[int], Array]) -> Callable[[Indices], Array]:
    """Return a function for ``rows`` of `filled` that stacks the results of ``function`` for several indices."""
    return lambda indices: np.stack([function(int(index)) for index in indices])


def by_index(x: Array, y: Array, parts: Sequence[Indices]) -> list[Pair]:
    """Return the rows of ``x`` and ``y`` in each of ``parts``, the indices of train, validation and test."""
    return [(x[part], y[part]) for part in parts]


def classification(parts: Sequence[Pair], *, axes: tuple[int, ...] | None = None) -> dict[str, Array]:
    """Return the arrays of a classification task by name, given (x, y) of train, validation and test.

    ``x`` is standardised with mean and deviation of train over ``axes``. None: over all axes; ``(0,)``: over samples,
    one mean and deviation for each feature. NaN in ``x`` marks padding and becomes 0, the mean.
    """
    return named([(x, y.astype(np.int64)) for x, y in _standardised(parts, axes)])


def regression(parts: Sequence[Pair], *, target_axes: tuple[int, ...] = (0,)) -> dict[str, Array]:
    """Return the arrays of a dense or scalar task: ``x`` standardised over all axes, ``y`` float32 and not scaled.

    ``y_mean`` and ``y_std`` are mean and deviation of the training targets over ``target_axes``, which include axis 0.
    """
    arrays = named([(x, y.astype(np.float32)) for x, y in _standardised(parts, None)])
    mean, std = splits.statistics(arrays["train_y"], target_axes)
    return {**arrays, "y_mean": mean[0], "y_std": std[0]}


def named(parts: Sequence[Pair]) -> dict[str, Array]:
    """Return the arrays of train, validation and test, each given as (x, y), by name: ``train_x``, ``train_y``, …."""
    pairs = zip(prepared.SPLITS, parts, strict=True)
    return {f"{split}_{axis}": array for split, pair in pairs for axis, array in zip("xy", pair, strict=True)}


def _standardised(parts: Sequence[Pair], axes: tuple[int, ...] | None) -> list[Pair]:
    mean, std = splits.statistics(parts[0][0], axes)
    return [(np.nan_to_num(splits.standardise(x, mean, std), nan=0.0), y) for x, y in parts]
