"""Predictions as tables, and networks for other programs.

Networks are written as ONNX or by `torch.export`, both with a dynamic batch size.
Inputs of a network are float32 [B, *input_shape], as the preprocessing returns them;
outputs are logits, or numbers in the units of the target, as `Predictor.outputs`
returns them. Label names and preprocessing are stored as JSON.
"""

import importlib.util
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from orca_ray.data import cache
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, csv_cell, lookup, shorten
from orca_ray.methods.model_config import describe_members
from orca_ray.methods.model_inputs import ModelInputs
from orca_ray.methods.snapshot import averaging
from orca_ray.models.mixture import Mixture
from orca_ray.paths import check_output
from orca_ray.predictor import Predictor


def check_predictions(path: Path, model: Predictor) -> None:
    """Raise UserError if predictions of ``model`` cannot be written to ``path``."""
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise UserError(
            f"cannot write predictions to {path}: its name must end with"
            f" {' or '.join(WRITERS)}"
        )
    if suffix == ".csv" and model.task.target.kind == "dense":
        raise UserError(
            f"fields of shape {model.task.target.shape} do not fit into {path}: name a"
            " file .npz or .parquet"
        )
    check_output(path, "the file")


def write_predictions(
    model: Predictor,
    inputs: ModelInputs,
    path: Path,
    progress: Callable[[int], None] = lambda num_rows: None,
    *,
    interval: float | None = None,
) -> None:
    """Write a row for each sample to ``path``.

    A row has ``id``, ``prediction`` and, except for numbers, probabilities. ``id`` is
    the name of the sample's file or, if it has none, its number from 0. Columns of a
    table that the model does not read and that differ in all rows follow under their
    own names; one named ``id`` takes the number's place. Column ``p_NAME`` has the
    probability of a class or label, ``probability`` that of a mask. Predicted fields
    are nested lists. An ``.npz`` archive has arrays instead: ``prediction`` [N, ...],
    ``probability`` [N, K] or [N, ...], ``labels`` [K] and the ids [N]. ``progress`` is
    called with the number of rows so far. A CSV file has the text of `csv_cell`. The
    file appears when it is complete.

    With ``interval``, a level, rows also have ``low`` and ``high`` of conformal
    intervals, or the conformal ``set`` of classes, as text; an archive has ``low`` and
    ``high``, or ``set`` as bool [N, K].

    Raises UserError for inputs that the model cannot take, and if `check_predictions`
    or `Predictor.check_interval` does.
    """
    check_predictions(path, model)
    if interval is not None:
        model.check_interval(interval)
    target = path.absolute()
    ids = _ids(model, inputs)
    whole = dict(ids)
    if model.label_names:
        whole["labels"] = np.array(model.label_names)
    make_batch, open_writer = WRITERS[path.suffix.lower()]
    with (
        cache.scratch_directory(target.parent) as scratch,
        cache.disk_errors(target.parent),
    ):
        writer = None
        num_rows = 0
        try:
            for outputs in model.stream(inputs):
                rows = slice(num_rows, num_rows + len(outputs))
                row_ids = {name: values[rows] for name, values in ids.items()}
                batch = make_batch(model, outputs, row_ids, interval)
                if writer is None:
                    writer = open_writer(scratch / target.name, batch, whole)
                writer.write_table(batch)
                num_rows += len(outputs)
                progress(num_rows)
        finally:
            if writer is not None:
                writer.close()
        cache.replace_file(scratch / target.name, target)


def _ids(model: Predictor, inputs: ModelInputs) -> dict[str, Array]:
    """Return the columns that identify samples, as `write_predictions` describes them.

    They are ``id``, and columns of a user's table that the model does not read and that
    differ in all rows.
    """
    data = inputs.data
    ids: dict[str, Array] = {"id": np.arange(len(data))}
    if data.names:  # samples that are files
        ids["id"] = np.array(data.names, dtype=object)
    read_columns: Sequence[str] = ()
    if model.preprocessing is not None:
        read_columns = getattr(model.preprocessing.encoder, "names", ())
    for name, values in data.keys.items():
        if name not in read_columns:
            ids[name] = values
    return ids


def _table(
    model: Predictor,
    outputs: Array,
    ids: Mapping[str, Array],
    interval: float | None,
) -> Any:
    """Return the predictions for a batch of samples as an Arrow table.

    ``outputs`` are the model's outputs, and ``ids`` the columns of `_ids` for these
    samples. ``interval``: level of intervals or sets; None: there are none.
    """
    columns: dict[str, Any] = {name: pa.array(values) for name, values in ids.items()}
    columns["prediction"] = _predictions(model, model.decide(outputs))
    for name, values in _interval_arrays(model, outputs, interval).items():
        is_set = name == "set"
        columns[name] = _set_texts(model, values) if is_set else _nested(values)
    if model.task.target.kind in ("classes", "labels"):
        probabilities = model.probabilities(outputs)
        for index, name in enumerate(column_names(model)):
            columns[name] = pa.array(probabilities[:, index])
    elif model.decides:
        columns["probability"] = _nested(model.probabilities(outputs))
    method = describe_members(model.config) or model.config.method
    about = {"task": model.task.name, "method": method, "trial": model.config.trial}
    return pa.table(columns).replace_schema_metadata({"orca_ray": json.dumps(about)})


def _interval_arrays(
    model: Predictor, outputs: Array, interval: float | None
) -> dict[str, Array]:
    """Return ``low`` and ``high``, or the ``set`` of classes; {} without a level."""
    if interval is None:
        return {}
    if model.decides:
        return {"set": model.sets_of(outputs, interval)}
    low, high = model.interval_of(outputs, interval)
    return {"low": low, "high": high}


def _arrays(
    model: Predictor,
    outputs: Array,
    ids: Mapping[str, Array],
    interval: float | None,
) -> dict[str, Array]:
    """Return a batch of rows as arrays, without the ids."""
    arrays = {"prediction": model.decide(outputs)}
    arrays |= _interval_arrays(model, outputs, interval)
    if model.decides:
        arrays["probability"] = model.probabilities(outputs)
    return arrays


class _NpzWriter:
    """Writer of an ``.npz`` archive, whose arrays are in memory until `close`."""

    def __init__(
        self, path: Path, first: Mapping[str, Array], whole: Mapping[str, Array]
    ) -> None:
        """Prepare to write the arrays ``whole``, and arrays that begin with ``first``.

        Raises UserError if there is too little memory.
        """
        row_bytes = sum(rows[:1].nbytes for rows in first.values())
        # the batches, and the arrays that `close` makes of them
        num_bytes = 2.0 * len(whole["id"]) * row_bytes
        for values in whole.values():
            if values.dtype.kind == "O":  # text, with 4 bytes a character in an array
                num_bytes += 4.0 * len(values) * max(map(len, values))
        cache.check_memory(
            num_bytes,
            f"predictions as {path.name}",
            "write a file .parquet, which is written in parts",
        )
        self._path = path
        self._whole = whole
        self._batches: list[Mapping[str, Array]] = []

    def write_table(self, arrays: Mapping[str, Array]) -> None:
        """Keep the next rows of each array."""
        self._batches.append(arrays)

    def close(self) -> None:
        """Write the archive; texts have the width of the longest, as NumPy needs."""
        arrays = dict(self._whole)
        for name in self._batches[0]:
            arrays[name] = np.concatenate([batch[name] for batch in self._batches])
        with zipfile.ZipFile(self._path, "w") as archive:
            for name, values in arrays.items():
                if values.dtype.kind == "O":
                    values = values.astype(str)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, values, allow_pickle=False)


def _cells(
    model: Predictor,
    outputs: Array,
    ids: Mapping[str, Array],
    interval: float | None,
) -> Any:
    """Return the result of `_table` with cells and column names of `csv_cell`."""
    table = _table(model, outputs, ids, interval)
    columns = []
    for column in table.columns:
        if pa.types.is_string(column.type):
            column = pa.array(map(csv_cell, column.to_pylist()), pa.string())
        columns.append(column)
    return pa.table(columns, [str(csv_cell(name)) for name in table.column_names])


WRITERS: Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    ".parquet": (
        _table,
        lambda path, table, whole: pq.ParquetWriter(path, table.schema),
    ),
    ".npz": (_arrays, _NpzWriter),
    ".csv": (_cells, lambda path, table, whole: pacsv.CSVWriter(path, table.schema)),
}
"""Two functions for each suffix of a file.

The first makes a batch of predictions, the second opens a writer of such batches.
"""


def column_names(model: Predictor) -> list[str]:
    """Return the column name of each class or label, e.g. ``p_cat``.

    Equal names get a number, e.g. ``p_cat_3``.
    """
    labels = model.label_names or range(model.task.target.size)
    names = [f"p_{label}" for label in labels]
    return [
        name if names.count(name) == 1 else f"{name}_{number}"
        for number, name in enumerate(names)
    ]


def _predictions(model: Predictor, predictions: Array) -> Any:
    """Return the column ``prediction`` for the result of `Predictor.decide`."""
    if model.task.target.kind != "labels":
        return _nested(predictions)
    return _set_texts(model, predictions)


def _set_texts(model: Predictor, members: Array) -> Any:
    """Return the names of the labels or classes in each set, bool [N, K], as text.

    They are joined, because CSV files have no lists.
    """
    names = model.label_names or tuple(map(str, range(model.task.target.size)))
    texts = [
        "; ".join(names[number] for number in np.flatnonzero(row)) for row in members
    ]
    return pa.array(texts, pa.string())


def _nested(values: Array) -> Any:
    """Return an Arrow array of N values or, for fields, of N nested lists."""
    flat = pa.array(values.ravel())
    # The last axis gives the innermost lists; the first one is that of the samples.
    for size in values.shape[:0:-1]:
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat


METADATA = "orca_ray"
"""Key of the metadata in an ONNX file; a torch program has a file of this name."""
TOLERANCE = 1e-4
"""Largest difference between outputs of an exported network and of the model.

It is relative to the largest output.
"""
_ONNX_MOST_BYTES = 2**31 - 2**24
"""Size of weights that one ONNX file can hold; larger ones go into a second file."""


@dataclass(frozen=True)
class Exported:
    """Description of an exported network that was written to a file."""

    path: Path
    difference: float | None
    """Largest difference from the model, relative to the largest output.

    None: the outputs were not compared.
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
        self.mixture = Mixture(
            model.members,
            config.member_weights or (1.0,),
            averaging(config.task.target, config.task.loss),
            config.temperature,
        )
        self._mixes = bool(config.members)
        for name in ("y_mean", "y_std"):
            stored = getattr(config, name)
            value = None if stored is None else torch.from_numpy(stored.array())
            self.register_buffer(name, value)
        self._is_scaled = config.y_mean is not None and not model.decides

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs [B, *output_shape], computed without autocast.

        Autocast cannot be exported.
        """
        member_outputs = (
            network.head(network.encode(network.embed(inputs)))
            for network in self.mixture.networks
        )
        outputs: Tensor
        if self._mixes:
            outputs = self.mixture.combined(member_outputs)
        else:
            outputs = next(member_outputs)
        if self._is_scaled:
            outputs = outputs * self.y_std + self.y_mean
        return outputs


def export_model(model: Predictor, to: str, path: Path) -> Exported:
    """Write the network of ``model`` to ``path``, and compare outputs with the model's.

    ``to`` is a format of `FORMATS`. Raises UserError, and writes nothing, for another
    format, a path that cannot be written, a network that cannot be exported (of an
    ensemble, the member is named), a missing library, or outputs that differ by more
    than `TOLERANCE`.
    """
    write = lookup("export format", to, FORMATS)
    check_output(path, "the file")
    if to == "onnx" and importlib.util.find_spec("onnxscript") is None:
        raise UserError(
            "to export to ONNX, install the package 'onnxscript': pip install"
            " 'orca-ray[export]'"
        )
    folder = path.absolute().parent
    if model.device.type != "cpu":
        model = Predictor(model.snapshot(), device="cpu")
    with cache.scratch_directory(folder) as scratch, cache.disk_errors(folder):
        try:
            written = _write_quietly(write, model, scratch / path.name)
        except UserError as error:
            raise UserError(
                f"{_failing_member(write, model, scratch)}{error}"
            ) from error
        difference = None
        if written.run is not None:
            expected = _Whole(model).eval()
            difference = _checked_difference(
                written.run, expected, model.task.input_shape
            )
        # In this order, the second file of large weights (FILE.data) comes first.
        for file in sorted(scratch.iterdir(), reverse=True):
            cache.replace_file(file, folder / file.name)
    return Exported(path, difference, written.note)


_Run = Callable[[Array], Array]
"""Function that returns the outputs of an exported network for a batch of inputs."""


class Written(NamedTuple):
    """A network that has been written."""

    run: _Run | None
    """Runs the written network; None: it cannot be run here."""
    note: str = ""
    """Why it cannot be run."""


_Write = Callable[[_Whole, Predictor, Path], Written]
"""Function that writes a network in one format; see `FORMATS`."""


def _write_quietly(write: _Write, model: Predictor, path: Path) -> Written:
    """Write the network of ``model`` to ``path`` by a function of `FORMATS`."""
    with warnings.catch_warnings():
        # the exporters warn about their own future versions
        warnings.simplefilter("ignore")
        return write(_Whole(model).eval(), model, path)


def _failing_member(write: _Write, model: Predictor, scratch: Path) -> str:
    """Return the first member of an ensemble that cannot be exported alone.

    The text is the beginning of an error message; "" if each member can be exported.
    """
    for number, config in enumerate(model.config.members):
        # `Predictor.__init__` would build the networks again.
        alone = Predictor.__new__(Predictor)
        vars(alone).update(vars(model), config=config, members=[model.members[number]])
        try:
            _write_quietly(write, alone, scratch / "member")
        except UserError:
            return f"member {number} of the ensemble, by {config.method}: "
    return ""


def _write_onnx(whole: _Whole, model: Predictor, path: Path) -> Written:
    """Write an ONNX file, and return the function that runs it by onnxruntime."""
    num_bytes = sum(value.nbytes for value in whole.state_dict().values())
    try:
        program = torch.onnx.export(
            whole,
            (_random_inputs(2, model.task.input_shape),),
            dynamo=True,
            dynamic_shapes=_dynamic_shapes(),
            input_names=["inputs"],
            output_names=["outputs"],
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[METADATA] = json.dumps(metadata(model))
        program.save(path, external_data=num_bytes > _ONNX_MOST_BYTES)
    # the exporter raises many types, of torch and of onnxscript
    except Exception as error:
        raise UserError(
            f"cannot export this network to ONNX: {shorten(error, 500)}; try --to torch"
        ) from error
    try:
        import onnxruntime
    except ModuleNotFoundError:
        note = (
            "not checked, as onnxruntime is not installed: pip install"
            " 'orca-ray[export]'"
        )
        return Written(None, note)
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )

    def run(x: Array) -> Array:
        [outputs] = session.run(None, {"inputs": x})
        return np.asarray(outputs)

    return Written(run)


def _write_torch(whole: _Whole, model: Predictor, path: Path) -> Written:
    """Write a program of `torch.export`, and return the function that runs it."""
    sample = _random_inputs(2, model.task.input_shape)
    try:
        with torch.no_grad():
            program = torch.export.export(
                whole, (sample,), dynamic_shapes=_dynamic_shapes()
            )
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

    return Written(run)


FORMATS: Mapping[str, _Write] = {"onnx": _write_onnx, "torch": _write_torch}
"""Functions that write a network to a path, by format."""


def metadata(model: Predictor) -> dict[str, object]:
    """Return JSON values that describe inputs and outputs to users of the network."""
    task = model.task
    return {
        "task": task.name,
        "input_shape": list(task.input_shape),
        "target": task.target.kind,
        "output_shape": list(task.target.output_shape),
        "label_names": list(model.label_names),
        "outputs": "logits" if model.decides else "values",
        "method": describe_members(model.config) or model.config.method,
        "body": model.config.body.name,
        "trial": model.config.trial,
        "preprocessing": model.preprocessing_json,
    }


def _dynamic_shapes() -> dict[str, object]:
    """Return the axes of the inputs that may have another size than the sample's."""
    return {"inputs": {0: torch.export.Dim("batch", min=1, max=65536)}}


def _random_inputs(num: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(num, *shape, generator=torch.Generator().manual_seed(num))


def _checked_difference(run: _Run, model: _Whole, shape: tuple[int, ...]) -> float:
    """Return the largest difference of an exported network's outputs from the model's.

    ``run`` is the exported network. The inputs are random, in batches of several sizes.
    Raises UserError if the difference is larger than `TOLERANCE`.
    """
    largest = 0.0
    for num in (1, 2, 5):
        inputs = _random_inputs(num, shape)
        with torch.no_grad():
            expected = model(inputs).numpy()
        outputs = run(inputs.numpy())
        if outputs.shape != expected.shape:
            raise UserError(
                f"the exported network returns shape {outputs.shape} instead of"
                f" {expected.shape}"
            )
        scale = max(float(np.abs(expected).max()), 1e-6)  # never 0
        largest = max(largest, float(np.abs(outputs - expected).max()) / scale)
    if not largest <= TOLERANCE:  # NaN counts as too large
        raise UserError(
            f"the exported network differs from the model by {largest:.2g} of its"
            f" largest output, more than {TOLERANCE:g}: nothing was written; try"
            f" another format ({', '.join(FORMATS)})"
        )
    return largest
