"""``orca-sweep plan``: print what a sweep would run, what it would cost, and what is missing."""

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit

from orca_ray.cli.options import existing_store, results_uri, takes
from orca_ray.cli.output import USER_ERROR, emit_json, note, plain, say, show
from orca_ray.cli.sweep_options import SweepOptions

if TYPE_CHECKING:
    from orca_ray.sweep.plan.cost import TaskCost
    from orca_ray.sweep.plan.plan import Plan
    from orca_ray.sweep.plan.spec import SweepSpec


@takes(SweepOptions)
def plan(
    source: Annotated[str, Argument(metavar="NAME|SWEEP.yaml", help="Benchmark, or sweep file.")], options: SweepOptions
) -> None:
    """Print what a sweep would run and cost, which data and bodies are missing, and which trials fit on no node."""
    show_plan(options.spec(source), results_uri(options.results), options)


def show_plan(spec: "SweepSpec", uri: str, options: SweepOptions, *, quiet: bool = False) -> None:
    """Print the plan, without starting a cluster; exit with code 2 if some trial fits on no node."""
    from orca_ray.sweep.plan.plan import build_plan
    from orca_ray.sweep.run.driver import make_executor

    nodes = None
    if options.joins_cluster:
        with make_executor(options.executor.value) as engine:
            nodes = engine.open(options.address)
    planned = build_plan(spec, existing_store(uri), nodes)
    if options.json:
        emit_json({**plain(planned), "num_trials": planned.num_trials, "num_finished": planned.num_finished})
    elif not quiet:
        _print_plan(planned)
    for problem in planned.problems:
        note(f"cannot be placed: {problem}")
    if planned.problems:
        raise Exit(USER_ERROR)


def _print_plan(planned: "Plan") -> None:
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
