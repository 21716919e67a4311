"""True and predicted values of a task with one number per sample."""

from collections.abc import Iterator

from orca_ray.results.artefacts import Group, Plot, Points, Quantised
from orca_ray.training.artefact import ArtefactKind, Tested, evenly

MAX_POINTS = 500


def _compute(tested: Tested) -> Iterator[tuple[str, Points]]:
    chosen = evenly(len(tested.y), MAX_POINTS)
    true, predicted = tested.y[chosen], tested.predictions[chosen]
    ends = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    group = Group("test", Quantised.encode(true, *ends), Quantised.encode(predicted, *ends))
    yield "test", Points(
        title="True and predicted values of the test split", caption=f"{len(chosen)} of {len(tested.y)} samples.",
        x="true", y="predicted", panels=(Plot("test", (group,)),), diagonal=True,
    )  # fmt: skip


ARTEFACT = ArtefactKind(
    name="scatter", needs=Tested, applies=lambda task: task.target.kind == "scalar", compute=_compute
)
