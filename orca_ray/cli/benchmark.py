"""``orca-sweep benchmark``, ``run`` and ``plan``: start a sweep, or say what it would run."""

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from orca_ray.cli.output import (
    INTERRUPTED,
    TRIALS_FAILED,
    USER_ERROR,
    JsonOption,
    QuietOption,
    ResultsOption,
    emit_json,
    existing_store,
    note,
    plain,
    results_uri,
    split_names,
)
from orca_ray.cli.report import print_failures, print_plan, print_summary
from orca_ray.protocol import Protocol

if TYPE_CHECKING:
    from orca_ray.sweep.execution.events import Summary
    from orca_ray.sweep.planning.searches import NodeResources
    from orca_ray.sweep.planning.spec import SweepSpec


class Executor(StrEnum):
    """Where trials run."""

    RAY = "ray"
    INLINE = "inline"


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Benchmark, e.g. pocket or nasbench360.")]
FileArgument = Annotated[str, typer.Argument(metavar="SWEEP.yaml", help="Sweep file.")]
SourceArgument = Annotated[str, typer.Argument(metavar="NAME|SWEEP.yaml", help="Benchmark, or sweep file.")]
BudgetOption = Annotated[str | None, typer.Option(help="Budget of the sweep file, e.g. quick or full.")]
TasksOption = Annotated[list[str] | None, typer.Option(help="Only these tasks; comma-separated or repeated.")]
MethodsOption = Annotated[list[str] | None, typer.Option(help="Only these methods; comma-separated or repeated.")]
BodyOption = Annotated[str | None, typer.Option(help="One body for all tasks, e.g. minilm-l6:layers=4.")]
TrialsOption = Annotated[
    int | None, typer.Option(min=1, help="Search trials per (task, method); 1: the first configuration, one seed.")
]
SeedsOption = Annotated[int | None, typer.Option(min=1, help="Number of confirm seeds.")]
ProtocolOption = Annotated[Protocol | None, typer.Option(help="What selection may see; never mixed on one board.")]
DeterministicOption = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Equal scores wherever a trial runs, on CPUs bit for bit: one thread, reproducible kernels, float32. "
        "Slower; kept as a sweep of its own.",
    ),
]
ExecutorOption = Annotated[Executor, typer.Option(help="ray: a cluster or this machine; inline: in this process.")]
AddressOption = Annotated[
    str | None, typer.Option(help="Running Ray cluster to use: host:port, or auto. Default: RAY_ADDRESS, or a new one.")
]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Run trials again that ended in a failure.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan and run nothing.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("benchmark")(benchmark)
    app.command("run")(run)
    app.command("plan")(plan)


