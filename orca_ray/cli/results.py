"""``orca-sweep results`` and ``reproduce``: scores as CSV; a trial run again."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from orca_ray.cli.boards import known_versions
from orca_ray.cli.options import (
    JsonOption,
    ResultsOption,
    directory_option,
    required_store,
    results_uri,
)
from orca_ray.cli.output import TRIALS_FAILED, emit_json, note, say, show
from orca_ray.data.cache import disk_errors, write_bytes
from orca_ray.errors import UserError
from orca_ray.options import Protocol
from orca_ray.paths import check_output, public_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orca_ray.leaderboard import Board
    from orca_ray.results.submissions import SubmittedScore
    from orca_ray.sweep.run.reproduce import Comparison


def check(
    files: Annotated[
        list[Path] | None,
        Argument(
            metavar="[FILE.csv]...",
            help="Files of scores. Default: those that the project ships.",
        ),
    ] = None,
) -> None:
    """Check CSV files of scores (method, task, metric, protocol, score, seed, source;
    optionally std and versions).
    """
    from orca_ray.leaderboard.published.tables import FOLDER
    from orca_ray.results.submissions import merge_scores, read_scores

    versions = known_versions()
    problems = []
    parts = []
    paths = files or sorted(FOLDER.glob("*.csv"))
    for path in paths:
        try:
            scores = read_scores(path, versions)
        except UserError as error:
            problems.append(str(error))
            continue
        parts.append((str(path), scores))
        tasks = {score.task for score in scores}
        methods = {score.method for score in scores}
        say(
            f"{path}: {len(scores)} score(s) of {len(methods)} method(s) on"
            f" {len(tasks)} task(s)"
        )
    _, contradictions = merge_scores(parts)
    problems += contradictions
    if problems:
        raise UserError("\n".join(problems))
    if not paths:
        say("no submitted scores to check")


def import_(
    file: Annotated[
        Path,
        Argument(
            metavar="FILE.csv",
            help="Scores of other people (see `orca-sweep results check`).",
        ),
    ],
    results: ResultsOption = None,
) -> None:
    """Keep the scores of other people in the store.

    Leaderboards show them with their source; they are no records.
    """
    from orca_ray.results.submissions import import_scores

    uri = results_uri(results)
    num_scores = import_scores(uri, file, known_versions())
    say(f"{file}: {num_scores} score(s) imported into {public_uri(uri)}")


def export(
    name: Annotated[
        str, Argument(metavar="NAME", help="Benchmark, e.g. pocket or nasbench360.")
    ],
    sweep: Annotated[
        str | None,
        Option(help="Sweep to export. Default: the one that its leaderboard shows."),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        Option(help="Which splits selection read. Default: the sweep's."),
    ] = None,
    source: Annotated[
        str | None,
        Option(
            help=(
                "Source of the scores, e.g. a URL. Default: version of orca-ray, and"
                " name of the sweep."
            )
        ),
    ] = None,
    out: Annotated[
        Path | None, Option("--out", "-o", metavar="FILE", help="Write to this file.")
    ] = None,
    results: ResultsOption = None,
) -> None:
    """Write the scores of a leaderboard as CSV, one row per seed, for import into other
    stores or for submission.
    """
    from orca_ray.leaderboard import build
    from orca_ray.results.submissions import write_scores
    from orca_ray.version import __version__

    if out is not None:
        check_output(out, "--out", reads=[results_uri(results)])
    store = required_store(
        results_uri(results),
        f"run `orca-sweep benchmark {name}` first, or give --results URI",
    )
    board = build(
        store.records(),
        benchmark=name,
        sweep=sweep,
        protocol=None if protocol is None else protocol.value,
    )
    stated_source = source or f"orca-ray {__version__}, sweep {board.sweep}"
    text = write_scores(_submitted_scores(board, stated_source))
    if out is not None:
        with disk_errors(out.absolute().parent):
            write_bytes(out, text.encode())
        say(f"{out}: {len(board.scores)} score(s)")
    elif sys.stdout.isatty():
        say(text.rstrip("\n"))
    else:
        print(text.rstrip("\n"))


def _submitted_scores(board: "Board", source: str) -> "Iterator[SubmittedScore]":
    """Yield the scores of a board, one for each seed, with their ``source``."""
    from orca_ray.results.submissions import SubmittedScore

    rows = board.scores[["task", "method", "seed", "score"]].itertuples(index=False)
    for task, method, seed, score in rows:
        info = board.infos[task]
        yield SubmittedScore(
            method,
            task,
            board.metrics[task],
            board.protocol,
            float(score),
            int(seed),
            source,
            None,  # no standard deviation: the score is that of one seed
            info.metric_version,
            info.data_fingerprint,
        )


def reproduce(
    key: Annotated[
        str, Argument(metavar="KEY", help="Key of the trial, or the start of it.")
    ],
    sweep: Annotated[
        str | None, Option(help="Sweep of the record, if several have this trial.")
    ] = None,
    results: ResultsOption = None,
    keep_model: Annotated[
        Path | None,
        directory_option(
            "--keep-model", "Write the trial's model to this new or empty directory."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run a trial again, in this process, and compare its score with the record; the
    store is not changed.

    Exit code 0: the results are equal, or the score is within the noise of its seeds
    where equal bits are not promised: on another processor, or if the trial is not
    deterministic. Exit code 1: it differs, or the noise is unknown. Exit code 2: the
    trial cannot run here.
    """
    store = required_store(
        results_uri(results), "give the store of the trial with --results URI"
    )
    from orca_ray.methods.model_folder import check_model_target
    from orca_ray.sweep.run import reproduce as reproduction

    record = reproduction.find_record(store, key, sweep)
    note(
        f"trial {record.trial_key} of {record.sweep}: {record.task}, {record.method},"
        f" {record.body}, seed {record.seed}"
    )
    if keep_model is not None:
        check_model_target(keep_model)
    comparison = reproduction.reproduce(record, store, keep_model)
    if keep_model is not None and keep_model.is_dir() and not json:
        note(f"model: {keep_model}")
    if json:
        emit_json(_comparison_json(comparison))
    else:
        _print(comparison)
    if not comparison.agrees:
        raise Exit(TRIALS_FAILED)


