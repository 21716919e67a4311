"""Inputs of two test samples (image, spectrogram or series) with their classes or labels and the predictions."""

from collections.abc import Iterator

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.results.artefacts import Image, Images, Lines, Picture, Quantised, Series
from orca_ray.tasks.task import Task
from orca_ray.training.artefacts.base import ArtefactKind, Evaluated, shrunk

MAX_SIDE, MAX_COLOUR_SIDE, MAX_POINTS, MAX_LINES = 128, 96, 256, 4
_SHOWN_LABELS = 5


def _applies(task: Task) -> bool:
    return task.target.kind in ("classes", "labels") and task.domain != "tabular"


def _compute(evaluated: Evaluated) -> Iterator[tuple[str, Picture]]:
    if evaluated.task.target.kind == "labels":
        yield "first", _picture(evaluated, 0, "Test sample 0", _labels(evaluated, 0))
        return
    right = evaluated.predictions.argmax(axis=1) == evaluated.y
    for name, chosen in (("correct", right), ("wrong", ~right)):
        if chosen.any():
            sample = int(chosen.argmax())
            yield (
                name,
                _picture(evaluated, sample, f"Test sample {sample}, predicted {name}ly", _class(evaluated, sample)),
            )


def _class(evaluated: Evaluated, sample: int) -> str:
    logits = np.asarray(evaluated.predictions[sample], dtype=np.float64)
    shares = np.exp(logits - logits.max())
    best = int(logits.argmax())
    probability = shares[best] / shares.sum()
    return f"True class {int(evaluated.y[sample])}, predicted class {best} (probability {probability:.2f})."


def _labels(evaluated: Evaluated, sample: int) -> str:
    logits = np.asarray(evaluated.predictions[sample], dtype=np.float64)
    best = np.argsort(-logits, kind="stable")[:_SHOWN_LABELS]
    true = ", ".join(map(str, np.flatnonzero(evaluated.y[sample] > 0)[:_SHOWN_LABELS])) or "none"
    predicted = ", ".join(f"{label} ({(1 + np.tanh(logits[label] / 2)) / 2:.2f})" for label in best)
    return f"True labels: {true}. Highest probabilities: {predicted}."


def _picture(evaluated: Evaluated, sample: int, title: str, caption: str) -> Picture:
    x, domain = np.asarray(evaluated.input(sample), dtype=np.float64), evaluated.task.domain
    if x.ndim == 2 and len(x) <= MAX_LINES and not _one_hot(x):
        series = tuple(
            Series(f"channel {number}", Quantised.encode(shrunk(line, MAX_POINTS))) for number, line in enumerate(x)
        )
        return Lines(title=title, caption=caption, x="position", series=series)
    return Images(title=title, caption=caption, panels=(_image(x, domain),))


def _one_hot(x: Array) -> bool:
    return len(x) > 1 and bool(np.isin(x, (0.0, 1.0)).all())


def _image(x: Array, domain: str) -> Image:
    """Return x [C, L] as an image with C rows, and of x [C, H, W] the colours or the first channel."""
    if x.ndim == 2:
        return Image("channels and positions", Quantised.encode(shrunk(x, MAX_SIDE)))
    if len(x) == 3 and "image" in domain:
        colours = shrunk(x.transpose(1, 2, 0), MAX_COLOUR_SIDE)
        return Image("input", Quantised.encode(colours), "colour")
    rows = x[0, ::-1] if domain == "audio" else x[0]  # low frequencies at the bottom
    return Image("input", Quantised.encode(shrunk(rows, MAX_SIDE)), "grey" if "image" in domain else "sequential")


ARTEFACT = ArtefactKind(name="sample", needs=Evaluated, applies=_applies, compute=_compute)
