"""Effects of the factors of a grid: ratios of test scores, paired by task, seed and the levels of all other factors."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orca_ray.errors import UserError
from orca_ray.leaderboard.board import Score
from orca_ray.leaderboard.selection import grid_scores, select
from orca_ray.leaderboard.statistics.paired import (
    Comparison,
    Levels,
    ratio_over_tasks,
    ratio_within,
    score_floor,
    seed_noise,
)
from orca_ray.leaderboard.statistics.resampling import MIN_TASKS
from orca_ray.leaderboard.statistics.table import Floats
from orca_ray.results.record import Status

METHOD = "method"
"""Name of the factor that a sweep with several methods has in addition to those of its grid."""
_SOURCE = "align.source"
"""A hyper-parameter that may be empty in a grid. Records have the name of the source that a sweep took instead."""


@dataclass(frozen=True)
class Grid:
    """Planned cells and seeds of a sweep with a grid."""

    cells: Mapping[tuple[str, str], Sequence[tuple[Levels, Mapping[str, object]]]]
    """Levels and hyper-parameters of each cell, by task and method. The level that comes first is the baseline."""
    seeds: Sequence[int]

    @property
    def factors(self) -> dict[str, list[str]]:
        """Names of the levels by factor; several methods are a factor too."""
        methods = list(dict.fromkeys(method for _, method in self.cells))
        factors = {METHOD: methods} if len(methods) > 1 else {}
        for cells in self.cells.values():
            for factor, level in (item for levels, _ in cells for item in levels.items()):
                known = factors.setdefault(factor, [])
                known += [] if level in known else [level]
        return factors

    @property
    def names(self) -> list[str]:
        """Hyper-parameters in which cells of a (task, method) differ; a record belongs to the cells with its values."""
        names = set()
        for cells in self.cells.values():
            first = dict(cells[0][1])
            names |= {name for _, values in cells for name, value in values.items() if value != first.get(name)}
        return sorted(names)


@dataclass(frozen=True)
class Effects:
    """The effects of a sweep's factors on its test scores, which are lower for better models."""

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
    """For each factor, each level against the baseline: over all cells, given each level of each other factor, and
    given each combination of levels of all others. For each two factors, each combination against both baselines."""
    statuses: Mapping[Status, int]
    notes: Sequence[str]

    def find(self, levels: Levels, reference: Levels) -> Comparison | None:
        """Return the comparison of ``levels`` with ``reference``; None if no two cells differ in just that."""
        return next((c for c in self.comparisons if (c.levels, c.reference) == (levels, reference)), None)


def build_effects(
    records: pd.DataFrame, grid: Grid, *, benchmark: str, sweep: str, protocol: str | None = None
) -> Effects:
    """Compute the effects of a grid's factors from the records of a store, as `ResultsStore.records` returns them.

    Raises UserError if there is no record of the benchmark, the sweep or the protocol (None: the sweep's, if it has
    only one).
    """
    rows = select(select(records, "benchmark", benchmark, "run the sweep first."), "sweep", sweep, "")
    protocols = sorted(rows["protocol"].unique())
    if protocol is None and len(protocols) > 1:
        raise UserError(f"{sweep} has records of several protocols: give --protocol {' or '.join(protocols)}")
    rows = select(rows, "protocol", protocol or protocols[0], "")
    table = _Table.fill(rows, grid)
    comparisons = [table.compare(*each) for each in _questions(table.factors)]
    counts = rows["status"].value_counts()
    return Effects(
        benchmark=benchmark,
        sweep=sweep,
        protocol=protocol or protocols[0],
        factors=table.factors,
        metrics=table.metrics,
        seeds=table.seeds,
        cells=table.levels(),
        scores=table.summary(),
        comparisons=[comparison for comparison in comparisons if comparison.planned],
        statuses={status: int(counts.get(status.value, 0)) for status in Status},
        notes=table.notes,
    )


def _questions(factors: Mapping[str, Sequence[str]]) -> Iterator[tuple[Levels, Levels]]:
    """Yield the levels and the reference of each comparison in `Effects.comparisons`."""
    for factor, (baseline, *levels) in factors.items():
        others = {name: names for name, names in factors.items() if name != factor}
        subsets = [(), *combinations(others, 1), *([tuple(others)] if len(others) > 1 else [])]
        for level, subset in product(levels, subsets):
            for values in product(*(others[name] for name in subset)):
                given = dict(zip(subset, values, strict=True))
                yield {factor: level, **given}, {factor: baseline, **given}
    for (one, (base, *levels)), (two, (other_base, *other_levels)) in combinations(factors.items(), 2):
        for level, other in product(levels, other_levels):
            yield {one: level, two: other}, {one: base, two: other_base}


