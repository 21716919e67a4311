"""``orca-sweep results`` and ``reproduce``: check, import and export scores as CSV; run
the trial of a record again.
"""

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
    from orca_ray.results.submissions import merged, read_scores

    known = known_versions()
    problems = []
    parts = []
    paths = files or sorted(FOLDER.glob("*.csv"))
    for path in paths:
        try:
            scores = read_scores(path, known)
        except UserError as error:
            problems.append(str(error))
            continue
        parts.append((str(path), scores))
        tasks = {each.task for each in scores}
        methods = {each.method for each in scores}
        say(
            f"{path}: {len(scores)} score(s) of {len(methods)} method(s) on"
            f" {len(tasks)} task(s)"
        )
    if problems := [*problems, *merged(parts)[1]]:
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
    say(
        f"{file}: {import_scores(uri, file, known_versions())} score(s) imported into"
        f" {public_uri(uri)}"
    )


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
    from orca_ray.results.submissions import SubmittedScore, write_scores
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
        protocol=protocol and protocol.value,
    )
    stated = source or f"orca-ray {__version__}, sweep {board.sweep}"
    rows = board.scores[["task", "method", "seed", "score"]].itertuples(index=False)
    versions = {
        task: (info.metric_version, info.data_fingerprint)
        for task, info in board.infos.items()
    }
    text = write_scores(
        SubmittedScore(
            method,
            task,
            board.metrics[task],
            board.protocol,
            float(score),
            int(seed),
            stated,
            None,
            *versions[task],
        )
        for task, method, seed, score in rows
    )
    if out is None:
        (say if sys.stdout.isatty() else print)(text.rstrip("\n"))
    else:
        with disk_errors(out.absolute().parent):
            write_bytes(out, text.encode())
        say(f"{out}: {len(board.scores)} score(s)")


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

    Exit code 0: the scores agree, bit for bit if the trial is deterministic, else
        within the spread of its seeds. 1:
    they do not. 2: the trial cannot run here.
    """
    store = required_store(
        results_uri(results), "give the store of the trial with --results URI"
    )
    from orca_ray.methods.model_folder import check_other
    from orca_ray.sweep.run import reproduce as again

    record = again.find_record(store, key, sweep)
    note(
        f"trial {record.trial_key} of {record.sweep}: {record.task}, {record.method},"
        f" {record.body}, seed {record.seed}"
    )
    if keep_model is not None:
        check_other(keep_model)
    compared = again.reproduce(record, store, keep_model)
    if keep_model is not None and keep_model.is_dir() and not json:
        note(f"model: {keep_model}")
    if json:
        emit_json(
            {
                "trial_key": record.trial_key,
                "sweep": record.sweep,
                "task": record.task,
                "method": record.method,
                "seed": record.seed,
                "metric": record.metric,
                "deterministic": bool(record.deterministic),
                "agrees": compared.agrees,
                "rule": compared.rule,
                "scores": compared.scores,
                "data_fingerprint": record.data_fingerprint,
                "differences": compared.differences,
                "environment": compared.environment,
                "error": compared.again.error,
            }
        )
    else:
        _print(compared)
    if not compared.agrees:
        raise Exit(TRIALS_FAILED)


def _print(compared: "Comparison") -> None:
    record = compared.record
    again = compared.again
    old, new = compared.scores
    split = "validation" if record.test_score is None else "test"
    verdict = (
        "agrees, bit for bit"
        if compared.agrees and old == new
        else "agrees"
        if compared.agrees
        else "differs"
    )
    say(f"{record.metric} on {split}: {old!r} in the record, {new!r} now: {verdict}")
    say(f"rule: {compared.rule}")
    say(f"data: fingerprint {record.data_fingerprint} in both")
    rows = [
        (name, *map(str, pair))
        for name, pair in {**compared.differences, **compared.environment}.items()
    ]
    if rows:
        show(("differs in", "record", "now"), rows, wrap=("record", "now"))
    else:
        versions = (
            f"orca-ray {record.version}, torch {record.torch_version}, {record.device}"
        )
        say(f"versions and hardware: the same ({versions})")
    if again.error:
        note(f"{again.status.value}: {again.error}")
