"""``orca-sweep adapt``: from a user's data to a model folder."""

import logging
import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from orca_ray.cli.options import (
    AddressOption,
    Executor,
    ExecutorOption,
    JsonOption,
    QuietOption,
    ResultsOption,
    StagingOption,
    check_staging,
    existing_store,
    results_uri,
    split_names,
    takes,
    typed_command,
)
from orca_ray.cli.output import (
    INTERRUPTED,
    duration,
    emit_json,
    note,
    reason,
    say,
    show,
)
from orca_ray.data.cache import write_text
from orca_ray.errors import UserError
from orca_ray.paths import check_unread

if TYPE_CHECKING:
    from orca_ray.adaptation.report import Report
    from orca_ray.adaptation.sweep import AdaptationSweep
    from orca_ray.own_data import Options
    from orca_ray.own_data.infer_task import Inferred
    from orca_ray.sweep.run.events import Summary

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """Options of `adapt`: first about the data, then about the sweep that runs."""

    target: Annotated[
        list[str] | None,
        Option(
            help=(
                "Column, key or file of the targets; several for several labels or"
                " numbers."
            )
        ),
    ] = None
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            metavar="MODEL",
            help="Folder of the model. Default: NAME-model.",
        ),
    ] = None
    inputs: Annotated[
        list[str] | None,
        Option(help="Columns or key of the inputs. Default: all others."),
    ] = None
    kind: Annotated[
        str | None, Option(help="Kind of target: classes, labels, scalar or dense.")
    ] = None
    group: Annotated[
        str | None,
        Option(help="Column or key of groups that no split divides, e.g. patients."),
    ] = None
    time: Annotated[
        str | None,
        Option(
            help=(
                "Column or key of times: the latest samples are the test, with --group"
                " of unseen groups."
            )
        ),
    ] = None
    gap: Annotated[
        float | None,
        Option(
            metavar="TIME",
            help=(
                "Time left out between training and later samples that judge: days,"
                " or the unit of --time."
            ),
        ),
    ] = None
    split: Annotated[
        str | None, Option(help="Column or key that says train, validation or test.")
    ] = None
    holdout: Annotated[
        bool | None,
        Option(
            "--holdout/--no-holdout",
            help="Keep a test part for the score. Default: if data allow",
        ),
    ] = None
    seed: Annotated[int | None, Option(help="Seed of random splits and folds.")] = None
    columns: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=HOW",
            help=(
                "Read a column as number, category, date, day-first, month-first,"
                " decimal-point or decimal-comma, or drop it."
            ),
        ),
    ] = None
    axes: Annotated[
        str | None,
        Option(
            help=(
                "Meaning of an array's axes, e.g. NCL, NLC, NHWC, NF. NL or NCL of a"
                " table: numbered columns are steps of series."
            )
        ),
    ] = None
    colour: Annotated[str | None, Option(help="Colours of images: grey or rgb.")] = None
    size: Annotated[
        int | None,
        Option(help="Side in pixels of images, or number of steps of series."),
    ] = None
    mask: Annotated[
        bool,
        Option(
            "--mask", help="Give padded series a channel that marks the steps given."
        ),
    ] = False
    rate: Annotated[
        float | None,
        Option(help="Sampling rate in Hz that recordings are converted to."),
    ] = None
    seconds: Annotated[
        float | None,
        Option(help="Length in seconds that recordings are padded or cut to."),
    ] = None
    loss: Annotated[str | None, Option(help="Training loss.")] = None
    metric: Annotated[str | None, Option(help="Metric; lower is better.")] = None
    name: Annotated[
        str | None,
        Option(help="Name of the data. Default: that of the file or folder."),
    ] = None
    licence: Annotated[
        str | None, Option(help="Licence of the data, for the model's card.")
    ] = None
    minutes: Annotated[
        float, Option(min=0.05, help="Time for all trials together.")
    ] = 20.0
    methods: Annotated[
        list[str] | None,
        Option(help="Methods to compare. Default: baselines and transformers."),
    ] = None
    single: Annotated[
        bool, Option("--single", help="Write one network, no ensemble.")
    ] = False
    max_size: Annotated[
        float | None, Option(min=0.0, metavar="MB", help="Largest size of the model.")
    ] = None
    max_latency: Annotated[
        float | None,
        Option(min=0.0, metavar="MS", help="Longest time to predict a sample."),
    ] = None
    body: Annotated[
        str | None, Option(help="Pretrained body, e.g. minilm-l6:layers=4.")
    ] = None
    executor: ExecutorOption = Executor.RAY
    address: AddressOption = None
    staging: StagingOption = None
    results: ResultsOption = None
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run", help="Print what is inferred and the plan, and run nothing."
        ),
    ] = False
    quiet: QuietOption = False
    json: JsonOption = False

    def data_options(self) -> "Options":
        """Return the options about the data; raises UserError for an invalid one."""
        from orca_ray.own_data import Options, make_options

        values = {name: getattr(self, name, None) for name in Options.model_fields}
        values["target"] = split_names("--target", self.target)
        values["inputs"] = split_names("--inputs", self.inputs)
        values["columns"] = dict(map(_pair, self.columns or ())) or None
        values["mask"] = self.mask or None  # None: a task file may still set it
        # None: the option was not given.
        given_values = {
            name: value for name, value in values.items() if value is not None
        }
        for name, value in given_values.items():
            if isinstance(value, str) and not value.strip():
                raise UserError(
                    f"--{name} {value!r} names nothing, as an unset variable does: give"
                    " a value, or leave the option out"
                )
        return make_options("orca-sweep adapt", given_values)


