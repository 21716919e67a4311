"""Options that several commands share, and functions that check values of options."""

import inspect
import math
import os
import shlex
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typer import Argument, BadParameter, Option

from orca_ray.cli.output import note
from orca_ray.data.cache import home
from orca_ray.errors import UserError
from orca_ray.options import KeepModels, Protocol
from orca_ray.paths import (
    check_special,
    hide_secrets,
    public_uri,
    secrets_in,
    split_uri,
)

if TYPE_CHECKING:
    from orca_ray.results.live import Limits
    from orca_ray.results.store import ResultsStore
    from orca_ray.sweep.plan.spec import SweepSpec
    from orca_ray.sweep.run.executor import ExecutorOptions
    from orca_ray.sweep.run.hours import HourLimit

Options = TypeVar("Options")

JsonOption = Annotated[
    bool, Option("--json", help="Print one JSON document to stdout, for programs.")
]
QuietOption = Annotated[
    bool, Option("--quiet", "-q", help="Print only errors and failed trials.")
]
DeviceOption = Annotated[str, Option("--device", help="auto, cpu or cuda.")]
BenchmarkArgument = Annotated[
    str | None, Argument(metavar="[BENCHMARK]", help="Only tasks of this benchmark.")
]
SplitsOption = Annotated[
    Protocol,
    Option(
        "--protocol",
        help="Protocol of the splits; most tasks have the same splits for both.",
    ),
]
ResultsOption = Annotated[
    str | None,
    Option(
        "--results",
        metavar="URI",
        envvar="ORCA_RAY_RESULTS",
        help=(
            "Results store: a directory, or a URI that pyarrow.fs understands (s3://…)."
            " Default: results/, or a directory in the cache for a job submitted to"
            " Ray."
        ),
    ),
]


_arguments: ContextVar[Sequence[str]] = ContextVar("arguments", default=())
"""Arguments of the command line that runs."""


def remember_arguments(arguments: Sequence[str]) -> None:
    """Store the arguments of the running command line, for `typed_command`."""
    _arguments.set(tuple(arguments))


def typed_command() -> str:
    """Return the running command line as text for a shell.

    Credentials are replaced by ``***``, and so is the target of ``--notify``: who
    knows the URL of a chat's webhook can write there.
    """
    words = [hide_secrets(word, secrets_in(word)) for word in _arguments.get()]
    for position, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name != "--notify":
            continue
        if equals:
            words[position] = "--notify=***"
        elif position + 1 < len(words):
            words[position + 1] = "***"
    return shlex.join(["orca-sweep", *words])


def takes(
    kind: type[Options],
) -> Callable[[Callable[[str, Options], None]], Callable[..., None]]:
    """Return a decorator that makes the fields of a dataclass the options of a command.

    The fields of ``kind`` are keyword-only. The decorated function takes the command's
    argument and an instance of ``kind``; Typer sees one parameter per field.
    """

    def decorate(command: Callable[[str, Options], None]) -> Callable[..., None]:
        """Return a function with one parameter per field, which calls ``command``."""
        first_parameter = next(iter(inspect.signature(command).parameters.values()))

        def call(**values: Any) -> None:
            command(values.pop(first_parameter.name), kind(**values))

        options = inspect.signature(kind).parameters.values()
        # Typer reads the signature, the name and the docstring of the function.
        argument = first_parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [argument, *options]
        )
        call.__name__ = command.__name__
        call.__doc__ = command.__doc__
        return call

    return decorate


def directory_option(name: str, help: str) -> Any:
    """Return a Typer option whose value is a directory.

    An empty value, e.g. an unset shell variable, is an error.
    """
    return Option(name, metavar="DIR", parser=_directory, help=help)


def _directory(text: str) -> Path:
    """Return the value of a `directory_option`; BadParameter if it is none."""
    if not text:
        raise BadParameter("it names no directory; give one, or leave the option out")
    try:
        check_special(Path(text), "the directory")
    except UserError as error:  # Typer drops the message of any other ValueError
        raise BadParameter(str(error)) from error
    return Path(text)


