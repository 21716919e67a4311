"""Baselines without a network, for any kind of data or for tables.

They are ``linear``, ``linear_values``, ``nearest``, ``forest``, ``kernel_ridge`` and
``gradient_boosting``. ``linear``, ``nearest``, ``forest`` and ``kernel_ridge``, for any
kind of data, use the features of `orca_ray.models.features`: the values of tables and
fields, and summaries of series, images and recordings. ``linear`` is a logistic
regression for classes and labels, else a ridge regression. ``linear_values`` is the
same regression of the values themselves, also of series: if the target is a weighted
sum of them, as in forecasts, the summaries only add noise. ``nearest`` averages the
targets of the nearest training samples.
``forest`` is a random forest of scikit-learn. ``kernel_ridge`` is a ridge regression of
Gaussian kernels. Penalties, the width of the kernels and the number of neighbours are
chosen within the training samples.

``gradient_boosting`` is the usual baseline for tables: trees of LightGBM on the values
themselves. An epoch adds ``boosting.rounds`` rounds of one tree each, or of one tree
for each class if there are more than two. For a target of several labels or numbers,
each of them has a booster. The trees of the best epoch on validation data are kept. The
trees minimise log loss or squared error instead of the task's loss; the task's metric
compares the epochs. Missing values are allowed.
"""

import importlib.util
import math
from collections.abc import Mapping
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from orca_ray.methods.options import BoostingConfig, ForestConfig, LinearConfig, Scalar
from orca_ray.methods.recipe import Recipe, head_parameters
from orca_ray.methods.recipes.cnn import TABLES

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task

_MOST_VALUES = 2**16
"""Largest number of values of an input, and of an output."""
_MOST_WEIGHTS = 2**26
"""Largest number of weights between an input and an output."""
MAX_FEATURES = 4096
"""Largest number of values of an input for ``gradient_boosting``."""
MOST_NUMBERS = 64
"""Largest number of targets of a table for methods that predict no fields."""


def _features(task: "Task") -> str:
    """Return the kind of features for the inputs of ``task``.

    It is a name in `orca_ray.models.features.FEATURES`.
    """
    assert task.input_shape is not None, "a resolved task knows its shapes"
    _, *size = task.input_shape
    if task.domain in TABLES or task.target.kind == "dense" or math.prod(size) == 1:
        return "values"
    if len(size) == 1:
        return "series"
    return "audio" if task.domain == "audio" else "image"


def _has_several_numbers(task: "Task") -> bool:
    """Return whether the targets are columns of numbers of a table."""
    return task.domain in TABLES and len(task.target.shape) == 1


def _problem(task: "Task", *, fields: bool = True, features: str = "") -> str | None:
    """Return why a method cannot adapt to ``task``; None if it can.

    ``fields``: whether the method can predict fields. ``features`` is the kind of
    features; "": the kind that suits the inputs.
    """
    if not fields and task.target.kind == "dense":
        if not _has_several_numbers(task):
            return (
                "it predicts classes, labels, one number or several numbers of a table,"
                f" not a field of shape {task.target.shape}"
            )
        if task.target.num_outputs > MOST_NUMBERS:
            return (
                f"it predicts at most {MOST_NUMBERS} numbers, not"
                f" {task.target.num_outputs}"
            )
    if task.input_shape is None:
        return None
    has_values = (features or _features(task)) == "values"
    num_inputs = math.prod(task.input_shape) if has_values else 1
    num_outputs = task.target.num_outputs
    sizes = {"an input": num_inputs, "an output": num_outputs}
    for name, size in sizes.items():
        if size > _MOST_VALUES or num_inputs * num_outputs > _MOST_WEIGHTS:
            return (
                f"{name} has {size} values; at most {_MOST_VALUES}, and"
                f" {_MOST_WEIGHTS} for their product"
            )
    return None


def _boosting_problem(task: "Task") -> str | None:
    """Return why boosting cannot adapt to ``task``; None if it can."""
    if importlib.util.find_spec("lightgbm") is None:
        return "it needs the package lightgbm: pip install 'orca-ray[trees]'"
    problem = _problem(task, fields=False)
    if problem or task.input_shape is None:
        return problem
    num_values = math.prod(task.input_shape)
    if num_values <= MAX_FEATURES:
        return None
    return (
        f"an input has {num_values} values (shape {task.input_shape}), and trees take"
        f" each value as a feature of a table: at most {MAX_FEATURES}"
    )


def _network(request: "NetworkRequest", stage: str, features: str) -> "CrossModalModel":
    """Return a model of an input's features, with the body and head of a stage.

    ``stage`` names the class of the stage. ``features`` is the kind of features; "":
    the kind that suits the inputs.
    """
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.models.features import FeatureEmbedder

    embedder = FeatureEmbedder(
        features or _features(request.task), request.arguments["input_shape"]
    )
    body, head = resolve_name(stage).network(request, embedder.width)
    return CrossModalModel(embedder, body, head, request.arguments["statistics"])


