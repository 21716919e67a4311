"""Effects of the factors of a grid: paired ratios of test scores.

Two scores of a pair have the same task, seed and levels of all other factors.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pandas as pd

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
from orca_ray.leaderboard.statistics.table import ScoreTable, mean_over_seeds
from orca_ray.results.record import Status

METHOD = "method"
"""Name of a factor that is not in the grid: that of a sweep with several methods."""
_SOURCE = "align.source"
"""A hyper-parameter that may be empty in a grid.

Records have the name of the source that a sweep took instead.
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

    def planned(self) -> Iterator[tuple[str, str, Levels, Mapping[str, object]]]:
        """Yield task, method, levels and hyper-parameters of each cell.

        The levels include `METHOD` if there are several methods.
        """
        several = len({method for _, method in self.cells}) > 1
        for (task, method), cells in self.cells.items():
            for levels, values in cells:
                yield (
                    task,
                    method,
                    {METHOD: method, **levels} if several else levels,
                    values,
                )

    @property
    def factors(self) -> dict[str, list[str]]:
        """Names of the levels of each factor, the baseline first."""
        factors: dict[str, dict[str, None]] = {}
        for factor, level in (
            item for _, _, levels, _ in self.planned() for item in levels.items()
        ):
            factors.setdefault(factor, {})[level] = None
        return {factor: list(levels) for factor, levels in factors.items()}

    @property
    def names(self) -> list[str]:
        """Hyper-parameters in which cells of a (task, method) differ.

        They decide to which cells a record belongs.
        """
        pairs = (
            (values, cells[0][1])
            for cells in self.cells.values()
            for _, values in cells
        )
        return sorted(
            {
                name
                for values, first in pairs
                for name in values
                if values[name] != first.get(name)
            }
        )


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
    combination of levels other than the baselines is compared with both baselines.
    """
    statuses: Mapping[Status, int]
    notes: Sequence[str]

    def find(self, levels: Levels, reference: Levels) -> Comparison | None:
        """Return the comparison of ``levels`` with ``reference``, if there is one."""
        return next(
            (
                c
                for c in self.comparisons
                if (c.levels, c.reference) == (levels, reference)
            ),
            None,
        )


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
    rows = select(
        select(records, "benchmark", benchmark, "run the sweep first."),
        "sweep",
        sweep,
        "",
    )
    protocols = sorted(rows["protocol"].unique())
    if protocol is None and len(protocols) > 1:
        raise UserError(
            f"{sweep} has records of several protocols: give --protocol"
            f" {' or '.join(protocols)}"
        )
    rows = select(rows, "protocol", protocol or protocols[0], "")
    table = _Table(rows, grid)
    comparisons = [table.compare(*each) for each in _questions(grid.factors)]
    counts = rows["status"].value_counts()
    return Effects(
        benchmark=benchmark,
        sweep=sweep,
        protocol=protocol or protocols[0],
        factors=grid.factors,
        metrics=table.metrics,
        seeds=table.seeds,
        cells=table.cells,
        scores=table.summary(),
        comparisons=[comparison for comparison in comparisons if comparison.planned],
        statuses={status: int(counts.get(status.value, 0)) for status in Status},
        notes=table.notes,
    )


def _questions(factors: Mapping[str, Sequence[str]]) -> Iterator[tuple[Levels, Levels]]:
    """Yield the levels and the reference of each comparison in `Effects.comparisons`."""
    for factor, (baseline, *levels) in factors.items():
        others = {name: names for name, names in factors.items() if name != factor}
        subsets = [
            (),
            *combinations(others, 1),
            *([tuple(others)] if len(others) > 1 else []),
        ]
        for level, subset in product(levels, subsets):
            for values in product(*(others[name] for name in subset)):
                given = dict(zip(subset, values, strict=True))
                yield {factor: level, **given}, {factor: baseline, **given}
    for (one, (base, *levels)), (two, (other_base, *other_levels)) in combinations(
        factors.items(), 2
    ):
        for level, other in product(levels, other_levels):
            yield {one: level, two: other}, {one: base, two: other_base}


class _Table:
    """The test scores of a grid's cells.

    Axes of arrays: T tasks, C cells, S seeds, P pairs of cells.
    """

    def __init__(self, rows: pd.DataFrame, grid: EffectGrid) -> None:
        """Put the scores of the confirm records among ``rows`` into their cells."""
        tasks = list(dict.fromkeys(task for task, _ in grid.cells))
        names = grid.names
        cells: list[Levels] = []
        places: dict[str, list[tuple[int, int]]] = {}  # task and cell, by label
        sources: dict[tuple[str, str], set[object]] = {}

        def label(task: str, method: str, values: Mapping[str, object]) -> str:
            return repr((task, method, *(values.get(name) for name in names)))

        for task, method, levels, values in grid.planned():
            cells += [] if levels in cells else [levels]
            places.setdefault(label(task, method, values), []).append(
                (tasks.index(task), cells.index(levels))
            )
            sources.setdefault((task, method), set()).add(values.get(_SOURCE))
        self.cells = cells
        self.trials_TC = np.full((len(tasks), len(cells)), -1)
        """Number [T, C] of a set of trials; cells with equal numbers share their trials.

        -1 marks a cell that is not planned for the task.
        """
        for number, entries in enumerate(places.values()):
            self.trials_TC[tuple(zip(*entries, strict=True))] = number

        def stored(task: str, method: str, text: str) -> str:
            values = json.loads(text)
            known = sources.get((task, method), set())
            unnamed = "" in known and values.get(_SOURCE) not in known
            return label(task, method, {**values, _SOURCE: ""} if unnamed else values)

        rows = rows.assign(
            label=list(
                map(stored, rows["task"], rows["method"], rows["hyperparameters"])
            )
        )
        inside = rows["label"].isin(places)
        scored, self.notes = grid_scores(
            rows[inside].sort_values(["finished_at", "trial_key"], kind="stable")
        )
        if outside := int((~inside).sum()):
            self.notes.append(f"{outside} trial(s) that are not in the grid left out")
        self.seeds = sorted({*grid.seeds, *map(int, scored["seed"])})
        scores_TCS = np.full((*self.trials_TC.shape, len(self.seeds)), np.nan)
        for name, seed, score in zip(
            scored["label"], scored["seed"], scored["test_score"], strict=True
        ):
            for place in places[name]:
                scores_TCS[(*place, self.seeds.index(seed))] = score
        found = dict(zip(scored["task"], scored["metric"], strict=True))
        self.metrics = {task: found.get(task, "") for task in tasks}
        self.logs = LogScores.of(
            ScoreTable(tuple(tasks), tuple(map(str, range(len(cells)))), scores_TCS)
        )
        """Logarithms of the scores [T, C, S]; NaN for no score.

        The names of the table's methods are the indices of ``cells``.
        """

    def summary(self) -> dict[tuple[str, int], Score]:
        """Return the score of each task and cell."""
        summary = {}
        for (t, task), c in product(enumerate(self.metrics), range(len(self.cells))):
            scores = pd.Series(self.logs.table.scores_TMS[t, c]).dropna()
            summary[task, c] = Score(
                float(scores.mean()), float(scores.std()), len(scores)
            )
        return summary

    def compare(self, levels: Levels, reference: Levels) -> Comparison:
        """Compare the cells that have ``levels`` with those that have ``reference``.

        The cells of a pair are equal in all other factors.
        """
        pairs = [
            (index, self.cells.index(other))
            for index, cell in enumerate(self.cells)
            if levels.items() <= cell.items()
            and (other := {**cell, **reference}) in self.cells
        ]
        above, below = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        trials_TP = self.trials_TC[:, above]
        bases_TP = self.trials_TC[:, below]
        planned_TP = (trials_TP != bases_TP) & (trials_TP >= 0) & (bases_TP >= 0)
        above_TPS, below_TPS = (
            self.logs.table.scores_TMS[:, columns] for columns in (above, below)
        )
        paired_TPS = planned_TP[:, :, None] & np.isfinite(above_TPS + below_TPS)
        logs_TP, bases_TP = (
            np.log(
                np.maximum(
                    mean_over_seeds(np.where(paired_TPS, scores, np.nan)),
                    self.logs.floors_T,
                )
            )
            for scores in (above_TPS, below_TPS)
        )
        num_TP = paired_TPS.sum(axis=-1)
        used = np.flatnonzero(num_TP.any(axis=1))
        num_T = (num_TP > 0).sum(axis=1)[used]
        logs_T = np.nansum(logs_TP - bases_TP, axis=1)[used] / num_T
        # A mean of n log scores has the variance of one, divided by n; a pair has two
        # such means.
        both = np.concatenate([above, below])
        weights_TP = np.divide(
            1.0, num_TP, out=np.zeros(num_TP.shape), where=num_TP > 0
        )
        variances_T, freedom_T = self.logs.over_seeds(
            self.logs.variances_TM[:, both] * np.tile(weights_TP, 2),
            self.logs.freedom_TM[:, both],
        )
        tasks = [self.logs.table.tasks[t] for t in used]
        planned = int(planned_TP.sum()) * len(self.seeds)
        ratios = LogRatios(
            tasks, logs_T, np.sqrt(variances_T[used]) / num_T, freedom_T[used]
        )
        over_tasks = len(self.metrics) >= MIN_TASKS
        found = int(paired_TPS.sum())
        return compare(
            levels,
            reference,
            ratios,
            planned=planned,
            pairs=found,
            over_tasks=over_tasks,
        )
