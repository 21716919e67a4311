"""Grids of sweep files: factors with their levels, and the cells of their full crosses."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from orca_ray.errors import UserError, printable, shorten, unknown_name
from orca_ray.methods.hyperparameters import from_flat, names
from orca_ray.sweep.planning.schema import Levels, Scalar, SweepFile
from orca_ray.sweep.planning.spec import SweepSpec

MAX_GRID_TRIALS = 5_000
"""Largest number of trials of one (task, method) with a grid: cells times seeds."""
Location = Sequence[str | int]
"""Keys and list indices that lead to a value of a sweep file."""


class Level(NamedTuple):
    """One level of a factor."""

    name: str
    """Name in the file; a value of a hyper-parameter is its own name."""
    settings: Mapping[str, Scalar]
    location: Location


class Cell(NamedTuple):
    """One combination of levels, for one (task, method)."""

    levels: Mapping[str, str]
    """Name of the level by factor."""
    hyperparameters: Mapping[str, Scalar]
    """All hyper-parameters of its trials, as in their records."""


def grid_cells(spec: SweepSpec, task: str, method: str) -> list[Cell]:
    """Return the cells of the sweep's grid for one (task, method); empty without a grid.

    Cells with equal hyper-parameters share their trials. They occur in different crosses of a list, or differ only in
    what the method ignores: ``nft`` ignores ``align.distance``.
    """
    cells = []
    for cross in _crosses(spec.file):
        for combination in product(*cross.values()):
            values = {name: value for level in combination for name, value in level.settings.items()}
            levels = {factor: level.name for factor, level in zip(cross, combination, strict=True)}
            cells.append(Cell(levels, spec.hyperparameters(task, method, values)))
    return cells


def check_grid(spec: SweepSpec, position: Callable[[Location], str]) -> None:
    """Raise UserError for an unknown factor, a hyper-parameter set by two factors, a wrong value, or too many trials.

    ``position`` returns the file and line of a location, for the message.
    """
    crosses = _crosses(spec.file)
    cells, seeds = sum(math.prod(map(len, cross.values())) for cross in crosses), len(spec.confirm_seeds)
    if cells * seeds > MAX_GRID_TRIALS:
        raise UserError(
            f"{position(['grid'])}: grid: {shorten(cells, 20)} cells x {seeds} seeds: remove levels or seeds, at most "
            f"{MAX_GRID_TRIALS} trials of one (task, method) are allowed"
        )
    for cross in crosses:
        setters: dict[str, str] = {}
        for factor, levels in cross.items():
            place = levels[0].location[:-1]
            try:
                _check_factor(factor, levels, setters)
                for level in levels:
                    place = level.location
                    from_flat(level.settings)
            except ValueError as error:
                where = printable(shorten(".".join(map(str, place))))
                raise UserError(f"{position(place)}: {where}: {error}") from error
            setters |= {name: factor for level in levels for name in level.settings}


def _check_factor(factor: str, levels: Sequence[Level], setters: Mapping[str, str]) -> None:
    """Raise UserError if a factor is wrong; ``setters`` has the earlier factors by the hyper-parameters they set."""
    is_list = isinstance(levels[0].location[-1], int)
    if is_list and factor not in names():
        hint = "A factor of another name is a mapping: {level name: {hyper-parameter: value}}."
        raise unknown_name("hyper-parameter", factor, names(), hint)
    if not is_list and factor in names():
        raise UserError("give a list of values, because it is a hyper-parameter")
    for name in (name for level in levels for name in level.settings if name in setters):
        raise UserError(
            f"{name} is also set by {printable(setters[name])!r}: make them one factor, or give a list of crosses"
        )


def _crosses(file: SweepFile) -> list[dict[str, list[Level]]]:
    """Return the levels of each factor, for each full cross of the grid."""
    grid = file.grid or []
    if isinstance(grid, dict):
        return [{factor: _levels(["grid", factor], given) for factor, given in grid.items()}]
    return [
        {factor: _levels(["grid", index, factor], given) for factor, given in cross.items()}
        for index, cross in enumerate(grid)
    ]


def _levels(location: Location, given: Levels) -> list[Level]:
    if isinstance(given, dict):
        return [Level(name, settings, [*location, name]) for name, settings in given.items()]
    return [Level(str(value), {str(location[-1]): value}, [*location, index]) for index, value in enumerate(given)]
