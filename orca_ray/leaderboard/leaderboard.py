"""Builds a leaderboard: selects the records that count, and computes scores, ranks and numbers of trials from them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import pandas as pd

from orca_ray.errors import UserError, nearest, printable
from orca_ray.results.record import Status

_COMPLETED = Status.COMPLETED.value
Compute = Callable[[pd.DataFrame], pd.Series]


@dataclass(frozen=True)
class Statistic:
    """A number that a leaderboard shows for each method.

    ``compute`` takes a table of mean scores (rows are tasks, columns are methods; lower is better; no score is missing)
    and returns one value per method, which is NaN if there are no tasks.
    """

    name: str
    title: str
    definition: str
    better: Literal["lower", "higher"]
    compute: Compute


STATISTICS: dict[str, Statistic] = {}
"""Every statistic by name, in the order in which leaderboards show them; `statistic` adds one."""


def statistic(name: str, title: str, *, better: Literal["lower", "higher"]) -> Callable[[Compute], Compute]:
    """Return a decorator that adds a function to `STATISTICS`; its docstring becomes `Statistic.definition`."""

    def register(compute: Compute) -> Compute:
        if name in STATISTICS:
            raise ValueError(f"there is already a statistic {name!r}")
        STATISTICS[name] = Statistic(name, title, (compute.__doc__ or "").strip(), better, compute)
        return compute

    return register


@statistic("mean_rank", "mean rank", better="lower")
def mean_rank(means: pd.DataFrame) -> pd.Series:
    """Rank of the method among all methods, averaged over tasks; equal scores get the average of their ranks."""
    return means.rank(axis=1, method="average").mean(axis=0)


@statistic("wins", "wins", better="higher")
def wins(means: pd.DataFrame) -> pd.Series:
    """Number of tasks on which the method has the best score; if k methods tie, each gets 1/k."""
    if means.empty:
        return pd.Series(float("nan"), index=means.columns)
    best = means.eq(means.min(axis=1), axis=0)
    return best.div(best.sum(axis=1), axis=0).sum(axis=0)


class Score(NamedTuple):
    """Test score of one method on one task: mean and standard deviation over n seeds; NaN where undefined."""

    mean: float
    std: float
    n: int


class Other(NamedTuple):
    """A sweep and protocol with records, and its number of completed confirm trials (``confirmed``)."""

    sweep: str
    protocol: str
    confirmed: int


@dataclass(frozen=True)
class Leaderboard:
    """The leaderboard of one benchmark, sweep and protocol. Scores are test scores; lower is better.

    It lists every task and every method that has a record. A method in these fields may be "method (body)", if the
    method ran with several bodies on one task.
    """

    benchmark: str
    sweep: str
    protocol: str
    scores: dict[tuple[str, str], Score]
    """Score by (task, method), where a confirm trial has completed. The std divides by n - 1; it is NaN for n = 1."""
    metrics: dict[str, str]
    """Name of the metric of each task; tasks are sorted."""
    summary: pd.DataFrame
    """The `STATISTICS` (columns) of each method (row), computed on ``common_tasks``."""
    common_tasks: tuple[str, ...]
    """Tasks on which every method has a score."""
    statuses: pd.DataFrame
    """Number of search and confirm trials by method (row) and `Status` (column)."""
    seeds: tuple[int, ...]
    """All seeds that occur in the scores, sorted."""
    others: tuple[Other, ...]
    """Other sweeps and protocols of the same benchmark that have records."""
    notes: tuple[str, ...]
    """Sentences that say how many confirm trials are left out of the scores, and why."""

    @property
    def tasks(self) -> list[str]:
        """Full names of the tasks, sorted."""
        return list(self.metrics)

    @property
    def methods(self) -> list[str]:
        """Names of the methods, lowest mean rank first."""
        return list(self.summary.index)

    def score(self, task: str, method: str) -> Score:
        """Return the score of a method on a task; n is 0 and mean and std are NaN if it has none."""
        return self.scores.get((task, method), Score(math.nan, math.nan, 0))

    def best(self, task: str) -> list[str]:
        """Return the methods with the lowest mean score on a task: one, several on a tie, or none without scores."""
        means = {method: self.score(task, method).mean for method in self.methods if self.score(task, method).n}
        lowest = min(means.values(), default=None)
        return [method for method, mean in means.items() if mean == lowest]

    def statistic(self, method: str, name: str) -> float:
        """Return the statistic ``name`` of a method, e.g. ``mean_rank``."""
        return float(cast(float, self.summary.loc[method, name]))

    def count(self, method: str, status: Status) -> int:
        """Return the number of trials of a method that ended with ``status``."""
        return int(cast(int, self.statuses.loc[method, status.value]))


def build(
    records: pd.DataFrame, *, benchmark: str, sweep: str | None = None, protocol: str | None = None
) -> Leaderboard:
    """Build the leaderboard of a benchmark from the records of a store, as `ResultsStore.records` returns them.

    A leaderboard holds one sweep (such as ``pocket/quick``) and one protocol (``held-out`` or ``paper``). If one is
    None, the matching pair is chosen that has completed confirm trials of the most combinations of task, method, body
    and seed; on a tie, the most recent one. Raises UserError if there is no record of the benchmark, the sweep or the
    protocol.
    """
    of_benchmark = select(records, "benchmark", benchmark, "run `orca-sweep benchmark NAME` first.")
    available = _available(of_benchmark)
    chosen = _choose(of_benchmark, available, sweep, protocol)
    rows = of_benchmark[(of_benchmark["sweep"] == chosen.sweep) & (of_benchmark["protocol"] == chosen.protocol)].copy()
    rows["label"] = _labels(rows)

    confirmed, notes = confirmed_scores(rows)
    tasks, labels = sorted(rows["task"].unique()), sorted(rows["label"].unique())
    groups = confirmed.astype({"test_score": "float64"}).groupby(["task", "label"])["test_score"]
    scores = groups.agg(["mean", "std", "count"])
    common = scores["mean"].unstack("label").reindex(index=tasks, columns=labels).dropna()
    summary = pd.DataFrame({name: entry.compute(common) for name, entry in STATISTICS.items()}, index=labels)
    summary = summary.sort_values("mean_rank", kind="stable")
    statuses = pd.crosstab(rows["label"], rows["status"])
    metrics = _state(rows)["metric"].to_dict()
    return Leaderboard(
        benchmark=benchmark,
        sweep=chosen.sweep,
        protocol=chosen.protocol,
        scores={key: Score(float(mean), float(std), int(n)) for key, mean, std, n in scores.itertuples()},
        metrics={task: str(metrics[task]) for task in tasks},
        summary=summary,
        common_tasks=tuple(common.index),
        statuses=statuses.reindex(summary.index, columns=[status.value for status in Status], fill_value=0),
        seeds=tuple(sorted(int(seed) for seed in confirmed["seed"].unique())),
        others=tuple(other for other in available if other != chosen),
        notes=tuple(notes),
    )


def select(records: pd.DataFrame, column: str, wanted: str, hint: str) -> pd.DataFrame:
    """Return the records with the value ``wanted`` in ``column``; raises UserError, with ``hint``, if there is none."""
    names = sorted(records[column].unique())
    if not names:
        raise UserError(f"no records of {column} {wanted!r} yet: {hint}")
    if wanted not in names:
        close = nearest(wanted, names)
        question = f" Did you mean {close!r}?" if close else ""
        raise UserError(f"no records of {column} {wanted!r}.{question} There are: {', '.join(map(printable, names))}.")
    return records[records[column] == wanted]


def _available(records: pd.DataFrame) -> list[Other]:
    """Return every (sweep, protocol) of the records in the order in which `build` prefers them."""
    key = ["sweep", "protocol"]
    confirmed = (records["phase"] == "confirm") & (records["status"] == _COMPLETED)
    # A grid has many confirm trials of one task, method and seed; a leaderboard shows only one of them.
    repeated = records.assign(confirmed=confirmed).duplicated([*key, "task", "method", "body", "seed", "confirmed"])
    groups = records.assign(confirmed=confirmed, scores=confirmed & ~repeated).groupby(key, sort=True)
    table = groups.agg(confirmed=("confirmed", "sum"), scores=("scores", "sum"), latest=("finished_at", "max"))
    table = table.reset_index().sort_values(["scores", "latest"], ascending=False, kind="stable")
    rows = table[[*key, "confirmed"]].itertuples(index=False)
    return [Other(str(sweep), str(protocol), int(number)) for sweep, protocol, number in rows]


def _choose(records: pd.DataFrame, available: Sequence[Other], sweep: str | None, protocol: str | None) -> Other:
    if sweep is not None:
        records = select(records, "sweep", sweep, "")
    if protocol is not None:
        select(records, "protocol", protocol, "")
    return next(each for each in available if sweep in (None, each.sweep) and protocol in (None, each.protocol))


def _labels(rows: pd.DataFrame) -> pd.Series:
    """Return a label for each record: the method, or "method (body)" if the method has several bodies on a task."""
    num_bodies = rows.groupby(["method", "task"])["body"].nunique().groupby("method").max()
    several = rows["method"].map(num_bodies) > 1
    return rows["method"].where(~several, rows["method"] + " (" + rows["body"] + ")")


def _state(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each task's data fingerprint and metric in its last trial that did not fail, else in its last trial."""
    succeeded = ~rows["status"].isin([status.value for status in Status if status.failed])
    ordered = rows.assign(succeeded=succeeded).sort_values(["succeeded", "finished_at"], kind="stable")
    return ordered.drop_duplicates("task", keep="last").set_index("task")[["data_fingerprint", "metric"]]


