"""State of a sweep, running or not, from its live state and its records."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from orca_ray.errors import UserError, lookup
from orca_ray.results import live
from orca_ray.results.lease import driver_lives
from orca_ray.results.live import Holder, Limits, LiveState, RunningTrial
from orca_ray.results.record import Status, lower
from orca_ray.results.store import ResultsStore, warn_once
from orca_ray.results.tables import RECORDS

logger = logging.getLogger(__name__)

_WITH_DRIVER = ("running", "paused", "stopping")
"""States of sweeps that a driver runs."""
_MAX_NAMED = 5
"""Number of trial keys that an error about an ambiguous key names."""


@dataclass
class SearchStatus:
    """State of one (task, method) of a sweep.

    Scores are validation scores; lower is better.
    """

    task: str
    method: str
    planned: int | None = None
    """Number of planned trials.

    None if the sweep ran with a version of orca-ray that did not store it.
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
    """``running``, ``paused``, ``stopping``, ``finished``, ``stopped`` or ``dead``.

    ``stopped``: the driver ended before all trials had run. ``dead``: it was killed, or
    could not write its end, e.g. because the store could not be reached.
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
    limits: Limits
    """Limits of what runs at once."""
    share: float | None
    """Share of the cluster that the sweep may use; None: no other sweep runs there."""
    failure: str
    """Error message with which the last driver ended; "" if it ended without one."""

    @property
    def has_driver(self) -> bool:
        """Whether a driver runs the sweep."""
        return self.state in _WITH_DRIVER


def find_sweep(store: ResultsStore, given: str) -> str:
    """Return the id of the sweep that a user calls ``given``.

    That is its id, or the part of its id before "/" if no other sweep has this part.
    Raises UserError if no sweep, or more than one, fits.
    """
    recorded = store.scan().values("sweep")
    live_sweeps = [state.sweep for state in live.read_all(store.folder)]
    names = sorted({*recorded, *live_sweeps})
    starting = [name for name in names if name.startswith(f"{given}/")]
    if given not in names and len(starting) == 1:
        return starting[0]
    return lookup("sweep", given, dict(zip(names, names, strict=True)))


def find_trial(
    store: ResultsStore, prefix: str, sweep: str | None = None
) -> tuple[str, str]:
    """Return sweep and key of the only trial whose key starts with ``prefix``.

    The trial may run or have ended. ``sweep`` None: it may be of any sweep. Raises
    UserError unless exactly one trial fits.
    """
    ended = {
        (record.sweep, record.trial_key)
        for record in store.select({}, key_prefix=prefix)
    }
    return only_trial(ended | running_keys(store), prefix, sweep)


def running_keys(store: ResultsStore) -> set[tuple[str, str]]:
    """Return (sweep, trial key) of each trial of any sweep that runs or waits."""
    return {
        (state.sweep, trial.key)
        for state in live.read_all(store.folder)
        for trial in state.running
    }


def only_trial(
    among: Collection[tuple[str, str]], prefix: str, sweep: str | None
) -> tuple[str, str]:
    """Return the only pair (sweep, key) whose key starts with ``prefix``.

    ``sweep`` None: any sweep. Raises UserError if no pair in ``among`` fits, or more
    than one, or if ``prefix`` is empty.
    """
    matching = sorted(
        (name, key)
        for name, key in among
        if key.startswith(prefix) and sweep in (None, name)
    )
    keys = sorted({key for _, key in matching})
    if not matching or not prefix:
        raise UserError(
            f"no trial with the key {prefix!r} here: 'orca-sweep status SWEEP' lists"
            " those that run, and each score of a leaderboard names its trial"
        )
    if len(keys) > 1:
        named = ", ".join(keys[:_MAX_NAMED])
        if len(keys) > _MAX_NAMED:
            named += ", …"
        raise UserError(
            f"{len(keys)} trials in this store have a key that starts with {prefix!r}:"
            f" {named}; give more digits"
        )
    if len(matching) > 1:
        sweeps = ", ".join(name for name, _ in matching)
        raise UserError(
            f"trial {keys[0]} belongs to {len(matching)} sweeps: give --sweep, one of"
            f" {sweeps}"
        )
    return matching[0]


def sweep_status(
    store: ResultsStore, sweep: str, emit: Callable[[str], None] = logger.info
) -> SweepStatus:
    """Return the state of a sweep.

    If the sweep's driver ran on another machine, this may take half a minute
    (`driver_lives`). ``emit`` is called with a sentence if the wait is long.
    """
    live_state = live.read(store.folder, sweep) or LiveState(sweep=sweep)
    is_alive = driver_lives(store.folder, live_state, emit)
    if not is_alive:
        live_state = _without_driver(live_state)
    rows = _rows(store, live_state, is_alive)
    progress = _progress(rows)
    running = [trial for trial in live_state.running if not trial.waiting]
    failures = Counter[str]()
    for row in rows:
        failures += row.failures
    return SweepStatus(
        sweep=sweep,
        state=_state_name(live_state, is_alive, progress),
        holder=live_state.holder,
        rows=rows,
        running=running,
        waiting=[trial for trial in live_state.running if trial.waiting],
        nodes=dict(Counter(trial.node for trial in running if trial.node)),
        planned=progress.planned,
        done=progress.done,
        num_running=live_state.num_running,
        failures=dict(failures),
        trials_per_minute=live_state.trials_per_minute,
        seconds_left=live_state.seconds_left,
        renewed_at=live_state.renewed_at,
        quarantined=list(live_state.quarantined),
        limits=live_state.limits,
        share=live_state.share,
        failure=live_state.failure,
    )


@dataclass(frozen=True, kw_only=True)
class SweepLine:
    """Line about a sweep in the list of the sweeps of a store."""

    sweep: str
    state: str
    """As in `SweepStatus`."""
    owner: str
    """User and machine of the driver that runs the sweep; "" if none does."""
    planned: int | None
    done: int
    num_running: int
    share: float | None
    """Share of the cluster that the sweep may use; None: no other sweep runs there."""
    priority: int
    gpu_hours: float
    """GPU hours of all trials that have ended."""
    core_hours: float
    """Hours of CPU cores of all trials that have ended."""
    seconds_left: float | None

    @property
    def has_driver(self) -> bool:
        """Whether a driver runs the sweep."""
        return self.state in _WITH_DRIVER


def all_sweeps(
    store: ResultsStore, emit: Callable[[str], None] = logger.info
) -> list[SweepLine]:
    """Return a line for each sweep of a store, those with a driver first.

    If drivers ran on other machines, this may take half a minute for each
    (`driver_lives`). ``emit`` is called with a sentence if a wait is long.
    """
    hours = _hours(store)
    names = {*hours, *(state.sweep for state in live.read_all(store.folder))}
    lines = []
    for name in names:
        status = sweep_status(store, name, emit)
        holder = status.holder if status.has_driver else None
        owner = ""
        if holder is not None:
            owner = f"{holder.user or holder.pid}@{holder.host}"
        gpu_hours, core_hours = hours.get(name, (0.0, 0.0))
        lines.append(
            SweepLine(
                sweep=name,
                state=status.state,
                owner=owner,
                planned=status.planned,
                done=status.done,
                num_running=status.num_running,
                share=status.share,
                priority=status.limits.priority or 0,
                gpu_hours=gpu_hours,
                core_hours=core_hours,
                seconds_left=status.seconds_left,
            )
        )
    return sorted(lines, key=lambda line: (not line.has_driver, line.sweep))


def _hours(store: ResultsStore) -> dict[str, tuple[float, float]]:
    """Return the hours of GPUs and of CPU cores of all records, by sweep."""
    names = ("wall_seconds", "gpus", "cpus")
    schema = pa.schema(
        [("sweep", pa.string()), *((name, pa.float64()) for name in names)]
    )
    totals: dict[str, tuple[float, float]] = {}
    for _, table in store.scan().batches(schema.names, {}):
        frame = table.cast(schema).to_pandas().fillna(0.0)
        frame["gpu_hours"] = frame["wall_seconds"] * frame["gpus"] / 3600
        frame["core_hours"] = frame["wall_seconds"] * frame["cpus"] / 3600
        sums = frame.groupby("sweep")[["gpu_hours", "core_hours"]].sum()
        for sweep, gpu_hours, core_hours in sums.itertuples():
            earlier = totals.get(str(sweep), (0.0, 0.0))
            totals[str(sweep)] = (earlier[0] + gpu_hours, earlier[1] + core_hours)
    return totals


def _without_driver(live_state: LiveState) -> LiveState:
    """Return the live state without the trials and rates of a driver that has ended."""
    return replace(
        live_state,
        running=(),
        num_running=0,
        trials_per_minute=None,
        seconds_left=None,
        quarantined=(),
        limits=Limits(),
        share=None,
    )


@dataclass(frozen=True)
class _Progress:
    """Numbers of trials of a sweep."""

    planned: int | None
    """Number of planned trials; None: not known."""
    done: int


def _progress(rows: Sequence[SearchStatus]) -> _Progress:
    """Return the progress of the sweep's last command.

    Rows without a number of planned trials belong to earlier commands. They count only
    if all rows are of this kind.
    """
    planned = [(row.done, row.planned) for row in rows if row.planned is not None]
    if not planned:
        return _Progress(planned=None, done=sum(row.done for row in rows))
    return _Progress(
        planned=sum(num_planned for _, num_planned in planned),
        done=sum(min(num_done, num_planned) for num_done, num_planned in planned),
    )


def _state_name(live_state: LiveState, is_alive: bool, progress: _Progress) -> str:
    """Return the word for `SweepStatus.state`."""
    if is_alive and live_state.stopping:
        return "stopping"
    if is_alive and live_state.paused:
        return "paused"
    if is_alive:
        return "running"
    if progress.planned is not None and progress.done >= progress.planned:
        return "finished"
    if live_state.holder is not None:
        return "dead"
    return "stopped"


def _rows(
    store: ResultsStore, live_state: LiveState, is_alive: bool
) -> list[SearchStatus]:
    """Return the status of each (task, method), from live state and records.

    ``is_alive``: whether a driver runs the sweep. The driver may have trials that have
    ended, but whose records are not written yet.
    """
    rows = {
        (row.task, row.method): SearchStatus(row.task, row.method, row.planned)
        for row in live_state.rows
    }

    def row_of(task: str, method: str) -> SearchStatus:
        return rows.setdefault((task, method), SearchStatus(task, method))

    for group in _record_groups(store, live_state.sweep):
        row = row_of(group["task"], group["method"])
        status = Status(group["status"])
        row.done += group["count_all"]
        if status.failed:
            row.failures[status.value] += group["count_all"]
        else:
            row.best = lower(row.best, group["validation_score_min"])
    for trial in live_state.running:
        row = row_of(trial.task, trial.method)
        if trial.waiting:
            row.waiting += 1
        else:
            row.running += 1
        row.best = lower(row.best, trial.best)
    missing = {
        (planned.task, planned.method): planned.done - num_recorded
        for planned in live_state.rows
        if (num_recorded := row_of(planned.task, planned.method).done) < planned.done
    }
    if missing and not is_alive:
        missing = _repeated(store, live_state, missing)
    for pair, number in missing.items():
        row_of(*pair).done += number
    return list(rows.values())


def _repeated(
    store: ResultsStore, live_state: LiveState, missing: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], int]:
    """Return how many ended trials have no record because they repeat another trial.

    ``missing`` is the number of ended trials without a record, by (task, method), as is
    the return value. A suggestion that repeats an earlier one is an ended trial in the
    live state, and has no record of its own. Warns if other records are missing.
    """
    sweep = live_state.sweep
    recorded = {record.trial_key for record in store.select({"sweep": [sweep]})}
    suggestions = Counter(
        (row.task, row.method, row.trial_key) for row in store.journal(sweep)
    )
    num_repeated = Counter[tuple[str, str]]()
    for (task, method, key), number in suggestions.items():
        if key in recorded:
            num_repeated[task, method] += number - 1
    repeated = {
        pair: min(number, num_repeated[pair]) for pair, number in missing.items()
    }
    num_lost = sum(missing.values()) - sum(repeated.values())
    ended_well = live_state.holder is None and not live_state.failure
    if num_lost and ended_well:
        warn_once(
            f"{num_lost} trial(s) of {sweep} had ended, but {store.folder.name}/"
            f"{RECORDS.directory} has no record of them: a file was deleted, or could"
            " not be written. The same command runs them again."
        )
    return repeated


def _record_groups(store: ResultsStore, sweep: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a sweep, counted by task, method and status.

    A group has these three columns, ``count_all`` and ``validation_score_min``. There
    may be several groups of the same task, method and status.
    """
    keys = ["task", "method", "status"]
    score = "validation_score"
    schema = pa.schema([*((key, pa.string()) for key in keys), (score, pa.float64())])
    scan = store.scan()
    for warning in scan.warnings:
        warn_once(warning)
    for _, table in scan.batches(schema.names, {"sweep": [sweep]}):
        groups = table.cast(schema).group_by(keys)
        yield from groups.aggregate([(score, "min"), ([], "count_all")]).to_pylist()
