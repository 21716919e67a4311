"""All methods by name: the recipes of `orca_ray.methods.recipes` and of plug-ins."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from orca_ray.discovery import declared, modules, with_plug_ins
from orca_ray.errors import UserError, lookup, unknown_name
from orca_ray.methods import recipes
from orca_ray.methods.recipe import Recipe
from orca_ray.options import section_name

if TYPE_CHECKING:
    from orca_ray.tasks.task import Task

FIELD = "field"
"""Name of the group of all methods."""


def expand(names: Iterable[str]) -> list[str]:
    """Return ``names`` with the group `FIELD` replaced by its methods, each once; UserError for an unknown name."""
    field = [recipe.name for recipe in all_methods().values() if not recipe.variant]
    expanded = [each for name in names for each in (field if name == FIELD else [name])]
    for name in expanded:
        if name not in all_methods():
            raise unknown_name("method", name, method_choices())
    return list(dict.fromkeys(expanded))


def method_choices() -> list[str]:
    """Return the names of all methods and groups."""
    return [*all_methods(), FIELD]


def get_method(name: str) -> Recipe:
    """Return the recipe of a method; raises UserError for an unknown name."""
    return lookup("method", name, all_methods())


@cache
def all_methods() -> Mapping[str, Recipe]:
    """Return all recipes by name, those of plug-ins last; ValueError if two modules of orca-ray share a name."""
    return with_plug_ins("method", Recipe, declared(Recipe, "RECIPE", modules(recipes)), _objection)


def _objection(new: Recipe, found: Mapping[str, Recipe]) -> str:
    """Return why the options of a method cannot be added to those of the methods ``found``; "" if they can."""
    known = {section_name(each): each for recipe in found.values() for each in recipe.options}
    for config in new.options:
        section = section_name(config)
        if section in {*Recipe.sections, "align"} or known.get(section, config) is not config:
            return f"declares the options {section}.*, which exist: give {config.__name__} another name"
    return ""


def check_unfit(method: str, task: "Task") -> None:
    """Raise UserError if ``method`` cannot adapt to ``task`` (`Recipe.problem`)."""
    if problem := get_method(method).problem(task):
        raise UserError(
            f"{method} cannot adapt to {task.name}: {problem}. Leave out one of them: choose others by --methods or "
            "--tasks, or in the sweep file"
        )
