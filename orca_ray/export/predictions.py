"""Predictions as a table: Parquet or CSV, written part by part, so that inputs and outputs may exceed the memory."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from orca_ray.data import cache
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.methods.model_inputs import ModelInputs
from orca_ray.predictor import Predictor

WRITERS: dict[str, Callable[..., Any]] = {".parquet": pq.ParquetWriter, ".csv": pacsv.CSVWriter}
"""Writers of `pyarrow` by suffix of the file."""


def check_output(path: Path, model: Predictor) -> None:
    """Raise UserError if predictions of ``model`` cannot be written to ``path``."""
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"cannot write predictions to {path}: its name must end with {' or '.join(WRITERS)}")
    if path.suffix.lower() == ".csv" and model.task.target.kind == "dense":
        raise UserError(f"fields of shape {model.task.target.shape} do not fit into {path}: name a file .parquet")
    if path.is_dir():
        raise UserError(f"{path} is a directory: name a file")


def write_predictions(
    model: Predictor, inputs: ModelInputs, path: Path, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Write a row for each sample to ``path``: ``id``, ``prediction``, and, of classes and labels, probabilities.

    ``id`` is the name of the sample's file or, if it has none, its number from 0. Fields are nested lists. Columns of
    probabilities are called ``p_NAME`` by the class or label. ``progress`` is called with the number of rows so far.
    The file appears when it is complete. Raises UserError as `check_output` does, and for inputs that do not fit.
    """
    check_output(path, model)
    target = path.absolute()
    with cache.scratch_directory(target.parent) as scratch, cache.disk_errors(target.parent):
        writer = None
        done = 0
        try:
            for outputs in model.stream(inputs):
                names = inputs.names[done : done + len(outputs)]
                batch = _table(model, outputs, list(names) or np.arange(done, done + len(outputs)))
                writer = writer or WRITERS[target.suffix.lower()](scratch / target.name, batch.schema)
                writer.write_table(batch)
                done += len(outputs)
                progress(done)
        finally:
            if writer is not None:
                writer.close()
        cache.replace_file(scratch / target.name, target)


def _table(model: Predictor, outputs: Array, ids: Sequence[str] | Array) -> Any:
    columns: dict[str, Any] = {"id": pa.array(ids), "prediction": _predictions(model, model.decide(outputs))}
    if model.task.target.kind in ("classes", "labels"):
        probabilities = model.probabilities(outputs)
        columns |= {name: pa.array(probabilities[:, k]) for k, name in enumerate(column_names(model))}
    elif model.decides:
        columns["probability"] = _nested(model.probabilities(outputs))
    about = {"task": model.task.name, "method": model.config.method, "trial": model.config.trial}
    return pa.table(columns).replace_schema_metadata({"orca_ray": json.dumps(about)})


def column_names(model: Predictor) -> list[str]:
    """Return the names of the columns of probabilities; equal names of labels get their number."""
    names = model.label_names or tuple(map(str, range(model.task.target.size)))
    found = [f"p_{name}" for name in names]
    return [name if found.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(found)]


def _predictions(model: Predictor, predictions: Array) -> Any:
    if model.task.target.kind != "labels":
        return _nested(predictions)
    names = model.label_names or tuple(map(str, range(model.task.target.size)))
    # Joined, because CSV files have no lists.
    return pa.array(["; ".join(names[k] for k in np.flatnonzero(row)) for row in predictions], pa.string())


def _nested(values: Array) -> Any:
    """Return an Arrow array of N values, or of N nested lists of the shape of one value."""
    flat = pa.array(values.ravel())
    for size in values.shape[:0:-1]:
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat
