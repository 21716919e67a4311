"""Infer a task from own data, each property with its reason.

The properties are preprocessing, splits, loss, metric and body.
"""

import hashlib
import json
import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orca_ray.data.layout import SplitName
from orca_ray.data.rows import PACKAGED_BODIES, Array, ModalityName, row_slices
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, printable, quoted
from orca_ray.own_data import Finding, Notes, Options, UserData, Warn, leaks, read
from orca_ray.own_data import splits as own_splits
from orca_ray.own_data.array_fit import (
    LEAST_RATE,
    Survey,
    fit_array,
    fit_audio,
    survey_samples,
)
from orca_ray.own_data.array_inputs import ArrayInputs, AudioInputs
from orca_ray.own_data.folds import draw_folds, lacks_class
from orca_ray.own_data.forward import ForwardRule
from orca_ray.own_data.table_fit import fit_table
from orca_ray.own_data.tables import TableInputs
from orca_ray.own_data.targets import (
    FittedTarget,
    TargetCoding,
    fit_target,
    warn_absent,
    without_absent,
)
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import BENCHMARK, refuse_build
from orca_ray.tasks.task import Task
from orca_ray.version import __version__

logger = logging.getLogger(__name__)

Encoder = TableInputs | ArrayInputs | AudioInputs


_VERSION: Final = 2
"""Version of the fields of `Preprocessing`."""


class Preprocessing(BaseModel):
    """Record of how a user's data are read, checked and encoded.

    It is fitted on train, and stored as JSON with each model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[2] = _VERSION
    reading: Options
    """Options with which files are read: columns, keys, axes, colours and rate as in
    training.
    """
    encoder: Annotated[Encoder, Field(discriminator="form")]
    target: TargetCoding

    def read(self, path: Path | str, *, labelled: bool = False) -> UserData:
        """Read a file or folder as the training data were read.

        Without ``labelled``, targets may be missing.
        """
        return read(path, self.reading, labelled=labelled)

    def inputs(self, data: UserData, warn: Warn = logger.warning) -> Array:
        """Return model inputs, float32 [N, *input_shape].

        The samples must fit into memory (see `UserData.batches`). ``warn`` is called
        for suspicious samples that can still be predicted.

        Raises UserError, with the column, row or file, for data of another kind, shape,
        type or scale than those of training.
        """
        return self.encoder.encode(data, warn)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, from which `from_json` makes an equal preprocessing."""
        return self.model_dump(mode="json", exclude_defaults=False)

    @classmethod
    def from_json(
        cls, content: Mapping[str, Any], where: str = "preprocessing.json"
    ) -> Self:
        """Return the preprocessing in a JSON object.

        Raises UserError, which begins with ``where``, if the object is invalid or has
        the version of another orca-ray.
        """
        version = content.get("version")
        if version != _VERSION:
            raise UserError(
                f"{where}: the preprocessing of this model has version"
                f" {quoted(version)}, and orca-ray {__version__} reads version"
                f" {_VERSION}: install the orca-ray that wrote the model, or run"
                " orca-sweep adapt again"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{where}: no valid preprocessing of version {_VERSION}: {field}:"
                f" {first['msg']}"
            ) from error


PREPARATION = 2
"""Version of the encoding of data without groups.

It is increased when equal data and options give other arrays, so that the task of these
data gets another name.
"""
GROUPED = 3
"""Version of the encoding of data with groups."""
GROUPED_IN_TIME = 4
"""Version of the splits of data with groups and times, which once divided groups."""
CLASSES_OF_TWO = 1
"""Version of the splits of data with a class of two samples, which were once left out.
"""
SEVERAL_NUMBERS = 2
"""Version of arrays of features with several numbers as targets, once read as fields.
"""
TEXTS = 3
"""Version of tables with lists of categories or free text.

Lists were once single categories, and free text was left out.
"""
_LAYERS = 4
"""Number of layers of the default body: that of the pocket tasks."""
_IMBALANCE = 4.0
"""Ratio of the largest to the smallest class from which classes are weighted."""
_READING = (
    "target",
    "inputs",
    "group",
    "time",
    "split",
    "columns",
    "axes",
    "colour",
    "rate",
)
"""Options that are needed to read more files in the same way."""
_MOST_CHECKED = 5_000_000
"""Largest number of values of an array whose columns are compared with the target."""