def split_names(option: str, values: Sequence[str] | None) -> list[str] | None:
    """Return the names given with an option, e.g. a, b and c for ``-t a,b -t c``.

    Returns None if ``values`` is None. Raises UserError if the option is given without
    a name, e.g. by an unset shell variable, which must not mean "all".
    """
    if not values:
        return None
    names = [name.strip() for name in ",".join(values).split(",") if name.strip()]
    if not names:
        raise UserError(
            f"{option} {','.join(values)!r} names nothing: give names, or leave the"
            " option out for all"
        )
    return names


def results_uri(option: str | None, *, announce: bool = False) -> str:
    """Return the path or URI of the results store: ``option``, or the default.

    The default is ``results`` in the working directory. Ray deletes the working
    directory of a submitted job. The default in a job is therefore ``results`` in the
    cache directory, and is printed with ``announce``. Raises UserError for "".
    """
    if option is not None:
        if not option.strip():
            raise UserError(
                f"--results {option!r} is empty: give a directory or a URI, or leave"
                " the option out"
            )
        return option
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return "results"
    uri = str(home() / "results")
    if announce:
        note(
            f"results store: {uri} (the working directory of a submitted job is"
            " temporary)"
        )
    return uri


def existing_store(uri: str) -> "ResultsStore | None":
    """Return the store at ``uri``.

    Returns None if nothing or an empty directory is there; raises UserError for
    anything else.
    """
    from orca_ray.results.folder import open_folder
    from orca_ray.results.store import ResultsStore

    folder = open_folder(uri)
    kind = folder.kind()
    if kind == "missing" or (kind == "directory" and not folder.names()):
        return None
    return ResultsStore(uri)


def required_store(
    uri: str,
    advice: str = "run `orca-sweep benchmark NAME` first, or give --results URI",
) -> "ResultsStore":
    """Return the store at ``uri``; UserError with ``advice`` if there is none."""
    store = existing_store(uri)
    if store is None:
        raise no_results(uri, advice)
    return store


def no_results(uri: str, advice: str) -> UserError:
    """Return the error for a store that does not exist; ``advice`` says what to do."""
    return UserError(f"no results at {public_uri(uri)!r}: {advice}")


def is_path(source: str) -> bool:
    """Return whether ``source`` is a path, not the name of a benchmark.

    A path has "/" or ends with .yaml or .yml.
    """
    return "/" in source or source.endswith((".yaml", ".yml"))


class Executor(StrEnum):
    """Kind of executor: it runs trials on a Ray cluster, or in the calling process."""

    RAY = "ray"
    INLINE = "inline"


ExecutorOption = Annotated[
    Executor, Option(help="ray: a cluster or this machine; inline: in this process.")
]


def _address(text: str | None) -> str | None:
    """Return the address of a cluster: HOST:PORT, ``auto``, ``local`` or None.

    Raises BadParameter for another text.
    """
    if text in (None, "auto", "local"):
        return text
    host, _, port = text.rpartition(":")
    # Six digits suffice to see that a number is too large.
    is_port = port.isdecimal() and 0 < int(port[:6]) < 65536
    if not host or not is_port:
        raise BadParameter(
            f"{text!r} is not the address of a Ray cluster; give HOST:PORT, or auto"
        )
    return text


def _gpus(text: str | None) -> str | None:
    """Return the number of GPUs of a trial as it was given: a number, "auto" or None.

    Raises BadParameter unless the number is above 0 and at most 1.
    """
    if text in (None, "auto"):
        return text
    try:
        is_part = 0 < float(text or 0) <= 1
    except ValueError:
        is_part = False
    if not is_part:
        raise BadParameter(
            f"{text!r} is neither auto nor a part of one GPU; give e.g. 0.25 or 1"
        )
    return text


AddressOption = Annotated[
    str | None,
    Option(
        callback=_address,
        help=(
            "Running Ray cluster: HOST:PORT, or auto. Default: RAY_ADDRESS, or a new"
            " local cluster."
        ),
    ),
]


