"""Prints the plan of a sweep, and the summary and failures of a sweep that has ended."""

import shlex
from typing import TYPE_CHECKING

from orca_ray.cli.output import duration, note, say, show
from orca_ray.protocol import Protocol

if TYPE_CHECKING:
    from orca_ray.sweep.execution.events import Summary
    from orca_ray.sweep.planning.cost import TaskCost
    from orca_ray.sweep.planning.plan import Plan
    from orca_ray.sweep.planning.spec import SweepSpec

MAX_NOTES = 5
"""Largest number of distinct notes of trials that the summary of a sweep lists."""


def print_plan(planned: "Plan") -> None:
    """Print a plan: a table of (task, method) pairs, the resources, a table of costs, and what is missing."""
    resources = []
    for row in planned.rows:
        amounts = ((row.cpus, "CPU"), (row.gpus, "GPU"), (row.memory_gib, "GiB"))
        resources.append(", ".join(f"{amount:g} {unit}" for amount, unit in amounts if amount))
    alike = len(set(resources)) == 1  # usual: one line below the table then replaces a column, to fit 80 columns
    rows = []
    for row, each in zip(planned.rows, resources, strict=True):
        trials = f"{row.search_trials}+{row.confirm_trials}"
        cells = (row.task.partition("/")[2], row.method, row.body, trials, row.finished, row.epochs)
        rows.append(cells if alike else (*cells, each))
    numbers = ("trials", "done", "epochs")
    show(("task", "method", "body", *numbers, *(() if alike else ("each",))), rows, right=numbers)
    search = sum(row.search_trials for row in planned.rows)
    say(
        f"\n{planned.sweep}, protocol {planned.protocol}: {planned.num_trials} trials, "
        f"{planned.num_finished} done ({search} search + {planned.num_trials - search} confirm)"
    )
    if planned.deterministic:
        say("deterministic: one thread per trial, whatever its CPUs")
    if alike:
        say(f"each trial: {resources[0]}")
    nodes = (f"{n.name} ({n.cpus:g} CPUs, {n.gpus:g} GPUs, {n.memory_gib:.1f} GiB)" for n in planned.nodes)
    say(f"nodes: {', '.join(nodes)}")
    _print_costs(planned)
    _print_missing(planned)


def _print_costs(planned: "Plan") -> None:
    devices = [("GPU", planned.gpu, [cost.gpu_hours for cost in planned.costs])]
    if planned.cpu:
        devices.append(("CPU", planned.cpu, [cost.cpu_hours for cost in planned.costs]))
    rows = [
        (
            *(cost.task.partition("/")[2], cost.trials, cost.epochs, *(_rounded(hours, 0.01) for hours in each)),
            *(_gigabytes(cost.raw_bytes or None), _gigabytes(cost.prepared_bytes), cost.state),
        )
        for cost, *each in zip(planned.costs, *(hours for _, _, hours in devices), strict=True)
    ]
    numbers = ("trials", "epochs", *(f"{kind} h" for kind, _, _ in devices), "raw GB", "prepared GB")
    say("\nestimated cost if no trial stops early:")
    show(("task", *numbers, "data"), rows, right=numbers)
    say()
    for kind, device, hours in devices:
        known = [each for each in hours if each is not None]
        if device and known:
            say(f"total {_rounded(sum(known), 0.01)} {kind} h: {device}")
    if unknown := sum(cost.gpu_hours is None for cost in planned.costs):
        say(f"hours unknown for {unknown} of {len(planned.costs)} tasks: data not prepared, or body not listed")
    if needed := sum(cost.disk_bytes for cost in planned.costs):
        say(f"disk needed: about {_gigabytes(needed)} GB")


def _print_missing(planned: "Plan") -> None:
    for state in ("missing", "fetched"):
        if wanted := [cost for cost in planned.costs if cost.state == state]:
            say(f"{state}: data of {len(wanted)} of {len(planned.costs)} tasks")
            say("\n".join(f"  {command}" for command in _commands(wanted)))
    for each in planned.absent:
        say(f"missing: {each.what}\n  {each.command}")


def _commands(costs: "list[TaskCost]") -> list[str]:
    """Return the commands that fetch or prepare data; those that differ only in the task become one command."""
    from orca_ray.tasks.registry import get_benchmark

    tasks: dict[str, list[str]] = {}
    for cost in costs:
        tasks.setdefault((cost.command or "").replace(cost.task, "{}"), []).append(cost.task)
    commands = []
    for command, names in tasks.items():
        benchmark = names[0].partition("/")[0]
        commands.append(command.format(benchmark if len(names) == len(get_benchmark(benchmark)) else " ".join(names)))
    return commands


def _gigabytes(num_bytes: int | None) -> str:
    return _rounded(None if num_bytes is None else num_bytes / 1e9, 0.001)


def _rounded(value: float | None, least: float) -> str:
    """Format with two digits, as a whole number from 10 on, as "<0.01" below ``least`` = 0.01, and None as "?"."""
    if value is None:
        return "?"
    return f"<{least:g}" if value < least else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def print_summary(summary: "Summary", spec: "SweepSpec", uri: str) -> None:
    """Print how a sweep ended, the notes of its trials, and the command that prints its leaderboard."""
    # Without --sweep, `leaderboard` shows the sweep with the most confirm trials, which is seldom a variant.
    which = "" if spec.sweep_id == f"{spec.file.name}/{spec.budget_name}" else f" --sweep {shlex.quote(spec.sweep_id)}"
    which += "" if spec.protocol == Protocol.HELD_OUT.value else f" --protocol {spec.protocol}"
    where = "" if uri == "results" else f" --results {shlex.quote(uri)}"
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
    say(f"leaderboard: orca-sweep leaderboard {spec.file.benchmark}{which}{where}")


def print_failures(summary: "Summary") -> None:
    """Print to stderr each failed trial, and each (task, method) without a test score, with the reason."""
    for record in summary.failed:
        reason = record.error.strip().splitlines()[-1] if record.error and record.error.strip() else "no message"
        note(
            f"{record.status.value}: {record.task} {record.method} {record.phase} seed {record.seed} "
            f"(trial {record.trial_key}): {reason}"
        )
    for pair in summary.unfinished:
        note(f"no confirmed score: {pair}")
