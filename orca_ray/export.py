"""Predictions as tables, and networks for other programs: ONNX and `torch.export`, both
with a dynamic batch size.

Inputs of a network are float32 [B, *input_shape], as the preprocessing returns them;
outputs are logits, or numbers in the units of the target, as `Predictor.outputs`
returns them. Label names and preprocessing are stored as JSON.
"""

import importlib.util
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from orca_ray.data import cache
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, csv_cell, lookup, shorten
from orca_ray.methods.model_folder import composed
from orca_ray.methods.model_inputs import ModelInputs
from orca_ray.methods.snapshot import averaging
from orca_ray.models.mixture import Mixture
from orca_ray.paths import check_output
from orca_ray.predictor import Predictor


def check_predictions(path: Path, model: Predictor) -> None:
    """Raise UserError if predictions of ``model`` cannot be written to ``path``."""
    if path.suffix.lower() not in WRITERS:
        raise UserError(
            f"cannot write predictions to {path}: its name must end with"
            f" {' or '.join(WRITERS)}"
        )
    if path.suffix.lower() == ".csv" and model.task.target.kind == "dense":
        found = f"fields of shape {model.task.target.shape}"
        raise UserError(f"{found} do not fit into {path}: name a file .npz or .parquet")
    check_output(path, "the file")


