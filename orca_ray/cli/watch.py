"""``orca-sweep status``, ``logs``, ``stop``, ``pause``, ``retry``, ``cancel``: watch
and steer a sweep, without Ray.
"""

import sys
import time
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from orca_ray.cli.options import JsonOption, ResultsOption, required_store, results_uri
from orca_ray.cli.output import console, duration, emit_json, note, say, score, show
from orca_ray.errors import UserError

if TYPE_CHECKING:
    from orca_ray.results.live import Holder, LiveState
    from orca_ray.results.status import SweepStatus
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
    "dead": "no driver runs: the last one was killed; the same command continues",
}


def status(
    sweep: SweepArgument,
    results: ResultsOption = None,
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

    store = required_store(results_uri(results))
    name = find_sweep(store, sweep)
    while True:
        found = sweep_status(store, name, note)
        if json:
            emit_json(found)
        else:
            if watch and sys.stdout.isatty():
                console().clear()
            _print(found)
        if not (watch and found.has_driver):
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
    shown = 0
    while True:
        # Read before the log, so that nothing is missed. A trial that has ended may
        # wait in its driver to be stored.
        state = _live(store, name) if follow else None
        runs = state and (
            any(each.key == key for each in state.running)
            or key not in store.load(name)
        )
        text = "".join(store.logs(sweep=name, trial_key=key)["text"])
        if text[shown:]:
            say(text[shown:].rstrip("\n"))
        shown = len(text)
        if not runs:
            break
        time.sleep(WATCH_SECONDS)
    if not shown:
        say(
            f"trial {key} of {name} has no log yet, or ran with a version of orca-ray"
            " that stored none"
        )


def _live(store: "ResultsStore", sweep: str) -> "LiveState | None":
    from orca_ray.results import live
    from orca_ray.results.lease import driver_lives

    state = live.read(store.folder, sweep)
    return (
        state if state is not None and driver_lives(store.folder, state, note) else None
    )


def _print(found: "SweepStatus") -> None:
    rows = []
    for row in found.rows:
        failed = ", ".join(
            f"{number} {status}" for status, number in row.failures.items()
        )
        planned = "?" if row.planned is None else row.planned
        counts = (f"{row.done}/{planned}", row.running or "", row.waiting or "")
        rows.append(
            (row.task.partition("/")[2], row.method, *counts, score(row.best), failed)
        )
    columns = ("task", "method", "done", "run", "wait", "best val.", "failed")
    show(columns, rows, right=("done", "run", "wait", "best val."))
    if found.running or found.waiting:
        say()
        trials = []
        for trial in (*found.running, *found.waiting):
            epochs = (
                f"{trial.stage} {trial.epoch}/{trial.epochs}"
                if trial.stage
                else "starting"
            )
            stage = "waiting" if trial.waiting else epochs
            which = (
                trial.key,
                trial.task.partition("/")[2],
                trial.method,
                f"{trial.phase} {trial.seed}",
            )
            since = trial.started_at[:19].replace("T", " ")
            trials.append(
                (
                    *which,
                    stage,
                    score(trial.score),
                    score(trial.best),
                    since,
                    trial.node,
                )
            )
        about = (
            "trial",
            "task",
            "method",
            "seed",
            "stage",
            "val.",
            "best",
            "since (UTC)",
            "node",
        )
        show(about, trials, right=("val.", "best"))
    facts = [
        f"{found.done}/{'?' if found.planned is None else found.planned} trials",
        f"{found.num_running} running",
    ]
    if found.waiting:
        facts.append(f"{len(found.waiting)} waiting")
    if found.trials_per_minute is not None:
        facts.append(f"{found.trials_per_minute:.3g} a minute")
    if found.seconds_left is not None:
        facts.append(f"{duration(found.seconds_left)} left")
    facts += [f"{number} {status}" for status, number in found.failures.items()]
    say(f"\n{found.sweep}: {', '.join(facts)}")
    if found.nodes:
        say(
            "nodes: "
            + ", ".join(
                f"{node} ({number})" for node, number in sorted(found.nodes.items())
            )
        )
    if found.quarantined:
        say(f"nodes that get no trials: {', '.join(found.quarantined)}")
    say(f"{found.state}: {found.holder}" if found.has_driver else _STATES[found.state])


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
    _ask(
        sweep,
        "resume" if off else "pause",
        results,
        "to start trials again" if off else "to start no more trials",
    )


def cancel(
    trial: TrialArgument, sweep: OneSweepOption = None, results: ResultsOption = None
) -> None:
    """End a running trial after its epoch, with the status ``cancelled``; only
    ``retry`` runs it again.
    """
    from orca_ray.results.status import only_trial, running_keys

    store = required_store(results_uri(results))
    name, key = only_trial(running_keys(store), trial, sweep)
    say(f"asked {_request(store, name, 'cancel', key)} to cancel trial {key} of {name}")


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
    wanted = {
        "sweep": [name],
        "status": [status.value for status in Status if status.failed],
    }
    failed = {(record.sweep, record.trial_key) for record in store.select(wanted)}
    if not failed:
        raise UserError(f"{name} has no failed trials in this store")
    key = "" if trial is None else only_trial(failed, trial, name)[1]
    live.write_request(store.folder, name, live.Request("retry", key))
    number = 1 if key else len(failed)
    found = sweep_status(store, name, note)
    when = (
        f"asked {found.holder}"
        if found.has_driver
        else "no driver runs: with the next run of the same command"
    )
    say(f"{name}: {number} failed trial{'s' * (number != 1)} will run again ({when})")


def _ask(sweep: str, kind: str, results: str | None, what: str) -> None:
    from orca_ray.results.status import find_sweep

    store = required_store(results_uri(results))
    name = find_sweep(store, sweep)
    say(f"{name}: asked {_request(store, name, kind)} {what}; it does within seconds")


def _request(store: "ResultsStore", sweep: str, kind: str, key: str = "") -> "Holder":
    """Write a request to the driver that runs a sweep, and return the driver."""
    from orca_ray.results import live

    state = _live(store, sweep)
    if state is None or state.holder is None:
        raise UserError(
            f"no driver runs {sweep} in this store, so there is nothing to stop, pause"
            " or cancel"
        )
    live.write_request(store.folder, sweep, live.Request(kind, key))
    return state.holder