@dataclass(frozen=True)
class Inferred:
    """Record of a task inferred from own data, whose arrays are not prepared yet."""

    task: Task
    """The declaration; `orca_ray.own_data.registration.register` prepares its arrays.
    """
    preprocessing: Preprocessing
    splits: Mapping[SplitName, Indices]
    """Sorted indices of the samples of train, validation and, if a test split was held
    out, test.
    """
    folds: Array | None
    """Fold, from 1, of each sample of train, then of validation [R, N_dev], drawn R
    times; None: no folds.
    """
    fold_training: Array | None
    """Which of these samples train for validation and for each fold [1 + K, N_dev];
    None: all that are not in the fold.
    """
    body: str
    """Body of the trials of an adaptation: that of the task, or the whole default body
    on GPUs.
    """
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _DividedData:
    """A user's data with a coded target, divided into splits."""

    data: UserData
    target: FittedTarget
    splits: own_splits.Splits
    options: Options
    notes: Notes

    @property
    def y(self) -> Array:
        """Targets of all samples as given, but numbers with units as numbers."""
        assert self.data.y is not None
        return self.data.y


def infer(
    data: UserData,
    options: Options | None = None,
    *,
    test: bool = True,
    gpus: bool = False,
    warn: Warn = logger.warning,
) -> Inferred:
    """Infer the task of data with targets.

    All samples are read once, batch by batch. Statistics are computed on the training
    split. ``options`` override those that the data were read with. ``warn`` is called
    with each warning. ``test``: whether there may be a test split. If not, none is held
    out, no folds are drawn, and a class with a single sample is kept in train (see
    `splits.draw_splits`). ``gpus``: whether trials run on GPUs. `Inferred.body` is then
    the whole default body, unless a body is given.

    Raises UserError for options that do not fit, and for data that nothing can be
    learnt from: no target, one class, too few samples or groups, different labels with
    the same text, no usable column, or samples of unequal axes.
    """
    options = options.over(data.options) if options else data.options
    notes = Notes()
    for note in data.notes:
        notes.warn(note)
    divided = _divide(data, options, notes, test=test)
    target = divided.target
    splits = divided.splits
    is_class_absent = target.classes is not None and warn_absent(target, splits, notes)
    summary = survey_samples(divided.data)
    encoder = _fit_encoder(divided, summary)
    coding = target.coding
    if coding.kind == "dense" and isinstance(encoder, ArrayInputs):
        coding = _with_field_axes(coding, encoder)
    hashes = _input_hashes(divided.data, encoder, summary)
    folds = None
    fold_training = None
    if test:
        rows = np.concatenate([splits["train"], splits["validation"]])
        folds = draw_folds(divided.data, rows, target.classes, hashes, options, notes)
        if lacks_class(folds, rows, target.classes):
            is_class_absent = True
        rule = ForwardRule.of_data(divided.data, options, notes)
        if rule is not None and folds is not None:
            fold_training = rule.training_of_folds(rows, splits["validation"], folds)
    if summary.num_missing:
        notes.warn(
            f"{summary.num_missing} samples have missing or infinite values, which"
            " become the mean"
        )
    separate_splits = dict(splits)
    if fold_training is not None:
        separate_splits["train"] = rows[fold_training[0]]
    _warn_of_leaks(divided, encoder, hashes, summary, separate_splits)
    preprocessing = Preprocessing(
        reading=_reading_options(divided.data, summary, options),
        encoder=encoder,
        target=coding,
    )
    domain = _find_domain(divided.data, preprocessing)
    measures = _choose_measures(divided, domain, is_class_absent=is_class_absent)
    task = _declare_task(divided, preprocessing, summary, measures, domain)
    body = _choose_body(task, options, notes, gpus=gpus)
    for warning in notes.warnings:
        warn(f"{task.name}: {warning}")
    return Inferred(
        task,
        preprocessing,
        splits,
        folds,
        fold_training,
        body,
        tuple(notes.findings),
        tuple(notes.warnings),
    )


def _divide(
    data: UserData, options: Options, notes: Notes, *, test: bool
) -> _DividedData:
    """Code the target of the data, and divide the samples into splits.

    Classes that train lacks are left out. ``test``: whether there may be a test split.
    """
    if not len(data):
        raise UserError(f"{data.source}: no samples")
    if data.y is None:
        raise UserError(
            f"{data.source}: no target; name a column, key or file with --target"
        )
    target = fit_target(data, data.y, options, notes, test=test)
    if target.coding.form:
        data = replace(data, y=target.coding.encode(data.y))
    splits = own_splits.draw_splits(
        data, target.rows, target.classes, options, notes, test=test
    )
    if target.classes is not None:
        target, splits = without_absent(target, splits, notes)
    return _DividedData(data, target, splits, options, notes)


