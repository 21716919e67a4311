"""Networks of controls that keep only a part of what pretraining left in the weights.

They tell what a pretrained body's gain is made of: the scale of the weights, their
distribution, or the norms alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from orca_ray.methods.recipe import norm_parameters
from orca_ray.methods.stages.trial import NetworkRequest
from orca_ray.models.body import seeded
from orca_ray.models.crossmodal import CrossModalModel


def rescaled_network(request: NetworkRequest) -> CrossModalModel:
    """Return the model of `rescaled`: random, of each tensor's mean and deviation.

    A tensor whose values are all equal, such as a bias of zeros, stays as it is.
    """

    def redraw(values: Tensor) -> Tensor:
        deviation = values.std(correction=0)
        return values.mean() + deviation * torch.randn_like(values)

    return _changed(request, redraw)


def shuffled_network(request: NetworkRequest) -> CrossModalModel:
    """Return the model of `shuffled`: each tensor's values in random order."""

    def shuffle(values: Tensor) -> Tensor:
        order = torch.randperm(values.numel())
        return values.flatten()[order].reshape(values.shape)

    return _changed(request, shuffle)


def norms_network(request: NetworkRequest) -> CrossModalModel:
    """Return the model of `norms_only`: random weights but for the body's norms."""
    model = request.build()
    if not isinstance(request.arguments["body"], str):
        # The weights of a model folder are read into the model afterwards.
        return model
    random = request.build(pretrained=False)
    kept = {id(parameter) for parameter in norm_parameters(model.body)}
    with torch.no_grad():
        for own, drawn in zip(model.parameters(), random.parameters(), strict=True):
            if id(own) not in kept:
                own.copy_(drawn)
    return model


def _changed(
    request: NetworkRequest, change: Callable[[Tensor], Tensor]
) -> CrossModalModel:
    """Return the model with each parameter of embedder and body changed.

    ``change`` returns the new values, and may use torch's global generator.
    """
    model = request.build()
    with seeded(request.arguments["seed"]), torch.no_grad():
        for part in (model.embedder, model.body):
            for parameter in part.parameters():
                parameter.copy_(change(parameter))
    return model
