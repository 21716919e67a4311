"""Effects of the factors of a grid: paired ratios of test scores.

Two scores of a pair have the same task, seed and levels of all other factors.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orca_ray.errors import UserError
from orca_ray.leaderboard.board import Score
from orca_ray.leaderboard.selection import grid_scores, select
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS
from orca_ray.leaderboard.statistics.paired import (
    Comparison,
    Levels,
    LogRatios,
    LogScores,
    compare,
)
from orca_ray.leaderboard.statistics.table import (
    Floats,
    ScoreTable,
    mean_over_seeds,
)
from orca_ray.results.record import Status

METHOD = "method"
"""Name of the additional factor of a sweep with several methods."""
_SOURCE = "align.source"
"""Name of a hyper-parameter that may be empty in a grid.

The records then hold the name of the source that the sweep chose.
"""

COLUMNS = [
    "benchmark",
    "sweep",
    "protocol",
    "phase",
    "task",
    "method",
    "seed",
    "hyperparameters",
    "status",
    "test_score",
    "data_fingerprint",
    "metric",
    "metric_version",
    "finished_at",
    "trial_key",
]
"""Columns of records that effects are computed from."""


class PlannedCell(NamedTuple):
    """One cell of a sweep's grid."""

    task: str
    method: str
    levels: Levels
    """Level of each factor; of `METHOD`, too, if there are several methods."""
    hyperparameters: Mapping[str, object]


@dataclass(frozen=True)
class EffectGrid:
    """Planned cells and seeds of a sweep with a grid.

    A cell has one level of each factor.
    """

    cells: Mapping[tuple[str, str], Sequence[tuple[Levels, Mapping[str, object]]]]
    """Levels and hyper-parameters of each cell, by task and method.

    The first level of a factor is its baseline.
    """
    seeds: Sequence[int]

    def planned(self) -> Iterator[PlannedCell]:
        """Yield each cell."""
        has_several_methods = len({method for _, method in self.cells}) > 1
        for (task, method), cells in self.cells.items():
            for grid_levels, values in cells:
                levels = dict(grid_levels)
                if has_several_methods:
                    levels = {METHOD: method, **grid_levels}
                yield PlannedCell(task, method, levels, values)

    @property
    def factors(self) -> dict[str, list[str]]:
        """Names of the levels of each factor, the baseline first."""
        factors: dict[str, dict[str, None]] = {}
        for cell in self.planned():
            for factor, level in cell.levels.items():
                factors.setdefault(factor, {})[level] = None
        return {factor: list(levels) for factor, levels in factors.items()}

    @property
    def names(self) -> list[str]:
        """Names of the hyper-parameters in which cells of a (task, method) differ.

        They decide to which cells a record belongs.
        """
        names: set[str] = set()
        for cells in self.cells.values():
            _, first_values = cells[0]
            for _, values in cells:
                names.update(
                    name
                    for name, value in values.items()
                    if value != first_values.get(name)
                )
        return sorted(names)


@dataclass(frozen=True)
class Effects:
    """Effects of a sweep's factors, as ratios of test scores; below 1 is better.

    See `Comparison`.
    """

    benchmark: str
    sweep: str
    protocol: str
    factors: Mapping[str, Sequence[str]]
    metrics: Mapping[str, str]
    """Name of the metric of each task."""
    seeds: Sequence[int]
    cells: Sequence[Levels]
    scores: Mapping[tuple[str, int], Score]
    """Score by task and index in ``cells``; n is 0 where there is none."""
    comparisons: Sequence[Comparison]
    """Comparisons of each level of a factor with the factor's baseline.

    They are over all cells, over the cells with one level of another factor, and over
    the cells with one level of each other factor. For each two factors, each
    combination of levels other than the baselines is compared with the combination of
    both baselines.
    """
    statuses: Mapping[Status, int]
    notes: Sequence[str]

    def find(self, levels: Levels, reference: Levels) -> Comparison | None:
        """Return the comparison of ``levels`` with ``reference``, if there is one."""
        for comparison in self.comparisons:
            if comparison.levels == levels and comparison.reference == reference:
                return comparison
        return None