def benchmark(
    name: NameArgument,
    budget: BudgetOption = None,
    tasks: TasksOption = None,
    methods: MethodsOption = None,
    body: BodyOption = None,
    trials: TrialsOption = None,
    seeds: SeedsOption = None,
    protocol: ProtocolOption = None,
    deterministic: DeterministicOption = False,
    executor: ExecutorOption = Executor.RAY,
    address: AddressOption = None,
    results: ResultsOption = None,
    retry_failed: RetryOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Run the sweep of a benchmark; run it again to continue, or to hear that it is up to date."""
    spec = _spec(name, budget, tasks, methods, body, trials, seeds, protocol, deterministic)
    how = _How(results_uri(results, tell=not quiet), executor, address, retry_failed, quiet, json)
    (_show_plan if dry_run else _start)(spec, how)


def run(
    sweep: FileArgument,
    budget: BudgetOption = None,
    tasks: TasksOption = None,
    methods: MethodsOption = None,
    body: BodyOption = None,
    trials: TrialsOption = None,
    seeds: SeedsOption = None,
    protocol: ProtocolOption = None,
    deterministic: DeterministicOption = False,
    executor: ExecutorOption = Executor.RAY,
    address: AddressOption = None,
    results: ResultsOption = None,
    retry_failed: RetryOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Run the sweep that a YAML file describes."""
    spec = _spec(_as_path(sweep), budget, tasks, methods, body, trials, seeds, protocol, deterministic)
    how = _How(results_uri(results, tell=not quiet), executor, address, retry_failed, quiet, json)
    (_show_plan if dry_run else _start)(spec, how)


def plan(
    source: SourceArgument,
    budget: BudgetOption = None,
    tasks: TasksOption = None,
    methods: MethodsOption = None,
    body: BodyOption = None,
    trials: TrialsOption = None,
    seeds: SeedsOption = None,
    protocol: ProtocolOption = None,
    deterministic: DeterministicOption = False,
    executor: ExecutorOption = Executor.RAY,
    address: AddressOption = None,
    results: ResultsOption = None,
    json: JsonOption = False,
) -> None:
    """Print what a sweep would run and cost, what is missing, what brings it, and what cannot be placed."""
    spec = _spec(source, budget, tasks, methods, body, trials, seeds, protocol, deterministic)
    _show_plan(spec, _How(results_uri(results), executor, address, json=json))


def _as_path(sweep: str) -> str:
    # A bare name would be looked up among the shipped sweeps; `run` always means a file.
    return sweep if "/" in sweep or sweep.endswith((".yaml", ".yml")) else f"./{sweep}"


def _spec(
    source: str,
    budget: str | None,
    tasks: list[str] | None,
    methods: list[str] | None,
    body: str | None,
    trials: int | None,
    seeds: int | None,
    protocol: Protocol | None,
    deterministic: bool,
) -> "SweepSpec":
    from orca_ray.sweep.planning.spec import Overrides, load_spec

    overrides = Overrides(
        tasks=split_names("--tasks", tasks),
        methods=split_names("--methods", methods),
        body=body,
        protocol=None if protocol is None else protocol.value,
        trials=trials,
        seeds=seeds,
        deterministic=deterministic,
    )
    return load_spec(source, budget=budget, overrides=overrides)


@dataclass(frozen=True)
class _How:
    """Where to run and how to tell."""

    uri: str
    executor: Executor
    address: str | None
    retry_failed: bool = False
    quiet: bool = False
    json: bool = False


def _start(spec: "SweepSpec", how: _How) -> None:
    """Run the sweep and leave with the exit code that fits its ending."""
    summary = _sweep(spec, how)
    if how.json:
        emit_json({**plain(summary), "up_to_date": summary.up_to_date, "results": how.uri})
    elif not how.quiet:
        print_summary(summary, spec, how.uri)
    print_failures(summary)
    if summary.interrupted:
        raise typer.Exit(INTERRUPTED)
    if summary.failed or summary.unfinished:
        raise typer.Exit(TRIALS_FAILED)


def _sweep(spec: "SweepSpec", how: _How) -> "Summary":
    from orca_ray.cli.progress import Progress
    from orca_ray.results.store import ResultsStore
    from orca_ray.sweep.execution.driver import fetch, run_sweep
    from orca_ray.sweep.execution.events import Message

    existing_store(how.uri)  # refuses a place that is no store before anything is fetched
    if not _joins(how.executor, how.address):
        _refuse_unplaceable(spec)
    with Progress(quiet=how.quiet or how.json) as listener:
        fetch(spec, lambda text: listener(Message(text)))
        return run_sweep(
            spec,
            ResultsStore(how.uri, create=True),  # made last: a sweep that cannot start leaves nothing behind
            executor=how.executor.value,
            listener=listener,
            address=how.address,
            retry_failed=how.retry_failed,
        )


def _refuse_unplaceable(spec: "SweepSpec") -> None:
    """Refuse trials that do not fit on this machine before hours are spent on fetching their data."""
    from orca_ray.sweep.execution.executors.inline import this_node
    from orca_ray.sweep.planning.searches import plan_searches, refuse_unplaceable

    node = this_node()
    refuse_unplaceable(plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=node.gpus > 0), [node])


def _show_plan(spec: "SweepSpec", how: _How) -> None:
    """Print the plan; leave with code 2 when something in it cannot be placed."""
    from orca_ray.sweep.planning.plan import build_plan

    planned = build_plan(spec, existing_store(how.uri), _nodes(how.executor, how.address))
    if how.json:
        emit_json(planned.to_json())
    elif not how.quiet:
        print_plan(planned)
    for problem in planned.problems:
        note(f"cannot be placed: {problem}")
    if planned.problems:
        raise typer.Exit(USER_ERROR)


def _joins(executor: Executor, address: str | None) -> bool:
    """Whether trials run on a cluster that is there already."""
    return executor is Executor.RAY and bool(address or os.environ.get("RAY_ADDRESS"))


def _nodes(executor: Executor, address: str | None) -> "list[NodeResources] | None":
    """Return the nodes of a running cluster, or None for this machine: a plan starts no cluster of its own."""
    if not _joins(executor, address):
        return None
    from orca_ray.sweep.execution.driver import make_executor

    with make_executor(executor.value) as engine:
        return engine.open(address)
