"""``minirocket``: random convolutional features and a linear model, the usual baseline for series.

The features are those of MiniRocket (see `orca_ray.models.minirocket`). The head is a ridge regression from these
features to the target (1 and -1 for classes), fitted in closed form, in one epoch; its penalty is chosen on validation
data. So the outputs rank the classes, but their softmax is no calibrated probability.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import Recipe, head_parameters
from orca_ray.training.config import Config, Number, must

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest, Stage, Trial
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task

_LENGTH, _KERNELS = 9, 84
MAX_SAMPLES = 100_000
"""Largest number of training samples: the features of all of them, 40 kB each, are in memory."""


@dataclass(frozen=True)
class MiniRocketConfig(Config):
    """Options of the features; the defaults are the authors'."""

    features: Annotated[int, partial(must, "at least 84 and at most 1e+05", lambda value: 84 <= value <= 1e5)] = 10_000
    """Number of features, rounded down to a multiple of 84."""
    dilations: Number = 32
    """Largest number of dilations of a kernel."""


def _problem(task: "Task") -> str | None:
    if task.target.kind == "dense":
        return f"it predicts classes, labels or one number, not a field of shape {task.target.shape}"
    if task.input_shape is not None and len(task.input_shape) != 2:
        return f"it takes series, of shape (channels, length), not inputs of shape {task.input_shape}"
    if task.input_shape is not None and task.input_shape[1] < _LENGTH:
        return f"its kernels have {_LENGTH} positions, and the series of this task have {task.input_shape[1]}"
    if task.num_samples is not None and task.num_samples[0] > MAX_SAMPLES:
        return f"it holds the features of all training samples in memory: {task.num_samples[0]} are above {MAX_SAMPLES}"
    return None


def _network(request: "NetworkRequest") -> "CrossModalModel":
    from orca_ray.models.minirocket import build_minirocket

    config = request.hyperparameters.of(MiniRocketConfig)
    given = request.given("input_shape", "target", "seed", "statistics")
    return build_minirocket(config.features, config.dilations, **given)


def _stages(trial: "Trial") -> "list[Stage]":
    from orca_ray.methods.stages.fitted import RidgeStage

    return [RidgeStage(trial)]


def _operations(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    if task.input_shape is None:
        return None
    channels, length = task.input_shape
    features = int(values["minirocket.features"])
    dilations = min(int(values["minirocket.dilations"]), features // _KERNELS, max(1, length // (_LENGTH - 1)))
    return float(length * (2 * dilations * _KERNELS * _LENGTH * channels + 2 * features))


RECIPE = Recipe(
    name="minirocket",
    title="random convolutional features of series, and a linear model",
    reference="Dempster et al., MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series "
    "Classification, KDD 2021, arXiv:2012.08791",
    pretrained=False,
    uses_body=False,
    sections=("data",),
    options=(MiniRocketConfig,),
    problem=_problem,
    network=_network,
    stages=_stages,
    trainable=head_parameters,
    operations=_operations,
    fitted=True,
    variant=True,
)
