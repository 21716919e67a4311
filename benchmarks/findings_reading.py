"""Studies as the pages of findings read them from a store.

A task counts for a question when both sides have a score of every planned seed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd
from scipy.stats import gmean

from benchmarks import bodies, searches
from benchmarks.findings import Data, Study, joined_name
from benchmarks.planned import SIX_EPOCHS, Plan
from benchmarks.searches import BEST_TRANSFORMER, Families
from orca_ray.data.prepared import HELD_OUT
from orca_ray.errors import UserError
from orca_ray.leaderboard import build
from orca_ray.leaderboard.board import Board, BoardCell
from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.leaderboard.statistics.table import COLUMNS, Floats
from orca_ray.leaderboard.training import training_curves
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.loading import load_spec
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.tasks.registry import get_task

KINDS = {
    "time series": "series",
    "spectrum": "spectra, sequences",
    "DNA": "spectra, sequences",
    "radar": "spectra, sequences",
    "image": "images",
    "tabular": "tables",
    "pde": "fields",
}
"""Kind of data by the domain that a task declares."""
DISTANCE = "l2"
"""Distance that ``orca`` minimises on the tasks whose distances are compared.

Other distances have other units.
"""


@dataclass(frozen=True)
class Found:
    """A study that was read from a store."""

    plan: Plan
    board: Board
    study: Study
    validation_TM: Floats
    """Mean validation scores of the candidates of searches.

    They are NaN for no candidate, and infinite for a candidate without a score of every
    seed.
    """
    pairs: frozenset[tuple[str, str]]
    """Planned pairs of task and method."""
    curves: pd.DataFrame
    """Learning curves of the scored trials; see `training_curves`."""
    boards: Mapping[str, Board] = field(default_factory=dict)
    """Boards of the plan's parts that have scores, by their name."""


@cache
def _spec(benchmark: str, budget: str) -> SweepSpec:
    """Return the sweep of a benchmark, which takes seconds to read."""
    return load_spec(benchmark, budget=budget)


def has_scores(
    records: pd.DataFrame, benchmark: str, budget: str, protocol: str = HELD_OUT
) -> bool:
    """Return whether a confirm trial of a sweep of the benchmark is completed."""
    is_scored = (
        (records["sweep"] == f"{benchmark}/{budget}")
        & (records["protocol"] == protocol)
        & (records["phase"] == "confirm")
        & (records["status"] == "completed")
    )
    return bool(is_scored.any())


def read(benchmark: str, store: ResultsStore, plan: Plan = SIX_EPOCHS) -> Found:
    """Return the study of a benchmark in a store.

    Parts of the plan without a score are left out. Raises the errors of `build` and
    `load_spec`, and UserError if there is no test score.
    """
    records = store.records()
    if plan.budget is None:
        board = build(records, benchmark=benchmark)
    else:
        sweep = f"{benchmark}/{plan.budget}"
        board = build(records, benchmark=benchmark, sweep=sweep, protocol=HELD_OUT)
    if board.scores.empty:
        raise UserError(
            f"no confirm trial of {benchmark} has a test score yet: continue"
            f" `orca-sweep benchmark {benchmark}`"
        )
    spec = _spec(benchmark, board.sweep.partition("/")[2])
    trials = records[records["sweep"] == board.sweep]
    distances = dict(zip(trials["trial_key"], trials["distance_before"], strict=True))
    columns = _columns(board, spec, board.table.tasks)
    curves = [training_curves(board, store.curves(board.sweep))]
    boards = {}
    for part in plan.parts:
        if not has_scores(records, benchmark, part.budget, part.protocol):
            continue
        sweep = f"{benchmark}/{part.budget}"
        other = build(records, benchmark=benchmark, sweep=sweep, protocol=part.protocol)
        equal_tasks = [
            task
            for task in other.table.tasks
            if other.infos[task] == board.infos.get(task)
        ]
        of_part = _columns(other, _spec(benchmark, part.budget), equal_tasks)
        for method, scores in of_part.items():
            columns[joined_name(method, part.name)] = scores
        points = training_curves(other, store.curves(sweep))
        names = [joined_name(method, part.name) for method in points["method"]]
        curves.append(points.assign(method=names))
        boards[part.name] = other
    planned = {method for _, method in (*spec.pairs, *board.cells)}
    for method in planned.intersection(plan.families.methods):
        columns.setdefault(method, {})
    table = _table(board, columns)
    validation_TM = _validation(board, spec, table, plan, records)
    all_searches = searches.sides(validation_TM, table.methods, plan.families)
    for part in plan.parts:
        if part.name not in boards:
            continue
        other = boards[part.name]
        spec_of_part = _spec(benchmark, part.budget)
        part_TM = _validation(other, spec_of_part, table, plan, records, part.name)
        both_TM = np.where(np.isnan(part_TM), validation_TM, part_TM)
        all_searches |= _search_of_part(part.name, both_TM, table.methods, plan)
    study = Study(
        table, _properties(board, table.tasks, store, distances), all_searches
    )
    known_curves = [frame for frame in curves if not frame.empty]
    all_curves = pd.DataFrame(columns=list(COLUMNS["curves"]))
    if known_curves:
        all_curves = pd.concat(known_curves, ignore_index=True)
    pairs = frozenset(spec.pairs)
    return Found(plan, board, study, validation_TM, pairs, all_curves, boards)


