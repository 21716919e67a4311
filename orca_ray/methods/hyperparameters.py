"""Conversion of hyper-parameters with dotted names, e.g. ``refine.learning_rate``, to configuration dataclasses."""

import sys
from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from orca_ray.errors import UserError, unknown_name
from orca_ray.methods.options import SHARED, Hyperparameters, LoraConfig, Scalar
from orca_ray.methods.registry import all_methods, get_method
from orca_ray.models.modality import DecoderConfig
from orca_ray.options import section_name

_YOUNGER = {"decoder.context": DecoderConfig.context, "lora.weights": LoraConfig.weights}
"""Defaults of the options that were added after the first records."""


def _own() -> dict[str, type[Any]]:
    return {section_name(config): config for recipe in all_methods().values() for config in recipe.options}


@cache
def names() -> Mapping[str, type[int] | type[float] | type[str]]:
    """Return the type (int, float or str) of every hyper-parameter by dotted name."""
    return {
        f"{section}.{option.name}": type(getattr(config(), option.name))
        for section, config in {**SHARED, **_own()}.items()
        for option in fields(config)
    }


def from_flat(values: Mapping[str, Scalar]) -> Hyperparameters:
    """Return the configuration with ``values``, by dotted name; other hyper-parameters have the dataclasses' defaults.

    Raises UserError for an unknown name, a value of the wrong type, or a value out of range.
    """
    known, own = names(), _own()
    sections: dict[str, dict[str, Scalar]] = {section: {} for section in {**SHARED, **own}}
    for name, value in values.items():
        if name not in known:
            raise unknown_name("hyper-parameter", name, known)
        section, option = name.split(".")
        sections[section][option] = _checked(name, value, known[name])
    try:
        shared = {section: config(**sections[section]) for section, config in SHARED.items()}
        return Hyperparameters(
            **shared, of_methods={section: config(**sections[section]) for section, config in own.items()}
        )
    except ValueError as error:  # out of range
        raise error if isinstance(error, UserError) else UserError(str(error)) from error


def resolve(method: str, values: Mapping[str, Scalar]) -> Hyperparameters:
    """Return the configuration with the defaults of ``method``, overridden by ``values``; rest as in `from_flat`."""
    return from_flat({**get_method(method).defaults, **values})


def relevant(options: Hyperparameters, method: str, searched: Collection[str] = ()) -> dict[str, Scalar]:
    """Return the values that ``method`` uses, by dotted name: without ``align.*`` if it has no align stage.

    An option that was added after the first records, and is not among the ``searched``, is left out if it has the
    method's default, so that trials keep the keys that they have in older stores.
    """
    recipe = get_method(method)
    used = {*recipe.sections, *(["align"] if recipe.aligns else []), *map(section_name, recipe.options)}
    omitted = {name: recipe.defaults.get(name, value) for name, value in _YOUNGER.items() if name not in searched}
    return {
        name: value
        for name, value in options.to_flat().items()
        if (name in used or name.split(".")[0] in used) and (name not in omitted or value != omitted[name])
    }


def _checked(name: str, value: Scalar, expected: type[int] | type[float] | type[str]) -> Scalar:
    # In Python, bool is an int, but "epochs: true" is a mistake; an int is a valid float.
    if not isinstance(value, bool):
        if isinstance(value, expected):
            return value
        if expected is float and isinstance(value, int) and abs(value) <= sys.float_info.max:
            return float(value)
    kind = {int: "a whole number", float: "a number", str: "a name"}[expected]
    raise UserError(f"hyper-parameter {name} must be {kind}, got {value!r}")
