"""``orca-sweep benchmark``, ``run`` and ``plan``: start, continue or preview a sweep."""

import os
import shlex
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit

from orca_ray.cli import output
from orca_ray.cli.boards import check_page, load_board
from orca_ray.cli.leaderboard import LeaderboardOptions, show_page
from orca_ray.cli.options import (
    RunCommandOptions,
    SweepOptions,
    existing_store,
    is_path,
    results_uri,
    takes,
    typed,
)
from orca_ray.cli.output import (
    duration,
    emit_json,
    note,
    reason,
    say,
    show,
    to_json_types,
)
from orca_ray.errors import UserError
from orca_ray.options import Protocol
from orca_ray.paths import check_unread, public_uri

if TYPE_CHECKING:
    from orca_ray.sweep.plan.cost import TaskCost
    from orca_ray.sweep.plan.spec import SweepSpec
    from orca_ray.sweep.run.events import Event, Summary
    from orca_ray.sweep.run.preview import Plan

MAX_NOTES = 5
"""Largest number of distinct notes of trials that the summary of a sweep lists."""


@takes(RunCommandOptions)
def benchmark(
    name: Annotated[
        str, Argument(metavar="NAME", help="Benchmark, e.g. pocket or nasbench360.")
    ],
    options: RunCommandOptions,
) -> None:
    """Run the sweep of a benchmark.

    Run it again to continue or extend it; finished trials are not repeated.
    """
    _run(options.spec(name), name, options)


@takes(RunCommandOptions)
def run(
    sweep: Annotated[str, Argument(metavar="SWEEP.yaml", help="Sweep file.")],
    options: RunCommandOptions,
) -> None:
    """Run the sweep that a YAML file describes."""
    # `load_spec` would take a name without "/" or suffix for a shipped sweep; `run`
    # always means a file.
    source = sweep if is_path(sweep) else f"./{sweep}"
    _run(options.spec(source), source, options)