def build_effects(
    records: pd.DataFrame,
    grid: EffectGrid,
    *,
    benchmark: str,
    sweep: str,
    protocol: str | None = None,
) -> Effects:
    """Compute the effects of a grid's factors from records.

    ``records`` are the `COLUMNS` of a store's records, in any order. With ``protocol``
    None, the sweep's only protocol is taken. Raises UserError if there is no record of
    the benchmark, the sweep or the protocol, or if ``protocol`` is None and the sweep
    has several.
    """
    rows = select(records, "benchmark", benchmark, "run the sweep first.")
    rows = select(rows, "sweep", sweep, "")
    if not protocol:
        protocols = sorted(rows["protocol"].unique())
        if len(protocols) > 1:
            raise UserError(
                f"{sweep} has records of several protocols: give --protocol"
                f" {' or '.join(protocols)}"
            )
        protocol = protocols[0]
    rows = select(rows, "protocol", protocol, "")
    table = _Table(rows, grid)
    comparisons = [
        table.compare(levels, reference)
        for levels, reference in _planned_comparisons(grid.factors)
    ]
    counts = rows["status"].value_counts()
    return Effects(
        benchmark=benchmark,
        sweep=sweep,
        protocol=protocol,
        factors=grid.factors,
        metrics=table.metrics,
        seeds=table.seeds,
        cells=table.cells,
        scores=table.summary(),
        comparisons=[comparison for comparison in comparisons if comparison.planned],
        statuses={status: int(counts.get(status.value, 0)) for status in Status},
        notes=table.notes,
    )


def _planned_comparisons(
    factors: Mapping[str, Sequence[str]],
) -> Iterator[tuple[Levels, Levels]]:
    """Yield the levels and the reference of each comparison in `Effects`."""
    for factor in factors:
        yield from _comparisons_of_factor(factors, factor)
    for first, second in combinations(factors, 2):
        first_baseline, *first_levels = factors[first]
        second_baseline, *second_levels = factors[second]
        reference = {first: first_baseline, second: second_baseline}
        for first_level, second_level in product(first_levels, second_levels):
            yield {first: first_level, second: second_level}, reference


def _comparisons_of_factor(
    factors: Mapping[str, Sequence[str]], factor: str
) -> Iterator[tuple[Levels, Levels]]:
    """Yield the comparisons of a factor's levels with its baseline.

    Each level is compared over all cells, then within each level of one other factor,
    then within each combination of levels of all other factors.
    """
    baseline, *levels = factors[factor]
    other_factors = [name for name in factors if name != factor]
    fixed_factors = [(), *((name,) for name in other_factors)]
    if len(other_factors) > 1:
        fixed_factors.append(tuple(other_factors))
    for level, names in product(levels, fixed_factors):
        for fixed_levels in product(*(factors[name] for name in names)):
            fixed = dict(zip(names, fixed_levels, strict=True))
            yield {factor: level, **fixed}, {factor: baseline, **fixed}


