"""``orca-sweep results``: check, import and export scores as CSV, the format in which people exchange them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from orca_ray.cli.options import ResultsOption, check_file, required_store, results_uri
from orca_ray.cli.output import say
from orca_ray.errors import UserError
from orca_ray.protocol import Protocol
from orca_ray.uris import public_uri

if TYPE_CHECKING:
    from orca_ray.results.submissions import Known


def check(
    files: Annotated[
        list[Path] | None,
        Argument(metavar="[FILE.csv]...", help="Files of scores. Default: those that the project ships."),
    ] = None,
) -> None:
    """Check CSV files of scores (method, task, metric, protocol, score, seed, source; optionally std)."""
    from orca_ray.leaderboard.published.submitted import FOLDER
    from orca_ray.results.submissions import merged, read_scores

    known, problems, parts = _known(), [], []
    paths = files or sorted(FOLDER.glob("*.csv"))
    for path in paths:
        try:
            scores = read_scores(path, known)
        except UserError as error:
            problems.append(str(error))
            continue
        parts.append((str(path), scores))
        tasks, methods = {each.task for each in scores}, {each.method for each in scores}
        say(f"{path}: {len(scores)} score(s) of {len(methods)} method(s) on {len(tasks)} task(s)")
    if problems := [*problems, *merged(parts)[1]]:
        raise UserError("\n".join(problems))
    if not paths:
        say("no submitted scores to check")


def import_(
    file: Annotated[
        Path, Argument(metavar="FILE.csv", help="Scores of other people (see `orca-sweep results check`).")
    ],
    results: ResultsOption = None,
) -> None:
    """Keep the scores of other people in the store. Leaderboards show them with their source; they are no records."""
    from orca_ray.results.submissions import import_scores

    uri = results_uri(results)
    say(f"{file}: {import_scores(uri, file, _known())} score(s) imported into {public_uri(uri)}")


def export(
    name: Annotated[str, Argument(metavar="NAME", help="Benchmark, e.g. pocket or nasbench360.")],
    sweep: Annotated[str | None, Option(help="Sweep to export. Default: the one that its leaderboard shows.")] = None,
    protocol: Annotated[Protocol | None, Option(help="Which splits selection read. Default: the sweep's.")] = None,
    source: Annotated[
        str | None,
        Option(help="Source of the scores, e.g. a URL. Default: version of orca-ray, and name of the sweep."),
    ] = None,
    out: Annotated[Path | None, Option("--out", "-o", metavar="FILE", help="Write to this file.")] = None,
    results: ResultsOption = None,
) -> None:
    """Write the scores of a leaderboard as CSV, one row per seed, for import into other stores or for submission."""
    from orca_ray import __version__
    from orca_ray.leaderboard import build
    from orca_ray.results.submissions import SubmittedScore, write_scores

    if out is not None:
        check_file(out, "--out")
    store = required_store(results_uri(results), f"run `orca-sweep benchmark {name}` first, or give --results URI")
    board = build(store.records(), benchmark=name, sweep=sweep, protocol=protocol and protocol.value)
    stated = source or f"orca-ray {__version__}, sweep {board.sweep}"
    rows = board.scores[["task", "method", "seed", "score"]].itertuples(index=False)
    text = write_scores(
        SubmittedScore(method, task, board.metrics[task], board.protocol, float(score), int(seed), stated)
        for task, method, seed, score in rows
    )
    if out is None:
        (say if sys.stdout.isatty() else print)(text.rstrip("\n"))
    else:
        from orca_ray.data.cache import disk_errors, write_bytes

        with disk_errors(out.absolute().parent):
            write_bytes(out, text.encode())
        say(f"{out}: {len(board.scores)} score(s)")


def _known() -> "Known":
    """Return the metrics of each task, and the largest value of each metric."""
    from orca_ray.results.submissions import Known
    from orca_ray.tasks.metrics import all_metrics
    from orca_ray.tasks.registry import known_tasks

    tasks = known_tasks().values()
    metrics = {task.name: tuple(dict.fromkeys([task.metric, task.paper_metric or task.metric])) for task in tasks}
    return Known(metrics, {name: metric.largest for name, metric in all_metrics().items()})