def _columns(
    board: Board, spec: SweepSpec, tasks: Sequence[str]
) -> dict[str, dict[str, Floats]]:
    """Return the scores [S] of each method, by task, if it has every planned seed.

    Only ``tasks`` count.
    """
    table = board.table
    columns: dict[str, dict[str, Floats]] = {method: {} for method in table.methods}
    for task, method in _complete(board, spec):
        if task in tasks:
            t = table.tasks.index(task)
            columns[method][task] = table.scores_TMS[t, table.methods.index(method)]
    return columns


def _table(board: Board, columns: Mapping[str, Mapping[str, Floats]]) -> ScoreTable:
    """Return a table of scores [S] by method and task, on the tasks of a board."""
    tasks = board.table.tasks
    methods = tuple(sorted(columns))
    lengths = [len(scores) for column in columns.values() for scores in column.values()]
    num_seeds = max(lengths, default=1)
    scores_TMS = np.full((len(tasks), len(methods), num_seeds), np.nan)
    for m, method in enumerate(methods):
        for t, task in enumerate(tasks):
            scores_S = columns[method].get(task, np.empty(0))
            scores_TMS[t, m, : len(scores_S)] = scores_S
    return ScoreTable(tasks, methods, scores_TMS, board.floors)


def _validation(
    board: Board,
    spec: SweepSpec,
    table: ScoreTable,
    plan: Plan,
    records: pd.DataFrame,
    part: str = "",
) -> Floats:
    """Return the mean validation scores [T, M] of the candidates of searches.

    They are infinite where a planned candidate has no score of every seed yet, or has
    diverged. ``board`` and ``spec`` are those of the study or of one ``part`` of it,
    whose methods have the columns of `joined_name`.
    """
    trials = records[records["sweep"] == board.sweep]
    scores = dict(zip(trials["trial_key"], trials["validation_score"], strict=True))
    pairs = {*spec.pairs, *board.cells}
    means_TM = np.full((len(table.tasks), len(table.methods)), np.nan)
    for t, task in enumerate(table.tasks):
        for method in plan.families.methods:
            name = joined_name(method, part) if part else method
            if (task, method) not in pairs or name not in table.methods:
                continue
            column = table.methods.index(name)
            score = math.inf
            if table.num_seeds_TM[t, column]:
                score = _mean_score(board.cells[task, method], spec, scores)
            means_TM[t, column] = score if math.isfinite(score) else math.inf
    return means_TM


def _search_of_part(
    part: str, validation_TM: Floats, methods: Sequence[str], plan: Plan
) -> dict[str, Floats]:
    """Return the weights [T, M] of the search among the transformers of a part.

    Its name is `joined_name` of `BEST_TRANSFORMER`. The result is empty if the plan has
    no searches, or the part lacks a transformer.
    """
    families = plan.families
    transformers = tuple(joined_name(name, part) for name in families.transformers)
    if not transformers or not set(transformers) <= set(methods):
        return {}
    of_part = Families(transformers, families.rivals)
    found = searches.sides(validation_TM, methods, of_part)
    return {joined_name(BEST_TRANSFORMER, part): found[BEST_TRANSFORMER]}