class _Table:
    """The test scores of a grid's cells.

    Axes of arrays: T tasks, C cells, S seeds, P pairs of cells.
    """

    def __init__(self, rows: pd.DataFrame, grid: EffectGrid) -> None:
        """Put the scores of the confirm records among ``rows`` into their cells."""
        labels = _Labels(grid)
        self.cells = labels.cells
        self.trials_TC = np.full((len(labels.tasks), len(labels.cells)), -1)
        """Index of the label of each task and cell; -1 if no trial is planned there.

        Cells with the same label share their trials.
        """
        for label_index, places in enumerate(labels.places.values()):
            for place in places:
                self.trials_TC[place] = label_index
        rows = rows.assign(
            label=[
                labels.of_record(task, method, text)
                for task, method, text in zip(
                    rows["task"], rows["method"], rows["hyperparameters"], strict=True
                )
            ]
        )
        is_planned = rows["label"].isin(labels.places)
        ordered = rows[is_planned].sort_values(
            ["finished_at", "trial_key"], kind="stable"
        )
        scored, self.notes = grid_scores(ordered)
        num_outside = int((~is_planned).sum())
        if num_outside:
            self.notes.append(
                f"{num_outside} trial(s) that are not in the grid left out"
            )
        self.seeds = sorted({*grid.seeds, *map(int, scored["seed"])})
        scores_TCS = np.full((*self.trials_TC.shape, len(self.seeds)), np.nan)
        for label, seed, score in zip(
            scored["label"], scored["seed"], scored["test_score"], strict=True
        ):
            for t, c in labels.places[label]:
                scores_TCS[t, c, self.seeds.index(seed)] = score
        metrics = dict(zip(scored["task"], scored["metric"], strict=True))
        self.metrics = {task: metrics.get(task, "") for task in labels.tasks}
        cell_names = tuple(map(str, range(len(self.cells))))
        self.logs = LogScores.of(
            ScoreTable(tuple(labels.tasks), cell_names, scores_TCS)
        )
        """Logarithms of the scores [T, C, S]; NaN for no score.

        The names of the table's methods are the indices of ``cells``.
        """

    def summary(self) -> dict[tuple[str, int], Score]:
        """Return the score of each task and cell."""
        summary = {}
        for t, task in enumerate(self.metrics):
            for c in range(len(self.cells)):
                scores = pd.Series(self.logs.table.scores_TMS[t, c]).dropna()
                summary[task, c] = Score(
                    float(scores.mean()), float(scores.std()), len(scores)
                )
        return summary

    def compare(self, levels: Levels, reference: Levels) -> Comparison:
        """Compare the cells that have ``levels`` with those that have ``reference``.

        Each cell is paired with the one that has the same levels of all other factors.
        Only scores of the same task and seed are compared.
        """
        level_P, reference_P = self._pairs(levels, reference)
        level_TP = self.trials_TC[:, level_P]
        reference_TP = self.trials_TC[:, reference_P]
        # Cells that share their trials have nothing to compare.
        planned_TP = (level_TP != reference_TP) & (level_TP >= 0) & (reference_TP >= 0)
        level_TPS = self.logs.table.scores_TMS[:, level_P]
        reference_TPS = self.logs.table.scores_TMS[:, reference_P]
        paired_TPS = planned_TP[:, :, None] & np.isfinite(level_TPS + reference_TPS)
        num_TP = paired_TPS.sum(axis=-1)
        used = np.flatnonzero(num_TP.any(axis=1))  # tasks with at least one pair
        num_T = (num_TP > 0).sum(axis=1)[used]
        log_ratios_TP = self._log_means(level_TPS, paired_TPS) - self._log_means(
            reference_TPS, paired_TPS
        )
        logs_T = np.nansum(log_ratios_TP, axis=1)[used] / num_T
        # A mean of n log scores has the variance of one, divided by n; a pair has two
        # such means.
        both = np.concatenate([level_P, reference_P])  # [2 P]
        no_weights_TP = np.zeros(num_TP.shape)
        weights_TP = np.divide(1.0, num_TP, out=no_weights_TP, where=num_TP > 0)
        variances_T, freedom_T = self.logs.over_seeds(
            self.logs.variances_TM[:, both] * np.hstack([weights_TP, weights_TP]),
            self.logs.freedom_TM[:, both],
        )
        ratios = LogRatios(
            [self.logs.table.tasks[t] for t in used],
            logs_T,
            np.sqrt(variances_T[used]) / num_T,
            freedom_T[used],
        )
        return compare(
            levels,
            reference,
            ratios,
            planned=int(planned_TP.sum()) * len(self.seeds),
            pairs=int(paired_TPS.sum()),
            over_tasks=len(self.metrics) >= MIN_TASKS,
        )

    def _pairs(self, levels: Levels, reference: Levels) -> NDArray[np.int64]:
        """Return the indices [2, P] of cells with ``levels`` and their references."""
        pairs = []
        for index, cell in enumerate(self.cells):
            counterpart = {**cell, **reference}
            if levels.items() <= cell.items() and counterpart in self.cells:
                pairs.append((index, self.cells.index(counterpart)))
        return np.array(pairs, dtype=np.int64).reshape(-1, 2).T

    def _log_means(self, scores_TPS: Floats, is_used_TPS: NDArray[np.bool_]) -> Floats:
        """Return logarithms [T, P] of means over seeds, with `LogScores.floors_T`."""
        means_TP = mean_over_seeds(np.where(is_used_TPS, scores_TPS, np.nan))
        logs_TP: Floats = np.log(np.maximum(means_TP, self.logs.floors_T))
        return logs_TP


class _Labels:
    """Labels of the trials of a grid: task, method, and the values that differ.

    Cells with the same label share their trials.
    """

    def __init__(self, grid: EffectGrid) -> None:
        """Label the planned cells of a grid."""
        self.tasks = list(dict.fromkeys(task for task, _ in grid.cells))
        self.cells: list[Levels] = []
        self.places: dict[str, list[tuple[int, int]]] = {}
        """Indices of task and cell of the planned cells, by label."""
        self._names = grid.names
        self._sources: dict[tuple[str, str], set[object]] = {}
        """Planned values of `_SOURCE` by task and method."""
        for cell in grid.planned():
            if cell.levels not in self.cells:
                self.cells.append(cell.levels)
            place = (self.tasks.index(cell.task), self.cells.index(cell.levels))
            label = self._label(cell.task, cell.method, cell.hyperparameters)
            self.places.setdefault(label, []).append(place)
            sources = self._sources.setdefault((cell.task, cell.method), set())
            sources.add(cell.hyperparameters.get(_SOURCE))

    def of_record(self, task: str, method: str, hyperparameters: str) -> str:
        """Return the label of a record; ``hyperparameters`` is JSON text."""
        values = json.loads(hyperparameters)
        sources = self._sources.get((task, method), set())
        # A source that is not planned was chosen by the sweep for an empty `_SOURCE`.
        if "" in sources and values.get(_SOURCE) not in sources:
            values = {**values, _SOURCE: ""}
        return self._label(task, method, values)

    def _label(self, task: str, method: str, values: Mapping[str, object]) -> str:
        return repr((task, method, *(values.get(name) for name in self._names)))
