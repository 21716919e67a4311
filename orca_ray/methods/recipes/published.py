"""Recipes of ORCA (align the embedder, then fine-tune everything) and of the methods
that it is compared with.

``published.toml`` declares them. Two are controls, which show what the pretrained body
contributes.
"""

from functools import partial

from orca_ray.discovery import tables
from orca_ray.methods.recipe import Recipe, align_then_refine, deferred

guarded = partial(align_then_refine, guarded=True)
_FUNCTIONS = ("network", "stages", "trainable")
RECIPES = tuple(
    Recipe(
        name=name,
        **(
            fields | {key: deferred(fields[key]) for key in _FUNCTIONS if key in fields}
        ),
    )
    for name, fields in tables(__package__, "published.toml").items()
)
