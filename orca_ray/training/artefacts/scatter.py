"""True and predicted values of a task with one number per sample."""

from collections.abc import Iterator

from orca_ray.results.artefacts import Group, Plot, Points, Quantised
from orca_ray.training.artefact import ArtefactKind, Evaluated, evenly

MAX_POINTS = 500


def _compute(evaluated: Evaluated) -> Iterator[tuple[str, Points]]:
    chosen = evenly(len(evaluated.y), MAX_POINTS)
    true, predicted = evaluated.y[chosen], evaluated.predictions[chosen]
    ends = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    group = Group("test", Quantised.encode(true, *ends), Quantised.encode(predicted, *ends))
    yield "test", Points(
        title="True and predicted values of the test split", caption=f"{len(chosen)} of {len(evaluated.y)} samples.",
        x="true", y="predicted", panels=(Plot("test", (group,)),), diagonal=True,
    )  # fmt: skip


ARTEFACT = ArtefactKind(
    name="scatter", needs=Evaluated, applies=lambda task: task.target.kind == "scalar", compute=_compute
)
