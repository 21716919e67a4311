"""Options of the commands that start, extend or plan a sweep."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from typer import BadParameter, Option

from orca_ray.cli.options import JsonOption, QuietOption, ResultsOption, split_names
from orca_ray.protocol import KeepModels, Protocol

if TYPE_CHECKING:
    from orca_ray.sweep.executors.base import ExecutorOptions
    from orca_ray.sweep.plan.spec import SweepSpec


class Executor(StrEnum):
    """Where trials run: on a Ray cluster, or in the calling process."""

    RAY = "ray"
    INLINE = "inline"


ExecutorOption = Annotated[Executor, Option(help="ray: a cluster or this machine; inline: in this process.")]


def _address(given: str | None) -> str | None:
    """Return ``given`` if it is a Ray address (HOST:PORT, auto, local) or None; else fail before any work starts."""
    host, _, port = (given or "auto").rpartition(":")
    if given not in (None, "auto", "local") and not (host and port.isdecimal() and 0 < int(port[:6]) < 65536):
        raise BadParameter(f"{given!r} is not the address of a Ray cluster; give HOST:PORT, or auto")
    return given


def _gpus(given: str | None) -> str | None:
    """Return ``given`` if it is ``auto``, a number in (0, 1] or None; else fail."""
    try:
        if given in (None, "auto") or 0 < float(given or 0) <= 1:
            return given
    except ValueError:
        pass
    raise BadParameter(f"{given!r} is neither auto nor a part of one GPU; give e.g. 0.25 or 1")


AddressOption = Annotated[
    str | None,
    Option(
        callback=_address, help="Running Ray cluster: HOST:PORT, or auto. Default: RAY_ADDRESS, or a new local cluster."
    ),
]


StagingOption = Annotated[
    str | None,
    Option(
        metavar="URI", envvar="ORCA_RAY_STAGING",
        help="Folder through which nodes share prepared data and bodies, e.g. s3://bucket/staged.",
    ),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options that `plan`, `benchmark` and `run` share: what the sweep covers, and where it runs."""

    budget: Annotated[str | None, Option(help="Budget of the sweep file, e.g. quick or full.")] = None
    tasks: Annotated[list[str] | None, Option(help="Only these tasks; comma-separated or repeated.")] = None
    methods: Annotated[list[str] | None, Option(help="Only these methods; comma-separated or repeated.")] = None
    body: Annotated[str | None, Option(help="One body for all tasks, e.g. minilm-l6:layers=4.")] = None
    trials: Annotated[
        int | None,
        Option(min=1, help="Search trials per (task, method). 1: only the first configuration, with one seed."),
    ] = None
    seeds: Annotated[int | None, Option(min=1, help="Number of confirm seeds.")] = None
    protocol: Annotated[
        Protocol | None, Option(help="Which splits selection may read; never mixed on one leaderboard.")
    ] = None
    deterministic: Annotated[
        bool,
        Option(
            "--deterministic",
            help="Same scores wherever a trial runs (on CPUs bit for bit): one thread, reproducible kernels, float32. "
            "Slower; stored as a sweep of its own.",
        ),
    ] = False
    executor: ExecutorOption = Executor.RAY
    address: AddressOption = None
    results: ResultsOption = None
    json: JsonOption = False

    def spec(self, source: str) -> "SweepSpec":
        """Load the benchmark or sweep file ``source``; options that are given replace values of the file."""
        from orca_ray.sweep.plan.loading import load_spec
        from orca_ray.sweep.plan.spec import Overrides

        tasks, methods = split_names("--tasks", self.tasks), split_names("--methods", self.methods)
        protocol = None if self.protocol is None else self.protocol.value
        overrides = Overrides(tasks, methods, self.body, protocol, self.trials, self.seeds, self.deterministic)
        return load_spec(source, budget=self.budget, overrides=overrides)

    @property
    def joins_cluster(self) -> bool:
        """Whether trials run on an existing Ray cluster, instead of one started on this machine."""
        from orca_ray.sweep.executors import joined_address

        return self.executor is Executor.RAY and joined_address(self.address) is not None


@dataclass(frozen=True, kw_only=True)
class RunCommandOptions(SweepOptions):
    """Options of `benchmark`, `run` and `extend`, including those of `SweepOptions`."""

    retry_failed: Annotated[bool, Option("--retry-failed", help="Run failed trials again.")] = False
    gpus_per_trial: Annotated[
        str | None,
        Option(
            callback=_gpus, metavar="auto|FRACTION",
            help="GPUs of a trial: auto follows the measured memory of earlier trials; with a number such as 0.25, "
            "trials wait for nodes with GPUs.",
        ),
    ] = None  # fmt: skip
    trial_minutes: Annotated[
        float | None,
        Option(min=0.001, help="Limit of a trial's time, without staging; one that exceeds it runs once more."),
    ] = None
    hang_minutes: Annotated[
        float, Option(min=0.001, help="Time without any progress after which a worker counts as hung.")
    ] = 30.0
    wait: Annotated[
        float, Option(min=0, help="Seconds to wait for nodes that are large enough, if --address is a cluster.")
    ] = 300.0
    staging: StagingOption = None
    keep_models: Annotated[
        KeepModels,
        Option(
            help="Models of confirm trials that stay in the store, under models/: none, all, or the best of a task."
        ),
    ] = KeepModels.NONE
    track: Annotated[
        list[str] | None,
        Option(
            metavar="NAME[:TARGET]",
            help="Also show trials in tensorboard[:DIR], mlflow[:URI] or wandb[:PROJECT]; may be repeated.",
        ),
    ] = None
    dry_run: Annotated[bool, Option("--dry-run", help="Print the plan and run nothing.")] = False
    quiet: QuietOption = False

    def run_options(self) -> "ExecutorOptions":
        """Return the options of the executor."""
        from orca_ray.sweep.executors.base import ExecutorOptions
        from orca_ray.sweep.executors.liveness import TimeLimits

        trial = None if self.trial_minutes is None else 60 * self.trial_minutes
        time = TimeLimits(trial, 60 * self.hang_minutes)
        if self.gpus_per_trial in (None, "auto"):
            return ExecutorOptions(time, "auto" if self.gpus_per_trial else None)
        return ExecutorOptions(time, float(self.gpus_per_trial or 1))