StagingOption = Annotated[
    str | None,
    Option(
        metavar="URI",
        envvar="ORCA_RAY_STAGING",
        help=(
            "Folder through which nodes share prepared data and bodies, e.g."
            " s3://bucket/staged."
        ),
    ),
]


def check_staging(option: str | None) -> None:
    """Raise UserError if ``--staging`` is no path or URI; the folder is not opened."""
    if option is None:
        return
    if not option.strip():
        raise UserError(
            f"--staging {option!r} is empty, as an unset variable is: give a directory"
            " or a URI, or leave the option out"
        )
    split_uri(option)


def _hours(option: str, hours: float) -> float:
    """Return the hours that an option gives; UserError if they are no limit."""
    if not math.isfinite(hours):
        raise UserError(f"{option} {hours} is no number of hours: give e.g. 8")
    return hours


MaxTrialsOption = Annotated[
    int | None, Option(min=1, help="Largest number of trials that run at once.")
]
MaxGpusOption = Annotated[
    float | None,
    Option(
        min=0.001,
        help=(
            "Largest number of GPUs that trials have at once; a trial that needs more"
            " runs alone."
        ),
    ),
]
PriorityOption = Annotated[
    int | None,
    Option(
        min=-1000,
        max=1000,
        help=(
            "Priority among the sweeps of a Ray cluster: the highest gets free"
            " resources first; equal ones share them. Default: 0."
        ),
    ),
]


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of `plan`, `benchmark` and `run`: what the sweep covers, and where."""

    budget: Annotated[
        str | None, Option(help="Budget of the sweep file, e.g. quick or full.")
    ] = None
    tasks: Annotated[
        list[str] | None, Option(help="Only these tasks; comma-separated or repeated.")
    ] = None
    methods: Annotated[
        list[str] | None,
        Option(help="Only these methods; comma-separated or repeated."),
    ] = None
    body: Annotated[
        str | None, Option(help="One body for all tasks, e.g. minilm-l6:layers=4.")
    ] = None
    trials: Annotated[
        int | None,
        Option(
            min=1,
            help=(
                "Search trials per (task, method). 1: only the first configuration,"
                " with one seed."
            ),
        ),
    ] = None
    seeds: Annotated[int | None, Option(min=1, help="Number of confirm seeds.")] = None
    protocol: Annotated[
        Protocol | None,
        Option(help="Which splits selection may read; never mixed on one leaderboard."),
    ] = None
    deterministic: Annotated[
        bool,
        Option(
            "--deterministic",
            help=(
                "Same scores wherever a trial runs (on CPUs bit for bit): one thread,"
                " reproducible kernels, float32. Slower; stored as a sweep of its own."
            ),
        ),
    ] = False
    executor: ExecutorOption = Executor.RAY
    address: AddressOption = None
    results: ResultsOption = None
    json: JsonOption = False

    def spec(self, source: str) -> "SweepSpec":
        """Return the sweep of the benchmark or sweep file ``source``.

        Given options replace values of the file.
        """
        from orca_ray.sweep.plan.loading import load_spec
        from orca_ray.sweep.plan.spec import Overrides

        tasks = split_names("--tasks", self.tasks)
        methods = split_names("--methods", self.methods)
        protocol = None if self.protocol is None else self.protocol.value
        overrides = Overrides(
            tasks,
            methods,
            self.body,
            protocol,
            self.trials,
            self.seeds,
            self.deterministic,
        )
        return load_spec(source, budget=self.budget, overrides=overrides)


@dataclass(frozen=True, kw_only=True)
class RunCommandOptions(SweepOptions):
    """Options of `benchmark` and `run`: those of `SweepOptions`, and how it runs."""

    retry_failed: Annotated[
        bool, Option("--retry-failed", help="Run failed trials again.")
    ] = False
    gpus_per_trial: Annotated[
        str | None,
        Option(
            callback=_gpus,
            metavar="auto|FRACTION",
            help=(
                "GPUs of a trial: auto follows the measured memory of earlier trials;"
                " with a number such as 0.25, trials wait for nodes with GPUs."
            ),
        ),
    ] = None
    trial_minutes: Annotated[
        float | None,
        Option(
            min=0.001,
            help=(
                "Limit of a trial's time, without staging; one that exceeds it runs"
                " once more."
            ),
        ),
    ] = None
    hang_minutes: Annotated[
        float,
        Option(
            min=0.001,
            help="Time without any progress after which a worker counts as hung.",
        ),
    ] = 30.0
    wait: Annotated[
        float,
        Option(
            min=0,
            help=(
                "Seconds to wait for nodes that are large enough, if --address is a"
                " cluster."
            ),
        ),
    ] = 300.0
    staging: StagingOption = None
    keep_models: Annotated[
        KeepModels,
        Option(
            help=(
                "Models of confirm trials that stay in the store, under models/: none,"
                " all, or the best of a task."
            )
        ),
    ] = KeepModels.NONE
    track: Annotated[
        list[str] | None,
        Option(
            metavar="NAME[:TARGET]",
            help=(
                "Also show trials in tensorboard[:DIR], mlflow[:URI], wandb[:PROJECT]"
                " or a plug-in's tracker; may be repeated."
            ),
        ),
    ] = None
    max_trials: MaxTrialsOption = None
    max_gpus: MaxGpusOption = None
    priority: PriorityOption = None
    notify: Annotated[
        str | None,
        Option(
            metavar="COMMAND|URL",
            help=(
                "Send a notice at the end, on failure, and when a node or the cluster"
                " is lost: as JSON to a command's input, or in a POST request."
            ),
        ),
    ] = None
    gpu_hours: Annotated[
        float | None,
        Option(
            min=0.001,
            help=(
                "Limit of GPU hours of all trials: searches end early, and what they"
                " found is confirmed."
            ),
        ),
    ] = None
    core_hours: Annotated[
        float | None,
        Option(min=0.001, help="The same as a limit of hours of CPU cores."),
    ] = None
    board: Annotated[
        Path | None,
        Option(
            metavar="PAGE",
            help="Draw the leaderboard meanwhile; at the end, write and open its page.",
        ),
    ] = None
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the plan and run nothing.")
    ] = False
    quiet: QuietOption = False

    def check(self) -> None:
        """Raise UserError for options that no sweep can run with; nothing is started.

        ``--dry-run`` refuses them as well.
        """
        from orca_ray.sweep.run.notices import Notifier

        check_staging(self.staging)
        self.hour_limit()
        self.limits()
        Notifier(self.notify)

    def hour_limit(self) -> "HourLimit | None":
        """Return the limit of GPU hours or core hours; None if there is none."""
        from orca_ray.sweep.run.hours import HourLimit

        if self.gpu_hours is not None and self.core_hours is not None:
            raise UserError("give --gpu-hours or --core-hours, not both")
        if self.gpu_hours is not None:
            return HourLimit(_hours("--gpu-hours", self.gpu_hours), "GPU")
        if self.core_hours is not None:
            return HourLimit(_hours("--core-hours", self.core_hours), "core")
        return None

    def limits(self) -> "Limits":
        """Return the limits of what runs at once, and the priority."""
        from orca_ray.results.live import Limits

        if self.max_gpus is not None and not math.isfinite(self.max_gpus):
            raise UserError(f"--max-gpus {self.max_gpus} is no number of GPUs")
        return Limits(
            max_trials=self.max_trials,
            max_gpus=self.max_gpus,
            priority=self.priority,
        )

    def run_options(self) -> "ExecutorOptions":
        """Return the time limits and GPUs of trials as options of the executor."""
        from orca_ray.sweep.messages.settings import TimeLimits
        from orca_ray.sweep.run.executor import ExecutorOptions

        seconds = None if self.trial_minutes is None else 60 * self.trial_minutes
        limits = TimeLimits(seconds, 60 * self.hang_minutes)
        if self.gpus_per_trial is None:
            return ExecutorOptions(limits, None)
        if self.gpus_per_trial == "auto":
            return ExecutorOptions(limits, "auto")
        return ExecutorOptions(limits, float(self.gpus_per_trial))
