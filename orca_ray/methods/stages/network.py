"""`NetworkRequest`, the argument of `Recipe.network`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orca_ray.data.prepared import PreparedData
from orca_ray.methods.hyperparameters import Hyperparameters
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.tasks.task import Task


@dataclass(frozen=True)
class NetworkRequest:
    """Task and options of a model. Equal requests must give equal models and leave the global random state as it is."""

    task: Task
    data: PreparedData
    hyperparameters: Hyperparameters
    arguments: Mapping[str, Any]
    """Arguments of `build_model`."""

    def build(self, **changes: Any) -> CrossModalModel:
        """Return the body between a new embedder and a new head; ``changes`` replace `arguments`."""
        return build_model(**{**self.arguments, **changes})
