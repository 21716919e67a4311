"""Recipes of ORCA (align the embedder, then fine-tune everything) and of the methods that it is compared with.

``published.toml`` declares them. Two are controls, which show what the pretrained body contributes.
"""

from collections.abc import Iterator
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from orca_ray.discovery import tables
from orca_ray.methods.recipe import Recipe, align_then_refine, new_parameters, norm_parameters

if TYPE_CHECKING:
    from torch.nn import Parameter

    from orca_ray.methods.stages.trial import NetworkRequest, Stage, Trial
    from orca_ray.models.crossmodal import CrossModalModel


def _attention(request: "NetworkRequest") -> "CrossModalModel":
    from orca_ray.methods.stages.networks import AttentionBody

    dropout = request.hyperparameters.refine.dropout
    return request.build(substitute=lambda replaced: AttentionBody(replaced, dropout))


def _guarded(trial: "Trial") -> "list[Stage]":
    return align_then_refine(trial, guarded=True)


def _new_and_norms(model: "CrossModalModel") -> "Iterator[Parameter]":
    yield from new_parameters(model)
    yield from norm_parameters(model.body)


_FUNCTIONS = ("network", "stages", "trainable")
RECIPES = tuple(
    Recipe(name=name, **{key: resolve_name(value) if key in _FUNCTIONS else value for key, value in fields.items()})
    for name, fields in tables(__package__, "published.toml").items()
)
