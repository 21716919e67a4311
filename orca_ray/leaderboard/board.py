"""The leaderboard of one benchmark, sweep and protocol.

It consists of the score table, cells with their provenance and cost, and notes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

import pandas as pd

from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.results.record import Status

SCORE_TABLE = {"task": "str", "method": "str", "seed": "int64", "score": "float64"}
"""Columns of a score table and their types."""


class Score(NamedTuple):
    """Test score of one method on one task: mean and standard deviation over n seeds.

    The deviation divides by n - 1. The mean is NaN without a seed, the deviation with
    fewer than two.
    """

    mean: float
    std: float
    n: int


NO_SCORE = Score(math.nan, math.nan, 0)
"""The score of a method without any seed."""


class Other(NamedTuple):
    """A (sweep, protocol) pair that has records.

    ``confirmed`` is the number of completed confirm trials.
    """

    sweep: str
    protocol: str
    confirmed: int


@dataclass(frozen=True)
class TaskInfo:
    """A task of a board: what its scores measure, and on which version of the data."""

    name: str
    metric: str
    metric_version: int
    """Version of the metric's definition.

    Records from before versions were stored have version 1.
    """
    data_fingerprint: str


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a cell come from.

    ``statuses``, ``attempts`` and ``device_hours`` cover all trials of the cell: search
    and confirm, failed and left out. The other fields cover the scored trials of the
    cell; they are empty if there are none.
    """

    statuses: Mapping[Status, int]
    """Number of trials by status; every status is a key."""
    attempts: int
    """Number of starts of all trials; a trial may be started several times."""
    device_hours: Mapping[str, float]
    """Wall hours of all trials by device, such as ``cpu`` or the name of a GPU.

    A trial on half a GPU counts half.
    """
    body: str = ""
    hyperparameters: str = ""
    """Hyper-parameters that all scored trials share, as the text of a JSON object."""
    data_fingerprint: str = ""
    metric: str = ""
    metric_version: int = 0
    versions: tuple[str, ...] = ()
    """Versions of orca-ray, sorted."""
    torch_versions: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    processors: tuple[str, ...] = ()
    """Names of the CPUs' models, where they are known."""
    precisions: tuple[str, ...] = ()
    deterministic: bool = False
    """Whether every scored trial was deterministic."""
    started_at: datetime | None = None
    """Start of the first scored trial."""
    finished_at: datetime | None = None
    """End of the last scored trial."""
    notes: tuple[str, ...] = ()
    """Distinct sentences in the notes of the scored trials."""

    @property
    def trials(self) -> int:
        """Number of trials of the cell, of every status."""
        return sum(self.statuses.values())


@dataclass(frozen=True)
class TrialCost:
    """Costs of a cell's scored trials: means over the seeds, but for the peak memory.

    Unknown costs are NaN.
    """

    wall_seconds: float = math.nan
    """Duration of a trial."""
    device_seconds: float = math.nan
    """Seconds of aligning, refining and evaluating, times the GPUs of the trial.

    GPUs are a fraction if trials share one, and count as 1 on a CPU.
    """
    peak_memory_mib: float = math.nan
    """Largest peak memory of the scored trials, in MiB.

    Trials whose peak is unknown are left out.
    """
    num_trainable: float = math.nan
    """Number of trained parameters."""
    num_parameters: float = math.nan


@dataclass(frozen=True)
class BoardCell:
    """Results of one method on one task.

    It exists if the store has a trial of this pair, even if every trial failed.
    """

    task: str
    method: str
    score: Score
    trial_keys: Mapping[int, str]
    """Key of the scored trial by seed; seeds are sorted."""
    provenance: Provenance
    cost: TrialCost = field(default_factory=TrialCost)


def lowest_of(scores: Mapping[str, float]) -> list[str]:
    """Return the names with the lowest score; [] if there are fewer than two scores."""
    if len(scores) < 2:
        return []
    lowest = min(scores.values())
    return [name for name, score in scores.items() if score == lowest]


@dataclass(frozen=True)
class Board:
    """The leaderboard of one benchmark, sweep and protocol.

    Scores are test scores; lower is better. It lists every task and every method that
    has a record. The name of a method is "method (body)" if the method ran with several
    bodies on one task.
    """

    benchmark: str
    sweep: str
    """Name of the sweep; empty if the store has no record of the benchmark."""
    protocol: str
    infos: Mapping[str, TaskInfo]
    """The tasks by name, sorted."""
    methods: tuple[str, ...]
    """Names of the methods, lowest mean rank first; those without a rank come last."""
    scores: pd.DataFrame
    """The score table: one row per task, method and seed, sorted by them.

    Its columns are those of `SCORE_TABLE`. It is the input of every statistic. A
    missing score is an absent row.
    """
    cells: Mapping[tuple[str, str], BoardCell]
    """Cells by (task, method); there is none where no trial ran."""
    floors: Mapping[str, float] = field(default_factory=dict)
    """Floor of each task with a score; see `ScoreTable.floors_T`.

    A board with some of the methods keeps the floors of the whole board.
    """
    others: tuple[Other, ...] = ()
    """Other sweeps and protocols of the same benchmark that have records."""
    notes: tuple[str, ...] = ()
    """Sentences about confirm trials that the rules of a board leave out."""
    warnings: tuple[str, ...] = ()
    """Sentences about damaged files and about invalid or contradictory records."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Full names of the tasks, sorted."""
        return tuple(self.infos)

    @property
    def metrics(self) -> dict[str, str]:
        """Name of the metric by task."""
        return {name: info.metric for name, info in self.infos.items()}

    @cached_property
    def table(self) -> ScoreTable:
        """The scores as arrays, with the floors of the board."""
        return ScoreTable.of(self.scores, self.floors)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """All seeds that occur in the scores, sorted."""
        return tuple(sorted(map(int, self.scores["seed"].unique())))

    def score(self, task: str, method: str) -> Score:
        """Return the score of a method on a task.

        Without a score, n is 0, and mean and std are NaN.
        """
        cell = self.cells.get((task, method))
        return NO_SCORE if cell is None else cell.score

    def best(self, task: str) -> list[str]:
        """Return the methods with the lowest mean score on a task, several on a tie.

        Returns [] if fewer than two methods have a score.
        """
        scores = {method: self.score(task, method) for method in self.methods}
        return lowest_of(
            {method: score.mean for method, score in scores.items() if score.n}
        )

    def labels(self, records: pd.DataFrame) -> "pd.Series[str]":
        """Return the name on the board of each record's method.

        The name is "method" or "method (body)".
        """
        methods = records["method"].astype("str")
        bodies = records["body"].astype("str")
        return methods.where(methods.isin(self.methods), methods + " (" + bodies + ")")

    def count(self, method: str, status: Status) -> int:
        """Return the number of trials of a method that ended with ``status``."""
        return sum(
            cell.provenance.statuses[status]
            for cell in self.cells.values()
            if cell.method == method
        )


def score_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ``rows`` as a score table: sorted, with the columns of `SCORE_TABLE`."""
    table = rows[list(SCORE_TABLE)].astype(SCORE_TABLE)
    table = table.sort_values(["task", "method", "seed"], kind="stable")
    return table.reset_index(drop=True)


def empty_board(benchmark: str, warnings: Sequence[str] = ()) -> Board:
    """Return a board of a benchmark without trials: no sweep, task, method or score."""
    scores = pd.DataFrame(
        {name: pd.Series(dtype=kind) for name, kind in SCORE_TABLE.items()}
    )
    return Board(benchmark, "", "", {}, (), scores, {}, warnings=tuple(warnings))
