"""Registries of methods and of hyper-parameters, by name.

Methods are the recipes of `orca_ray.methods.recipes` and of plug-ins.
"""

import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from orca_ray.discovery import declared, modules, with_plug_ins
from orca_ray.errors import UserError, lookup, unknown_name
from orca_ray.methods import recipes
from orca_ray.methods.options import (
    SHARED,
    BoostingConfig,
    ForestConfig,
    Hyperparameters,
    LinearConfig,
    LoraConfig,
    Scalar,
)
from orca_ray.methods.recipe import Recipe
from orca_ray.methods.recipes.minirocket import MiniRocketConfig
from orca_ray.options import section_name
from orca_ray.tasks.task import Task
from orca_ray.training.config import DataConfig, RefineConfig

FIELD = "field"
"""Name of the group of all methods, except those with `Recipe.variant`."""


def expand(names: Iterable[str]) -> list[str]:
    """Return ``names`` without duplicates; "field" becomes all methods but variants.

    Raises UserError for an unknown name.
    """
    expanded = dict[str, None]()
    for name in names:
        if name == FIELD:
            recipes_of_field = [
                recipe for recipe in all_methods().values() if not recipe.variant
            ]
            expanded |= {recipe.name: None for recipe in recipes_of_field}
        elif name in all_methods():
            expanded[name] = None
        else:
            raise unknown_name("method", name, method_choices())
    return list(expanded)


def method_choices() -> list[str]:
    """Return the names of all methods, then "field", the name of the group `FIELD`."""
    return [*all_methods(), FIELD]


def get_method(name: str) -> Recipe:
    """Return the recipe of the method called ``name``; UserError for an unknown one."""
    return lookup("method", name, all_methods())


@cache
def all_methods() -> Mapping[str, Recipe]:
    """Return all recipes by name, those of plug-ins last.

    Raises ValueError if two recipes of orca-ray share a name.
    """
    own_recipes = declared(Recipe, "RECIPE", modules(recipes))
    return with_plug_ins("method", Recipe, own_recipes, _objection)


def _objection(new: Recipe, present: Mapping[str, Recipe]) -> str:
    """Return why the options of the recipe ``new`` cannot be added.

    "": no method of ``present`` has other options of the same name.
    """
    sections = _sections(present.values())
    for config in new.options:
        section = section_name(config)
        is_shared = section in {*Recipe.sections, "align"}
        if is_shared or sections.get(section, config) is not config:
            return (
                f"declares the options {section}.*, which exist: give {config.__name__}"
                " another name"
            )
    return ""


def check_unfit(method: str, task: Task) -> None:
    """Raise UserError if ``method`` cannot adapt to ``task`` (`Recipe.problem`)."""
    if problem := get_method(method).problem(task):
        raise UserError(
            f"{method} cannot adapt to {task.name}: {problem}. Leave out one of them:"
            " choose others by --methods or --tasks, or in the sweep file"
        )


_ADDED_LATER = {
    "boosting.copies": BoostingConfig.copies,
    "boosting.rows": BoostingConfig.rows,
    "cnn.stages": "residual",
    "cnn.views": 1,
    "cnn.weights": "plain",
    "data.chooses": DataConfig.chooses,
    "data.fold": DataConfig.fold,
    "forest.splits": ForestConfig.splits,
    "linear.limit": LinearConfig.limit,
    "lora.weights": LoraConfig.weights,
    "minirocket.penalty": MiniRocketConfig.penalty,
    "refine.keep": RefineConfig.keep,
    "refine.label_smoothing": RefineConfig.label_smoothing,
    "refine.shift": RefineConfig.shift,
    "refine.start": RefineConfig.start,
}
"""Defaults of the options that were added after the first records."""


def _sections(methods: Iterable[Recipe]) -> dict[str, type[Any]]:
    """Return the options of single ``methods``, by name of their section."""
    return {
        section_name(config): config for recipe in methods for config in recipe.options
    }


@cache
def hyperparameter_types() -> Mapping[str, type[int] | type[float] | type[str]]:
    """Return the type (int, float or str) of every hyper-parameter by dotted name."""
    sections = {**SHARED, **_sections(all_methods().values())}
    return {
        f"{section}.{option.name}": type(getattr(config(), option.name))
        for section, config in sections.items()
        for option in fields(config)
    }


def from_flat(values: Mapping[str, Scalar]) -> Hyperparameters:
    """Return hyper-parameters with ``values`` by dotted name.

    All others have the defaults of their sections. Raises UserError for an unknown
    name, a value of the wrong type, or a value out of range.
    """
    types = hyperparameter_types()
    options = defaultdict[str, dict[str, Scalar]](dict)
    for name, value in values.items():
        if name not in types:
            raise unknown_name("hyper-parameter", name, types)
        section, option = name.split(".")
        options[section][option] = _checked(name, value, types[name])
    of_methods = _sections(all_methods().values())
    try:
        return Hyperparameters(
            **{name: config(**options[name]) for name, config in SHARED.items()},
            of_methods={
                name: config(**options[name]) for name, config in of_methods.items()
            },
        )
    except UserError:
        raise
    except ValueError as error:  # out of range
        raise UserError(str(error)) from error


def resolve(method: str, values: Mapping[str, Scalar]) -> Hyperparameters:
    """Return the hyper-parameters with ``values`` by dotted name.

    All others have the defaults of ``method``. Raises UserError for an unknown method
    or name, a value of the wrong type, or a value out of range.
    """
    return from_flat({**get_method(method).defaults, **values})


def relevant(
    options: Hyperparameters, method: str, searched: Collection[str] = ()
) -> dict[str, Scalar]:
    """Return the values of the hyper-parameters that ``method`` uses, by dotted name.

    `Recipe.sections` says which these are. An option that did not exist in older
    results stores is left out if its value is the method's default and its name is not
    in ``searched``. So a trial has the same key as in an older store.
    """
    recipe = get_method(method)
    used = {*recipe.sections, *map(section_name, recipe.options)}
    if recipe.aligns:
        used.add("align")
    omitted = {
        name: recipe.defaults.get(name, value)
        for name, value in _ADDED_LATER.items()
        if name not in searched
    }
    values = dict[str, Scalar]()
    for name, value in options.to_flat().items():
        section, _, _ = name.partition(".")
        is_omitted = name in omitted and value == omitted[name]
        if (name in used or section in used) and not is_omitted:
            values[name] = value
    return values


def _checked(
    name: str, value: Scalar, expected: type[int] | type[float] | type[str]
) -> Scalar:
    """Return ``value`` as the type ``expected``; UserError if it has another type.

    A whole number is accepted for float.
    """
    # In Python, bool is an int, but "epochs: true" is a mistake.
    is_bool = isinstance(value, bool)
    if isinstance(value, expected) and not is_bool:
        return value
    is_valid_int = isinstance(value, int) and abs(value) <= sys.float_info.max
    if expected is float and is_valid_int and not is_bool:
        return float(value)
    kind = {int: "a whole number", float: "a number", str: "a name"}[expected]
    raise UserError(f"hyper-parameter {name} must be {kind}, got {value!r}")