def _pair(text: str) -> tuple[str, str]:
    """Return the name and the reading of a column in ``NAME=HOW``."""
    name, separator, how = text.rpartition("=")
    if not separator or not name:
        raise UserError(f"--columns {text!r}: give NAME=HOW, e.g. year=category")
    return name, how


@takes(AdaptOptions)
def adapt(
    data: Annotated[
        str,
        Argument(
            metavar="DATA",
            help="File, folder or task.yaml: CSV, Parquet, npz, HDF5, images, audio, …",
        ),
    ],
    options: AdaptOptions,
) -> None:
    """Adapt a pretrained transformer to your data: compare methods, and write the best
    model to a folder.

    The same command continues an interrupted adaptation; with more minutes, its search
    goes on.
    """
    from orca_ray.adaptation.sweep import AdaptationSweep
    from orca_ray.cli.boards import check_page
    from orca_ray.methods.model_folder import check_model_target
    from orca_ray.methods.registry import get_method
    from orca_ray.own_data import read
    from orca_ray.own_data.infer_task import infer
    from orca_ray.own_data.registration import register
    from orca_ray.results.store import check_writable
    from orca_ray.sweep.executors import nodes_of

    data_options = options.data_options()
    if options.out is not None:
        check_model_target(options.out)  # before anything is trained
        check_unread(options.out, "--out", [data])
    check_staging(options.staging)
    methods = split_names("--methods", options.methods) or ()
    for method in methods:
        get_method(method)  # raises for an unknown name, before data are read
    uri = results_uri(options.results)
    existing_store(uri)  # raises if another thing is there
    if not options.dry_run:
        check_writable(uri)
    samples = read(data, data_options)
    has_gpus = False
    # A cluster is only asked for its nodes if that decides on the body.
    if not samples.options.body:
        nodes = nodes_of(options.executor.value, options.address)
        has_gpus = any(node.gpus for node in nodes)
    inferred = infer(samples, data_options, gpus=has_gpus, warn=logger.info)
    for warning in inferred.warnings:
        note(f"warning: {warning}")
    name = inferred.task.short_name.rpartition("-")[0]
    out = options.out or Path(f"{name}-model")
    check_unread(out, "--out", [data, samples.source])  # a task file names the data
    check_page(Path(f"{out}.html"), "--out")
    is_silent = options.quiet or options.json
    if not is_silent:
        say(f"{data}: {inferred.task.name}")
        columns = ("inferred", "value", "because", "change with --")
        show(columns, _finding_rows(inferred), wrap=("value", "because"))
    sweep = AdaptationSweep(
        task=register(inferred, samples),
        minutes=options.minutes,
        methods=methods,
        body=options.body or "",
        results=results_uri(options.results, announce=not is_silent),
        executor=options.executor.value,
        address=options.address,
        staging=options.staging,
        command=typed_command(),
        single=options.single,
        max_size=options.max_size or math.inf,
        max_latency=options.max_latency or math.inf,
    )
    _run(sweep, options, inferred, out)


