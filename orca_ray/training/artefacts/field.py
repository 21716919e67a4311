"""True and predicted field of two test samples, with the error."""

from collections.abc import Iterator

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.results.artefacts import Image, Images, Lines, Picture, Quantised, Series
from orca_ray.tasks.task import Task
from orca_ray.training.artefact import ArtefactKind, Evaluated, shrunk

MAX_SIDE, MAX_POINTS = 96, 256
"""Largest side of an image and length of a line; three images of this side fit into one artefact."""


def _applies(task: Task) -> bool:
    return task.target.kind == "dense" and task.modality != "protein" and task.loss != "masked_bce"


def _compute(evaluated: Evaluated) -> Iterator[tuple[str, Picture]]:
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


ARTEFACT = ArtefactKind(name="field", needs=Evaluated, applies=_applies, compute=_compute)