def confirmed_scores(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the confirm records that scores are averaged over, and sentences about those that are left out.

    For each task and method, these are the records of one configuration: that with the most seeds, on a tie the most
    recent one. Records with another data fingerprint or metric than the task's last trial do not count (see `_state`).
    """
    notes = []
    confirmed = rows[(rows["phase"] == "confirm") & (rows["status"] == _COMPLETED)]
    scored = confirmed[confirmed["test_score"].notna()]
    if missing := len(confirmed) - len(scored):
        notes.append(f"{missing} completed confirm trial(s) without a test score left out")

    expected = _state(rows).reindex(scored["task"]).set_axis(scored.index)
    current = scored[(scored[["data_fingerprint", "metric"]] == expected).all(axis=1)]
    if old := len(scored) - len(current):
        notes.append(f"{old} confirm trial(s) on an earlier version of their task's data or metric left out")

    key = ["task", "label", "hyperparameters"]
    table = current.groupby(key, sort=True).agg(num_seeds=("seed", "nunique"), latest=("finished_at", "max"))
    table = table.reset_index().sort_values(["num_seeds", "latest"], kind="stable")
    chosen = current.merge(table.drop_duplicates(["task", "label"], keep="last")[key], on=key)
    if other := len(current) - len(chosen):
        notes.append(f"{other} confirm trial(s) of other configurations, with fewer seeds or older, left out")
    return chosen, notes
