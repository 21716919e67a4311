"""Registry of methods: recipes by name, of `orca_ray.methods.recipes` and of plug-ins,
and hyper-parameters by name.
"""

import sys
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

    UserError for an unknown name.
    """
    field = [recipe.name for recipe in all_methods().values() if not recipe.variant]
    expanded = [each for name in names for each in (field if name == FIELD else [name])]
    for name in expanded:
        if name not in all_methods():
            raise unknown_name("method", name, method_choices())
    return list(dict.fromkeys(expanded))


def method_choices() -> list[str]:
    """Return the names of all methods, then "field", the name of the group `FIELD`."""
    return [*all_methods(), FIELD]


def get_method(name: str) -> Recipe:
    """Return the recipe of the method called ``name``; raises UserError for an unknown
    name.
    """
    return lookup("method", name, all_methods())


@cache
def all_methods() -> Mapping[str, Recipe]:
    """Return all recipes by name, those of plug-ins last; ValueError if two recipes of
    orca-ray share a name.
    """
    return with_plug_ins(
        "method", Recipe, declared(Recipe, "RECIPE", modules(recipes)), _objection
    )


def _objection(new: Recipe, found: Mapping[str, Recipe]) -> str:
    """Return why the options of a method cannot be added to those of the methods
    ``found``; "" if they can.
    """
    known = {
        section_name(each): each for recipe in found.values() for each in recipe.options
    }
    for config in new.options:
        section = section_name(config)
        if (
            section in {*Recipe.sections, "align"}
            or known.get(section, config) is not config
        ):
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


_YOUNGER = {
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


def _own() -> dict[str, type[Any]]:
    return {
        section_name(config): config
        for recipe in all_methods().values()
        for config in recipe.options
    }


@cache
def names() -> Mapping[str, type[int] | type[float] | type[str]]:
    """Return the type (int, float or str) of every hyper-parameter by dotted name."""
    return {
        f"{section}.{option.name}": type(getattr(config(), option.name))
        for section, config in {**SHARED, **_own()}.items()
        for option in fields(config)
    }


def from_flat(values: Mapping[str, Scalar]) -> Hyperparameters:
    """Return hyper-parameters with ``values`` by dotted name and, for all others, the
    defaults of their sections.

    Raises UserError for an unknown name, a value of the wrong type, or a value out of
    range.
    """
    known = names()
    own = _own()
    sections: dict[str, dict[str, Scalar]] = {
        section: {} for section in {**SHARED, **own}
    }
    for name, value in values.items():
        if name not in known:
            raise unknown_name("hyper-parameter", name, known)
        section, option = name.split(".")
        sections[section][option] = _checked(name, value, known[name])
    try:
        shared = {
            section: config(**sections[section]) for section, config in SHARED.items()
        }
        return Hyperparameters(
            **shared,
            of_methods={
                section: config(**sections[section]) for section, config in own.items()
            },
        )
    except ValueError as error:  # out of range
        raise (
            error if isinstance(error, UserError) else UserError(str(error))
        ) from error


def resolve(method: str, values: Mapping[str, Scalar]) -> Hyperparameters:
    """Return the hyper-parameters with ``values`` by dotted name and, for all others,
    the defaults of ``method``.

    Raises UserError for an unknown method or name, a value of the wrong type, or a
    value out of range.
    """
    return from_flat({**get_method(method).defaults, **values})


def relevant(
    options: Hyperparameters, method: str, searched: Collection[str] = ()
) -> dict[str, Scalar]:
    """Return the values of those hyper-parameters that ``method`` uses (see
    `Recipe.sections`), by dotted name.

    An option that did not exist in older results stores is left out if its value is the
    method's default and its name is not in ``searched``. So a trial has the same key as
    in an older store.
    """
    recipe = get_method(method)
    used = {
        *recipe.sections,
        *(["align"] if recipe.aligns else []),
        *map(section_name, recipe.options),
    }
    omitted = {
        name: recipe.defaults.get(name, value)
        for name, value in _YOUNGER.items()
        if name not in searched
    }
    return {
        name: value
        for name, value in options.to_flat().items()
        if (name in used or name.split(".")[0] in used)
        and (name not in omitted or value != omitted[name])
    }


def _checked(
    name: str, value: Scalar, expected: type[int] | type[float] | type[str]
) -> Scalar:
    # In Python, bool is an int, but "epochs: true" is a mistake; an int is a valid
    # float.
    if not isinstance(value, bool):
        if isinstance(value, expected):
            return value
        if (
            expected is float
            and isinstance(value, int)
            and abs(value) <= sys.float_info.max
        ):
            return float(value)
    kind = {int: "a whole number", float: "a number", str: "a name"}[expected]
    raise UserError(f"hyper-parameter {name} must be {kind}, got {value!r}")
