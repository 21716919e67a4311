"""True and predicted distances between the residues of a protein."""

from collections.abc import Iterator

import numpy as np

from orca_ray.results.artefacts import Image, Images, Quantised
from orca_ray.tasks.dense_metrics import CONTACT, MARGIN, PADDING
from orca_ray.training.artefact import ArtefactKind, Evaluated, shrunk

MAX_SIDE = 128
FAR = 24.0
"""Distances above this one, in ångström, look alike."""


def _compute(evaluated: Evaluated) -> Iterator[tuple[str, Images]]:
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
                Image(name, Quantised.encode(shrunk(values[inside, inside], MAX_SIDE, np.minimum), 0.0, FAR))
                for name, values in panels
            ),
        ),
    )


ARTEFACT = ArtefactKind(
    name="contact_map",
    needs=Evaluated,
    applies=lambda task: task.target.kind == "dense" and task.modality == "protein",
    compute=_compute,
)