def _fit_encoder(divided: _DividedData, summary: Survey) -> Encoder:
    """Return the encoder of the inputs, fitted on train."""
    data = divided.data
    options = divided.options
    notes = divided.notes
    train = divided.splits["train"]
    if data.kind_hint == "table":
        return fit_table(data, train, options, notes)
    is_audio = data.kind_hint == "audio" and data.rate is not None
    if is_audio and cast(float, data.rate) >= LEAST_RATE:
        return fit_audio(data, train, summary, options, notes)
    is_dense = divided.target.coding.kind == "dense"
    return fit_array(data, train, summary, options, notes, dense=is_dense)


def _input_hashes(data: UserData, encoder: Encoder, summary: Survey) -> Array:
    """Return a hash of each sample's inputs [N], without columns that are left out."""
    if not isinstance(encoder, TableInputs):
        return summary.hashes
    frame = cast(pd.DataFrame, data.x)
    if len(encoder.names) == len(frame.columns):
        return summary.hashes
    # A column that is left out, such as an id, would hide equal rows.
    return survey_samples(replace(data, x=frame[list(encoder.names)])).hashes


def _choose_body(task: Task, options: Options, notes: Notes, *, gpus: bool) -> str:
    """Return the body of an adaptation's trials, and add it to the findings."""
    if options.body:
        notes.add_finding("body", task.body, "given", "body")
        return task.body
    whole = PACKAGED_BODIES[task.modality]
    if gpus:
        body = whole
        why = "whole body: trials run on a GPU"
    else:
        body = task.body
        why = f"four layers: trials run on a CPU; --body {whole} takes all"
    notes.add_finding("body", body, f"shape {task.input_shape}; {why}", "body")
    return body


def _with_field_axes(coding: TargetCoding, encoder: ArrayInputs) -> TargetCoding:
    """Return the coding of a field with channels first, if the data have them last."""
    spatial = encoder.shape[1:]
    shape = coding.shape
    is_last = shape[:-1] == spatial and shape[1:] != spatial
    if not is_last:
        return coding
    axes = (len(shape) - 1, *range(len(shape) - 1))
    return coding.model_copy(
        update={"axes": axes, "shape": tuple(shape[axis] for axis in axes)}
    )


def _reading_options(data: UserData, summary: Survey, options: Options) -> Options:
    """Return the options with which more files are read in the same way."""
    values = {
        name: getattr(options, name)
        for name in _READING
        if name in options.model_fields_set
    }
    if data.kind_hint == "table":
        values.setdefault("target", data.target_names)
    if data.kind_hint == "images":
        is_grey = all(len(shape) == 2 for shape in summary.shapes)
        values.setdefault("colour", "grey" if is_grey else "rgb")
    if data.rate is not None:
        values.setdefault("rate", data.rate)
    if data.channels:
        values.setdefault("inputs", data.channels)
    return Options(**values)


def _warn_of_leaks(
    divided: _DividedData,
    encoder: Encoder,
    hashes: Array,
    summary: Survey,
    splits: own_splits.Splits,
) -> None:
    """Warn of inputs that give the target away, and of samples in several splits.

    ``hashes`` [N] are those of the inputs. ``splits``: train has only the samples that
    train for validation.
    """
    data = divided.data
    warnings = leaks.duplicates(data, hashes, splits)
    if not warnings and summary.sketches is not None:
        warnings = leaks.near_copies(data, summary.sketches, splits)
    frame = _compared_columns(data, divided.options)
    if frame is not None:
        warnings += _target_leaks(divided, frame)
    is_drawn_table = data.kind_hint == "table" and data.splits is None
    if frame is not None and is_drawn_table:
        if data.groups is None:
            warnings += leaks.group_columns(frame, splits, map(str, frame.columns))
        if data.times is None:
            warnings += _date_leaks(encoder)
    if data.groups is not None:
        warnings += leaks.divided_groups(data.groups, splits)
    for warning in warnings:
        divided.notes.warn(warning)


