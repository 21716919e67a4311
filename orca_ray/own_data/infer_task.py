"""Infer a task from own data: its preprocessing, splits, loss, metric and body, each
with its reason.
"""

import hashlib
import json
import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orca_ray.data.layout import SplitName
from orca_ray.data.rows import PACKAGED_BODIES, Array, ModalityName, row_slices
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, printable, quoted
from orca_ray.own_data import Finding, Notes, Options, UserData, Warn, leaks, read
from orca_ray.own_data import splits as own_splits
from orca_ray.own_data.array_fit import LEAST_RATE, Survey, fit_array, fit_audio, survey
from orca_ray.own_data.array_inputs import ArrayInputs, AudioInputs
from orca_ray.own_data.tables import TableInputs, fit_table
from orca_ray.own_data.targets import (
    FittedTarget,
    TargetCoding,
    fit_target,
    warn_absent,
    without_absent,
)
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import BENCHMARK, gone
from orca_ray.tasks.task import Task

logger = logging.getLogger(__name__)

Encoder = TableInputs | ArrayInputs | AudioInputs


class Preprocessing(BaseModel):
    """Record of how a user's data are read, checked and encoded; fitted on train,
    stored as JSON with each model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[2] = 2
    reading: Options
    """Options with which files are read: columns, keys, axes, colours and rate as in
    training.
    """
    encoder: Annotated[Encoder, Field(discriminator="form")]
    target: TargetCoding

    def read(self, path: Path | str, *, labelled: bool = False) -> UserData:
        """Read a file or folder as the training data were read; without ``labelled``,
        targets may be missing.
        """
        return read(path, self.reading, labelled=labelled)

    def inputs(self, data: UserData, warn: Warn = logger.warning) -> Array:
        """Return model inputs, float32 [N, *input_shape], of samples that fit into
        memory (see `UserData.batches`).

        Raises UserError, with the column, row or file, for data of another kind, shape,
        type or scale than those of training. ``warn`` is called for suspicious samples
        that can still be predicted.
        """
        return self.encoder.encode(data, warn)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, from which `from_json` makes an equal preprocessing."""
        return self.model_dump(mode="json", exclude_defaults=False)

    @classmethod
    def from_json(
        cls, content: Mapping[str, Any], where: str = "preprocessing.json"
    ) -> Self:
        """Return the preprocessing in a JSON object; raises UserError, which begins
        with ``where``, if invalid.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{where}: no valid preprocessing of version 2: {field}: {first['msg']}"
            ) from error


PREPARATION = 2
GROUPED = 3
"""Version of the encoding, and that for data with groups; increased when equal data and
options give other arrays, so that their task is renamed.
"""
_LAYERS = 4  # of the default body: as on the pocket tasks
_IMBALANCE = (
    4.0  # ratio of the largest to the smallest class from which classes are weighted
)
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
_MOST_CHECKED = (
    5_000_000  # values of an array whose columns are compared with the target
)


@dataclass(frozen=True)
class Inferred:
    """Record of a task that was inferred from a user's data, and whose arrays are not
    prepared yet.
    """

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
    body: str
    """Body of the trials of an adaptation: that of the task, or the whole default body
    on GPUs.
    """
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]


def infer(
    data: UserData,
    options: Options | None = None,
    *,
    test: bool = True,
    gpus: bool = False,
    warn: Warn = logger.warning,
) -> Inferred:
    """Infer the task of data with targets. All samples are read once, batch by batch;
    statistics come from train.

    ``options`` override those that the data were read with. ``warn`` is called with
    each warning. Without ``test``, no test split is held out and no folds are drawn,
    and a class with a single sample is kept, in train; see `splits.draw`. ``gpus``:
    whether trials run on GPUs, so that `Inferred.body` is whole unless a body is given.

    Raises UserError for data that nothing can be learnt from: no target, one class, too
    few samples or groups, different labels with the same text, no usable column,
    samples of unequal axes; and for options that do not fit.
    """
    options = options.over(data.options) if options else data.options
    notes = Notes()
    for note in data.notes:
        notes.warn(note)
    if not len(data):
        raise UserError(f"{data.source}: no samples")
    if data.y is None:
        raise UserError(
            f"{data.source}: no target; name a column, key or file with --target"
        )
    fitted = fit_target(
        data, data.y, options, notes, least=own_splits.LEAST_PER_CLASS if test else 1
    )
    if fitted.coding.form:
        data = replace(data, y=fitted.coding.encode(data.y))
    parts = own_splits.draw(
        data, fitted.rows, fitted.classes, options, notes, test=test
    )
    complete = True
    if fitted.classes is not None:
        fitted, parts = without_absent(fitted, parts, notes)
        complete = not warn_absent(fitted, parts, notes)
    found = survey(data)
    coding = fitted.coding
    train = parts["train"]
    hashes = found.hashes
    if data.kind_hint == "table":
        table = fit_table(data, train, options, notes)
        encoder: Encoder = table
        frame = cast(pd.DataFrame, data.x)
        if len(table.names) < len(frame.columns):  # an id would hide equal rows
            hashes = survey(replace(data, x=frame[list(table.names)])).hashes
    elif (
        data.kind_hint == "audio" and data.rate is not None and data.rate >= LEAST_RATE
    ):
        encoder = fit_audio(data, train, found, options, notes)
    else:
        encoder = fit_array(
            data, train, found, options, notes, dense=coding.kind == "dense"
        )
    if coding.kind == "dense" and isinstance(encoder, ArrayInputs):
        coding = _with_field_axes(coding, encoder)
    folds = None
    if test:
        rows = np.concatenate([parts["train"], parts["validation"]])
        folds = own_splits.draw_folds(
            data, rows, fitted.classes, hashes, options, notes
        )
        complete = complete and not own_splits.lacks_class(folds, rows, fitted.classes)
    if found.num_missing:
        notes.warn(
            f"{found.num_missing} samples have missing or infinite values, which become"
            " the mean"
        )
    _warn_of_leaks(data, hashes, parts, fitted, encoder, options, notes)
    preprocessing = Preprocessing(
        reading=_reading(data, found, options), encoder=encoder, target=coding
    )
    loss, metric = _measures(data, fitted, parts, options, notes, complete=complete)
    task = _task(
        data, preprocessing, found, options, loss=loss, metric=metric, parts=parts
    )
    body = task.body
    whole = PACKAGED_BODIES[task.modality]
    why = f"four layers: trials run on a CPU; --body {whole} takes all"
    if gpus and not options.body:
        body = whole
        why = "whole body: trials run on a GPU"
    notes.find(
        "body",
        body,
        "given" if options.body else f"shape {task.input_shape}; {why}",
        "body",
    )
    for warning in notes.warnings:
        warn(f"{task.name}: {warning}")
    return Inferred(
        task,
        preprocessing,
        parts,
        folds,
        body,
        tuple(notes.findings),
        tuple(notes.warnings),
    )


def _with_field_axes(coding: TargetCoding, encoder: ArrayInputs) -> TargetCoding:
    """Return the coding of a field with its channels first, if they are last as given."""
    spatial = encoder.shape[1:]
    shape = coding.shape
    last = (
        len(shape) == len(spatial) + 1
        and shape[:-1] == spatial
        and shape[1:] != spatial
    )
    if not last:
        return coding
    axes = (len(shape) - 1, *range(len(shape) - 1))
    return coding.model_copy(
        update={"axes": axes, "shape": tuple(shape[axis] for axis in axes)}
    )


def _reading(data: UserData, found: Survey, options: Options) -> Options:
    """Return the options with which more files of this kind are read in the same way."""
    values = {
        name: getattr(options, name)
        for name in _READING
        if name in options.model_fields_set
    }
    if data.kind_hint == "table":
        values.setdefault("target", data.target_names)
    if data.kind_hint == "images":
        values.setdefault(
            "colour",
            "grey" if all(len(shape) == 2 for shape in found.shapes) else "rgb",
        )
    if data.rate is not None:
        values.setdefault("rate", data.rate)
    return Options(**values)


def _warn_of_leaks(
    data: UserData,
    hashes: Array,
    parts: own_splits.Splits,
    fitted: FittedTarget,
    encoder: Encoder,
    options: Options,
    notes: Notes,
) -> None:
    frame: pd.DataFrame | None = None
    if hasattr(data.x, "columns"):
        table = cast(pd.DataFrame, data.x)
        frame = table.drop(
            columns=[
                name
                for name in table.columns
                if options.columns.get(str(name)) == "drop"
            ]
        )
    elif (
        isinstance(data.x, np.ndarray)
        and data.x.ndim == 2
        and data.x.size <= _MOST_CHECKED
    ):
        frame = pd.DataFrame(
            data.x, columns=[f"feature {place + 1}" for place in range(data.x.shape[1])]
        )
    warnings = leaks.duplicates(data, hashes, parts)
    if frame is not None and fitted.coding.kind in ("classes", "scalar"):
        y = (
            fitted.classes
            if fitted.classes is not None
            else fitted.coding.encode(cast(np.ndarray, data.y))
        )
        kinds = {
            "classes": fitted.classes is not None,
            "table": data.kind_hint == "table",
        }
        warnings += leaks.target_columns(
            frame.iloc[fitted.rows], y[fitted.rows], **kinds
        )
    if frame is not None and data.kind_hint == "table" and data.splits is None:
        if data.groups is None:
            warnings += leaks.group_columns(frame, parts, map(str, frame.columns))
        dates = [
            column.name
            for column in getattr(encoder, "columns", ())
            if column.kind == "date"
        ]
        if dates and data.times is None:
            later = (
                f"to predict later ones, use --time {shlex.quote(printable(dates[0]))}"
            )
            warnings.append(
                f"column {quoted(dates[0])} holds dates and the split is not by time:"
                f" {later}"
            )
    if data.groups is not None:
        warnings += leaks.crossing(data.groups, parts)
    for warning in warnings:
        notes.warn(warning)


def _measures(
    data: UserData,
    fitted: FittedTarget,
    parts: own_splits.Splits,
    options: Options,
    notes: Notes,
    *,
    complete: bool,
) -> tuple[str, str]:
    """Return the names of loss and metric; raises UserError for unknown ones in
    ``options``.
    """
    kind = fitted.coding.kind
    why = "usual for the kind of target"
    loss, metric = {
        "labels": ("bce", "one_minus_auroc"),
        "scalar": ("mse", "rmse"),
    }.get(kind, ("", ""))
    if kind == "classes":
        assert fitted.classes is not None
        counts = np.bincount(
            fitted.classes[parts["train"]], minlength=len(fitted.coding.label_names)
        )
        loss = "cross_entropy"
        metric = "error"
        why = "classes have similar sizes"
        if counts.max() >= _IMBALANCE * counts.min():
            why = f"classes of {counts.min()} to {counts.max()} samples"
            metric = (
                "one_minus_auroc"
                if len(counts) == 2 and complete
                else "one_minus_macro_f1"
            )
            if (
                (options.metric or metric) == "one_minus_macro_f1"
            ):  # other metrics want the probabilities that occur
                loss = "weighted_cross_entropy"
    if kind == "dense" and data.kind_hint == "table":
        loss = "mse"
        metric = "rmse"
        why = "several numbers"
    elif kind == "dense":
        assert data.y is not None
        used = np.concatenate(list(parts.values()))
        zero = any(
            not np.any(data.y[used[part]], axis=tuple(range(1, data.y.ndim))).all()
            for part in row_slices(used)
        )
        loss, metric = ("rmse", "rmse") if zero else ("relative_l2", "relative_l2")
        why = (
            "some fields are zero"
            if zero
            else "error relative to the size of each field"
        )
    if options.loss:
        from orca_ray.tasks.losses import get_loss

        get_loss(options.loss)
    get_metric(options.metric or metric)
    notes.find("loss", options.loss or loss, "given" if options.loss else why, "loss")
    notes.find(
        "metric", options.metric or metric, "given" if options.metric else why, "metric"
    )
    return options.loss or loss, options.metric or metric


def _task(
    data: UserData,
    preprocessing: Preprocessing,
    found: Survey,
    options: Options,
    *,
    loss: str,
    metric: str,
    parts: own_splits.Splits,
) -> Task:
    shape = preprocessing.encoder.shape
    kind: ModalityName = "image" if len(shape) == 3 else "sequence"
    stem = options.name or Path(data.source).stem
    slug = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:40] or "data"
    return Task(
        name=f"{BENCHMARK}/{slug}-{_digest(data, found, options)}",
        title=options.title or printable(stem),
        domain=_domain(data, preprocessing),
        input_shape=shape,
        target=preprocessing.target.target,
        loss=loss,
        metric=metric,
        body=options.body or f"{PACKAGED_BODIES[kind]}:layers={_LAYERS}",
        num_samples=(
            len(parts["train"]),
            len(parts["validation"]),
            len(parts.get("test", ())),
        ),
        licence=options.licence,
        citation=options.citation or "own data",
        reference=options.reference or "own data",
        build=gone,
        input_scale="standardised",
    )


def _domain(data: UserData, preprocessing: Preprocessing) -> str:
    if isinstance(preprocessing.encoder, AudioInputs):
        return "audio"
    if preprocessing.target.kind == "dense" and data.kind_hint == "array":
        return "field"
    if data.kind_hint == "table" or getattr(
        preprocessing.encoder, "per_feature", False
    ):
        return "tabular"
    return "image" if len(preprocessing.encoder.shape) == 3 else "time series"


def _digest(data: UserData, found: Survey, options: Options) -> str:
    """Return 6 hexadecimal digits of a hash of content and options, but not of names
    and texts for people.
    """
    given = options.model_dump(
        mode="json",
        exclude={"data", "name", "title", "licence", "citation", "reference"},
    )
    version = PREPARATION if data.groups is None else GROUPED
    digest = hashlib.sha256(
        json.dumps([version, given, data.kind_hint, data.rate], sort_keys=True).encode()
    )
    columns = list(map(str, getattr(data.x, "columns", ())))
    digest.update(
        json.dumps([columns, [list(shape) for shape in sorted(found.shapes)]]).encode()
    )
    digest.update(np.ascontiguousarray(found.hashes).tobytes())
    for part in (data.y, data.groups, data.times, data.splits):
        if part is None or part.dtype.kind in "OM":
            digest.update(repr(None if part is None else part.tolist()).encode())
        else:
            for rows in row_slices(part):
                digest.update(np.ascontiguousarray(part[rows]).tobytes())
    return digest.hexdigest()[:6]
