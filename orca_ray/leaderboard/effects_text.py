"""Effects of the factors of a grid as plain text."""

import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from string import Template
from typing import NamedTuple

from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS
from orca_ray.leaderboard.statistics.paired import Comparison, Ratio
from orca_ray.leaderboard.text import (
    MISSING,
    Grid,
    metrics_text,
    score_text,
    statuses_text,
)


class EffectsSection(NamedTuple):
    """A table of effects with its title."""

    title: str
    grid: Grid
    num_names: int
    """Number of leading columns that hold names; the others hold numbers."""


def effects_title(effects: Effects) -> str:
    """Return the title of the tables of effects: benchmark, sweep and protocol."""
    return f"{effects.benchmark}: sweep {effects.sweep}, protocol {effects.protocol}"


def effects_sections(effects: Effects, *, full: bool) -> Iterator[EffectsSection]:
    """Yield the tables of the effects of single factors, those of pairs of factors, and
    the table of scores.

    ``full`` adds the ratio on each task, and the effects of a factor while two or more
    other factors are held at one level each.
    """
    for factor, levels in effects.factors.items():
        grid = _factor_grid(effects, factor, full=full)
        if len(grid) > 1:
            title = f"Effect of {factor}, relative to {levels[0]}"
            yield EffectsSection(title, grid, num_names=2)
    for first, second in combinations(effects.factors, 2):
        baselines = f"{effects.factors[first][0]}, {effects.factors[second][0]}"
        title = f"{first} and {second}, relative to {baselines}"
        grid = _crossed_grid(effects, first, second)
        yield EffectsSection(title, grid, num_names=1)
    seeds = ", ".join(map(str, effects.seeds))
    yield EffectsSection(
        f"Test scores, mean ± standard deviation over seeds {seeds}",
        _score_grid(effects, " ± " if full else "±"),
        num_names=len(effects.factors),
    )


def _task_titles(effects: Effects) -> list[str]:
    return [task.removeprefix(f"{effects.benchmark}/") for task in effects.metrics]


def _factor_grid(effects: Effects, factor: str, *, full: bool) -> Grid:
    """Return the table of the comparisons of a factor's levels with its first level.

    Without ``full``, it has no ratios on single tasks, and no comparisons while two or
    more other factors are held at one level each.
    """
    titles = ["level", "given", "ratio [95%]", "better", "worse", "pairs"]
    if full:
        titles += _task_titles(effects)
    grid = [titles]
    for comparison in effects.comparisons:
        is_of_factor = list(comparison.changed) == [factor]
        if is_of_factor and (full or len(comparison.given) < 2):
            row = _comparison_row(comparison, factor)
            if full:
                row += _task_ratios(comparison, list(effects.metrics))
            grid.append(row)
    return grid


def _comparison_row(comparison: Comparison, factor: str) -> list[str]:
    """Return a row of `_factor_grid` without the ratios on single tasks."""
    fixed = [
        f"{held_factor} {level}" for held_factor, level in comparison.given.items()
    ]
    return [
        comparison.levels[factor],
        ", ".join(fixed) if fixed else "all",
        _interval_text(comparison.ratio),
        str(comparison.better),
        str(comparison.worse),
        f"{comparison.pairs}/{comparison.planned}",
    ]


def _task_ratios(comparison: Comparison, tasks: list[str]) -> list[str]:
    """Return the ratio on each task as Markdown text.

    The ratio is bold if it is better by more than the noise over seeds, and italic if
    it is worse by more than that.
    """
    beyond_noise = comparison.beyond_noise
    texts = []
    for task in tasks:
        ratio = comparison.tasks.get(task)
        if ratio is None:
            texts.append(MISSING)
            continue
        mark = ""
        if task in beyond_noise:
            mark = "**" if ratio.value < 1 else "*"
        texts.append(f"{mark}{_ratio_text(ratio.value)}{mark}")
    return texts


def _crossed_grid(effects: Effects, first: str, second: str) -> Grid:
    """Return the table of two factors: ratios to the cell of both baselines.

    Rows are levels of the first factor, columns are levels of the second.
    """
    first_baseline = effects.factors[first][0]
    second_baseline = effects.factors[second][0]
    reference = {first: first_baseline, second: second_baseline}
    grid = [[f"{first} \\ {second}", *effects.factors[second]]]
    for level in effects.factors[first]:
        row = [level]
        for other_level in effects.factors[second]:
            comparison = effects.find({first: level, second: other_level}, reference)
            if level == first_baseline and other_level == second_baseline:
                row.append("1")
            elif comparison is None:
                row.append(MISSING)
            else:
                row.append(_interval_text(comparison.ratio))
        grid.append(row)
    return grid


def _score_grid(effects: Effects, between: str) -> Grid:
    """Return the table of the scores of each cell of the grid on each task.

    ``between`` separates the mean over seeds from the standard deviation.
    """
    factors = list(effects.factors)
    grid = [[*factors, *_task_titles(effects)]]
    for index, cell in enumerate(effects.cells):
        levels = [cell.get(factor, MISSING) for factor in factors]
        scores = [
            score_text(effects.scores[task, index], len(effects.seeds), between)
            for task in effects.metrics
        ]
        grid.append([*levels, *scores])
    return grid


def _ratio_text(value: float) -> str:
    """Return a ratio with two decimals, or two digits if it is very small or large."""
    if math.isnan(value):
        return MISSING
    if 0.1 <= value < 100:
        return f"{value:.2f}"
    return f"{value:.2g}"


def _interval_text(ratio: Ratio) -> str:
    text = _ratio_text(ratio.value)
    if math.isnan(ratio.low):
        return text
    return f"{text} [{_ratio_text(ratio.low)}, {_ratio_text(ratio.high)}]"


def effects_footer(effects: Effects) -> list[str]:
    """Return the sentences below the tables of effects, from ``effects.txt``."""
    num_scores = sum(score.n for score in effects.scores.values())
    if len(effects.metrics) < MIN_TASKS:
        interval = (
            "interval of the noise over seeds, which holds for these few tasks only"
        )
    else:
        interval = "interval over tasks (Student's)"
    values = {
        "interval": interval,
        "intervals": len(effects.comparisons),
        "metrics": metrics_text(effects.metrics, effects.benchmark),
        "found": num_scores,
        "missing": len(effects.scores) * len(effects.seeds) - num_scores,
        "trials": statuses_text(effects.statuses),
    }
    path = Path(__file__).with_name("effects.txt")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [*(Template(line).substitute(values) for line in lines), *effects.notes]