def _mean_score(cell: BoardCell, spec: SweepSpec, scores: dict[str, float]) -> float:
    """Return the mean score of the planned seeds of a cell of a board."""
    keys = cell.trial_keys
    return float(np.mean([scores[keys[seed]] for seed in spec.confirm_seeds]))


def _properties(
    board: Board,
    names: Sequence[str],
    store: ResultsStore,
    distances: dict[str, float | None],
) -> Data:
    """Return the properties of the tasks with these names."""
    tasks = [get_task(name) for name in names]
    gaps = _gaps(store, board)
    no_gaps = (math.nan, math.nan)
    centroids, distributions = np.array(
        [gaps.get(task.name, no_gaps) for task in tasks]
    ).T
    num_samples = [task.num_samples[0] if task.num_samples else 1 for task in tasks]
    return Data(
        logs=np.zeros(len(tasks)),
        kinds=np.array([KINDS.get(task.domain, task.domain) for task in tasks]),
        images=np.array([task.modality == "image" for task in tasks]),
        samples=np.array(
            [
                _samples(board, task.name, num)
                for task, num in zip(tasks, num_samples, strict=True)
            ]
        ),
        distances=np.array([_distance(board, task.name, distances) for task in tasks]),
        centroids=centroids,
        distributions=distributions,
    )


def read_bodies(found: Found, store: ResultsStore) -> Study:
    """Return the study of bodies with different pretraining.

    Raises UserError if the store has no trial of the study.
    """
    benchmark = found.board.benchmark
    budget = found.board.sweep.partition("/")[2]
    crossed = build(store.records(), benchmark=benchmark, sweep=f"transfer/{budget}")
    seeds = _spec(benchmark, budget).confirm_seeds
    return bodies.read(found.study, found.board, crossed, seeds)


def _complete(board: Board, spec: SweepSpec) -> set[tuple[str, str]]:
    """Return the tasks and methods that have a score of every planned seed."""
    return {
        key
        for key, cell in board.cells.items()
        if set(spec.confirm_seeds) <= cell.trial_keys.keys()
    }


def _samples(board: Board, task: str, num: int) -> float:
    """Return the number of training samples, of which a trial may use a share."""
    texts = [
        cell.provenance.hyperparameters
        for (name, _), cell in board.cells.items()
        if name == task
    ]
    shares = {json.loads(text).get("data.fraction", 1.0) for text in texts if text}
    return num * max(shares, default=1.0)


def _distance(board: Board, task: str, distances: dict[str, float | None]) -> float:
    """Return the geometric mean of a task's distances over seeds, NaN if unknown."""
    cell = board.cells.get((task, "orca"))
    if cell is None or not cell.provenance.hyperparameters:
        return math.nan
    hyperparameters = json.loads(cell.provenance.hyperparameters)
    if hyperparameters.get("align.distance") != DISTANCE:
        return math.nan
    values = [distances[key] for key in cell.trial_keys.values()]
    known = [value for value in values if value is not None and value > 0]
    return math.exp(np.mean(np.log(known))) if known else math.nan


def _gaps(store: ResultsStore, board: Board) -> dict[str, tuple[float, float]]:
    """Return the centroid and the distribution gap of each task before ``orca`` aligns.

    They are geometric means over seeds.
    """
    tasks = {
        key: task
        for (task, method), cell in board.cells.items()
        if method == "orca"
        for key in cell.trial_keys.values()
    }
    artefacts = store.artefacts(sweep=board.sweep, trial_key=list(tasks))
    is_gap = (artefacts["kind"] == "features") & (artefacts["name"] == "gap")
    gaps: dict[str, list[tuple[float, float]]] = {}
    for key, payload in artefacts.loc[is_gap, ["trial_key", "payload"]].itertuples(
        index=False
    ):
        centroid, distribution = (
            series["values"][0] for series in json.loads(payload)["series"]
        )
        gaps.setdefault(tasks[key], []).append((centroid, distribution))
    return {
        task: tuple(gmean(np.array(values, float)).tolist())
        for task, values in gaps.items()
    }