@dataclass(frozen=True)
class _Table:
    """The test scores of a grid's cells. Axes of arrays: T tasks, C cells, S seeds, P pairs of cells."""

    factors: Mapping[str, Sequence[str]]
    metrics: Mapping[str, str]
    seeds: Sequence[int]
    cells: Mapping[tuple[str | None, ...], int]
    """Index of each cell by its levels, in the order of ``factors``; None for a factor that the cell does not have."""
    scores_TCS: Floats
    """NaN where there is no score."""
    trials_TC: NDArray[np.int64]
    """Equal numbers mark cells that share their trials; -1 marks a cell that is not planned for the task."""
    notes: Sequence[str]

    @classmethod
    def fill(cls, rows: pd.DataFrame, grid: Grid) -> "_Table":
        """Put the scores of the confirm records among ``rows`` into the cells that they belong to."""
        tasks = list(dict.fromkeys(task for task, _ in grid.cells))
        factors, names = grid.factors, grid.names

        def label(task: str, method: str, values: Mapping[str, object]) -> str:
            return repr((task, method, *(values.get(name) for name in names)))

        cells: dict[tuple[str | None, ...], int] = {}
        places: dict[str, list[tuple[int, int]]] = {}  # task and cell, by label
        for (task, method), planned in grid.cells.items():
            for levels, values in planned:
                key = tuple({METHOD: method, **levels}.get(factor) for factor in factors)
                place = (tasks.index(task), cells.setdefault(key, len(cells)))
                places.setdefault(label(task, method, values), []).append(place)
        trials_TC = np.full((len(tasks), len(cells)), -1)
        for number, entries in enumerate(places.values()):
            for place in entries:
                trials_TC[place] = number

        sources = {key: {values.get(_SOURCE) for _, values in planned} for key, planned in grid.cells.items()}

        def stored(task: str, method: str, text: str) -> str:
            values, known = json.loads(text), sources.get((task, method), set())
            unnamed = "" in known and values.get(_SOURCE) not in known
            return label(task, method, {**values, _SOURCE: ""} if unnamed else values)

        rows = rows.assign(label=list(map(stored, rows["task"], rows["method"], rows["hyperparameters"])))
        inside = rows["label"].isin(places)
        scored, notes = grid_scores(rows[inside])
        if outside := int((~inside).sum()):
            notes.append(f"{outside} trial(s) that are not in the grid left out")
        seeds = sorted({*grid.seeds, *map(int, scored["seed"])})
        scores_TCS = np.full((*trials_TC.shape, len(seeds)), np.nan)
        for name, seed, score in zip(scored["label"], scored["seed"], scored["test_score"], strict=True):
            for place in places[name]:
                scores_TCS[(*place, seeds.index(seed))] = score
        found = dict(zip(scored["task"], scored["metric"], strict=True))
        metrics = {task: found.get(task, "") for task in tasks}
        return cls(factors, metrics, seeds, cells, scores_TCS, trials_TC, notes)

    def levels(self) -> list[Levels]:
        """Return the levels of each cell."""
        return [
            {factor: level for factor, level in zip(self.factors, key, strict=True) if level is not None}
            for key in self.cells
        ]

    def summary(self) -> dict[tuple[str, int], Score]:
        """Return mean, standard deviation and number of the scores of each task and cell."""
        summary = {}
        for (t, task), c in product(enumerate(self.metrics), range(len(self.cells))):
            scores = pd.Series(self.scores_TCS[t, c]).dropna()
            summary[task, c] = Score(float(scores.mean()), float(scores.std()), len(scores))
        return summary

    def compare(self, levels: Levels, reference: Levels) -> Comparison:
        """Compare the cells that have ``levels`` with those that have ``reference`` and are equal otherwise."""
        above, below = np.array(self._pairs(levels, reference), dtype=np.int64).reshape(-1, 2).T
        trials_TP, bases_TP = self.trials_TC[:, above], self.trials_TC[:, below]
        planned_TP = (trials_TP != bases_TP) & (trials_TP >= 0) & (bases_TP >= 0)
        paired_TPS = planned_TP[:, :, None] & np.isfinite(self.scores_TCS[:, above] + self.scores_TCS[:, below])
        logs, errors = [], []
        tasks = []
        for task, scores_CS, paired_PS in zip(self.metrics, self.scores_TCS, paired_TPS, strict=True):
            used_P = paired_PS.any(axis=1)
            if not used_P.any():
                continue
            paired_PS = paired_PS[used_P]
            means_P, bases_P = (
                np.maximum(scores_CS[cells[used_P]].mean(axis=1, where=paired_PS), score_floor(scores_CS))
                for cells in (above, below)
            )
            log = float(np.log(means_P / bases_P).mean())
            # A mean of n log scores has the variance noise² / n; a pair has two such means.
            error = seed_noise(scores_CS)[0] * float(np.sqrt((2 / paired_PS.sum(axis=1)).sum())) / len(paired_PS)
            tasks.append(task)
            logs.append(log)
            errors.append(error)
        return Comparison(
            levels=levels,
            reference=reference,
            ratio=ratio_over_tasks(logs, errors, bootstrap=len(self.metrics) >= MIN_TASKS),
            tasks={task: ratio_within(*numbers) for task, *numbers in zip(tasks, logs, errors, strict=True)},
            pairs=int(paired_TPS.sum()),
            planned=int(planned_TP.sum()) * len(self.seeds),
        )

    def _pairs(self, levels: Levels, reference: Levels) -> list[tuple[int, int]]:
        pairs = []
        for key, index in self.cells.items():
            cell = dict(zip(self.factors, key, strict=True))
            if cell == {**cell, **levels}:
                other = self.cells.get(tuple({**cell, **reference}.values()))
                pairs += [] if other is None else [(index, other)]
        return pairs
