"""Source and target features before and after aligning, in two dimensions.

The dimensions are the first two principal components of the source features and the target features before aligning,
so that both plots have the same axes.
"""

from collections.abc import Iterator

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.results.artefacts import Group, Plot, Points, Quantised
from orca_ray.training.artefacts.base import Aligned, ArtefactKind


def principal_plane(x_ND: Array) -> tuple[Array, Array]:
    """Return the mean [D] and the first two principal components [2, D] of features; missing ones are 0.

    The largest entry of each component is positive. The Gram matrix costs a tenth of a singular value decomposition.
    """
    mean_D = x_ND.mean(axis=0)
    centred_ND = x_ND - mean_D
    values, vectors_NN = np.linalg.eigh(centred_ND @ centred_ND.T)
    components_2D = np.zeros((2, x_ND.shape[1]))
    for number, column in enumerate(np.argsort(-values, kind="stable")[:2]):
        direction_D = vectors_NN[:, column] @ centred_ND
        length = float(np.linalg.norm(direction_D))
        if length > 1e-9 * float(np.linalg.norm(centred_ND)):
            components_2D[number] = direction_D / length * np.sign(direction_D[np.abs(direction_D).argmax()])
    return mean_D, components_2D


def _compute(aligned: Aligned) -> Iterator[tuple[str, Points]]:
    source, before, after = (np.asarray(part, np.float64) for part in (aligned.source, aligned.before, aligned.after))
    mean_D, components_2D = principal_plane(np.concatenate([source, before]))
    flat = [(part - mean_D) @ components_2D.T for part in (source, before, after)]
    low, high = np.concatenate(flat).min(axis=0), np.concatenate(flat).max(axis=0)

    def group(title: str, points: Array, classes: Array | None) -> Group:
        x, y = (Quantised.encode(points[:, axis], float(low[axis]), float(high[axis])) for axis in (0, 1))
        return Group(title, x, y, None if classes is None else tuple(map(int, classes)))

    shared = group("source", flat[0], aligned.source_classes)
    yield "aligning", Points(
        title="Features before and after aligning",
        caption="Principal components of the source's and the training samples' features before aligning.",
        x="first component", y="second component",
        panels=(
            Plot("before", (shared, group("target", flat[1], aligned.classes))),
            Plot("after", (shared, group("target", flat[2], aligned.classes))),
        ),
    )  # fmt: skip


ARTEFACT = ArtefactKind(name="features", needs=Aligned, applies=lambda task: True, compute=_compute)
