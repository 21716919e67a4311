"""``orca-sweep benchmark``, ``run`` and ``plan``: run or preview a sweep."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit

from orca_ray.cli import output
from orca_ray.cli.boards import BoardOptions, check_page, load_board
from orca_ray.cli.leaderboard import show_path
from orca_ray.cli.options import (
    RunCommandOptions,
    SweepOptions,
    existing_store,
    is_path,
    results_uri,
    takes,
    typed_command,
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
    from orca_ray.leaderboard import BoardReport
    from orca_ray.sweep.plan.cost import TaskCost
    from orca_ray.sweep.plan.spec import SweepSpec
    from orca_ray.sweep.run.events import Event, Summary
    from orca_ray.sweep.run.preview import Plan, PlanRow

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
    """Run the sweep, or print its plan with ``--dry-run``.

    ``source`` is the benchmark or file that describes the sweep. Exits with a code for
    an interruption or failed trials.
    """
    options.check()
    uri = results_uri(options.results, announce=not options.quiet)
    if options.dry_run:
        show_plan(spec, uri, options, quiet=options.quiet)
        return
    existing_store(uri)  # raises before data are fetched if another thing is there
    if options.board is not None:  # before anything runs
        _check_board(spec, options.board, uri)
    read_board = partial(
        load_board,
        spec.file.benchmark,
        BoardOptions(
            sweep=spec.sweep_id, protocol=Protocol(spec.protocol), results=uri
        ),
    )
    summary = _follow_sweep(spec, uri, options, read_board)
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
        _write_board(read_board(), options.board, quiet=options.quiet or options.json)
    if summary.interrupted:
        raise Exit(output.INTERRUPTED)
    if summary.failed or summary.unfinished:
        raise Exit(output.TRIALS_FAILED)


def _check_board(spec: "SweepSpec", path: Path, uri: str) -> None:
    """Raise UserError if ``--board`` cannot be written, or would show nothing."""
    if spec.file.grid:
        raise UserError(
            "--board is for sweeps without a grid: 'orca-sweep leaderboard FILE'"
            " prints its effects"
        )
    check_unread(path, "--board", [uri])
    check_page(path, "another file with --board")


def _follow_sweep(
    spec: "SweepSpec",
    uri: str,
    options: RunCommandOptions,
    read_board: "Callable[[], BoardReport]",
) -> "Summary":
    """Run the sweep, show its progress, and report its trials to the trackers.

    With ``--board``, boards are shown during the sweep, and the first answers of the
    last board are printed at the end.
    """
    from orca_ray.cli.sweep_progress import SweepProgress
    from orca_ray.sweep.executors import make_executor
    from orca_ray.sweep.run.driver import run_sweep
    from orca_ray.sweep.run.notices import Notifier
    from orca_ray.sweep.trackers.base import Tracking

    limit = options.hour_limit()
    limits = options.limits()
    notifier = Notifier(options.notify)
    quiet = options.quiet or options.json
    shows_boards = options.board is not None and not quiet
    with (
        notifier,
        Tracking(options.track or ()) as tracking,
        SweepProgress(
            quiet=quiet, read_board=read_board if shows_boards else None
        ) as progress,
    ):

        def listener(event: "Event") -> None:
            progress(event)
            tracking(event)
            notifier(event)

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
            command=typed_command(),
            limit=limit,
            limits=limits,
        )
    if progress.board is not None and not summary.interrupted:
        answers = [f"- {answer.sentence}" for answer in progress.board.answers[:3]]
        say("\n".join(["", *answers, ""]))
    return summary


def _write_board(report: "BoardReport", path: Path, *, quiet: bool) -> None:
    """Write the page of a board and, unless ``quiet``, print its path and open it."""
    from orca_ray.data.cache import write_text
    from orca_ray.leaderboard import render

    write_text(path, str(render(report, "html")))
    if not quiet:
        show_path(path, opens=_has_display())


def _has_display() -> bool:
    variables = {"DISPLAY", "WAYLAND_DISPLAY"}
    return sys.platform == "darwin" or not variables.isdisjoint(os.environ)


def _print_summary(
    summary: "Summary", spec: "SweepSpec", source: str, uri: str
) -> None:
    """Print how a sweep ended, its notes and models, and the command for its board.

    ``source`` is the benchmark or file that describes the sweep, ``uri`` the store.
    """
    results = "" if uri == "results" else f" --results {shlex.quote(public_uri(uri))}"
    say(f"{summary.sweep}: {_ending(summary)}")
    if summary.limit:
        say(summary.limit)
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
            f" orca-sweep reproduce {key} --keep-model DIR{results}"
        )
    if len(summary.missing_models) > MAX_NOTES:
        say(
            f"and {len(summary.missing_models) - MAX_NOTES} more models; --json"
            " prints all"
        )
    say(f"leaderboard: {_board_command(spec, source)}{results}")


def _ending(summary: "Summary") -> str:
    """Return how a sweep ended, with the number of trials by status."""
    if summary.up_to_date:
        return f"up to date, {summary.finished_before} trials done"
    counts = [
        f"{count} {status.value}" for status, count in summary.statuses.items() if count
    ]
    ending = "done"
    if summary.interrupted:
        ending = "interrupted; the same command continues"
    return (
        f"{ending}; ran {summary.ran} trials in {duration(summary.seconds)}:"
        f" {', '.join(counts) or 'none'}"
    )


def _board_command(spec: "SweepSpec", source: str) -> str:
    """Return the command that prints the board of a sweep, without ``--results``.

    ``source`` is the benchmark or file that describes the sweep. Options that the
    command does not need to find the sweep are left out.
    """
    from orca_ray.sweep.plan.spec import Overrides

    if spec.file.grid:
        name = source
        default_sweep = replace(
            spec, budget_name=spec.file.default_budget, overrides=Overrides()
        ).sweep_id
    else:
        # `leaderboard` shows the sweep with the most scores, which is seldom a variant
        name = spec.file.benchmark
        default_sweep = f"{spec.file.benchmark}/{spec.budget_name}"
    command = f"orca-sweep leaderboard {shlex.quote(name)}"
    if spec.sweep_id != default_sweep:
        command += f" --sweep {shlex.quote(spec.sweep_id)}"
    if spec.protocol != Protocol.HELD_OUT.value:
        command += f" --protocol {spec.protocol}"
    return command


def _print_failures(summary: "Summary") -> None:
    """Print failed trials with the reason, and nodes that get no trials, to stderr.

    Each (task, method) without a test score is printed, too.
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
    """Print the plan, and exit with code 2 if a trial fits on no node.

    With ``quiet``, only trials that fit on no node are printed.
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
    """Print the trials, nodes, costs and missing data of a plan."""
    resources = [_resources(row) for row in planned.rows]
    # Usually all trials need the same. Then one line below the table replaces a column,
    # to fit 80 columns.
    is_uniform = len(set(resources)) == 1
    rows = []
    for row, row_resources in zip(planned.rows, resources, strict=True):
        cells = (
            row.task.partition("/")[2],
            row.method,
            row.body,
            f"{row.search_trials}+{row.confirm_trials}",
            row.finished,
            row.epochs,
        )
        rows.append(cells if is_uniform else (*cells, row_resources))
    numbers = ("trials", "done", "epochs")
    columns = ("task", "method", "body", *numbers)
    show(columns if is_uniform else (*columns, "each"), rows, right=numbers)
    num_search = sum(row.search_trials for row in planned.rows)
    say(
        f"\n{planned.sweep}, protocol {planned.protocol}: {planned.num_trials} trials,"
        f" {planned.num_finished} done ({num_search} search +"
        f" {planned.num_trials - num_search} confirm)"
    )
    if planned.deterministic:
        say("deterministic: one thread per trial, whatever its CPUs")
    if is_uniform:
        say(f"each trial: {resources[0]}")
    nodes = [
        f"{node.name} ({node.cpus:g} CPUs, {node.gpus:g} GPUs, {node.memory_gib:.1f}"
        " GiB)"
        for node in planned.nodes
    ]
    say(f"nodes: {', '.join(nodes)}")
    if planned.feeding:
        say(planned.feeding)
    _print_costs(planned)
    _print_missing(planned)


def _resources(row: "PlanRow") -> str:
    """Return what a trial needs, e.g. ``2 CPU, 0.5 GPU``."""
    amounts = {"CPU": row.cpus, "GPU": row.gpus, "GiB": row.memory_gib}
    return ", ".join(f"{amount:g} {unit}" for unit, amount in amounts.items() if amount)


def _print_missing(planned: "Plan") -> None:
    """Print the commands that fetch and prepare what the plan lacks."""
    for state in ("missing", "fetched"):
        costs = [cost for cost in planned.costs if cost.state == state]
        if costs:
            say(f"{state}: data of {len(costs)} of {len(planned.costs)} tasks")
            say("\n".join(f"  {command}" for command in _data_commands(costs)))
    for absent in planned.absent:
        say(f"missing: {absent.what}\n  {absent.command}")


def _print_costs(planned: "Plan") -> None:
    """Print the hours and bytes that each task costs, and the totals."""
    hours = {"GPU": [cost.gpu_hours for cost in planned.costs]}
    devices = {"GPU": planned.gpu}
    if planned.cpu:
        hours["CPU"] = [cost.cpu_hours for cost in planned.costs]
        devices["CPU"] = planned.cpu
    rows = [
        _cost_cells(cost, task_hours)
        for cost, *task_hours in zip(planned.costs, *hours.values(), strict=True)
    ]
    hour_columns = [f"{kind} h" for kind in hours]
    numbers = ("trials", "epochs", *hour_columns, "raw GB", "prepared GB")
    say("\nestimated cost if no trial stops early:")
    show(("task", *numbers, "data"), rows, right=numbers)
    say()
    for kind, device in devices.items():
        _print_total(kind, device, hours[kind])
    num_unknown = hours["GPU"].count(None)
    if num_unknown:
        say(
            f"hours unknown for {num_unknown} of {len(planned.costs)} tasks: data not"
            " prepared, or body not listed"
        )
    disk_bytes = sum(cost.disk_bytes for cost in planned.costs)
    if disk_bytes:
        say(f"disk needed: about {_gigabytes(disk_bytes)} GB")


def _cost_cells(cost: "TaskCost", hours: Sequence[float | None]) -> tuple[object, ...]:
    """Return the row of a task in the table of costs; ``hours`` by kind of device."""
    return (
        cost.task.partition("/")[2],
        cost.trials,
        cost.epochs,
        *(_rounded(value, least=0.01) for value in hours),
        _gigabytes(cost.raw_bytes or None),  # 0 bytes: unknown
        _gigabytes(cost.prepared_bytes),
        cost.state,
    )


def _print_total(kind: str, device: str, hours: list[float | None]) -> None:
    """Print the sum of the known hours on a kind of device, if there are any.

    ``hours`` are those of each task; None if unknown. ``device`` describes the device
    that they are estimated for; "" if there is none.
    """
    known_hours = [value for value in hours if value is not None]
    if device and known_hours:
        total = _rounded(sum(known_hours), least=0.01)
        say(f"total {total} {kind} h: {device}")


def _data_commands(costs: "list[TaskCost]") -> list[str]:
    """Return the commands that fetch or prepare data.

    Commands that differ only in the task become one command.
    """
    from orca_ray.tasks.registry import get_benchmark

    tasks: dict[str, list[str]] = {}
    for cost in costs:
        pattern = (cost.command or "").replace(cost.task, "{}")  # without the task
        tasks.setdefault(pattern, []).append(cost.task)
    commands = []
    for pattern, names in tasks.items():
        benchmark = names[0].partition("/")[0]
        # The name of a benchmark stands for all of its tasks.
        is_complete = len(names) == len(get_benchmark(benchmark))
        commands.append(pattern.format(benchmark if is_complete else " ".join(names)))
    return commands


def _gigabytes(num_bytes: int | None) -> str:
    return _rounded(None if num_bytes is None else num_bytes / 1e9, least=0.001)


def _rounded(value: float | None, least: float) -> str:
    """Format a number with two digits, or as a whole number from 10 on.

    A number below ``least`` = 0.01 becomes "<0.01", and None "?".
    """
    if value is None:
        return "?"
    if value < least:
        return f"<{least:g}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
