"""Commands that watch and steer a sweep, without Ray.

They are ``orca-sweep status``, ``logs``, ``stop``, ``pause``, ``limit``, ``retry`` and
``cancel``.
"""

import math
import sys
import time
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from orca_ray.cli.options import (
    JsonOption,
    MaxGpusOption,
    MaxTrialsOption,
    PriorityOption,
    ResultsOption,
    required_store,
    results_uri,
)
from orca_ray.cli.output import console, duration, emit_json, note, say, score, show
from orca_ray.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orca_ray.results.live import Holder, Limits, LiveState, RunningTrial
    from orca_ray.results.status import SweepLine, SweepStatus
    from orca_ray.results.store import ResultsStore

WATCH_SECONDS = 3.0
"""Seconds between two readings of the store by ``--watch`` and ``--follow``."""

SweepArgument = Annotated[
    str,
    Argument(
        metavar="SWEEP",
        help="Sweep, e.g. pocket/full, or pocket if it has one sweep in this store.",
    ),
]
TrialArgument = Annotated[
    str, Argument(metavar="TRIAL", help="Key of the trial, or the start of it.")
]
OneSweepOption = Annotated[
    str | None, Option("--sweep", help="Sweep of the trial, if several have it.")
]
_STATES = {
    "finished": "finished; no driver runs",
    "stopped": "no driver runs; the same command continues",
    "dead": (
        "no driver runs: the last one was killed, or could not write its end (disk"
        " full?); the same command continues"
    ),
}
"""Text for each state of a sweep without a driver."""


