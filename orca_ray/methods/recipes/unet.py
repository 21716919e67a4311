"""``unet``: a U-Net without pretraining, a usual baseline for fields, trained by the refine stage."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import Recipe
from orca_ray.training.config import Config, Count, Number, one_of

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task


@dataclass(frozen=True)
class UnetConfig(Config):
    """Options of the U-Net; the defaults have 1.9 million parameters in two dimensions."""

    width: Number = 32
    """Channels of the first level; each level below has twice as many."""
    levels: Count = 3
    """Levels below the first, each of half the resolution; fewer, if a side of the field is short."""
    padding: Annotated[str, partial(one_of, ("zeros", "circular"))] = "zeros"
    """``circular`` for periodic fields."""


def _network(request: "NetworkRequest") -> "CrossModalModel":
    from orca_ray.models.convolution import Architecture, build_unet

    options = asdict(request.hyperparameters.of(UnetConfig))
    levels = options.pop("levels")
    dropout = request.hyperparameters.refine.dropout
    architecture = Architecture(kernel=3, dilation=1, blocks=1, **options, dropout=dropout, activation="gelu")
    return build_unet(architecture, levels=levels, **request.given("input_shape", "target", "seed", "statistics"))


def _operations(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return the operations of the convolutions: of one level in two dimensions, about as many as of any other."""
    if task.input_shape is None:
        return None
    points, axes = math.prod(task.input_shape[1:]), len(task.input_shape) - 1
    each = 2 * points * 3**axes * int(values["unet.width"]) ** 2
    return float(sum((2 + 4 + 5) * each * (4 / 2**axes) ** level for level in range(int(values["unet.levels"]) + 1)))


RECIPE = Recipe(
    name="unet",
    title="a U-Net without pretraining",
    reference="Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015, "
    "arXiv:1505.04597",
    pretrained=False,
    uses_body=False,
    sections=("data", "refine"),
    options=(UnetConfig,),
    problem=lambda task: (
        None if task.target.kind == "dense" else f"it predicts fields, a dense target, not {task.target.kind}"
    ),
    network=_network,
    operations=_operations,
    variant=True,
    defaults={"refine.learning_rate": 1e-3, "refine.batch_size": 16, "refine.schedule": "cosine"},
)