def _compared_columns(data: UserData, options: Options) -> pd.DataFrame | None:
    """Return the columns that are compared with the target; None: the inputs have none.

    Columns of an array are its features.
    """
    if hasattr(data.x, "columns"):
        table = cast(pd.DataFrame, data.x)
        dropped = [
            name
            for name in table.columns
            if options.columns.get(str(name)) == "drop" or _holds_lists(table[name])
        ]
        return table.drop(columns=dropped)
    if not isinstance(data.x, np.ndarray) or data.x.ndim != 2:
        return None
    if data.x.size > _MOST_CHECKED:
        return None
    names = [f"feature {place + 1}" for place in range(data.x.shape[1])]
    return pd.DataFrame(data.x, columns=names)


def _holds_lists(column: "pd.Series[Any]") -> bool:
    """Return whether a column holds lists or the like, which have no hash."""
    valid = column.dropna()
    return len(valid) > 0 and isinstance(valid.iloc[0], list | dict | np.ndarray)


def _target_leaks(divided: _DividedData, frame: pd.DataFrame) -> list[str]:
    """Return warnings about columns that give classes or one number away."""
    target = divided.target
    if target.coding.kind not in ("classes", "scalar"):
        return []
    y = target.classes
    if y is None:
        y = target.coding.encode(divided.y)
    return leaks.target_columns(
        frame.iloc[target.rows],
        y[target.rows],
        classes=target.classes is not None,
        table=divided.data.kind_hint == "table",
    )


def _date_leaks(encoder: Encoder) -> list[str]:
    """Return a list with a warning if a column holds dates; empty if none does.

    The warning says that the split is not by time.
    """
    if not isinstance(encoder, TableInputs):
        return []
    for column in encoder.columns:
        if column.kind == "date":
            option = f"--time {shlex.quote(printable(column.name))}"
            return [
                f"column {quoted(column.name)} holds dates and the split is not by"
                f" time: to predict later ones, use {option}"
            ]
    return []


@dataclass(frozen=True)
class _Measures:
    """Names of a loss and a metric, and why these are chosen."""

    loss: str
    metric: str
    why: str


def _choose_measures(
    divided: _DividedData, domain: str, *, is_class_absent: bool
) -> _Measures:
    """Return loss and metric, as given or inferred, and add them to the findings.

    ``domain``: that of the task.
    ``is_class_absent``: whether a split or a fold lacks a class. Raises UserError for
    unknown names in the options.
    """
    options = divided.options
    default = _default_measures(divided, domain, is_class_absent=is_class_absent)
    loss = options.loss or default.loss
    metric = options.metric or default.metric
    if options.loss:
        from orca_ray.tasks.losses import get_loss

        get_loss(options.loss)
    get_metric(metric)
    notes = divided.notes
    notes.add_finding("loss", loss, "given" if options.loss else default.why, "loss")
    notes.add_finding(
        "metric", metric, "given" if options.metric else default.why, "metric"
    )
    return _Measures(loss, metric, default.why)


def _default_measures(
    divided: _DividedData, domain: str, *, is_class_absent: bool
) -> _Measures:
    """Return the usual loss and metric of the target's kind."""
    kind = divided.target.coding.kind
    if kind == "classes":
        return _class_measures(divided, is_class_absent=is_class_absent)
    if kind == "labels":
        return _Measures("bce", "one_minus_auroc", "usual for the kind of target")
    if kind == "scalar":
        return _Measures("mse", "rmse", "usual for the kind of target")
    if domain == "tabular":
        return _Measures("mse", "rmse", "several numbers")
    if _has_zero_field(divided):
        return _Measures("rmse", "rmse", "some fields are zero")
    why = "error relative to the size of each field"
    return _Measures("relative_l2", "relative_l2", why)


def _class_measures(divided: _DividedData, *, is_class_absent: bool) -> _Measures:
    """Return loss and metric of classes, by how unequal their sizes are."""
    target = divided.target
    assert target.classes is not None
    counts = np.bincount(
        target.classes[divided.splits["train"]],
        minlength=len(target.coding.label_names),
    )
    if counts.max() < _IMBALANCE * counts.min():
        return _Measures("cross_entropy", "error", "classes have similar sizes")
    why = f"classes of {counts.min()} to {counts.max()} samples"
    metric = "one_minus_macro_f1"
    if len(counts) == 2 and not is_class_absent:
        metric = "one_minus_auroc"
    loss = "cross_entropy"  # most metrics want the probabilities that occur
    if (divided.options.metric or metric) == "one_minus_macro_f1":
        loss = "weighted_cross_entropy"
    return _Measures(loss, metric, why)


