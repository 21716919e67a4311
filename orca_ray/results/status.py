"""State of a sweep, running or not, from its live state and its records; needs no Ray."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from orca_ray.errors import UserError, lookup
from orca_ray.results import live
from orca_ray.results.lease import driver_lives
from orca_ray.results.live import Holder, LiveState, RunningTrial
from orca_ray.results.record import Status, lower
from orca_ray.results.store import ResultsStore, warn_once

logger = logging.getLogger(__name__)

_MOST_NAMED = 5


@dataclass
class SearchStatus:
    """State of one (task, method) of a sweep.

    Scores are validation scores; lower is better.
    """

    task: str
    method: str
    planned: int | None = None
    """Number of planned trials; None if the sweep ran with a version of orca-ray that
    did not store it.
    """
    done: int = 0
    running: int = 0
    waiting: int = 0
    best: float | None = None
    failures: Counter[str] = field(default_factory=Counter)
    """Number of failed trials by status."""


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """State of a sweep, for ``orca-sweep status``."""

    sweep: str
    state: str
    """``running``, ``paused``, ``stopping``, ``finished``, ``stopped`` before the end,
    or ``dead`` (driver killed).
    """
    holder: Holder | None
    """The driver that runs the sweep, or that was killed; else None."""
    rows: list[SearchStatus]
    running: list[RunningTrial]
    waiting: list[RunningTrial]
    """Trials that wait for resources or for their next attempt."""
    nodes: dict[str, int]
    """Number of running trials by node."""
    planned: int | None
    done: int
    num_running: int
    failures: dict[str, int]
    trials_per_minute: float | None
    seconds_left: float | None
    renewed_at: str
    quarantined: list[str]

    @property
    def has_driver(self) -> bool:
        """Whether a driver runs the sweep."""
        return self.state in ("running", "paused", "stopping")


def find_sweep(store: ResultsStore, given: str) -> str:
    """Return the sweep that ``given`` names: its id, or the part before "/" if only one
    sweep starts with it.

    Raises UserError if no sweep, or more than one, fits.
    """
    names = sorted(
        {
            *store.scan().values("sweep"),
            *(state.sweep for state in live.read_all(store.folder)),
        }
    )
    starting = [name for name in names if name.startswith(f"{given}/")]
    if given not in names and len(starting) == 1:
        return starting[0]
    return lookup("sweep", given, dict(zip(names, names, strict=True)))


def find_trial(
    store: ResultsStore, prefix: str, sweep: str | None = None
) -> tuple[str, str]:
    """Return sweep and key of the trial, running or ended, whose key starts with
    ``prefix``.

    Raises UserError unless exactly one trial of one sweep (with ``sweep``: of that one)
    fits.
    """
    found = {
        (record.sweep, record.trial_key)
        for record in store.select({}, key_prefix=prefix)
    }
    return only_trial(found | running_keys(store), prefix, sweep)


def running_keys(store: ResultsStore) -> set[tuple[str, str]]:
    """Return (sweep, trial key) of each trial that runs or waits, from the live states
    of all sweeps.
    """
    return {
        (state.sweep, trial.key)
        for state in live.read_all(store.folder)
        for trial in state.running
    }


def only_trial(
    among: Collection[tuple[str, str]], prefix: str, sweep: str | None
) -> tuple[str, str]:
    """Return the only pair (sweep, key) in ``among`` with the given ``sweep`` and a key
    that starts with ``prefix``.

    ``sweep`` None: any sweep. Raises UserError if no pair fits, or more than one, or if
    ``prefix`` is empty.
    """
    found = sorted(
        pair
        for pair in among
        if pair[1].startswith(prefix) and sweep in (None, pair[0])
    )
    keys = sorted({key for _, key in found})
    if not found or not prefix:
        hint = (
            "'orca-sweep status SWEEP' lists those that run, and each score of a"
            " leaderboard names its trial"
        )
        raise UserError(f"no trial with the key {prefix!r} here: {hint}")
    if len(keys) > 1:
        named = ", ".join(keys[:_MOST_NAMED]) + (
            ", …" if len(keys) > _MOST_NAMED else ""
        )
        many = (
            f"{len(keys)} trials in this store have a key that starts with {prefix!r}"
        )
        raise UserError(f"{many}: {named}; give more digits")
    if len(found) > 1:
        sweeps = ", ".join(name for name, _ in found)
        raise UserError(
            f"trial {keys[0]} belongs to {len(found)} sweeps: give --sweep, one of"
            f" {sweeps}"
        )
    return found[0]


def sweep_status(
    store: ResultsStore, sweep: str, emit: Callable[[str], None] = logger.info
) -> SweepStatus:
    """Return the state of a sweep; if its driver ran on another machine, this may take
    half a minute (`driver_lives`).

    ``emit`` is called with a sentence if the wait for the driver takes long.
    """
    state = live.read(store.folder, sweep) or LiveState(sweep=sweep)
    alive = driver_lives(store.folder, state, emit)
    trials = state.running if alive else ()
    running = [trial for trial in trials if not trial.waiting]
    rows = _rows(store, state, trials)
    planned = [
        row for row in rows if row.planned is not None
    ]  # the others are of earlier commands
    total = sum(row.planned or 0 for row in planned) if planned else None
    done = (
        sum(min(row.done, row.planned or 0) for row in planned)
        if planned
        else sum(row.done for row in rows)
    )
    if alive:
        name = "stopping" if state.stopping else "paused" if state.paused else "running"
    else:
        finished = total is not None and done >= total
        name = (
            "finished"
            if finished
            else "dead"
            if state.holder is not None
            else "stopped"
        )
    return SweepStatus(
        sweep=sweep,
        state=name,
        holder=state.holder,
        rows=rows,
        running=running,
        waiting=[trial for trial in trials if trial.waiting],
        nodes=dict(Counter(trial.node for trial in running if trial.node)),
        planned=total,
        done=done,
        num_running=state.num_running if alive else 0,
        failures=dict(sum((row.failures for row in rows), Counter())),
        trials_per_minute=state.trials_per_minute if alive else None,
        seconds_left=state.seconds_left if alive else None,
        renewed_at=state.renewed_at,
        quarantined=list(state.quarantined) if alive else [],
    )


def _rows(
    store: ResultsStore, state: LiveState, trials: Sequence[RunningTrial]
) -> list[SearchStatus]:
    rows = {
        (row.task, row.method): SearchStatus(row.task, row.method, row.planned)
        for row in state.rows
    }

    def row(task: str, method: str) -> SearchStatus:
        return rows.setdefault((task, method), SearchStatus(task, method))

    names = ["task", "method", "status"]
    score = "validation_score"
    plain = pa.schema([*((name, pa.string()) for name in names), (score, pa.float64())])
    scan = store.scan()
    for warning in scan.warnings:
        warn_once(warning)
    for _, table in scan.batches(plain.names, {"sweep": [state.sweep]}):
        groups = (
            table.cast(plain)
            .group_by(names)
            .aggregate([(score, "min"), ([], "count_all")])
        )
        for found in groups.to_pylist():
            status = Status(found["status"])
            each = row(found["task"], found["method"])
            each.done += found["count_all"]
            if status.failed:
                each.failures[status.value] += found["count_all"]
            else:
                each.best = lower(each.best, found[f"{score}_min"])
    for trial in trials:
        each = row(trial.task, trial.method)
        each.running += not trial.waiting
        each.waiting += trial.waiting
        each.best = lower(each.best, trial.best)
    for stored in (
        state.rows
    ):  # a suggestion that repeats another counts twice there, and has one record
        each = row(stored.task, stored.method)
        each.done = max(each.done, stored.done)
    return list(rows.values())
