"""Methods: a recipe says which stages run, from which initialisation, and which parameters refining trains.

A new method is one new module in this package with a ``RECIPE``; nothing else needs an edit.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

from torch import nn
from torch.nn import Parameter

from orca_ray.errors import unknown_name
from orca_ray.models.crossmodal import CrossModalModel

Scalar = int | float | str
"""The value of one hyper-parameter."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One method; everything it does follows from these fields."""

    name: str
    title: str
    """One line for listings."""
    reference: str
    """Paper, with its identifier."""
    aligns: bool
    """Whether the align stage runs before refining."""
    pretrained: bool
    """Whether body and embedder start from pretrained weights."""
    trainable: Callable[[CrossModalModel], Iterable[Parameter]]
    """The parameters that refining trains; all others stay as they are, bit for bit."""
    defaults: Mapping[str, Scalar] = field(default_factory=lambda: MappingProxyType({}))
    """Hyper-parameters, by dotted name, whose default differs from the stages' own."""


def all_parameters(model: CrossModalModel) -> Iterator[Parameter]:
    """Yield every parameter."""
    yield from model.parameters()


def head_parameters(model: CrossModalModel) -> Iterator[Parameter]:
    """Yield the head's parameters."""
    yield from model.head.parameters()


def norm_parameters(module: nn.Module) -> Iterator[Parameter]:
    """Yield the parameters of the normalisation layers below ``module``, by the layers' class names.

    Encoders bring norms of their own (RMSNorm variants), which share no base class; all of them are named so.
    """
    for layer in module.modules():
        if "norm" in type(layer).__name__.lower() and not list(layer.children()):
            yield from layer.parameters(recurse=False)


def get_method(name: str) -> Recipe:
    """Return the recipe of a method; raises UserError with the nearest name for an unknown one."""
    recipes = all_methods()
    if name not in recipes:
        raise unknown_name("method", name, recipes)
    return recipes[name]


@cache
def all_methods() -> Mapping[str, Recipe]:
    """Return every recipe of this package by name; refuses two with one name."""
    recipes: dict[str, Recipe] = {}
    package = importlib.import_module("orca_ray.methods")
    for info in pkgutil.iter_modules(package.__path__):
        recipe = getattr(importlib.import_module(f"orca_ray.methods.{info.name}"), "RECIPE", None)
        if recipe is None:
            continue
        assert isinstance(recipe, Recipe), f"orca_ray.methods.{info.name}.RECIPE is not a Recipe"
        assert recipe.name not in recipes, f"two methods are named {recipe.name!r}"
        recipes[recipe.name] = recipe
    return MappingProxyType(dict(sorted(recipes.items())))
