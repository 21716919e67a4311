"""Dense predictions: fields, masks and maps of residue distances, true and predicted."""

from collections.abc import Iterator

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.results.artefacts import Image, Images, Lines, Picture, Quantised, Series
from orca_ray.tasks.dense_metrics import CONTACT, IGNORED, MARGIN, PADDING
from orca_ray.tasks.task import Task
from orca_ray.training.artefacts.base import ArtefactKind, Evaluated, shrunk

MAX_SIDE, MAX_POINTS = 96, 256
"""Largest side of an image and length of a line; three images of this side fit into one artefact."""


def _applies(task: Task) -> bool:
    return task.target.kind == "dense" and task.domain != "protein" and task.loss != "masked_bce"


def _compute_field(evaluated: Evaluated) -> Iterator[tuple[str, Picture]]:
    axes = tuple(range(1, evaluated.y.ndim))
    errors_N = ((evaluated.predictions - evaluated.y) ** 2).mean(axis=axes, dtype=np.float64)
    yield "first", _picture(evaluated, 0, "Test sample 0")
    if worst := int(errors_N.argmax()):
        yield "worst", _picture(evaluated, worst, f"Test sample {worst}, which has the largest error")


def _picture(evaluated: Evaluated, sample: int, title: str) -> Picture:
    true, predicted = np.asarray(evaluated.y[sample], np.float64), np.asarray(evaluated.predictions[sample], np.float64)
    caption = f"Root mean squared error {np.sqrt(((predicted - true) ** 2).mean()):.4g}"
    flat = len(evaluated.task.input_shape or ()) == 2
    channels = len(true.reshape(-1, true.shape[-1])) if flat else (len(true) if true.ndim > 2 else 1)
    caption += f"; the first of {channels} channels is shown." if channels > 1 else "."
    if flat:
        return _lines(true.reshape(channels, -1)[0], predicted.reshape(channels, -1)[0], title, caption)
    true, predicted = (values[0] if values.ndim > 2 else values for values in (true, predicted))
    return _images(true, predicted, title, caption)


def _lines(true: Array, predicted: Array, title: str, caption: str) -> Lines:
    parts = (("true", true), ("predicted", predicted), ("error", predicted - true))
    series = tuple(Series(name, Quantised.encode(shrunk(values, MAX_POINTS))) for name, values in parts)
    return Lines(title=title, caption=caption, x="position", series=series)


def _images(true: Array, predicted: Array, title: str, caption: str) -> Images:
    true, predicted = shrunk(np.atleast_2d(true), MAX_SIDE), shrunk(np.atleast_2d(predicted), MAX_SIDE)
    ends = min(true.min(), predicted.min()), max(true.max(), predicted.max())
    most = float(np.abs(predicted - true).max())
    return Images(title=title, caption=caption, panels=(
        Image("true", Quantised.encode(true, *ends)),
        Image("predicted", Quantised.encode(predicted, *ends)),
        Image("predicted − true", Quantised.encode(predicted - true, -most, most), "diverging"),
    ))  # fmt: skip


_FIELD = ArtefactKind(name="field", needs=Evaluated, applies=_applies, compute=_compute_field)


MAX_MASK_SIDE = 64


def _compute_mask(evaluated: Evaluated) -> Iterator[tuple[str, Images]]:
    side = evaluated.y.shape[-1]
    y_NHW, logits_NHW = evaluated.y.reshape(-1, side, side), evaluated.predictions.reshape(-1, side, side)
    sample = int((y_NHW > 0).sum(axis=(1, 2)).argmax())
    logits = np.asarray(logits_NHW[sample], dtype=np.float64)
    probability = np.where(y_NHW[sample] == IGNORED, 0.0, (1 + np.tanh(logits / 2)) / 2)
    panels = (("true", y_NHW[sample] > 0), ("predicted probability", probability))
    yield "largest", Images(
        title=f"Test sample {sample}, which has the largest mask", caption="Ignored pixels are shown as 0.",
        panels=tuple(
            Image(name, Quantised.encode(shrunk(values, MAX_MASK_SIDE, np.maximum), 0.0, 1.0), "grey")
            for name, values in panels
        ),
    )  # fmt: skip


_MASK = ArtefactKind(
    name="mask",
    needs=Evaluated,
    applies=lambda task: task.target.kind == "dense" and task.loss == "masked_bce",
    compute=_compute_mask,
)


MAX_MAP_SIDE = 128
FAR = 24.0
"""Distances above this one, in ångström, look alike."""


def _compute_contact_map(evaluated: Evaluated) -> Iterator[tuple[str, Images]]:
    side = evaluated.y.shape[-1]
    true, predicted = evaluated.y.reshape(-1, side, side)[0], evaluated.predictions.reshape(-1, side, side)[0]
    length = int((true != PADDING).any(axis=1).sum())
    inside = slice(MARGIN, MARGIN + length)
    panels = (("true", true), ("predicted", (predicted + predicted.T) / 2))
    yield (
        "first",
        Images(
            title="Test protein 0",
            caption=f"Distances of {length} residues, 0 to {FAR:g} Å; those up to {CONTACT:g} Å are contacts.",
            panels=tuple(
                Image(name, Quantised.encode(shrunk(values[inside, inside], MAX_MAP_SIDE, np.minimum), 0.0, FAR))
                for name, values in panels
            ),
        ),
    )


_CONTACT_MAP = ArtefactKind(
    name="contact_map",
    needs=Evaluated,
    applies=lambda task: task.target.kind == "dense" and task.domain == "protein",
    compute=_compute_contact_map,
)

ARTEFACTS = (_FIELD, _MASK, _CONTACT_MAP)
