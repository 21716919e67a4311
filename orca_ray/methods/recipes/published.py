"""Recipes of ORCA, and of the methods that it is compared with.

ORCA aligns the embedder, then fine-tunes everything. ``published.toml`` declares the
recipes. Two are controls, which show what the pretrained body contributes.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from orca_ray.discovery import tables
from orca_ray.methods.recipe import Recipe, align_then_refine, deferred

guarded = partial(align_then_refine, guarded=True)
"""The stages of `orca_guarded`."""
_FUNCTIONS = ("network", "stages", "trainable")
"""Fields of a `Recipe` that are functions, declared by their names."""


def _recipe(name: str, fields: Mapping[str, Any]) -> Recipe:
    functions = {key: deferred(fields[key]) for key in _FUNCTIONS if key in fields}
    return Recipe(name=name, **{**fields, **functions})


RECIPES = tuple(
    _recipe(name, fields)
    for name, fields in tables(__package__, "published.toml").items()
)