def _run(spec: "SweepSpec", source: str, options: RunCommandOptions) -> None:
    """Run the sweep, or print its plan with ``--dry-run``; exit with a code for an
    interruption or failed trials.
    """
    uri = results_uri(options.results, announce=not options.quiet)
    if options.dry_run:
        show_plan(spec, uri, options, quiet=options.quiet)
        return
    from orca_ray.cli.sweep_progress import SweepProgress
    from orca_ray.sweep.executors import make_executor
    from orca_ray.sweep.run.driver import run_sweep
    from orca_ray.sweep.trackers.base import Tracking

    existing_store(
        uri
    )  # raises if something else is at this path, before data are fetched
    quiet = options.quiet or options.json
    display = sys.platform == "darwin" or bool(
        {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    )
    protocol = Protocol(spec.protocol)
    opened = display and not quiet
    shown = LeaderboardOptions(
        sweep=spec.sweep_id,
        protocol=protocol,
        results=uri,
        out=options.board,
        open=opened,
    )
    read_board = (
        None
        if options.board is None or quiet
        else partial(load_board, spec.file.benchmark, shown)
    )
    if options.board is not None:  # before anything runs
        if spec.file.grid:
            raise UserError(
                "--board is for sweeps without a grid: 'orca-sweep leaderboard FILE'"
                " prints its effects"
            )
        check_unread(options.board, "--board", [uri])
        check_page(options.board, "another file with --board")
    with (
        Tracking(options.track or ()) as tracking,
        SweepProgress(quiet=quiet, read_board=read_board) as progress,
    ):

        def listener(event: "Event") -> None:
            progress(event)
            tracking(event)

        summary = run_sweep(
            spec,
            uri,
            executor=make_executor(options.executor.value),
            listener=listener,
            address=options.address,
            retry_failed=options.retry_failed,
            options=options.run_options(),
            wait_seconds=options.wait,
            staging=options.staging,
            keep_models=options.keep_models,
            command=typed(),
        )
    if progress.board is not None and not summary.interrupted:
        say(
            "\n".join(
                [
                    "",
                    *(f"- {answer.sentence}" for answer in progress.board.answers[:3]),
                    "",
                ]
            )
        )
    if options.json:
        emit_json(
            {
                **to_json_types(summary),
                "up_to_date": summary.up_to_date,
                "results": public_uri(uri),
            }
        )
    elif not options.quiet:
        _print_summary(summary, spec, source, uri)
    _print_failures(summary)
    if options.board is not None and not summary.interrupted:
        if quiet:
            from orca_ray.data.cache import write_text
            from orca_ray.leaderboard import render

            write_text(
                options.board,
                str(render(load_board(spec.file.benchmark, shown), "html")),
            )
        else:
            show_page(spec.file.benchmark, shown, "html")
    if summary.interrupted:
        raise Exit(output.INTERRUPTED)
    if summary.failed or summary.unfinished:
        raise Exit(output.TRIALS_FAILED)


def _print_summary(
    summary: "Summary", spec: "SweepSpec", source: str, uri: str
) -> None:
    """Print how a sweep ended, notes of its trials, its best models, and the command
    that prints its leaderboard.
    """
    from orca_ray.sweep.plan.spec import Overrides

    if spec.file.grid:
        name = source
        default = replace(
            spec, budget_name=spec.file.default_budget, overrides=Overrides()
        ).sweep_id
    else:  # `leaderboard` shows the sweep with the most scores, which is seldom a variant
        name = spec.file.benchmark
        default = f"{spec.file.benchmark}/{spec.budget_name}"
    which = "" if spec.sweep_id == default else f" --sweep {shlex.quote(spec.sweep_id)}"
    which += (
        ""
        if spec.protocol == Protocol.HELD_OUT.value
        else f" --protocol {spec.protocol}"
    )
    where = "" if uri == "results" else f" --results {shlex.quote(public_uri(uri))}"
    if summary.up_to_date:
        say(f"{summary.sweep}: up to date, {summary.finished_before} trials done")
    else:
        counts = ", ".join(
            f"{count} {status.value}"
            for status, count in summary.statuses.items()
            if count
        )
        ending = (
            "interrupted; the same command continues" if summary.interrupted else "done"
        )
        say(
            f"{summary.sweep}: {ending}; ran {summary.ran} trials in"
            f" {duration(summary.seconds)}: {counts or 'none'}"
        )
    if summary.reused:
        say(
            f"alignment: {summary.reused} of {summary.aligned} trials reused the result"
            " of another trial"
        )
    for text, count in list(summary.notes.items())[:MAX_NOTES]:
        say(f"note: {text} ({count} {'trial' if count == 1 else 'trials'})")
    if len(summary.notes) > MAX_NOTES:
        say(f"note: and {len(summary.notes) - MAX_NOTES} more kinds; --json prints all")
    for task, place in summary.models.items():
        say(f"model of {task}: {place}")
    for key, task in list(summary.missing_models.items())[:MAX_NOTES]:
        say(
            f"no model of {task}, trial {key}, which ended before models were kept:"
            f" orca-sweep reproduce {key} --keep-model DIR{where}"
        )
    if len(summary.missing_models) > MAX_NOTES:
        say(
            f"and {len(summary.missing_models) - MAX_NOTES} more models; --json"
            " prints all"
        )
    say(f"leaderboard: orca-sweep leaderboard {shlex.quote(name)}{which}{where}")


def _print_failures(summary: "Summary") -> None:
    """Print to stderr each failed trial, and each (task, method) without a test score,
    with the reason.
    """
    for record in summary.failed:
        note(
            f"{record.status.value}: {record.task} {record.method} {record.phase} seed"
            f" {record.seed} (trial {record.trial_key}): {reason(record)}"
        )
    for node in summary.quarantined:
        note(f"no more trials were placed on {node}")
    for pair in summary.unfinished:
        note(f"no confirmed score: {pair}")


@takes(SweepOptions)
def plan(
    source: Annotated[
        str, Argument(metavar="NAME|SWEEP.yaml", help="Benchmark, or sweep file.")
    ],
    options: SweepOptions,
) -> None:
    """Print what a sweep would run and cost, which data and bodies are missing, and
    which trials fit on no node.
    """
    show_plan(options.spec(source), results_uri(options.results), options)


def show_plan(
    spec: "SweepSpec", uri: str, options: SweepOptions, *, quiet: bool = False
) -> None:
    """Print the plan (``quiet``: only trials that fit on no node), and exit with code 2
    if a trial fits on no node.
    """
    from orca_ray.sweep.executors import nodes_of
    from orca_ray.sweep.run.preview import build_plan

    planned = build_plan(
        spec, existing_store(uri), nodes_of(options.executor.value, options.address)
    )
    if options.json:
        emit_json(
            {
                **to_json_types(planned),
                "num_trials": planned.num_trials,
                "num_finished": planned.num_finished,
            }
        )
    elif not quiet:
        _print_plan(planned)
    for problem in planned.problems:
        note(f"cannot be placed: {problem}")
    if planned.problems:
        raise Exit(output.USER_ERROR)


def _print_plan(planned: "Plan") -> None:
    resources = []
    for row in planned.rows:
        amounts = ((row.cpus, "CPU"), (row.gpus, "GPU"), (row.memory_gib, "GiB"))
        resources.append(
            ", ".join(f"{amount:g} {unit}" for amount, unit in amounts if amount)
        )
    alike = (
        len(set(resources)) == 1
    )  # usual: one line below the table then replaces a column, to fit 80 columns
    rows = []
    for row, each in zip(planned.rows, resources, strict=True):
        trials = f"{row.search_trials}+{row.confirm_trials}"
        cells = (
            row.task.partition("/")[2],
            row.method,
            row.body,
            trials,
            row.finished,
            row.epochs,
        )
        rows.append(cells if alike else (*cells, each))
    numbers = ("trials", "done", "epochs")
    show(
        ("task", "method", "body", *numbers, *(() if alike else ("each",))),
        rows,
        right=numbers,
    )
    search = sum(row.search_trials for row in planned.rows)
    say(
        f"\n{planned.sweep}, protocol {planned.protocol}: {planned.num_trials} trials,"
        f" {planned.num_finished} done ({search} search + {planned.num_trials - search}"
        " confirm)"
    )
    if planned.deterministic:
        say("deterministic: one thread per trial, whatever its CPUs")
    if alike:
        say(f"each trial: {resources[0]}")
    nodes = (
        f"{n.name} ({n.cpus:g} CPUs, {n.gpus:g} GPUs, {n.memory_gib:.1f} GiB)"
        for n in planned.nodes
    )
    say(f"nodes: {', '.join(nodes)}")
    _print_costs(planned)
    for state in ("missing", "fetched"):
        if wanted := [cost for cost in planned.costs if cost.state == state]:
            say(f"{state}: data of {len(wanted)} of {len(planned.costs)} tasks")
            say("\n".join(f"  {command}" for command in _commands(wanted)))
    for absent in planned.absent:
        say(f"missing: {absent.what}\n  {absent.command}")


def _print_costs(planned: "Plan") -> None:
    devices = [("GPU", planned.gpu, [cost.gpu_hours for cost in planned.costs])]
    if planned.cpu:
        devices.append(("CPU", planned.cpu, [cost.cpu_hours for cost in planned.costs]))
    rows = []
    for cost, *each in zip(
        planned.costs, *(hours for _, _, hours in devices), strict=True
    ):
        times = [_rounded(value, 0.01) for value in each]
        sizes = (_gigabytes(cost.raw_bytes or None), _gigabytes(cost.prepared_bytes))
        rows.append(
            (
                cost.task.partition("/")[2],
                cost.trials,
                cost.epochs,
                *times,
                *sizes,
                cost.state,
            )
        )
    numbers = (
        "trials",
        "epochs",
        *(f"{kind} h" for kind, _, _ in devices),
        "raw GB",
        "prepared GB",
    )
    say("\nestimated cost if no trial stops early:")
    show(("task", *numbers, "data"), rows, right=numbers)
    say()
    for kind, device, hours in devices:
        known = [each for each in hours if each is not None]
        if device and known:
            say(f"total {_rounded(sum(known), 0.01)} {kind} h: {device}")
    if unknown := sum(cost.gpu_hours is None for cost in planned.costs):
        say(
            f"hours unknown for {unknown} of {len(planned.costs)} tasks: data not"
            " prepared, or body not listed"
        )
    if needed := sum(cost.disk_bytes for cost in planned.costs):
        say(f"disk needed: about {_gigabytes(needed)} GB")


def _commands(costs: "list[TaskCost]") -> list[str]:
    """Return the commands that fetch or prepare data; those that differ only in the
    task become one command.
    """
    from orca_ray.tasks.registry import get_benchmark

    tasks: dict[str, list[str]] = {}
    for cost in costs:
        tasks.setdefault((cost.command or "").replace(cost.task, "{}"), []).append(
            cost.task
        )
    commands = []
    for command, names in tasks.items():
        benchmark = names[0].partition("/")[0]
        commands.append(
            command.format(
                benchmark
                if len(names) == len(get_benchmark(benchmark))
                else " ".join(names)
            )
        )
    return commands


def _gigabytes(num_bytes: int | None) -> str:
    return _rounded(None if num_bytes is None else num_bytes / 1e9, 0.001)


def _rounded(value: float | None, least: float) -> str:
    """Format with two digits, as a whole number from 10 on, as "<0.01" below ``least``
    = 0.01, and None as "?".
    """
    if value is None:
        return "?"
    return (
        f"<{least:g}"
        if value < least
        else f"{value:.0f}"
        if value >= 10
        else f"{value:.2g}"
    )