def write_predictions(
    model: Predictor,
    inputs: ModelInputs,
    path: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write a row for each sample to ``path``: ``id``, ``prediction`` and, except for
    numbers, probabilities.

    ``id`` is the name of the sample's file or, if it has none, its number from 0.
    Columns of a table that the model does not read and that differ in all rows follow
    under their own names; one named ``id`` takes the number's place. Column ``p_NAME``
    has the probability of a class or label, ``probability`` that of a mask. Predicted
    fields are nested lists. An ``.npz`` archive has arrays instead: ``prediction`` [N,
    ...], ``probability`` [N, K] or [N, ...], ``labels`` [K] and the ids [N].
    ``progress`` is called with the number of rows so far. A CSV file has the text of
    `csv_cell`. The file appears when it is complete. Raises UserError for inputs that
    the model cannot take, and if `check_predictions` does.
    """
    check_predictions(path, model)
    target = path.absolute()
    data = inputs.data
    read = (
        ()
        if model.preprocessing is None
        else getattr(model.preprocessing.encoder, "names", ())
    )
    ids = {
        "id": np.array(data.names, dtype=object) if data.names else np.arange(len(data))
    }
    ids |= {name: values for name, values in data.keys.items() if name not in read}
    whole = {**ids, "labels": np.array(model.label_names)} if model.label_names else ids
    make, start = WRITERS[path.suffix.lower()]
    with (
        cache.scratch_directory(target.parent) as scratch,
        cache.disk_errors(target.parent),
    ):
        writer = None
        done = 0
        try:
            for outputs in model.stream(inputs):
                batch = make(
                    model,
                    outputs,
                    {
                        name: each[done : done + len(outputs)]
                        for name, each in ids.items()
                    },
                )
                writer = writer or start(scratch / target.name, batch, whole)
                writer.write_table(batch)
                done += len(outputs)
                progress(done)
        finally:
            if writer is not None:
                writer.close()
        cache.replace_file(scratch / target.name, target)


def _table(model: Predictor, outputs: Array, ids: Mapping[str, Array]) -> Any:
    columns: dict[str, Any] = {name: pa.array(values) for name, values in ids.items()}
    columns["prediction"] = _predictions(model, model.decide(outputs))
    if model.task.target.kind in ("classes", "labels"):
        probabilities = model.probabilities(outputs)
        columns |= {
            name: pa.array(probabilities[:, k])
            for k, name in enumerate(column_names(model))
        }
    elif model.decides:
        columns["probability"] = _nested(model.probabilities(outputs))
    method = composed(model.config) or model.config.method
    about = {"task": model.task.name, "method": method, "trial": model.config.trial}
    return pa.table(columns).replace_schema_metadata({"orca_ray": json.dumps(about)})


def _arrays(
    model: Predictor, outputs: Array, ids: Mapping[str, Array]
) -> dict[str, Array]:
    found = {"prediction": model.decide(outputs)}
    return (
        {**found, "probability": model.probabilities(outputs)}
        if model.decides
        else found
    )


class _NpzWriter:
    """Writer of an ``.npz`` archive, whose arrays are in memory until `close`."""

    def __init__(
        self, path: Path, first: Mapping[str, Array], whole: Mapping[str, Array]
    ) -> None:
        """Prepare to write ``whole``, and arrays [N, ...] that begin with ``first``;
        UserError if memory lacks.
        """
        num_bytes = (
            2.0 * len(whole["id"]) * sum(rows[:1].nbytes for rows in first.values())
        )
        num_bytes += sum(
            4.0 * len(each) * max(map(len, each))
            for each in whole.values()
            if each.dtype.kind == "O"
        )
        cache.check_memory(
            num_bytes,
            f"predictions as {path.name}",
            "write a file .parquet, which is written in parts",
        )
        self._path = path
        self._whole = whole
        self._parts = list[Mapping[str, Array]]()

    def write_table(self, arrays: Mapping[str, Array]) -> None:
        """Keep the next rows of each array."""
        self._parts.append(arrays)

    def close(self) -> None:
        """Write the archive; text has the length of the longest one, as NumPy needs."""
        arrays = {
            name: np.concatenate([part[name] for part in self._parts])
            for name in self._parts[0]
        }
        with zipfile.ZipFile(self._path, "w") as archive:
            for name, values in {**self._whole, **arrays}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    plain = values.astype(str) if values.dtype.kind == "O" else values
                    np.lib.format.write_array(file, plain, allow_pickle=False)


def _cells(model: Predictor, outputs: Array, ids: Mapping[str, Array]) -> Any:
    """Return the result of `_table` with the text of its cells and names of its columns
    as `csv_cell` returns them.
    """
    table = _table(model, outputs, ids)
    columns = [
        (
            pa.array(map(csv_cell, column.to_pylist()), pa.string())
            if pa.types.is_string(column.type)
            else column
        )
        for column in table.columns
    ]
    return pa.table(columns, [str(csv_cell(name)) for name in table.column_names])


WRITERS: Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    ".parquet": (
        _table,
        lambda path, table, whole: pq.ParquetWriter(path, table.schema),
    ),
    ".npz": (_arrays, _NpzWriter),
    ".csv": (_cells, lambda path, table, whole: pacsv.CSVWriter(path, table.schema)),
}
"""Functions for each suffix of a file: one makes a batch of predictions, the other
opens a writer of such batches.
"""


def column_names(model: Predictor) -> list[str]:
    """Return the column name of each class or label, e.g. ``p_cat``; equal names get a
    number, e.g. ``p_cat_3``.
    """
    found = [f"p_{name}" for name in model.label_names or range(model.task.target.size)]
    return [
        name if found.count(name) == 1 else f"{name}_{number}"
        for number, name in enumerate(found)
    ]


def _predictions(model: Predictor, predictions: Array) -> Any:
    if model.task.target.kind != "labels":
        return _nested(predictions)
    names = model.label_names or tuple(map(str, range(model.task.target.size)))
    # Joined, because CSV files have no lists.
    return pa.array(
        ["; ".join(names[k] for k in np.flatnonzero(row)) for row in predictions],
        pa.string(),
    )


def _nested(values: Array) -> Any:
    """Return an Arrow array of N values, or of N nested lists of the shape of one
    value.
    """
    flat = pa.array(values.ravel())
    for size in values.shape[:0:-1]:
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat


METADATA = "orca_ray"
"""Key of the metadata of an ONNX file, and name of the extra file (with ``.json``) of a
torch program.
"""
TOLERANCE = 1e-4
"""Largest difference between outputs of an exported network and of the model, relative
to the largest output.
"""
_ONNX_MOST_BYTES = 2**31 - 2**24
"""Size of weights that one ONNX file can hold; larger ones go into a second file."""


@dataclass(frozen=True)
class Exported:
    """Description of an exported network that was written to a file."""

    path: Path
    difference: float | None
    """Largest difference from the model, relative to the largest output; None: the
    outputs were not compared.
    """
    note: str = ""
    """Why the outputs were not compared; "" if they were."""


class _Whole(nn.Module):
    """A network in float32, and the map of its outputs to the units of the target."""

    y_mean: Tensor
    y_std: Tensor

    def __init__(self, model: Predictor) -> None:
        """Wrap the network of ``model``."""
        super().__init__()
        config = model.config
        average = averaging(config.task.target, config.task.loss)
        self.mixture = Mixture(
            model.members, config.member_weights or (1.0,), average, config.temperature
        )
        self._mixes = bool(config.members)
        for name in ("y_mean", "y_std"):
            stored = getattr(config, name)
            self.register_buffer(
                name, None if stored is None else torch.from_numpy(stored.array())
            )
        self._scaled = config.y_mean is not None and not model.decides

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs [B, *output_shape], computed without autocast, which cannot be
        exported.
        """
        found = (
            each.head(each.encode(each.embed(inputs))) for each in self.mixture.networks
        )
        outputs: Tensor = self.mixture.combined(found) if self._mixes else next(found)
        return outputs * self.y_std + self.y_mean if self._scaled else outputs


def export_model(model: Predictor, to: str, path: Path) -> Exported:
    """Write the network of ``model`` in a format of `FORMATS` to ``path``, and compare
    its outputs with the model's.

    Raises UserError, and writes nothing, for another format, a path that cannot be
    written, a network that cannot be exported (of an ensemble, the member is named), a
    missing library, or outputs that differ by more than `TOLERANCE`.
    """
    write = lookup("export format", to, FORMATS)
    check_output(path, "the file")
    if to == "onnx" and importlib.util.find_spec("onnxscript") is None:
        raise UserError(
            "to export to ONNX, install the package 'onnxscript': pip install"
            " 'orca-ray[export]'"
        )
    cpu = (
        Predictor(model.snapshot(), device="cpu")
        if model.device.type != "cpu"
        else model
    )
    with (
        cache.scratch_directory(path.absolute().parent) as scratch,
        cache.disk_errors(path.absolute().parent),
    ):
        try:
            run, note = _written(write, cpu, scratch / path.name)
        except UserError as error:
            raise UserError(f"{_culprit(write, cpu, scratch)}{error}") from error
        expected = _Whole(cpu).eval()
        difference = (
            None if run is None else _difference(run, expected, cpu.task.input_shape)
        )
        for file in sorted(scratch.iterdir(), reverse=True):
            cache.replace_file(file, path.absolute().parent / file.name)
    return Exported(path, difference, note)


_Run = Callable[[Array], Array]
"""Function that returns the outputs of an exported network for a batch of inputs."""
_Write = Callable[[_Whole, Predictor, Path], tuple[_Run | None, str]]


def _written(write: _Write, model: Predictor, path: Path) -> tuple[_Run | None, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about their own future
        return write(_Whole(model).eval(), model, path)


def _culprit(write: _Write, model: Predictor, scratch: Path) -> str:
    """Return the first member of an ensemble that cannot be exported alone, as the
    beginning of an error; "": none.
    """
    for number, config in enumerate(model.config.members):
        alone = Predictor.__new__(Predictor)
        vars(alone).update(vars(model), config=config, members=[model.members[number]])
        try:
            _written(write, alone, scratch / "member")
        except UserError:
            return f"member {number} of the ensemble, by {config.method}: "
    return ""


def _onnx(whole: _Whole, model: Predictor, path: Path) -> tuple[_Run | None, str]:
    sample, shapes = _example(model)
    large = (
        sum(value.nbytes for value in whole.state_dict().values()) > _ONNX_MOST_BYTES
    )
    try:
        program = torch.onnx.export(
            whole,
            (sample,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["inputs"],
            output_names=["outputs"],
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[METADATA] = json.dumps(metadata(model))
        program.save(path, external_data=large)
    except (
        Exception
    ) as error:  # the exporter raises many types, of torch and of onnxscript
        raise UserError(
            f"cannot export this network to ONNX: {shorten(error, 500)}; try --to torch"
        ) from error
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return (
            None,
            (
                "not checked, as onnxruntime is not installed: pip install"
                " 'orca-ray[export]'"
            ),
        )
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    return lambda x: np.asarray(session.run(None, {"inputs": x})[0]), ""


def _torch(whole: _Whole, model: Predictor, path: Path) -> tuple[_Run | None, str]:
    sample, shapes = _example(model)
    try:
        with torch.no_grad():
            program = torch.export.export(whole, (sample,), dynamic_shapes=shapes)
        archive = path.with_name("program.pt2")  # torch warns about other suffixes
        torch.export.save(
            program,
            archive,
            extra_files={f"{METADATA}.json": json.dumps(metadata(model))},
        )
    except Exception as error:  # the exporter raises many types
        raise UserError(
            f"cannot export this network with torch.export: {shorten(error, 500)}"
        ) from error
    loaded = torch.export.load(archive).module()
    archive.rename(path)

    def run(x: Array) -> Array:
        with torch.no_grad():
            return np.asarray(loaded(torch.from_numpy(x)))

    return run, ""


FORMATS: Mapping[str, _Write] = {"onnx": _onnx, "torch": _torch}
"""Functions that write a network to a path, by format. Each returns a function that
runs the written network, and ""; or None, and the reason why the network cannot be run.
"""


def metadata(model: Predictor) -> dict[str, object]:
    """Return a dict of JSON values that describes inputs and outputs, for programs that
    use the network.
    """
    task = model.task
    return {
        "task": task.name,
        "input_shape": list(task.input_shape),
        "target": task.target.kind,
        "output_shape": list(task.target.output_shape),
        "label_names": list(model.label_names),
        "outputs": "logits" if model.decides else "values",
        "method": composed(model.config) or model.config.method,
        "body": model.config.body.name,
        "trial": model.config.trial,
        "preprocessing": model.preprocessing_json,
    }


def _example(model: Predictor) -> tuple[Tensor, dict[str, object]]:
    return _inputs(2, model.task.input_shape), {
        "inputs": {0: torch.export.Dim("batch", min=1, max=65536)}
    }


def _inputs(num: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(num, *shape, generator=torch.Generator().manual_seed(num))


def _difference(run: _Run, model: _Whole, shape: tuple[int, ...]) -> float:
    """Return the largest difference for random inputs of several batch sizes; raises
    UserError if it is too large.
    """
    largest = 0.0
    for num in (1, 2, 5):
        inputs = _inputs(num, shape)
        with torch.no_grad():
            expected = model(inputs).numpy()
        found = run(inputs.numpy())
        if found.shape != expected.shape:
            raise UserError(
                f"the exported network returns shape {found.shape} instead of"
                f" {expected.shape}"
            )
        scale = max(float(np.abs(expected).max()), 1e-6)
        largest = max(largest, float(np.abs(found - expected).max()) / scale)
    if not largest <= TOLERANCE:
        raise UserError(
            f"the exported network differs from the model by {largest:.2g} of its"
            f" largest output, more than {TOLERANCE:g}: nothing was written; try"
            f" another format ({', '.join(FORMATS)})"
        )
    return largest
