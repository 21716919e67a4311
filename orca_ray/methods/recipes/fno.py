"""``fno`` and ``unet``, the usual baselines for fields, without pretraining.

They are a Fourier neural operator and a U-Net. The networks are in
`orca_ray.models.fourier` and `orca_ray.models.convolution`, and the refine stage trains
them; `docs/methods.md` says why the operator is our own, and how many epochs to train
in a given time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import Recipe
from orca_ray.training.config import Config, Count, Number, one_of

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task

_SLOWNESS = 10.0
"""Time per operation of Fourier transforms and complex products, relative to real ones.

It was measured on a CPU core.
"""


@dataclass(frozen=True)
class FnoConfig(Config):
    """Options of the Fourier neural operator."""

    modes: Count = 12
    """Number of frequencies that a layer keeps in each direction of each axis; all, if
    the resolution has fewer. 0: as in the paper, 16 for one axis and 12 for two.
    """
    width: Count = 32
    """Number of channels. 0: as in the paper, 64 for one axis and 32 for two."""
    layers: Number = 4
    """Number of Fourier layers."""


class _Size(NamedTuple):
    """Size of a Fourier layer."""

    width: int
    modes: int


_SIZES_OF_PAPER = {1: _Size(width=64, modes=16), 2: _Size(width=32, modes=12)}
"""Sizes by the number of axes, in section 5 of Li et al., 2021."""


def _size(width: int, modes: int, num_axes: int) -> _Size:
    """Return the size of a layer; 0 stands for the paper's for this number of axes."""
    of_paper = _SIZES_OF_PAPER[num_axes]
    return _Size(width or of_paper.width, modes or of_paper.modes)


@dataclass(frozen=True)
class UnetConfig(Config):
    """Options of the U-Net.

    The defaults have two million parameters in two dimensions.
    """

    width: Number = 32
    """Channels of the first level; each level below has twice as many."""
    levels: Count = 3
    """Levels below the first, each of half the resolution; fewer, if a side of the
    field is short.
    """
    padding: Annotated[str, partial(one_of, ("zeros", "circular"))] = "zeros"
    """``circular`` for periodic fields."""


def _network(request: "NetworkRequest") -> "CrossModalModel":
    """Return the Fourier neural operator of a trial."""
    from orca_ray.models.fourier import FourierBody, build_field_model

    config = request.hyperparameters.of(FnoConfig)
    num_axes = len(request.arguments["input_shape"]) - 1
    size = _size(config.width, config.modes, num_axes)
    dropout = request.hyperparameters.refine.dropout
    return build_field_model(
        lambda layout: FourierBody(
            layout, size.width, config.layers, size.modes, dropout
        ),
        width=size.width,
        **request.given("input_shape", "target", "seed", "statistics"),
    )


def _unet(request: "NetworkRequest") -> "CrossModalModel":
    """Return the U-Net of a trial."""
    from orca_ray.models.convolution import Architecture, UNetBody
    from orca_ray.models.fourier import build_field_model

    config = request.hyperparameters.of(UnetConfig)
    dropout = request.hyperparameters.refine.dropout
    architecture = Architecture(
        kernel=3,
        dilation=1,
        blocks=1,
        width=config.width,
        dropout=dropout,
        padding=config.padding,
        activation="gelu",
    )
    return build_field_model(
        lambda layout: UNetBody(layout, architecture, config.levels),
        width=config.width,
        **request.given("input_shape", "target", "seed", "statistics"),
    )


def _operations(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return the operations of the layers.

    A layer has Fourier transforms, and products of frequencies and of points.
    """
    if task.input_shape is None:
        return None
    *first_sides, last_side = task.input_shape[1:]
    width, modes = _size(
        int(values["fno.width"]), int(values["fno.modes"]), len(first_sides) + 1
    )
    layers = int(values["fno.layers"])
    points = math.prod(task.input_shape[1:])
    frequencies = min(modes, last_side // 2 + 1) * math.prod(
        min(2 * modes, side) for side in first_sides
    )
    # Each layer has two Fourier transforms of real numbers.
    transforms = 2 * 2.5 * points * math.log2(max(2, points)) * width
    spectral = _SLOWNESS * (8 * frequencies * width**2 + transforms)
    projection = 2 * points * 4 * width**2  # to four times the width
    return layers * (spectral + 2 * points * width**2) + projection


def _operations_of_unet(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return the operations of the blocks.

    In two dimensions, all levels have about equally many.
    """
    if task.input_shape is None:
        return None
    points = math.prod(task.input_shape[1:])
    num_axes = len(task.input_shape) - 1
    num_levels = int(values["unet.levels"]) + 1
    first_level = 5 * 2 * points * 3**num_axes * int(values["unet.width"]) ** 2
    levels = (first_level * (4 / 2**num_axes) ** level for level in range(num_levels))
    return float(sum(levels))


def _problem(task: "Task") -> str | None:
    if task.target.kind == "dense":
        return None
    return f"it predicts fields, a dense target, not {task.target.kind}"


_recipe = partial(
    Recipe,
    pretrained=False,
    uses_body=False,
    sections=("data", "refine"),
    variant=True,
    problem=_problem,
)
RECIPES = (
    _recipe(
        name="fno",
        title="a Fourier neural operator without pretraining",
        reference=(
            "Li et al., Fourier Neural Operator for Parametric Partial Differential"
            " Equations, ICLR 2021, arXiv:2010.08895,"
            " github.com/neuraloperator/neuraloperator"
        ),
        options=(FnoConfig,),
        network=_network,
        operations=_operations,
        # Chosen on the validation data of pocket/burgers16 and pocket/darcy16.
        defaults={"refine.learning_rate": 3e-3, "refine.batch_size": 16},
    ),
    _recipe(
        name="unet",
        title="a U-Net without pretraining",
        reference=(
            "Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image"
            " Segmentation, 2015, arXiv:1505.04597"
        ),
        options=(UnetConfig,),
        network=_unet,
        operations=_operations_of_unet,
        defaults={
            "refine.learning_rate": 1e-3,
            "refine.batch_size": 16,
            "refine.schedule": "cosine",
        },
    ),
)
