"""``orca-sweep stop``, ``pause``, ``retry`` and ``cancel``: requests to the driver of a sweep, through its store."""

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from orca_ray.cli.options import ResultsOption, required_store, results_uri
from orca_ray.cli.output import note, say
from orca_ray.cli.watch import OneSweepOption, SweepArgument, TrialArgument
from orca_ray.errors import UserError

if TYPE_CHECKING:
    from orca_ray.results.live import Holder
    from orca_ray.results.store import ResultsStore


def stop(sweep: SweepArgument, results: ResultsOption = None) -> None:
    """End a running sweep as Ctrl-C does: running trials save a checkpoint, and the same command continues it."""
    _ask(sweep, "stop", results, "to stop")


def pause(
    sweep: SweepArgument,
    off: Annotated[bool, Option("--off", help="Start trials again.")] = False,
    results: ResultsOption = None,
) -> None:
    """Start no more trials of a running sweep; those that run go on. ``--off`` ends the pause."""
    _ask(sweep, "resume" if off else "pause", results, "to start trials again" if off else "to start no more trials")


def cancel(trial: TrialArgument, sweep: OneSweepOption = None, results: ResultsOption = None) -> None:
    """End a running trial after its epoch, with the status ``cancelled``; only ``retry`` runs it again."""
    from orca_ray.results import requests
    from orca_ray.results.status import only_trial, running_keys

    store = required_store(results_uri(results))
    name, key = only_trial(running_keys(store), trial, sweep)
    holder = _driver(store, name)
    requests.write(store.folder, name, requests.Request("cancel", key))
    say(f"asked {holder} to cancel trial {key} of {name}")


def retry(
    sweep: SweepArgument,
    trial: Annotated[
        str | None, Argument(metavar="[TRIAL]", help="Key of a failed trial, or the start of it. Default: all.")
    ] = None,
    results: ResultsOption = None,
) -> None:
    """Run failed trials of a sweep again: now if it runs, else with the next run of its command."""
    from orca_ray.results import requests
    from orca_ray.results.record import Status
    from orca_ray.results.status import find_sweep, only_trial, sweep_status

    store = required_store(results_uri(results))
    name = find_sweep(store, sweep)
    wanted = {"sweep": [name], "status": [status.value for status in Status if status.failed]}
    failed = {(record.sweep, record.trial_key) for record in store.select(wanted)}
    if not failed:
        raise UserError(f"{name} has no failed trials in this store")
    key = "" if trial is None else only_trial(failed, trial, name)[1]
    requests.write(store.folder, name, requests.Request("retry", key))
    number = 1 if key else len(failed)
    found = sweep_status(store, name, note)
    when = f"asked {found.holder}" if found.has_driver else "no driver runs: with the next run of the same command"
    say(f"{name}: {number} failed trial{'s' * (number != 1)} will run again ({when})")


def _ask(sweep: str, kind: str, results: str | None, what: str) -> None:
    from orca_ray.results import requests
    from orca_ray.results.status import find_sweep

    store = required_store(results_uri(results))
    name = find_sweep(store, sweep)
    holder = _driver(store, name)
    requests.write(store.folder, name, requests.Request(kind))
    say(f"{name}: asked {holder} {what}; it does within seconds")


def _driver(store: "ResultsStore", sweep: str) -> "Holder":
    """Return the driver that runs a sweep; raise UserError if there is none."""
    from orca_ray.results import live
    from orca_ray.results.lease import driver_lives

    state = live.read(store.folder, sweep)
    if state is None or state.holder is None or not driver_lives(store.folder, state, note):
        raise UserError(f"no driver runs {sweep} in this store, so there is nothing to stop, pause or cancel")
    return state.holder