def _operations(
    task: "Task", values: Mapping[str, Scalar], method: str = ""
) -> float | None:
    """Return the approximate operations of features, outputs and fitting per sample."""
    if task.input_shape is None:
        return None
    size = math.prod(task.input_shape)
    count = sum(task.num_samples or (1000,))
    is_linear = method in ("linear", "linear_values")
    is_logistic = is_linear and task.target.kind in ("classes", "labels")
    passes = 30 if is_logistic else 1  # L-BFGS takes many passes over the samples
    common = float(100 * size + 2 * size * task.target.num_outputs * passes)
    if method == "kernel_ridge":
        landmarks = min(count, 1000)
        fitted_share = min(1.0, 10_000 / count)
        kernels = 2 * size * landmarks
        return common + (kernels + 4 * landmarks**2 * fitted_share)
    if method == "nearest":
        return common + 0.5 * size * min(count, 50_000)
    if method == "forest":
        # A comparison of a tree takes as long as some hundred operations.
        tried_features = math.sqrt(min(size, 1000))
        bag_share = min(1.0, 10_000 / count)
        return common + 30_000 * tried_features * bag_share * math.log2(count)
    return common


def _boosting_operations(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return the number of additions to histograms of an epoch's trees per sample.

    There is one addition for each feature at each level of a tree.
    """
    if task.input_shape is None:
        return None
    num_trees = int(values["boosting.rounds"]) * task.target.num_outputs
    num_levels = math.log2(int(values["boosting.leaves"]))
    return float(num_trees * math.prod(task.input_shape) * num_levels)


def _recipe(
    name: str, title: str, reference: str, stage: str, features: str = "", **parts: Any
) -> Recipe:
    """Return the recipe of a method that fits a model to features of the inputs.

    ``stage`` names the class of its only stage, as MODULE:CLASS. ``features`` is the
    kind of features; "": the kind that suits the inputs. ``parts`` are other fields of
    the recipe, which replace the usual ones.
    """
    stage = f"orca_ray.methods.stages.{stage}"
    usual: dict[str, Any] = {
        "sections": ("data",),
        "operations": partial(_operations, method=name),
        "refits": True,
        "problem": _problem,
    }
    return Recipe(
        name=name,
        title=f"{title}, without a network",
        reference=reference,
        pretrained=False,
        uses_body=False,
        network=partial(_network, stage=stage, features=features),
        fitted=True,
        variant=True,
        stages=lambda trial: [resolve_name(stage)(trial)],
        **{**usual, **parts},
    )


RECIPES = (
    _recipe(
        "linear",
        "logistic or ridge regression of features",
        "Hoerl and Kennard, Ridge Regression, 1970, and Cox, The Regression Analysis of"
        " Binary Sequences, 1958",
        "linear:LinearStage",
        trainable=head_parameters,
        options=(LinearConfig,),
    ),
    _recipe(
        "linear_values",
        "logistic or ridge regression of the values themselves",
        "Hoerl and Kennard, Ridge Regression, 1970, and Cox, The Regression Analysis of"
        " Binary Sequences, 1958",
        "linear:LinearStage",
        "values",
        trainable=head_parameters,
        options=(LinearConfig,),
        problem=partial(_problem, features="values"),
    ),
    _recipe(
        "nearest",
        "nearest neighbours by features",
        "Cover and Hart, Nearest Neighbor Pattern Classification, IEEE Transactions on"
        " Information Theory 1967",
        "nearest:NearestStage",
    ),
    _recipe(
        "forest",
        "a random forest of features",
        "Breiman, Random Forests, Machine Learning 2001",
        "forest:ForestStage",
        problem=partial(_problem, fields=False),
        options=(ForestConfig,),
    ),
    _recipe(
        "kernel_ridge",
        "ridge regression of Gaussian kernels around training samples",
        "Williams and Seeger, Using the Nyström Method to Speed Up Kernel Machines,"
        " NeurIPS 2000",
        "kernel_ridge:KernelStage",
        problem=partial(_problem, fields=False),
    ),
    _recipe(
        "gradient_boosting",
        "gradient-boosted trees",
        "Ke et al., LightGBM: A Highly Efficient Gradient Boosting Decision Tree,"
        " NeurIPS 2017, github.com/microsoft/LightGBM",
        "boosting:BoostingStage",
        "values",
        sections=("data", "refine.epochs"),
        options=(BoostingConfig,),
        problem=_boosting_problem,
        operations=_boosting_operations,
    ),
)
