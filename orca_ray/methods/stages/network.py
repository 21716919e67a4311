"""`NetworkRequest`, the argument of `Recipe.network`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from orca_ray.methods.hyperparameters import Hyperparameters
from orca_ray.methods.recipe import Recipe
from orca_ray.models.architecture import BodyArchitecture
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.tasks.task import Task


@dataclass(frozen=True)
class NetworkRequest:
    """Task and options of a model. Equal requests must give equal models and leave the global random state as it is."""

    task: Task
    hyperparameters: Hyperparameters
    arguments: Mapping[str, Any]
    """Arguments of `build_model`."""

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of the `arguments` that a network without a body takes, too."""
        return {name: self.arguments[name] for name in names}

    def build(self, **changes: Any) -> CrossModalModel:
        """Return the body between a new embedder and a new head; ``changes`` replace `arguments`."""
        return build_model(**{**self.arguments, **changes})


def network_request(
    recipe: Recipe,
    task: Task,
    options: Hyperparameters,
    body: str | BodyArchitecture,
    *,
    seed: int,
    statistics: tuple[Tensor, Tensor] | None,
) -> NetworkRequest:
    """Return the request for the model of a trial; ``task`` must know its shapes (`Task.resolved`)."""
    return NetworkRequest(task, options, {
        "input_shape": task.input_shape, "target": task.target, "body": body, "pretrained": recipe.pretrained,
        "config": options.embedder, "dense_head": options.head.dense, "context": options.decoder.context,
        "dropout": options.refine.dropout, "stochastic_depth": options.refine.stochastic_depth == "body",
        "seed": seed, "statistics": statistics,
    })  # fmt: skip
