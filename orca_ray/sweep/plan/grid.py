"""Grids of sweep files, which have factors, levels and cells.

A factor has several levels. A cell is a combination of one level of each factor. A grid
has one or more blocks, and each block has all cells of its factors.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from orca_ray.errors import UserError, printable, shorten, unknown_name
from orca_ray.methods.registry import hyperparameter_types
from orca_ray.models.names import listed_body
from orca_ray.sweep.plan.schema import Levels, Scalar, SweepFile
from orca_ray.sweep.plan.spec import SweepSpec

MAX_GRID_TRIALS = 2_000
"""Largest number of trials of one (task, method) with a grid: cells times seeds."""
Location = Sequence[str | int]
"""Keys and list indices that lead to a value of a sweep file."""


class Level(NamedTuple):
    """One level (setting) of a factor."""

    name: str
    """Name in the sweep file; the level of a hyper-parameter is named by its value."""
    settings: Mapping[str, Scalar]
    location: Location


class GridCell(NamedTuple):
    """A combination of levels, one of each factor."""

    levels: Mapping[str, str]
    """Name of the level by factor."""
    hyperparameters: Mapping[str, Scalar]
    """All hyper-parameters by name, as in the records."""


def grid_cells(spec: SweepSpec, task: str, method: str) -> list[GridCell]:
    """Return the cells of the sweep's grid for one (task, method).

    The list is empty if the sweep has no grid. An empty ``align.source`` is replaced by
    the source that the sweep file names in ``sources`` for the modality of the body, if
    it names one.

    Cells with equal hyper-parameters share their trials. They occur in different blocks
    of the grid, or differ only in hyper-parameters that the method ignores: ``nft``
    ignores ``align.distance``.
    """
    body = listed_body(spec.body(task, method))
    source = spec.file.sources.get(body.modality, "") if body else ""
    cells = []
    for combination, values in zip(
        _combinations(spec.file), cell_values(spec, task, method), strict=True
    ):
        if values.get("align.source") == "":
            values["align.source"] = source
        levels = {factor: level.name for factor, level in combination.items()}
        cells.append(GridCell(levels, values))
    return cells


def cell_values(spec: SweepSpec, task: str, method: str) -> list[dict[str, Scalar]]:
    """Return the hyper-parameters of each cell of the grid for one (task, method)."""
    return [
        spec.hyperparameters(task, method, _values(combination))
        for combination in _combinations(spec.file)
    ]


def check_cells(
    spec: SweepSpec, task: str, method: str, position: Callable[[Location], str]
) -> None:
    """Raise UserError if the hyper-parameters of a cell are invalid.

    Call `check_grid` before. ``position`` is a function that returns the file and line
    of a location, for the message.
    """
    for combination in _combinations(spec.file):
        try:
            spec.hyperparameters(task, method, _values(combination))
        except ValueError as error:
            location: Location = ["grid"]
            for level in combination.values():
                if any(name in str(error) for name in level.settings):
                    location = level.location
            raise UserError(
                f"{position(location)}: {_shown(location)}: {task} with {method}:"
                f" {error}"
            ) from error


def check_grid(spec: SweepSpec, position: Callable[[Location], str]) -> None:
    """Raise UserError if the grid of a sweep file is wrong.

    It is wrong if a factor is unknown, if two factors set the same hyper-parameter, or
    if there are more than `MAX_GRID_TRIALS` trials. ``position`` is a function that
    returns the file and line of a location, for the message.
    """
    blocks = _blocks(spec.file)
    cells = sum(math.prod(map(len, block.values())) for block in blocks)
    seeds = len(spec.confirm_seeds)
    if cells * seeds > MAX_GRID_TRIALS:
        raise UserError(
            f"{position(['grid'])}: grid: {shorten(cells, 20)} cells x {seeds} seeds:"
            f" remove levels or seeds, at most {MAX_GRID_TRIALS} trials of one (task,"
            " method) are allowed"
        )
    settings_by_name: dict[tuple[str, str], Mapping[str, Scalar]] = {}
    for block in blocks:
        setters: dict[str, str] = {}
        for factor, levels in block.items():
            place = levels[0].location[:-1]
            try:
                _check_factor(factor, levels, setters)
                for level in levels:
                    place = level.location
                    settings = settings_by_name.setdefault(
                        (factor, level.name), level.settings
                    )
                    if level.settings != settings:
                        raise UserError(
                            "another cross has other settings by this name: give one of"
                            " them another name"
                        )
            except ValueError as error:
                raise UserError(
                    f"{position(place)}: {_shown(place)}: {error}"
                ) from error
            setters |= {name: factor for level in levels for name in level.settings}


def _check_factor(
    factor: str, levels: Sequence[Level], setters: Mapping[str, str]
) -> None:
    """Raise UserError if a factor is wrong.

    ``setters``: earlier factors, by the name of a hyper-parameter that they set.
    """
    if factor == "method":  # the leaderboard's own factor
        raise UserError(
            "a factor may not have this name: list the methods in 'methods', which is a"
            " factor by itself"
        )
    is_list = isinstance(levels[0].location[-1], int)
    if is_list and factor not in hyperparameter_types():
        hint = (
            "A factor of another name is a mapping: {level name: {hyper-parameter:"
            " value}}."
        )
        raise unknown_name("hyper-parameter", factor, hyperparameter_types(), hint)
    if not is_list and factor in hyperparameter_types():
        raise UserError("give a list of values, because it is a hyper-parameter")
    for level in levels:
        for name in level.settings:
            if name in setters:
                raise UserError(
                    f"{name} is also set by {printable(setters[name])!r}: make them one"
                    " factor, or give a list of crosses"
                )


def _shown(location: Location) -> str:
    return printable(shorten(".".join(map(str, location))))


def _combinations(file: SweepFile) -> Iterator[dict[str, Level]]:
    """Yield the level of each factor, for each cell of the grid."""
    for block in _blocks(file):
        for levels in product(*block.values()):
            yield dict(zip(block, levels, strict=True))


def _values(combination: Mapping[str, Level]) -> dict[str, Scalar]:
    """Return the hyper-parameters that the levels of a cell set."""
    return {
        name: value
        for level in combination.values()
        for name, value in level.settings.items()
    }


def _blocks(file: SweepFile) -> list[dict[str, list[Level]]]:
    """Return the levels of each factor, for each block of the grid."""
    grid = file.grid or []
    if isinstance(grid, dict):
        return [_block(["grid"], grid)]
    return [_block(["grid", index], block) for index, block in enumerate(grid)]


def _block(location: Location, block: Mapping[str, Levels]) -> dict[str, list[Level]]:
    return {
        factor: _levels([*location, factor], levels) for factor, levels in block.items()
    }


def _levels(location: Location, levels: Levels) -> list[Level]:
    """Return the levels of a factor, which the sweep file has at ``location``."""
    if isinstance(levels, dict):
        return [
            Level(name, settings, [*location, name])
            for name, settings in levels.items()
        ]
    factor = str(location[-1])
    return [
        Level(str(value), {factor: value}, [*location, index])
        for index, value in enumerate(levels)
    ]