def status(
    sweep: Annotated[
        str | None,
        Argument(
            metavar="[SWEEP]",
            help=(
                "Sweep, e.g. pocket/full, or pocket if it has one sweep in this store."
            ),
        ),
    ] = None,
    results: ResultsOption = None,
    all_sweeps: Annotated[
        bool,
        Option(
            "--all",
            "-a",
            help="List every sweep: state, owner, trials, share of the cluster, hours.",
        ),
    ] = False,
    watch: Annotated[
        bool,
        Option(
            "--watch", "-w", help="Print again every few seconds, until no driver runs."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show the state of a sweep: trials done, running and waiting, scores, nodes, rate,
    time left, failures, driver.
    """
    from orca_ray.results.status import find_sweep, sweep_status

    if all_sweeps == (sweep is not None):
        raise UserError("give a SWEEP, or --all for every sweep of the store")
    store = required_store(results_uri(results))
    if sweep is None:
        _show_all(store, watch=watch, json=json)
        return
    name = find_sweep(store, sweep)
    while True:
        sweep_state = sweep_status(store, name, note)
        if json:
            emit_json(sweep_state)
        else:
            if watch and sys.stdout.isatty():
                console().clear()
            _print(sweep_state)
        if not watch or not sweep_state.has_driver:
            return
        time.sleep(WATCH_SECONDS)


def logs(
    trial: TrialArgument,
    follow: Annotated[
        bool,
        Option(
            "--follow", "-f", help="Print what a running trial adds, until it ends."
        ),
    ] = False,
    sweep: OneSweepOption = None,
    results: ResultsOption = None,
) -> None:
    """Print what the worker of a trial has logged, with the traceback of a failure."""
    from orca_ray.results.status import find_trial

    store = required_store(results_uri(results))
    name, key = find_trial(store, trial, sweep)
    num_printed = 0
    while True:
        # Read before the log, so that nothing is missed.
        may_grow = follow and _may_run(store, name, key)
        text = "".join(store.logs(sweep=name, trial_key=key)["text"])
        new_text = text[num_printed:]
        if new_text:
            say(new_text.rstrip("\n"))
        num_printed = len(text)
        if not may_grow:
            break
        time.sleep(WATCH_SECONDS)
    if not num_printed:
        say(
            f"trial {key} of {name} has no log yet, or ran with a version of orca-ray"
            " that stored none"
        )


def _may_run(store: "ResultsStore", sweep: str, key: str) -> bool:
    """Return whether a trial runs, or its driver has yet to store its record."""
    state = _read_live(store, sweep)
    if state is None:
        return False
    return any(trial.key == key for trial in state.running) or key not in store.load(
        sweep
    )


def _read_live(store: "ResultsStore", sweep: str) -> "LiveState | None":
    """Return what the driver of a sweep last wrote; None if no driver runs."""
    from orca_ray.results import live
    from orca_ray.results.lease import driver_lives

    state = live.read(store.folder, sweep)
    if state is None or not driver_lives(store.folder, state, note):
        return None
    return state


def _print(sweep_state: "SweepStatus") -> None:
    """Print the state of a sweep.

    It consists of a table with a row for each task and method, a table of running and
    waiting trials, and lines about nodes and the driver.
    """
    rows = []
    for row in sweep_state.rows:
        planned = "?" if row.planned is None else row.planned
        rows.append(
            (
                row.task.partition("/")[2],
                row.method,
                f"{row.done}/{planned}",
                row.running or "",
                row.waiting or "",
                score(row.best),
                ", ".join(_counts(row.failures)),
            )
        )
    columns = ("task", "method", "done", "run", "wait", "best val.", "failed")
    show(columns, rows, right=("done", "run", "wait", "best val."))
    trials = (*sweep_state.running, *sweep_state.waiting)
    if trials:
        say()
        _print_trials(trials)
    say(f"\n{sweep_state.sweep}: {', '.join(_facts(sweep_state))}")
    if sweep_state.nodes:
        nodes = [
            f"{node} ({num_trials})"
            for node, num_trials in sorted(sweep_state.nodes.items())
        ]
        say(f"nodes: {', '.join(nodes)}")
    if sweep_state.quarantined:
        say(f"nodes that get no trials: {', '.join(sweep_state.quarantined)}")
    if sweep_state.has_driver:
        say(f"{sweep_state.state}: {sweep_state.holder}")
    else:
        say(_STATES[sweep_state.state])
        if sweep_state.failure:
            say(f"the last driver ended with an error: {sweep_state.failure}")


def _show_all(store: "ResultsStore", *, watch: bool, json: bool) -> None:
    """Print a line for each sweep of a store."""
    from orca_ray.results.status import all_sweeps

    while True:
        sweeps = all_sweeps(store, note)
        if json:
            emit_json(sweeps)
        else:
            if watch and sys.stdout.isatty():
                console().clear()
            _print_all(sweeps)
        if not watch or not any(sweep.has_driver for sweep in sweeps):
            return
        time.sleep(WATCH_SECONDS)


def _print_all(sweeps: "Iterable[SweepLine]") -> None:
    """Print the table of the sweeps of a store."""
    rows = [
        (
            sweep.sweep,
            sweep.state,
            sweep.owner,
            f"{sweep.done}/{'?' if sweep.planned is None else sweep.planned}",
            sweep.num_running or "",
            "" if sweep.share is None else f"{sweep.share:.0%}",
            sweep.priority or "",
            f"{sweep.gpu_hours:.1f}" if sweep.gpu_hours else "",
            f"{sweep.core_hours:.1f}",
            "" if sweep.seconds_left is None else duration(sweep.seconds_left),
        )
        for sweep in sweeps
    ]
    names = ("sweep", "state", "owner")
    numbers = ("done", "run", "share", "prio", "GPU h", "core h", "left")
    show((*names, *numbers), rows, right=numbers)


def _counts(failures: "Mapping[str, int]") -> list[str]:
    return [f"{number} {status}" for status, number in failures.items()]


def _print_trials(trials: "Iterable[RunningTrial]") -> None:
    """Print the table of running and waiting trials."""
    rows = []
    for trial in trials:
        if trial.waiting:
            stage = "waiting"
        elif trial.stage:
            stage = f"{trial.stage} {trial.epoch}/{trial.epochs}"
        else:
            stage = "starting"
        rows.append(
            (
                trial.key,
                trial.task.partition("/")[2],
                trial.method,
                f"{trial.phase} {trial.seed}",
                stage,
                score(trial.score),
                score(trial.best),
                trial.started_at[:19].replace("T", " "),  # up to the seconds
                trial.node,
            )
        )
    identity = ("trial", "task", "method", "seed")
    columns = (*identity, "stage", "val.", "best", "since (UTC)", "node")
    show(columns, rows, right=("val.", "best"))


def _facts(sweep_state: "SweepStatus") -> list[str]:
    """Return the numbers of a sweep's trials, its rate and its remaining time."""
    planned = "?" if sweep_state.planned is None else sweep_state.planned
    facts = [
        f"{sweep_state.done}/{planned} trials",
        f"{sweep_state.num_running} running",
    ]
    if sweep_state.waiting:
        facts.append(f"{len(sweep_state.waiting)} waiting")
    if sweep_state.share is not None:
        facts.append(f"{sweep_state.share:.0%} of the cluster")
    facts += [
        f"{name.replace('_', '-')} {value:g}"
        for name, value in vars(sweep_state.limits).items()
        if value is not None
    ]
    if sweep_state.trials_per_minute is not None:
        facts.append(f"{sweep_state.trials_per_minute:.3g} a minute")
    if sweep_state.seconds_left is not None:
        facts.append(f"{duration(sweep_state.seconds_left)} left")
    return facts + _counts(sweep_state.failures)


def stop(sweep: SweepArgument, results: ResultsOption = None) -> None:
    """End a running sweep as Ctrl-C does: running trials save a checkpoint, and the
    same command continues it.
    """
    _ask(sweep, "stop", results, "to stop")


def pause(
    sweep: SweepArgument,
    off: Annotated[bool, Option("--off", help="Start trials again.")] = False,
    results: ResultsOption = None,
) -> None:
    """Start no more trials of a running sweep; those that run go on.

    ``--off`` ends the pause.
    """
    if off:
        _ask(sweep, "resume", results, "to start trials again")
    else:
        _ask(sweep, "pause", results, "to start no more trials")


def limit(
    sweep: SweepArgument,
    max_trials: MaxTrialsOption = None,
    max_gpus: MaxGpusOption = None,
    priority: PriorityOption = None,
    results: ResultsOption = None,
) -> None:
    """Change what a running sweep may run at once; trials that run are not ended.

    The next run of the sweep's command has the limits of its own options.
    """
    from orca_ray.results.live import Limits
    from orca_ray.results.status import find_sweep

    limits = Limits(max_trials=max_trials, max_gpus=max_gpus, priority=priority)
    if limits == Limits():
        raise UserError("give --max-trials, --max-gpus or --priority")
    if max_gpus is not None and not math.isfinite(max_gpus):
        raise UserError(f"--max-gpus {max_gpus} is no number of GPUs")
    store = required_store(results_uri(results))
    name = find_sweep(store, sweep)
    driver = _write_request(store, name, "limit", limits=limits)
    say(f"{name}: asked {driver} to change its limits; it does within seconds")


def cancel(
    trial: TrialArgument, sweep: OneSweepOption = None, results: ResultsOption = None
) -> None:
    """End a running trial after its epoch, with the status ``cancelled``; only
    ``retry`` runs it again.
    """
    from orca_ray.results.status import only_trial, running_keys

    store = required_store(results_uri(results))
    name, key = only_trial(running_keys(store), trial, sweep)
    driver = _write_request(store, name, "cancel", key)
    say(f"asked {driver} to cancel trial {key} of {name}")


def retry(
    sweep: SweepArgument,
    trial: Annotated[
        str | None,
        Argument(
            metavar="[TRIAL]",
            help="Key of a failed trial, or the start of it. Default: all.",
        ),
    ] = None,
    results: ResultsOption = None,
) -> None:
    """Run failed trials of a sweep again: now if it runs, else with the next run of its
    command.
    """
    from orca_ray.results import live
    from orca_ray.results.record import Status
    from orca_ray.results.status import find_sweep, only_trial, sweep_status

    store = required_store(results_uri(results))
    name = find_sweep(store, sweep)
    filters = {
        "sweep": [name],
        "status": [status.value for status in Status if status.failed],
    }
    failed = {(record.sweep, record.trial_key) for record in store.select(filters)}
    if not failed:
        raise UserError(f"{name} has no failed trials in this store")
    key = "" if trial is None else only_trial(failed, trial, name)[1]
    live.write_request(store.folder, name, live.Request("retry", key))
    num_trials = 1 if key else len(failed)
    trials = "failed trial" if num_trials == 1 else "failed trials"
    sweep_state = sweep_status(store, name, note)
    if sweep_state.has_driver:
        when = f"asked {sweep_state.holder}"
    else:
        when = "no driver runs: with the next run of the same command"
    say(f"{name}: {num_trials} {trials} will run again ({when})")


def _ask(sweep: str, kind: str, results: str | None, what: str) -> None:
    """Send a request to the driver of a sweep, and print that it was sent.

    ``kind`` is that of `Request`; ``what`` says the same in words, e.g. "to stop".
    """
    from orca_ray.results.status import find_sweep

    store = required_store(results_uri(results))
    name = find_sweep(store, sweep)
    driver = _write_request(store, name, kind)
    say(f"{name}: asked {driver} {what}; it does within seconds")


def _write_request(
    store: "ResultsStore",
    sweep: str,
    kind: str,
    key: str = "",
    *,
    limits: "Limits | None" = None,
) -> "Holder":
    """Write a request to the driver that runs a sweep, and return who it is.

    ``key`` is that of the trial that the request is about; "" if it is about the sweep.
    ``limits`` are those to change, for the kind "limit". Raises UserError if no driver
    runs.
    """
    from orca_ray.results import live

    state = _read_live(store, sweep)
    if state is None or state.holder is None:
        raise UserError(
            f"no driver runs {sweep} in this store, so there is nothing to stop,"
            " pause, limit or cancel"
        )
    request = live.Request(kind, key, limits or live.Limits())
    live.write_request(store.folder, sweep, request)
    return state.holder