def _finding_rows(inferred: "Inferred") -> list[tuple[str, str, str, str]]:
    """Return what was inferred, its value, the reason, and the option to change it."""
    return [
        (finding.what, finding.value, finding.why, finding.option)
        for finding in inferred.findings
    ]


def _run(
    sweep: "AdaptationSweep", options: AdaptOptions, inferred: "Inferred", out: Path
) -> None:
    """Run the sweep, write the model and its page, and print the report.

    ``out`` is the folder of the model; the page is ``out`` with the suffix ``.html``.
    With ``--dry-run``, only the methods are printed.
    """
    from orca_ray.adaptation.page import adaptation_page
    from orca_ray.cli.sweep_progress import SweepProgress

    sweep.check()
    is_silent = options.quiet or options.json
    warnings = [*inferred.warnings, *sweep.left_out()]
    if not is_silent:
        say(
            f"\nmethods: {', '.join(sweep.chosen_methods())}, for {sweep.minutes:g}"
            " min (--minutes)"
        )
        say("\n".join([*sweep.left_out(), ""]))
    else:
        for warning in sweep.left_out():
            note(f"warning: {warning}")
    if options.dry_run:
        return
    with SweepProgress(quiet=is_silent) as progress:
        summary = replace(sweep, listener=progress).run()
    report = replace(sweep, warnings=warnings).save(out)
    page = Path(f"{out}.html")
    content = adaptation_page(
        report.to_json(),
        _finding_rows(inferred),
        warnings,
        report.evidence,
        name=sweep.task.title or sweep.task.short_name,
        folder=str(out),
    )
    write_text(page, content)
    if options.json:
        emit_json(
            {
                **report.to_json(),
                "description": report.model,
                "model": str(out),
                "page": str(page),
            }
        )
    elif not options.quiet:
        _print_report(report, out)
        say(f"page: {page}")
    _print_problems(summary, is_silent=is_silent)
    if summary.interrupted and not summary.time_over:
        raise Exit(INTERRUPTED)


def _print_problems(summary: "Summary", *, is_silent: bool) -> None:
    """Print failed trials and an interruption to stderr."""
    for record in summary.failed:
        note(
            f"{record.status.value}: {record.method} seed {record.seed}:"
            f" {reason(record)}"
        )
    if summary.interrupted and not is_silent:
        note(
            "the time or Ctrl-C ended trials that still ran: the same command goes on,"
            " --minutes gives it more time"
        )


def _print_report(report: "Report", out: Path) -> None:
    """Print the standings of the methods, the verdict and the expected score."""
    from orca_ray.methods.model_card import interval_text, score_lines

    rows = [
        (row["method"], interval_text(row), row["num_folds"], duration(row["seconds"]))
        for row in report.standings
    ]
    show(
        ("method", f"{report.metric}, 90 % interval", "folds", "a trial"),
        rows,
        right=("folds", "a trial"),
    )
    say("\n".join(["", report.verdict, *score_lines(report.to_json())]))
    say(f"model: {out} ({report.model})")
    say(
        f"predict: orca-sweep predict {shlex.quote(str(out))} DATA -o"
        " predictions.parquet"
    )
