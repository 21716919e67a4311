"""``orca-sweep benchmark``, ``run`` and ``extend``: start or extend a sweep."""

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit

from orca_ray.cli.options import existing_store, is_path, results_uri, takes, typed
from orca_ray.cli.output import INTERRUPTED, TRIALS_FAILED, duration, emit_json, note, plain, reason, say
from orca_ray.cli.plan import show_plan
from orca_ray.cli.sweep_options import RunCommandOptions
from orca_ray.errors import UserError
from orca_ray.protocol import Protocol
from orca_ray.uris import public_uri

if TYPE_CHECKING:
    from orca_ray.sweep.plan.spec import SweepSpec
    from orca_ray.sweep.run.events import Event, Summary

MAX_NOTES = 5
"""Largest number of distinct notes of trials that the summary of a sweep lists."""


@takes(RunCommandOptions)
def benchmark(
    name: Annotated[str, Argument(metavar="NAME", help="Benchmark, e.g. pocket or nasbench360.")],
    options: RunCommandOptions,
) -> None:
    """Run the sweep of a benchmark. Run it again to continue it; finished trials are not repeated."""
    _run(options.spec(name), name, options)


@takes(RunCommandOptions)
def run(sweep: Annotated[str, Argument(metavar="SWEEP.yaml", help="Sweep file.")], options: RunCommandOptions) -> None:
    """Run the sweep that a YAML file describes."""
    # `load_spec` would take a name without "/" or suffix for a shipped sweep; `run` always means a file.
    source = sweep if is_path(sweep) else f"./{sweep}"
    _run(options.spec(source), source, options)


@takes(RunCommandOptions)
def extend(
    source: Annotated[str, Argument(metavar="NAME|SWEEP.yaml", help="Benchmark, or sweep file.")],
    options: RunCommandOptions,
) -> None:
    """Run more of a sweep that has results: more trials, tasks, methods or seeds, or a wider space.

    The same as `benchmark` or `run`, which continue a sweep too, except that it refuses a sweep without results.
    """
    spec, uri = options.spec(source), results_uri(options.results)
    store = existing_store(uri)
    sweeps = () if store is None else store.scan().values("sweep")
    if not any(name == spec.sweep_id or spec.is_variant(name) for name in sweeps):
        advice = "start it with `orca-sweep benchmark` or `orca-sweep run`, or give another store with --results"
        raise UserError(f"the results store has no trials of {spec.sweep_id} to extend: {advice}")
    _run(spec, source, options)


def _run(spec: "SweepSpec", source: str, options: RunCommandOptions) -> None:
    """Run the sweep in ``source``, or print its plan with ``--dry-run``.

    Exit with a code for an interruption or failed trials.
    """
    uri = results_uri(options.results, announce=not options.quiet)
    if options.dry_run:
        show_plan(spec, uri, options, quiet=options.quiet)
        return
    from orca_ray.cli.sweep_progress import SweepProgress
    from orca_ray.sweep.run.driver import run_sweep
    from orca_ray.sweep.tracking import Tracking

    existing_store(uri)  # raises if something else is at this path, before data are fetched
    with Tracking(options.track or ()) as tracking, SweepProgress(quiet=options.quiet or options.json) as progress:

        def listener(event: "Event") -> None:
            progress(event)
            tracking(event)

        summary = run_sweep(
            spec, uri, executor=options.executor.value, listener=listener, address=options.address,
            retry_failed=options.retry_failed, options=options.run_options(), wait_seconds=options.wait,
            staging=options.staging, keep_models=options.keep_models, command=typed(),
        )  # fmt: skip
    if options.json:
        emit_json({**plain(summary), "up_to_date": summary.up_to_date, "results": public_uri(uri)})
    elif not options.quiet:
        _print_summary(summary, spec, source, uri)
    _print_failures(summary)
    if summary.interrupted:
        raise Exit(INTERRUPTED)
    if summary.failed or summary.unfinished:
        raise Exit(TRIALS_FAILED)


def _print_summary(summary: "Summary", spec: "SweepSpec", source: str, uri: str) -> None:
    """Print how a sweep ended, the notes of its trials, and the command that prints its leaderboard."""
    from orca_ray.sweep.plan.spec import Overrides

    if spec.file.grid:
        name, default = source, replace(spec, budget_name=spec.file.default_budget, overrides=Overrides()).sweep_id
    else:  # `leaderboard` shows the sweep with the most scores, which is seldom a variant
        name, default = spec.file.benchmark, f"{spec.file.benchmark}/{spec.budget_name}"
    which = "" if spec.sweep_id == default else f" --sweep {shlex.quote(spec.sweep_id)}"
    which += "" if spec.protocol == Protocol.HELD_OUT.value else f" --protocol {spec.protocol}"
    where = "" if uri == "results" else f" --results {shlex.quote(public_uri(uri))}"
    if summary.up_to_date:
        say(f"{summary.sweep}: up to date, {summary.finished_before} trials done")
    else:
        counts = ", ".join(f"{count} {status.value}" for status, count in summary.statuses.items() if count)
        ending = "interrupted; the same command continues" if summary.interrupted else "done"
        say(f"{summary.sweep}: {ending}; ran {summary.ran} trials in {duration(summary.seconds)}: {counts or 'none'}")
    if summary.reused:
        say(f"alignment: {summary.reused} of {summary.aligned} trials reused the result of another trial")
    for text, count in list(summary.notes.items())[:MAX_NOTES]:
        say(f"note: {text} ({count} {'trial' if count == 1 else 'trials'})")
    if len(summary.notes) > MAX_NOTES:
        say(f"note: and {len(summary.notes) - MAX_NOTES} more kinds; --json prints all")
    _print_models(summary, where)
    say(f"leaderboard: orca-sweep leaderboard {shlex.quote(name)}{which}{where}")


def _print_models(summary: "Summary", where: str) -> None:
    """Print where the best model of each task is, and how to make models of trials that had ended without one."""
    for task, place in summary.models.items():
        say(f"model of {task}: {place}")
    for key, task in list(summary.missing_models.items())[:MAX_NOTES]:
        say(
            f"no model of {task}, trial {key}, which ended before models were kept: orca-sweep reproduce {key} "
            f"--keep-model DIR{where}"
        )
    if len(summary.missing_models) > MAX_NOTES:
        say(f"and {len(summary.missing_models) - MAX_NOTES} more models; --json prints all")


def _print_failures(summary: "Summary") -> None:
    """Print to stderr each failed trial, and each (task, method) without a test score, with the reason."""
    for record in summary.failed:
        note(
            f"{record.status.value}: {record.task} {record.method} {record.phase} seed {record.seed} "
            f"(trial {record.trial_key}): {reason(record)}"
        )
    for node in summary.quarantined:
        note(f"no more trials were placed on {node}")
    for pair in summary.unfinished:
        note(f"no confirmed score: {pair}")
