"""True and predicted mask of the test sample with the largest mask."""

from collections.abc import Iterator

import numpy as np

from orca_ray.results.artefacts import Image, Images, Quantised
from orca_ray.tasks.dense_metrics import IGNORED
from orca_ray.training.artefact import ArtefactKind, Evaluated, shrunk

MAX_SIDE = 64


def _compute(evaluated: Evaluated) -> Iterator[tuple[str, Images]]:
    side = evaluated.y.shape[-1]
    y_NHW, logits_NHW = evaluated.y.reshape(-1, side, side), evaluated.predictions.reshape(-1, side, side)
    sample = int((y_NHW > 0).sum(axis=(1, 2)).argmax())
    logits = np.asarray(logits_NHW[sample], dtype=np.float64)
    probability = np.where(y_NHW[sample] == IGNORED, 0.0, (1 + np.tanh(logits / 2)) / 2)
    panels = (("true", y_NHW[sample] > 0), ("predicted probability", probability))
    yield "largest", Images(
        title=f"Test sample {sample}, which has the largest mask", caption="Ignored pixels are shown as 0.",
        panels=tuple(
            Image(name, Quantised.encode(shrunk(values, MAX_SIDE, np.maximum), 0.0, 1.0), "grey")
            for name, values in panels
        ),
    )  # fmt: skip


ARTEFACT = ArtefactKind(
    name="mask",
    needs=Evaluated,
    applies=lambda task: task.target.kind == "dense" and task.loss == "masked_bce",
    compute=_compute,
)
