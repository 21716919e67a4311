"""The parameters of a model that a stage trains: freezing all others, their groups, and their weights to keep."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from orca_ray.errors import UserError
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training.optimisation import ParameterGroup


class Trained:
    """Parameters of a model that are trained; all others are frozen."""

    def __init__(self, model: CrossModalModel, parameters: Iterable[Parameter]) -> None:
        """Freeze all parameters of ``model`` but ``parameters``; raises UserError if none of these is the model's."""
        chosen = {id(parameter) for parameter in parameters}
        self._model = model
        self._named = {name: value for name, value in model.named_parameters() if id(value) in chosen}
        if not self._named:
            raise UserError("the method trains no parameter of this model")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self._named)
        self.parameters = list(self._named.values())

    def groups(self, body_scale: float) -> list[ParameterGroup]:
        """Return the parameters outside of the body, and those inside, whose learning rate is ``body_scale`` times."""
        body = set(self._model.body.parameters())  # tensors are hashed by identity
        inside = [parameter for parameter in self.parameters if parameter in body]
        outside = [parameter for parameter in self.parameters if parameter not in body]
        return [ParameterGroup(outside), ParameterGroup(inside, body_scale)]

    def weights(self) -> dict[str, Tensor]:
        """Return the present parameters, and the model's buffers that are saved, by name; they share its memory."""
        saved = self._model.state_dict()
        buffers = {name: value for name, value in self._model.named_buffers() if name in saved}
        return {name: value.detach() for name, value in self._named.items()} | buffers

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Set parameters and buffers to ``weights``, which are those of `weights` at another time."""
        with torch.no_grad():
            for name, value in self.weights().items():
                value.copy_(weights[name])
