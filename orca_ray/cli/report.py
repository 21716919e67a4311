"""How a plan and the end of a sweep are printed."""

import shlex
import sys
from typing import TYPE_CHECKING

from orca_ray.cli.output import duration, show
from orca_ray.protocol import Protocol

if TYPE_CHECKING:
    from orca_ray.sweep.execution.events import Summary
    from orca_ray.sweep.planning.cost import TaskCost
    from orca_ray.sweep.planning.plan import Plan, PlanRow
    from orca_ray.sweep.planning.spec import SweepSpec

MAX_NOTES = 5
"""Kinds of fallbacks that the report of a sweep names."""


def print_plan(planned: "Plan") -> None:
    """Print a plan as a table, and below it what all of its trials share."""
    asked = [_asked(row) for row in planned.rows]
    alike = len(set(asked)) == 1  # as a rule; then a line below the table says it once, and the table fits 80 columns
    rows = [
        (
            row.task.partition("/")[2],
            row.method,
            row.body,
            f"{row.search_trials}+{row.confirm_trials}",
            row.finished,
            row.epochs,
            *(() if alike else (each,)),
        )
        for row, each in zip(planned.rows, asked, strict=True)
    ]
    numbers = ("trials", "done", "epochs")
    show(("task", "method", "body", *numbers, *(() if alike else ("each",))), rows, right=numbers)
    nodes = ", ".join(f"{n.name} ({n.cpus:g} CPUs, {n.gpus:g} GPUs, {n.memory_gib:.1f} GiB)" for n in planned.nodes)
    search = sum(row.search_trials for row in planned.rows)
    print(
        f"\n{planned.sweep}, protocol {planned.protocol}: {planned.num_trials} trials, "
        f"{planned.num_finished} done ({search} search + {planned.num_trials - search} confirm)"
    )
    if planned.deterministic:
        print("deterministic: one thread a trial, whatever its CPUs")
    if alike:
        print(f"each trial: {asked[0]}")
    print(f"nodes: {nodes}")
    _print_costs(planned)


def _print_costs(planned: "Plan") -> None:
    """Print what each task costs, what is missing, and what brings it."""
    both = bool(planned.cpu)
    rows = [
        (
            cost.task.partition("/")[2],
            cost.trials,
            cost.epochs,
            _hours(cost.gpu_hours),
            *((_hours(cost.cpu_hours),) if both else ()),
            _gigabytes(cost.raw_bytes or None),
            _gigabytes(cost.prepared_bytes),
            cost.state,
        )
        for cost in planned.costs
    ]
    hours = ("GPU h", "CPU h") if both else ("GPU h",)
    numbers = ("trials", "epochs", *hours, "raw GB", "prepared GB")
    print("\nestimated cost, none stopped early:")
    show(("task", *numbers, "data"), rows, right=numbers)
    _print_totals(planned)
    _print_missing(planned)


def _print_totals(planned: "Plan") -> None:
    print()
    for device, kind, known in (
        (planned.gpu, "GPU", [cost.gpu_hours for cost in planned.costs if cost.gpu_hours is not None]),
        (planned.cpu, "CPU", [cost.cpu_hours for cost in planned.costs if cost.cpu_hours is not None]),
    ):
        if device and known:
            print(f"in all {_hours(sum(known))} {kind} h: {device}")
    if unknown := sum(cost.gpu_hours is None for cost in planned.costs):
        print(f"hours not known for {unknown} of {len(planned.costs)} tasks: not prepared, or a body not listed")
    if needed := sum(cost.disk_bytes for cost in planned.costs):
        print(f"disk needed: about {_gigabytes(needed)} GB")


def _print_missing(planned: "Plan") -> None:
    for state in ("missing", "fetched"):
        if wanted := [cost for cost in planned.costs if cost.state == state]:
            print(f"{state}: data of {len(wanted)} of {len(planned.costs)} tasks")
            for command in _commands(wanted):
                print(f"  {command}")
    for each in planned.absent:
        print(f"missing: {each.what}\n  {each.command}")


def _commands(costs: "list[TaskCost]") -> list[str]:
    """Return the commands that bring data further, each with all the tasks that it may name at once."""
    from orca_ray.tasks.registry import get_benchmark

    tasks: dict[str, list[str]] = {}
    for cost in costs:
        tasks.setdefault((cost.command or "").replace(cost.task, "{}"), []).append(cost.task)
    commands = []
    for command, names in tasks.items():
        benchmark = names[0].partition("/")[0]
        commands.append(command.format(benchmark if len(names) == len(get_benchmark(benchmark)) else " ".join(names)))
    return commands


def _hours(hours: float | None) -> str:
    return _rounded(hours, 0.01)


def _gigabytes(num_bytes: int | None) -> str:
    return _rounded(None if num_bytes is None else num_bytes / 1e9, 0.001)


def _rounded(value: float | None, least: float) -> str:
    """Return two digits, or all before the point; "?" for what is not known."""
    if value is None:
        return "?"
    return f"<{least:g}" if value < least else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _asked(row: "PlanRow") -> str:
    amounts = ((row.cpus, "CPU"), (row.gpus, "GPU"), (row.memory_gib, "GiB"))
    return ", ".join(f"{amount:g} {unit}" for amount, unit in amounts if amount)


def print_summary(summary: "Summary", spec: "SweepSpec", uri: str) -> None:
    """Print how a sweep ended, which fallbacks its trials took, and how to see its board."""
    # Without --sweep the fullest board is shown, and that is seldom one of a variant.
    which = "" if spec.sweep_id == f"{spec.name}/{spec.budget_name}" else f" --sweep {shlex.quote(spec.sweep_id)}"
    which += "" if spec.protocol == Protocol.HELD_OUT.value else f" --protocol {spec.protocol}"
    where = "" if uri == "results" else f" --results {shlex.quote(uri)}"
    if summary.up_to_date:
        print(f"{summary.sweep}: up to date, {summary.finished_before} trials done")
    else:
        counts = ", ".join(f"{count} {status.value}" for status, count in summary.statuses.items() if count)
        ending = "interrupted; the same command continues" if summary.interrupted else "done"
        print(f"{summary.sweep}: {ending}; ran {summary.ran} trials in {duration(summary.seconds)}: {counts or 'none'}")
    if summary.reused:
        print(f"alignment: {summary.reused} of {summary.aligned} trials took over that of another trial")
    _notes(summary)
    print(f"leaderboard: orca-sweep leaderboard {spec.benchmark}{which}{where}")


def _notes(summary: "Summary") -> None:
    """Print the fallbacks that trials took, each once."""
    for text, count in list(summary.notes.items())[:MAX_NOTES]:
        print(f"note: {text} ({count} {'trial' if count == 1 else 'trials'})")
    if len(summary.notes) > MAX_NOTES:
        print(f"note: and {len(summary.notes) - MAX_NOTES} more kinds; --json prints all")


def print_failures(summary: "Summary") -> None:
    """Print each failed trial with its reason, and each pair without a score, to stderr."""
    for record in summary.failed:
        reason = record.error.strip().splitlines()[-1] if record.error and record.error.strip() else "no message"
        print(
            f"{record.status.value}: {record.task} {record.method} {record.phase} seed {record.seed} "
            f"(trial {record.trial_key}): {reason}",
            file=sys.stderr,
        )
    for pair in summary.unfinished:
        print(f"no confirmed score: {pair}", file=sys.stderr)
