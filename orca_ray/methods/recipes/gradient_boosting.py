"""``gradient_boosting``: gradient-boosted trees by LightGBM, the usual baseline for tables.

An epoch adds ``boosting.rounds`` rounds of one tree each, or of one tree for each class if there are more than two. For
a target of several labels, each label has a booster. The trees of the best epoch on validation data are kept. The trees
minimise log loss or squared error instead of the task's loss; the task's metric compares the epochs. Missing values are
allowed.
"""

import importlib.util
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from orca_ray.methods.options import BoostingConfig, Scalar
from orca_ray.methods.recipe import Recipe

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest, Stage, Trial
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task

MAX_FEATURES = 4096
"""Largest number of values in one input."""


def _problem(task: "Task") -> str | None:
    if importlib.util.find_spec("lightgbm") is None:
        return "it needs the package lightgbm: pip install 'orca-ray[trees]'"
    if task.target.kind == "dense":
        return f"trees predict classes, labels or one number, not a field of shape {task.target.shape}"
    if task.input_shape is not None and (number := math.prod(task.input_shape)) > MAX_FEATURES:
        shape = f"{number} values (shape {task.input_shape})"
        return f"an input has {shape}, and trees take each value as a feature of a table: at most {MAX_FEATURES}"
    return None


def _network(request: "NetworkRequest") -> "CrossModalModel":
    from orca_ray.models.trees import build_trees

    return build_trees(**request.given("input_shape", "target", "statistics"))


def _stages(trial: "Trial") -> "list[Stage]":
    from orca_ray.methods.stages.fitted import BoostingStage

    return [BoostingStage(trial, trial.hyperparameters.of(BoostingConfig))]


def _operations(task: "Task", values: Mapping[str, Scalar]) -> float | None:
    """Return the additions to histograms, of each feature at each level of the trees of an epoch."""
    if task.input_shape is None:
        return None
    trees = int(values["boosting.rounds"]) * task.target.num_outputs
    return float(trees * math.prod(task.input_shape) * math.log2(int(values["boosting.leaves"])))


RECIPE = Recipe(
    name="gradient_boosting",
    title="gradient-boosted trees, without a network",
    reference="Ke et al., LightGBM: A Highly Efficient Gradient Boosting Decision Tree, NeurIPS 2017",
    pretrained=False,
    uses_body=False,
    sections=("data", "refine.epochs"),
    options=(BoostingConfig,),
    problem=_problem,
    network=_network,
    stages=_stages,
    operations=_operations,
    fitted=True,
    variant=True,
)
