"""``fno``: a small Fourier neural operator without pretraining, the usual baseline for fields.

The operator is `orca_ray.models.fourier`, trained by the refine stage; `docs/methods.md` says why it is our own.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import Recipe
from orca_ray.training.config import Config, Number

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task


@dataclass(frozen=True)
class FnoConfig(Config):
    """Options of the Fourier neural operator."""

    modes: Number = 12
    """Number of frequencies that a layer keeps in each direction of each axis; all, if the resolution has fewer."""
    width: Number = 32
    layers: Number = 4


def _network(request: "NetworkRequest") -> "CrossModalModel":
    from orca_ray.models.fourier import build_fourier

    given = request.given("input_shape", "target", "seed", "statistics")
    options = asdict(request.hyperparameters.of(FnoConfig))
    return build_fourier(**options, dropout=request.hyperparameters.refine.dropout, **given)


def _operations(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return the operations of the layers: Fourier transforms, and products of frequencies and of points."""
    if task.input_shape is None:
        return None
    modes, width, layers = (int(values[f"fno.{name}"]) for name in ("modes", "width", "layers"))
    *first, last = task.input_shape[1:]
    points = math.prod(task.input_shape[1:])
    kept = min(modes, last // 2 + 1) * math.prod(min(2 * modes, side) for side in first)
    transforms = 2 * 2.5 * points * math.log2(max(2, points)) * width
    return layers * (8 * kept * width**2 + transforms + 2 * points * width**2) + 2 * points * 4 * width**2


RECIPE = Recipe(
    name="fno",
    title="a Fourier neural operator without pretraining",
    reference="Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, ICLR 2021, "
    "arXiv:2010.08895",
    pretrained=False,
    uses_body=False,
    sections=("data", "refine"),
    options=(FnoConfig,),
    problem=lambda task: (
        None if task.target.kind == "dense" else f"it predicts fields, a dense target, not {task.target.kind}"
    ),
    network=_network,
    operations=_operations,
    variant=True,
    # Chosen on the validation data of pocket/burgers16 and pocket/darcy16.
    defaults={"refine.learning_rate": 3e-3, "refine.batch_size": 16},
)
