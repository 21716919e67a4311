"""How long the methods of a board trained, and whether they may have converged."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.statistics import get_statistic
from orca_ray.leaderboard.statistics.convergence import MAX_UNFINISHED, trial_ends
from orca_ray.leaderboard.statistics.table import COLUMNS

MAX_LAST_RATE = 0.2
"""Largest learning rate at the end of a schedule that anneals, relative to the highest.

Of a schedule that ends at 0, the last of six steps has a sixth of the highest rate.
"""


@dataclass(frozen=True)
class MethodTraining:
    """How the scored trials of a method were trained, those with a learning rate."""

    method: str
    schedules: tuple[str, ...]
    """Names of the schedules of the learning rate, sorted."""
    min_epochs: int
    max_epochs: int
    num_trials: int
    best_last: float
    """Share of the trials whose best epoch is the last one."""
    still_falling: float
    """Share of the trials that still improve; see `convergence.still_falling`."""
    late_fall: float
    """Median fall of the validation score in the last tenth of the epochs.

    NaN if trials have a single epoch.
    """
    may_not_have_converged: bool
    """Whether more trials still improve than `MAX_UNFINISHED` and chance explain."""
    last_rate: float
    """Learning rate at the end relative to the highest one, the largest of the trials.
    """

    @property
    def anneals(self) -> bool:
        """Whether the learning rate of every trial falls to `MAX_LAST_RATE`."""
        return self.last_rate <= MAX_LAST_RATE

    @property
    def epochs_text(self) -> str:
        """The number of epochs, such as "6" or "6 to 30"."""
        if self.min_epochs == self.max_epochs:
            return str(self.min_epochs)
        return f"{self.min_epochs} to {self.max_epochs}"


def training_curves(board: Board, points: pd.DataFrame) -> pd.DataFrame:
    """Return the table "curves" of `COLUMNS` of a board's scored trials.

    ``points`` are learning curves as `ResultsStore.curves` returns them. Only epochs of
    the stage ``refine`` with a validation score and a learning rate are returned:
    fitted methods have no epochs of training.
    """
    cells = pd.DataFrame(
        [
            (key, cell.task, cell.method)
            for cell in board.cells.values()
            for key in cell.trial_keys.values()
        ],
        columns=["trial_key", "task", "method"],
    )
    is_trained = (
        (points["stage"] == "refine")
        & points["validation_score"].notna()
        & points["learning_rate"].notna()
    )
    columns = ["trial_key", "epoch", "validation_score", "learning_rate"]
    rows = points.loc[is_trained, columns].merge(cells, on="trial_key")
    rows = rows.rename(columns={"trial_key": "trial", "validation_score": "score"})
    types = {"epoch": "int64", "score": "float64", "learning_rate": "float64"}
    return rows[list(COLUMNS["curves"])].astype(types)


def method_trainings(
    board: Board, curves: pd.DataFrame, methods: Sequence[str]
) -> list[MethodTraining]:
    """Return how each of ``methods`` was trained, if it has ``curves``.

    ``curves`` are those of `training_curves`.
    """
    if curves.empty:
        return []
    ends = trial_ends(curves).groupby("method")
    still_falling = get_statistic("still_falling").compute(curves)
    table = pd.DataFrame(
        {
            "min_epochs": ends["epochs"].min(),
            "max_epochs": ends["epochs"].max(),
            "num_trials": still_falling["num_trials"],
            "best_last": get_statistic("best_last").compute(curves)["value"],
            "still_falling": still_falling["value"],
            "late_fall": get_statistic("late_fall").compute(curves)["value"],
            "may_not_have_converged": still_falling["unfinished"],
            "last_rate": ends["last_rate"].max(),
        }
    )
    schedules = _schedules(board)
    trainings = {}
    for method, row in table.to_dict("index").items():
        facts = {str(name): value for name, value in row.items()}
        trainings[method] = MethodTraining(
            method=str(method), schedules=schedules[str(method)], **facts
        )
    return [trainings[method] for method in methods if method in trainings]


def _schedules(board: Board) -> Mapping[str, tuple[str, ...]]:
    """Return the names of the schedules of each method's scored trials, sorted."""
    names: dict[str, set[str]] = {method: set() for method in board.methods}
    for cell in board.cells.values():
        text = cell.provenance.hyperparameters
        schedule = json.loads(text).get("refine.schedule") if text else None
        if schedule is not None:
            names[cell.method].add(str(schedule))
    return {method: tuple(sorted(found)) for method, found in names.items()}


def training_grid(trainings: Sequence[MethodTraining]) -> list[list[str]]:
    """Return a table of how methods were trained: titles, then a row for each."""
    titles = [
        "method",
        "schedule",
        "epochs",
        "trials",
        "best last",
        "still improving",
        "last tenth",
    ]
    rows = [
        [
            training.method,
            ", ".join(training.schedules) or "–",
            training.epochs_text,
            str(training.num_trials),
            percent(training.best_last),
            percent(training.still_falling),
            _fall_text(training.late_fall),
        ]
        for training in trainings
    ]
    return [titles, *rows]


GRID_TITLE = (
    "length of training, by validation scores of the scored trials (best last: trials"
    " whose best epoch is the last one; still improving: trials whose best epoch is in"
    " the last twentieth, more than 2% below all before; last tenth: median fall of"
    " the score in the last tenth of the epochs)"
)
"""Title of `training_grid`."""


def convergence_lines(trainings: Sequence[MethodTraining]) -> Iterator[str]:
    """Yield which methods may not have converged, and which do not anneal."""
    unfinished = [
        f"{training.method} ({percent(training.still_falling)})"
        for training in trainings
        if training.may_not_have_converged
    ]
    if unfinished:
        yield (
            f"may not have converged: {', '.join(unfinished)}: in brackets, the trials"
            f" that still improve when training ends, which are more than"
            f" {percent(MAX_UNFINISHED)} and more than chance explains (binomial test,"
            " 5% level for each method)"
        )
    constant = [
        f"{training.method} ({percent(training.last_rate)})"
        for training in trainings
        if not training.anneals
    ]
    if constant:
        yield (
            "schedules that do not anneal (in brackets: the learning rate at the end,"
            f" relative to the highest): {', '.join(constant)}"
        )


def schedule_line(trainings: Sequence[MethodTraining]) -> str:
    """Return a sentence with the schedule and the epochs of all methods."""
    groups: dict[str, list[str]] = {}
    for training in trainings:
        schedule = ", ".join(training.schedules) or "unknown schedule"
        groups.setdefault(f"{schedule}, {training.epochs_text} epochs", []).append(
            training.method
        )
    parts = [f"{length} ({', '.join(methods)})" for length, methods in groups.items()]
    return f"length of training: {'; '.join(parts)}"


def percent(share: float) -> str:
    """Return a share as text, such as "44%"."""
    return f"{100 * share:.0f}%"


def _fall_text(fall: float) -> str:
    """Return a fall in per cent with one decimal, or a dash for NaN."""
    if math.isnan(fall):
        return "–"
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(100 * fall, 1) + 0.0:.1f}%"
