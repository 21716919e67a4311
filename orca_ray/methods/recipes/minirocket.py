"""``minirocket`` and ``hydra``: random convolutions and a linear model, for series.

The features are those of MiniRocket and Hydra (see `orca_ray.models.minirocket`). The
head is a ridge regression from these features to the target (1 and -1 for classes),
fitted in closed form, in one epoch. The penalty of ``hydra`` is chosen by leave-one-out
within the training samples, and its logits are scaled. By default, ``minirocket``
chooses its penalty on validation data; then the outputs rank the classes, but their
softmax is no calibrated probability.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from orca_ray.methods.options import LinearConfig, Scalar
from orca_ray.methods.recipe import Recipe, head_parameters
from orca_ray.training.config import Config, Number, must, one_of

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest, Stage, Trial
    from orca_ray.models.body import Body
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task

_LENGTH = 9
"""Number of positions of a kernel."""
_KERNELS = 84
"""Number of kernels of MiniRocket."""
MAX_SAMPLES = 100_000
"""Largest number of training samples, whose features, 40 kB each, are in memory."""


@dataclass(frozen=True)
class MiniRocketConfig(Config):
    """Options of the features; the defaults are the authors'."""

    features: Annotated[
        int,
        partial(
            must, "at least 84 and at most 1e+05", lambda value: 84 <= value <= 1e5
        ),
    ] = 10_000
    """Number of features, rounded down to a multiple of 84."""
    dilations: Number = 32
    """Largest number of dilations of a kernel."""
    penalty: Annotated[str, partial(one_of, ("validation", "leave_one_out"))] = (
        "validation"
    )
    """What chooses the penalty of the regression: validation data, or leave-one-out
    predictions of the training samples, which then also scale the logits.
    """


@dataclass(frozen=True)
class HydraConfig(Config):
    """Options of Hydra's features; the defaults are the authors'."""

    kernels: Number = 8
    """Number of kernels in a group."""
    groups: Annotated[
        int,
        partial(
            must, "even and at least 2", lambda value: value >= 2 and value % 2 == 0
        ),
    ] = 64
    """Number of groups with each dilation."""


def _problem(task: "Task") -> str | None:
    """Return why a method of this module cannot adapt to ``task``; None if it can."""
    if task.target.kind == "dense":
        return (
            "it predicts classes, labels or one number, not a field of shape"
            f" {task.target.shape}"
        )
    if task.input_shape is not None and len(task.input_shape) != 2:
        return (
            "it takes series, of shape (channels, length), not inputs of shape"
            f" {task.input_shape}"
        )
    if task.input_shape is not None and task.input_shape[1] < _LENGTH:
        return (
            f"its kernels have {_LENGTH} positions, and the series of this task have"
            f" {task.input_shape[1]}"
        )
    if task.num_samples is not None and task.num_samples[0] > MAX_SAMPLES:
        return (
            "it holds the features of all training samples in memory:"
            f" {task.num_samples[0]} are above {MAX_SAMPLES}"
        )
    return None


def _minirocket(request: "NetworkRequest") -> "Body":
    """Return the body of `minirocket`."""
    from orca_ray.models.minirocket import MiniRocketBody, fit_dilations

    config = request.hyperparameters.of(MiniRocketConfig)
    channels, length = request.arguments["input_shape"]
    dilations = fit_dilations(length, config.features, config.dilations)
    return MiniRocketBody(length, channels, dilations, request.arguments["seed"])


def _hydra(request: "NetworkRequest") -> "Body":
    """Return the body of `hydra`."""
    from orca_ray.models.minirocket import HydraBody

    config = request.hyperparameters.of(HydraConfig)
    channels, length = request.arguments["input_shape"]
    return HydraBody(
        length, channels, config.kernels, config.groups, request.arguments["seed"]
    )


def _joined_body(request: "NetworkRequest") -> "Body":
    from orca_ray.models.minirocket import JoinedBody

    return JoinedBody([_minirocket(request), _hydra(request)])


def _network(
    request: "NetworkRequest", body: "Callable[[NetworkRequest], Body]"
) -> "CrossModalModel":
    """Return a model of the features of ``body``, with a linear head."""
    from orca_ray.models.features import limit_features
    from orca_ray.models.minirocket import build_series_model

    limit = request.hyperparameters.of(LinearConfig).limit
    return build_series_model(
        limit_features(body(request), limit),
        **request.given("input_shape", "target", "statistics"),
    )


def _stages(trial: "Trial") -> "list[Stage]":
    """Return the stage that fits the head."""
    from orca_ray.methods.stages.ridge import RidgeStage

    penalty = trial.hyperparameters.of(MiniRocketConfig).penalty
    leave_one_out = trial.method == "hydra" or penalty == "leave_one_out"
    return [RidgeStage(trial, leave_one_out=leave_one_out)]


def _operations(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return the operations of the convolutions and of their features per sample."""
    if task.input_shape is None:
        return None
    channels, length = task.input_shape
    features = int(values["minirocket.features"])
    dilations = min(
        int(values["minirocket.dilations"]),
        features // _KERNELS,
        max(1, length // (_LENGTH - 1)),
    )
    convolutions = 2 * dilations * _KERNELS * _LENGTH * channels
    return float(length * (convolutions + 2 * features))


def _operations_of_hydra(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return the operations of Hydra's convolutions per sample."""
    if task.input_shape is None:
        return None
    channels, length = task.input_shape
    kernels = int(values["hydra.kernels"])
    groups = int(values["hydra.groups"])
    convolutions = 2 * math.log2(length) * kernels * groups
    return length * convolutions * (_LENGTH * channels + 4)


def _operations_of_both(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return the operations of both bodies per sample."""
    of_minirocket = _operations(task, values)
    of_hydra = _operations_of_hydra(task, values)
    if of_minirocket is None or of_hydra is None:
        return None
    return of_minirocket + of_hydra


_recipe = partial(
    Recipe,
    pretrained=False,
    uses_body=False,
    sections=("data",),
    problem=_problem,
    stages=_stages,
    trainable=head_parameters,
    fitted=True,
    refits=True,
    variant=True,
)
RECIPES = (
    _recipe(
        name="minirocket",
        title="random convolutional features of series, and a linear model",
        reference=(
            "Dempster et al., MiniRocket: A Very Fast (Almost) Deterministic Transform"
            " for Time Series Classification, KDD 2021, arXiv:2012.08791,"
            " github.com/angus924/minirocket"
        ),
        options=(MiniRocketConfig, LinearConfig),
        network=partial(_network, body=_minirocket),
        operations=_operations,
    ),
    _recipe(
        name="hydra",
        title="competing random convolutional kernels on series, and a linear model",
        reference=(
            "Dempster et al., Hydra: Competing Convolutional Kernels for Fast and"
            " Accurate Time Series Classification, Data Mining and Knowledge Discovery"
            " 2023, arXiv:2203.13652, github.com/angus924/hydra"
        ),
        options=(HydraConfig, LinearConfig),
        network=partial(_network, body=_hydra),
        operations=_operations_of_hydra,
    ),
    _recipe(
        name="minirocket_hydra",
        title="the features of `minirocket` and `hydra` together, and a linear model",
        reference=(
            "Dempster et al., Hydra, 2023, arXiv:2203.13652, and MiniRocket, 2021,"
            " arXiv:2012.08791, github.com/angus924/hydra"
        ),
        options=(MiniRocketConfig, HydraConfig, LinearConfig),
        network=partial(_network, body=_joined_body),
        operations=_operations_of_both,
        defaults={"minirocket.penalty": "leave_one_out"},
    ),
)
