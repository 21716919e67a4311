"""``cnn``: a tuned convolutional network without pretraining.

It follows DASH (arXiv:2204.07554) and DASHA (arXiv:2411.02796).

The choices of DASH's search, e.g. kernel size and dilation, are ordinary
hyper-parameters of the sweep here, and hold for the whole network (`docs/methods.md`).
Batch norm is replaced by group norm (see `orca_ray.models.convolution`). If the target
is dense, no layer reduces the resolution or adds channels.

A table has no neighbourhoods. For tasks whose domain is one of `TABLES`, and for inputs
of a single position, the same network sees all features as channels of one position: a
residual multilayer perceptron (Gorishniy et al., arXiv:2106.11959). The shape alone
does not distinguish a table from a short series; ``cnn.network`` overrides it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import Recipe
from orca_ray.models.modality import patch_side
from orca_ray.training.config import Config, Number, must, one_of

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task

TABLES = ("tabular", "drug response")
"""Values of `Task.domain` whose features have no order."""
MAX_POSITIONS = 128**2
"""Largest number of positions after the stem, whose stride follows from it.

There is no limit if the target is dense.
"""


@dataclass(frozen=True)
class CnnConfig(Config):
    """Options of the network of ``cnn``."""

    kernel: Annotated[
        int, *Number.__metadata__, partial(must, "odd", lambda value: value % 2 == 1)
    ] = 3
    """Side of the kernels of all convolutions, an odd number.

    Weights that would only see padding are left out.
    """
    dilation: Number = 1
    """Distance between the positions that a kernel sees."""
    blocks: Number = 2
    """Residual blocks, of two convolutions each, in each of three stages; 2 makes
    WRN-16.
    """
    width: Number = 64
    """Channels of the first stage; 64 makes WRN-16-4. Each later stage has twice the
    channels of the one before it and half the resolution, unless the target is dense.
    """
    weights: Annotated[str, partial(one_of, ("plain", "standardised"))] = "plain"
    """Whether the weights are standardised; see
    `orca_ray.models.convolution.Architecture`. On 3,500 digits of MNIST, a network of
    width 16 had 1.5 instead of 2.3 % errors after 40 s of a core.
    """
    stages: Annotated[str, partial(one_of, ("residual", "plain"))] = "residual"
    """Kind of the stages. ``plain`` stages are pairs of convolutions with a max pool
    after each stage, of twice the width, instead of residual blocks. They are used for
    images that have classes or labels, and several views or sides of at least 16
    pixels. On the digits of MNIST, they lowered the calibrated log loss of residual
    stages from 0.065 to 0.036.
    """
    views: Annotated[int, *Number.__metadata__, partial(one_of, (1, 5))] = 1
    """Number of copies of an image whose logits plain stages average: the image itself
    or, with 5, also shifted by a position in each direction. Five copies had 0.9 of the
    errors of one on 28 × 28 pixels of the digits of MNIST, and 0.8 on 14 × 14.
    """
    network: Annotated[str, partial(one_of, ("auto", "convolutional", "table"))] = (
        "auto"
    )
    """``table``: every layer sees all features. ``auto``: ``table`` for tables and
    inputs of one position, else ``convolutional``.
    """


def _is_table(task: "Task", config: CnnConfig) -> bool:
    if config.network != "auto":
        return config.network == "table"
    assert task.input_shape is not None, "a resolved task knows its shapes"
    return task.domain in TABLES or math.prod(task.input_shape[1:]) == 1


class _FirstStage(NamedTuple):
    """Stem and first stage of the network for one task."""

    stride: int
    """Stride of the first convolution."""
    width: int
    """Channels of the first stage."""
    is_plain: bool
    """Whether all stages are plain; see `CnnConfig.stages`."""


def _first_stage(task: "Task", config: CnnConfig) -> _FirstStage:
    """Return the stride, the width and the kind of the first stage's layers."""
    assert task.input_shape is not None, "a resolved task knows its shapes"
    if _is_table(task, config) or task.target.kind == "dense":
        return _FirstStage(stride=1, width=config.width, is_plain=False)
    size = task.input_shape[1:]
    stride = patch_side(size, MAX_POSITIONS)
    is_image = len(size) == 2
    is_large = config.views > 1 or min(size) >= 16
    has_classes = task.target.kind in ("classes", "labels")
    if config.stages == "plain" and is_image and is_large and has_classes:
        return _FirstStage(stride, width=2 * config.width, is_plain=True)
    return _FirstStage(stride, config.width, is_plain=False)


def _network(request: "NetworkRequest") -> "CrossModalModel":
    """Return the convolutional network of a trial."""
    from orca_ray.models.convolution import Architecture, build_convolutional

    config = request.hyperparameters.of(CnnConfig)
    first_stage = _first_stage(request.task, config)
    architecture = Architecture(
        kernel=config.kernel,
        dilation=config.dilation,
        blocks=config.blocks,
        views=config.views,
        width=first_stage.width,
        dropout=request.hyperparameters.refine.dropout,
        standardised=config.weights == "standardised",
        plain=first_stage.is_plain,
    )
    return build_convolutional(
        architecture,
        **request.given("input_shape", "target", "seed", "statistics"),
        table=_is_table(request.task, config),
        stride=first_stage.stride,
    )


def _operations(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return the operations of the blocks' convolutions.

    Stem, shortcuts and head add a tenth at most.
    """
    from orca_ray.methods.registry import from_flat

    if task.input_shape is None:
        return None
    config = from_flat(values).of(CnnConfig)
    first_stage = _first_stage(task, config)
    size = [1]
    if not _is_table(task, config):
        size = [math.ceil(side / first_stage.stride) for side in task.input_shape[1:]]
    total = 0.0
    for stage in range(3):
        reduction = 1 if task.target.kind == "dense" else 2**stage
        sides = [math.ceil(side / reduction) for side in size]
        radii = [
            min(config.kernel // 2, (side - 1) // config.dilation) for side in sides
        ]
        kernel_size = math.prod(2 * radius + 1 for radius in radii)
        channels = first_stage.width * reduction
        # A block has two convolutions, each with a product and a sum for each weight.
        total += 4 * config.blocks * channels**2 * math.prod(sides) * kernel_size
    return total


RECIPE = Recipe(
    name="cnn",
    title="a residual convolutional network without pretraining, after DASH",
    reference=(
        "Shen et al., Efficient Architecture Search for Diverse Tasks, NeurIPS 2022,"
        " arXiv:2204.07554, github.com/sjunhongshen/DASH, and Xu et al., Specialized"
        " Foundation Models Struggle to Beat Supervised Baselines, 2024,"
        " arXiv:2411.02796"
    ),
    pretrained=False,
    uses_body=False,
    sections=("data", "refine"),
    options=(CnnConfig,),
    network=_network,
    operations=_operations,
    defaults={"refine.learning_rate": 1e-3},
)
