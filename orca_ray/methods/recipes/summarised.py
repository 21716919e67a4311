"""``linear``, ``nearest`` and ``forest``: the plain baselines of any kind of data, without a network.

All of them use the features of `orca_ray.models.features`: the values of tables and fields, and summaries of series,
images and recordings. ``linear`` is a logistic regression for classes and labels, else a ridge regression. ``nearest``
averages the targets of the nearest training samples. ``forest`` is a random forest of scikit-learn. Penalty and number
of neighbours are chosen within the training samples.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import Recipe, head_parameters
from orca_ray.training.config import Config, Number, must

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest, Stage, Trial
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task

_TABLES = ("tabular", "drug response")
_MOST_WEIGHTS, _COMPONENTS, _MOST_VALUES = 2**22, 512, 2**16
"""Largest number of weights of a linear model of all values; if it has more, number of principal components; largest
number of values of an input, and of an output."""


@dataclass(frozen=True)
class ForestConfig(Config):
    """Options of `forest`."""

    trees: Annotated[int, *Number.__metadata__, partial(must, "at most 5000", lambda value: value <= 5000)] = 300


def _features(task: "Task") -> str:
    """Return the kind of features for the inputs of ``task``, a name in `orca_ray.models.features.FEATURES`."""
    assert task.input_shape is not None, "a resolved task knows its shapes"
    _, *size = task.input_shape
    if task.domain in _TABLES or task.target.kind == "dense" or math.prod(size) == 1:
        return "values"
    if len(size) == 1:
        return "series"
    return "audio" if task.domain == "audio" else "image"


def _problem(task: "Task", *, trees: bool = False) -> str | None:
    if trees and task.target.kind == "dense":
        return f"trees predict classes, labels or one number, not a field of shape {task.target.shape}"
    if task.input_shape is None:
        return None
    for what, values in (("an input", math.prod(task.input_shape)), ("an output", task.target.num_outputs)):
        if values > _MOST_VALUES and (what == "an output" or _features(task) == "values"):
            return f"{what} has {values} values, and it is for at most {_MOST_VALUES}"
    return None


def _model(request: "NetworkRequest", make: "Callable[[Any, int], tuple[Any, Any]]") -> "CrossModalModel":
    """Return a model of the features of the task, and the body and head that ``make`` returns for their number."""
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.models.features import FeatureEmbedder

    embedder = FeatureEmbedder(_features(request.task), request.arguments["input_shape"])
    return CrossModalModel(embedder, *make(request.task.target, embedder.width), request.arguments["statistics"])


def _linear(request: "NetworkRequest") -> "CrossModalModel":
    from torch.nn.init import zeros_

    from orca_ray.models.crossmodal import PooledHead
    from orca_ray.models.features import FeatureBody

    def make(target: Any, width: int) -> tuple[Any, Any]:
        many = target.kind == "dense" and width * target.num_outputs > _MOST_WEIGHTS
        body = FeatureBody(width, min(width, _COMPONENTS) if many else 0)
        head = PooledHead(body.feature_width, target)
        for parameter in head.parameters():
            zeros_(parameter)
        return body, head

    return _model(request, make)


def _fit_linear(trial: "Trial") -> "list[Stage]":
    from orca_ray.methods.stages.fitted import RidgeStage
    from orca_ray.methods.stages.summarised import LogisticStage

    decides = trial.task.target.kind in ("classes", "labels")
    return [LogisticStage(trial) if decides else RidgeStage(trial, leave_one_out=True)]


def _nearest(request: "NetworkRequest") -> "CrossModalModel":
    from orca_ray.methods.stages.summarised import NEIGHBOURS
    from orca_ray.models.features import NearestBody, ProbabilityHead

    return _model(
        request,
        lambda target, width: (NearestBody(width, target.num_outputs, NEIGHBOURS[-1]), ProbabilityHead(target)),
    )


def _fit_nearest(trial: "Trial") -> "list[Stage]":
    from orca_ray.methods.stages.summarised import NearestStage

    return [NearestStage(trial)]


def _forest(request: "NetworkRequest") -> "CrossModalModel":
    from orca_ray.models.features import ForestBody, ProbabilityHead

    floor = 0.5 / request.hyperparameters.of(ForestConfig).trees
    return _model(
        request, lambda target, width: (ForestBody(width, target.num_outputs), ProbabilityHead(target, floor))
    )


def _fit_forest(trial: "Trial") -> "list[Stage]":
    from orca_ray.methods.stages.summarised import ForestStage

    return [ForestStage(trial, trial.hyperparameters.of(ForestConfig).trees)]


def _operations(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return about the operations of features and outputs; some passes over the samples fit them."""
    if task.input_shape is None:
        return None
    return float(100 * math.prod(task.input_shape) + 2 * math.prod(task.input_shape) * task.target.num_outputs)


_recipe = partial(
    Recipe, pretrained=False, uses_body=False, sections=("data",), problem=_problem, operations=_operations,
    fitted=True, refits=True, variant=True,
)  # fmt: skip
RECIPES = (
    _recipe(
        name="linear", title="logistic or ridge regression of features, without a network",
        reference="Hoerl and Kennard, Ridge Regression, Technometrics 1970, and Cox, The Regression Analysis of Binary "
        "Sequences, 1958",
        network=_linear, stages=_fit_linear, trainable=head_parameters,
    ),
    _recipe(
        name="nearest", title="nearest neighbours by features, without a network",
        reference="Cover and Hart, Nearest Neighbor Pattern Classification, 1967",
        network=_nearest, stages=_fit_nearest,
    ),
    _recipe(
        name="forest", title="a random forest of features, without a network",
        reference="Breiman, Random Forests, Machine Learning 2001",
        network=_forest, stages=_fit_forest, options=(ForestConfig,),
        problem=partial(_problem, trees=True),
    ),
)  # fmt: skip