def _comparison_json(comparison: "Comparison") -> dict[str, object]:
    """Return what `reproduce` prints with ``--json``."""
    record = comparison.record
    return {
        "trial_key": record.trial_key,
        "sweep": record.sweep,
        "task": record.task,
        "method": record.method,
        "seed": record.seed,
        "metric": record.metric,
        "deterministic": bool(record.deterministic),
        "agrees": comparison.agrees,
        "verdict": comparison.verdict.value,
        "rule": comparison.rule,
        "scores": comparison.scores,
        "data_fingerprint": record.data_fingerprint,
        "differences": comparison.differences,
        "environment": comparison.environment,
        "error": comparison.again.error,
    }


def _print(comparison: "Comparison") -> None:
    """Print the score in the record and the new one, the verdict, and by which
    rule, and how the versions and the hardware of the two runs differ.
    """
    record = comparison.record
    new_record = comparison.again
    old_score, new_score = comparison.scores
    # Only confirm trials have a test score.
    split = "validation" if record.test_score is None else "test"
    say(
        f"{record.metric} on {split}: {old_score!r} in the record, {new_score!r} now:"
        f" {_verdict_text(comparison)}"
    )
    say(f"rule: {comparison.rule}")
    say(f"data: fingerprint {record.data_fingerprint} in both")
    differences = {**comparison.differences, **comparison.environment}
    if differences:
        rows = [(name, str(old), str(new)) for name, (old, new) in differences.items()]
        show(("differs in", "record", "now"), rows, wrap=("record", "now"))
    else:
        say(
            f"versions and hardware: the same (orca-ray {record.version}, torch"
            f" {record.torch_version}, {record.device})"
        )
    if new_record.error:
        note(f"{new_record.status.value}: {new_record.error}")


def _verdict_text(comparison: "Comparison") -> str:
    """Return the verdict in words, with what may explain that bits are not equal."""
    from orca_ray.sweep.run.reproduce import MACHINE, Verdict

    if comparison.verdict is Verdict.EQUAL:
        return "agrees, bit for bit"
    if comparison.verdict is Verdict.DIFFERS:
        return "differs"
    changed = [
        name.replace("_version", "")
        for name in MACHINE
        if name in comparison.environment
    ]
    where = f" (another {', '.join(changed)})" if changed else ""
    if comparison.verdict is Verdict.UNKNOWN:
        return f"not equal{where}, noise unknown"
    return f"not equal{where}, within the noise of its seeds"
