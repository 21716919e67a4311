"""Registration of own tasks: a user's data become prepared data in the cache.

The declaration of the task is stored beside its prepared data.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import splits
from orca_ray.data.layout import SPLITS
from orca_ray.data.prepared import Arrays, PreparedData, Split, fingerprint
from orca_ray.data.raw import Workspace
from orca_ray.data.rows import Array, stacked
from orca_ray.errors import unknown_name
from orca_ray.own_data import LazySamples, UserData, make_options
from orca_ray.own_data.infer_task import Inferred, infer
from orca_ray.own_data.splits import group_numbers
from orca_ray.tasks.arrays import fill_array
from orca_ray.tasks.registry import (
    DECLARATION,
    PREPROCESSING,
    get_own_task,
    own_directory,
    task_to_json,
)
from orca_ray.tasks.task import Task

logger = logging.getLogger(__name__)


def register(inferred: Inferred, data: UserData) -> Task:
    """Prepare the arrays of an inferred task batch by batch, unless they are cached.

    Return the task with `Inferred.body`. Raises the UserErrors of
    `Preprocessing.inputs` and `Task.prepare`.
    """
    task = inferred.task
    documents = {
        DECLARATION: json.dumps(task_to_json(task), indent=1),
        PREPROCESSING: json.dumps(inferred.preprocessing.to_json(), indent=1),
    }
    directory = own_directory(task.name)
    has_documents = all((directory / name).is_file() for name in documents)
    if not has_documents or task.prepared() is None:
        with_build = replace(
            task, build=lambda workspace: _build(workspace, inferred, data)
        )
        with_build.prepare(documents=documents)
    return replace(get_own_task(task.name), body=inferred.body)


def in_memory(inferred: Inferred, data: UserData) -> PreparedData:
    """Return the arrays of an inferred task in memory.

    Nothing is written, and the task is not registered. The data have no directory, and
    no test split if none was inferred. Raises the UserErrors of `Preprocessing.inputs`.
    """
    assert data.y is not None
    preprocessing = inferred.preprocessing
    arrays = dict[str, Array]()
    for name, indices in inferred.splits.items():
        # warnings were emitted when the task was inferred
        x = preprocessing.inputs(data.select(indices), logger.debug)
        arrays[f"{name}_x"] = x
        arrays[f"{name}_y"] = preprocessing.target.encode(data.y[indices])
    arrays |= _statistics(inferred, data, arrays["train_y"])
    return PreparedData(
        name=inferred.task.name,
        fingerprint=fingerprint(arrays),
        y_mean=arrays.get("y_mean"),
        y_std=arrays.get("y_std"),
        directory=Path(),
        splits={
            name: Split(arrays[f"{name}_x"], arrays[f"{name}_y"])
            for name in inferred.splits
        },
    )


def _build(workspace: Workspace, inferred: Inferred, data: UserData) -> Arrays:
    """Return the arrays of an inferred task; large ones are files of the workspace."""
    assert data.y is not None
    y = data.y
    coding = inferred.preprocessing.target
    encoder = inferred.preprocessing.encoder
    size = data.batch_size()
    arrays = dict[str, Array]()

    def inputs(rows: Array) -> Array:
        # warnings were emitted when the task was inferred
        return inferred.preprocessing.inputs(data.select(rows), logger.debug)

    def targets(rows: Array) -> Array:
        return coding.encode(y[rows])

    for split, rows in inferred.splits.items():
        name = f"{split}_x"
        arrays[name] = fill_array(workspace, name, rows, inputs, encoder.shape, size)
        name = f"{split}_y"
        if coding.kind == "dense":
            arrays[name] = fill_array(
                workspace, name, rows, targets, coding.shape, size
            )
        else:
            arrays[name] = targets(rows)
    if "test" not in inferred.splits:
        arrays["test_x"] = np.asarray(arrays["train_x"][:0])
        arrays["test_y"] = np.asarray(arrays["train_y"][:0])
    if inferred.folds is not None:
        arrays["folds"] = inferred.folds
    if inferred.fold_training is not None:
        arrays["fold_training"] = inferred.fold_training
    if data.groups is not None:
        rows = np.concatenate(
            [inferred.splits[split] for split in SPLITS if split in inferred.splits]
        )
        arrays["units"] = group_numbers(data, rows)[1]
    return arrays | _statistics(inferred, data, arrays["train_y"])


def _statistics(inferred: Inferred, data: UserData, train_y: Array) -> dict[str, Array]:
    """Return mean and deviation of targets that are numbers or fields.

    They are those of all values or, for a table or features, of each column.
    """
    if inferred.preprocessing.target.kind not in ("scalar", "dense"):
        return {}
    # About 4096 evenly spaced samples.
    sample = train_y[:: max(1, len(train_y) // 4096)]
    if inferred.task.domain == "tabular":
        mean, std = splits.statistics(sample, (0,))
        shape = train_y.shape[1:]
    else:
        mean, std = splits.statistics(sample)
        shape = ()
    return {"y_mean": mean.reshape(shape), "y_std": std.reshape(shape)}


def from_arrays(
    x: Any,
    y: Any,
    *,
    name: str = "data",
    groups: Any = None,
    times: Any = None,
    gpus: bool = False,
    **options: Any,
) -> Task:
    """Return a task of a user's arrays, prepared in the cache.

    The arguments are those of `Task.from_arrays`; ``gpus``: see `infer`.
    """
    if hasattr(x, "columns"):
        x = x.set_axis([str(column) for column in x.columns], axis=1)
    else:
        x = stacked(x) if isinstance(x, list | tuple) else np.asarray(x)
    return _register_arrays(x, y, name, groups, times, options, gpus)


def from_dataset(
    dataset: Any,
    *,
    name: str = "data",
    groups: Any = None,
    times: Any = None,
    **options: Any,
) -> Task:
    """Return a task of a ``torch`` data set, as `Task.from_dataset` does.

    All targets are read into memory; inputs are read batch by batch.
    """
    x = LazySamples(len(dataset), lambda row: np.asarray(dataset[row][0]))
    y = np.stack([np.asarray(dataset[row][1]) for row in range(len(dataset))])
    return _register_arrays(x, y, name, groups, times, options)


def _register_arrays(
    x: Any,
    y: Any,
    name: str,
    groups: Any,
    times: Any,
    given_options: dict[str, Any],
    gpus: bool = False,
) -> Task:
    """Infer and register the task of ``x`` and ``y``.

    In a data frame, ``y`` and options may name columns of ``x``, which are taken out of
    the inputs.
    """
    options = make_options("own data", {"name": name, **given_options})
    parts = {"y": y, "groups": groups, "times": times, "splits": None}
    if hasattr(x, "columns"):
        columns = {
            "y": y if isinstance(y, str) else "",
            "groups": options.group,
            "times": options.time,
            "splits": options.split,
        }
        columns = {part: column for part, column in columns.items() if column}
        for part, column in columns.items():
            if column not in x.columns:
                raise unknown_name("column", column, map(str, x.columns))
            parts[part] = x[column].rename(column)
        x = x.drop(columns=list(columns.values()))
    label = getattr(parts["y"], "name", None)
    arrays = {
        part: None if values is None else np.asarray(values)
        for part, values in parts.items()
    }
    data = UserData(
        x=x,
        y=arrays["y"],
        kind_hint="audio" if options.rate else "array",
        source=name,
        rate=options.rate,
        target_names=() if label is None else (str(label),),
        groups=arrays["groups"],
        times=arrays["times"],
        splits=arrays["splits"],
    )
    return register(infer(data, options, gpus=gpus), data)
