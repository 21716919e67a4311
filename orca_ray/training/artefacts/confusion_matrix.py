"""Confusion matrix of the test split."""

from collections.abc import Iterator

import numpy as np

from orca_ray.results.artefacts import Matrix
from orca_ray.training.artefact import ArtefactKind, Evaluated

MAX_CLASSES = 100


def _compute(evaluated: Evaluated) -> Iterator[tuple[str, Matrix]]:
    size = evaluated.task.target.size
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (evaluated.y, evaluated.predictions.argmax(axis=1)), 1)
    right = int(np.trace(counts))
    yield "test", Matrix(
        title="Confusion matrix of the test split", caption=f"{right} of {len(evaluated.y)} samples are right.",
        rows="true class", columns="predicted class", counts=tuple(map(tuple, counts.tolist())),
    )  # fmt: skip


ARTEFACT = ArtefactKind(
    name="confusion_matrix",
    needs=Evaluated,
    applies=lambda task: task.target.kind == "classes" and task.target.size <= MAX_CLASSES,
    compute=_compute,
)