def _has_class_of_two(divided: _DividedData) -> bool:
    """Return whether a class is too small for three splits, and has been kept."""
    target = divided.target
    if target.classes is None:
        return False
    counts = np.unique(target.classes[target.rows], return_counts=True)[1]
    return int(counts.min()) == own_splits.LEAST_WITHOUT_TEST


def _has_zero_field(divided: _DividedData) -> bool:
    """Return whether a target field of a sample is zero everywhere."""
    y = divided.y
    rows = np.concatenate(list(divided.splits.values()))
    axes = tuple(range(1, y.ndim))
    return any(not np.any(y[rows[part]], axis=axes).all() for part in row_slices(rows))


def _declare_task(
    divided: _DividedData,
    preprocessing: Preprocessing,
    summary: Survey,
    measures: _Measures,
    domain: str,
) -> Task:
    """Return the declaration of the task."""
    data = divided.data
    options = divided.options
    splits = divided.splits
    encoder = preprocessing.encoder
    shape = encoder.shape
    modality: ModalityName = "image" if len(shape) == 3 else "sequence"
    stem = options.name or Path(data.source).stem
    slug = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:40] or "data"
    return Task(
        name=f"{BENCHMARK}/{slug}-{_digest(divided, encoder, summary, domain)}",
        title=options.title or printable(stem),
        domain=domain,
        input_shape=shape,
        target=preprocessing.target.target,
        loss=measures.loss,
        metric=measures.metric,
        body=options.body or f"{PACKAGED_BODIES[modality]}:layers={_LAYERS}",
        num_samples=(
            len(splits["train"]),
            len(splits["validation"]),
            len(splits.get("test", ())),
        ),
        licence=options.licence,
        citation=options.citation or "own data",
        reference=options.reference or "own data",
        build=refuse_build,
        input_scale="standardised",
    )


def _find_domain(data: UserData, preprocessing: Preprocessing) -> str:
    """Return the domain of the task, such as "tabular"."""
    encoder = preprocessing.encoder
    if isinstance(encoder, AudioInputs):
        return "audio"
    is_features = isinstance(encoder, ArrayInputs) and encoder.per_feature
    target = preprocessing.target
    has_numbers = len(target.shape) == 1 and target.shape != encoder.shape[1:]
    if target.kind == "dense" and data.kind_hint == "array":
        return "tabular" if is_features and has_numbers else "field"
    if data.kind_hint == "table" or is_features:
        return "tabular"
    return "image" if len(encoder.shape) == 3 else "time series"


def _digest(
    divided: _DividedData, encoder: Encoder, summary: Survey, domain: str
) -> str:
    """Return 6 hexadecimal digits of a hash of content and options.

    Names and texts for people do not change the hash.
    """
    data = divided.data
    options = divided.options
    hashed_options = options.model_dump(
        mode="json",
        exclude={"data", "name", "title", "licence", "citation", "reference"},
    )
    if options.gap is None:  # earlier versions had no gap
        del hashed_options["gap"]
    version = PREPARATION if data.groups is None else GROUPED
    header = [version, hashed_options, data.kind_hint, data.rate]
    if data.groups is not None and data.times is not None:
        header.append(GROUPED_IN_TIME)
    if _has_class_of_two(divided):
        header.append(CLASSES_OF_TWO)
    is_array = data.kind_hint == "array"
    if is_array and domain == "tabular" and divided.target.coding.kind == "dense":
        header.append(SEVERAL_NUMBERS)
    if isinstance(encoder, TableInputs) and encoder.has_texts:
        header.append(TEXTS)
    columns = list(map(str, getattr(data.x, "columns", ())))
    shapes = [list(shape) for shape in sorted(summary.shapes)]
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(json.dumps([columns, shapes]).encode())
    digest.update(np.ascontiguousarray(summary.hashes).tobytes())
    for array in (data.y, data.groups, data.times, data.splits):
        if array is None:
            digest.update(b"None")
        elif array.dtype.kind in "OM":
            digest.update(repr(array.tolist()).encode())
        else:
            for rows in row_slices(array):
                digest.update(np.ascontiguousarray(array[rows]).tobytes())
    return digest.hexdigest()[:6]
