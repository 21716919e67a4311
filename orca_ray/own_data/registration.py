"""Registration of own tasks: arrays of a user's data become prepared data in the cache,
with their declaration.
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
from orca_ray.tasks.arrays import filled
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
    """Prepare the arrays of an inferred task batch by batch, unless they are cached;
    return it with `Inferred.body`.

    Raises the UserErrors of `Preprocessing.inputs` and `Task.prepare`.
    """
    task = inferred.task
    documents = {
        DECLARATION: json.dumps(task_to_json(task), indent=1),
        PREPROCESSING: json.dumps(inferred.preprocessing.to_json(), indent=1),
    }
    directory = own_directory(task.name)
    if (
        not all((directory / name).is_file() for name in documents)
        or task.prepared() is None
    ):
        replace(
            task, build=lambda workspace: _build(workspace, inferred, data)
        ).prepare(documents=documents)
    return replace(get_own_task(task.name), body=inferred.body)


def in_memory(inferred: Inferred, data: UserData) -> PreparedData:
    """Return the arrays of an inferred task in memory; nothing is written, and the task
    is not registered.

    The data have no directory, and no test split if none was inferred. Raises the
    UserErrors of `Preprocessing.inputs`.
    """
    assert data.y is not None
    preprocessing = inferred.preprocessing
    arrays = dict[str, Array]()
    for name, indices in inferred.splits.items():
        part = data.select(indices)
        arrays[f"{name}_x"] = preprocessing.inputs(
            part, logger.debug
        )  # emitted when the task was inferred
        arrays[f"{name}_y"] = preprocessing.target.encode(data.y[indices])
    arrays |= _statistics(
        arrays["train_y"],
        preprocessing.target.kind,
        by_column=data.kind_hint == "table",
    )
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
    assert data.y is not None
    preprocessing = inferred.preprocessing
    y = data.y
    arrays = dict[str, Array]()
    coding = preprocessing.target
    size = data.batch_size()

    def inputs(indices: Array) -> Array:
        return preprocessing.inputs(
            data.select(indices), logger.debug
        )  # emitted when the task was inferred

    for split, indices in inferred.splits.items():
        arrays[f"{split}_x"] = filled(
            workspace, f"{split}_x", indices, inputs, preprocessing.encoder.shape, size
        )
        if coding.kind == "dense":
            made = filled(
                workspace,
                f"{split}_y",
                indices,
                lambda rows: coding.encode(y[rows]),
                coding.shape,
                size,
            )
        else:
            made = coding.encode(y[indices])
        arrays[f"{split}_y"] = made
    if "test" not in inferred.splits:
        arrays |= {
            f"test_{axis}": np.asarray(arrays[f"train_{axis}"][:0]) for axis in "xy"
        }
    if inferred.folds is not None:
        arrays["folds"] = inferred.folds
    if data.groups is not None:
        rows = np.concatenate(
            [inferred.splits[split] for split in SPLITS if split in inferred.splits]
        )
        arrays["units"] = group_numbers(data, rows)[1]
    return {
        **arrays,
        **_statistics(
            arrays["train_y"], coding.kind, by_column=data.kind_hint == "table"
        ),
    }


def _statistics(train_y: Array, kind: str, *, by_column: bool) -> dict[str, Array]:
    """Return mean and deviation of targets that are numbers or fields; ``by_column``:
    of each column by itself.
    """
    if kind not in ("scalar", "dense"):
        return {}
    sample = train_y[:: max(1, len(train_y) // 4096)]
    mean, std = splits.statistics(sample, (0,) if by_column else None)
    shape = train_y.shape[1:] if by_column else ()
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
    """Return a task of a user's arrays, prepared in the cache, as `Task.from_arrays`
    does; ``gpus``: see `infer`.
    """
    if hasattr(x, "columns"):
        x = x.set_axis([str(column) for column in x.columns], axis=1)
    else:
        x = stacked(x) if isinstance(x, list | tuple) else np.asarray(x)
    return _registered(x, y, name, groups, times, options, gpus)


def from_dataset(
    dataset: Any,
    *,
    name: str = "data",
    groups: Any = None,
    times: Any = None,
    **options: Any,
) -> Task:
    """Return a task of a ``torch`` data set, as `Task.from_dataset` does; only the
    targets are all read into memory.
    """
    x = LazySamples(len(dataset), lambda row: np.asarray(dataset[row][0]))
    y = np.stack([np.asarray(dataset[row][1]) for row in range(len(dataset))])
    return _registered(x, y, name, groups, times, options)


def _registered(
    x: Any,
    y: Any,
    name: str,
    groups: Any,
    times: Any,
    given: dict[str, Any],
    gpus: bool = False,
) -> Task:
    options = make_options("own data", {"name": name, **given})
    column = y if isinstance(y, str) else ""
    named = {
        "y": column,
        "groups": options.group,
        "times": options.time,
        "splits": options.split,
    }
    parts = {"y": y, "groups": groups, "times": times, "splits": None}
    if hasattr(x, "columns"):
        columns = {axis: column for axis, column in named.items() if column}
        if missing := [
            column for column in columns.values() if column not in x.columns
        ]:
            raise unknown_name("column", missing[0], map(str, x.columns))
        parts |= {axis: x[column].rename(column) for axis, column in columns.items()}
        x = x.drop(columns=list(columns.values()))
    label = getattr(parts["y"], "name", None)
    arrays = {
        axis: None if part is None else np.asarray(part) for axis, part in parts.items()
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
