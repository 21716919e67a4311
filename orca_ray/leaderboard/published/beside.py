"""Published results for a board: rows beside its own scores, and rows that are not comparable."""

from collections.abc import Collection, Iterable

from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.published.rows import published_rows
from orca_ray.leaderboard.published.submitted import rows_of_others
from orca_ray.leaderboard.published.tables import Published, compare, own_row
from orca_ray.results.submissions import SubmittedScore


def published_for(
    board: Board,
    *,
    imported: Iterable[SubmittedScore] = (),
    hide: Collection[str] = (),
    tasks: Collection[str] | None = None,
) -> Published | None:
    """Compare a board with the published, submitted and ``imported`` rows of its benchmark; None if there are none.

    Rows of a kind in ``hide`` are counted and left out of all ranks. With ``tasks``, rows of other tasks are left out.
    """
    rows = [*published_rows(board.benchmark), *rows_of_others(board.benchmark, imported)]
    if tasks is not None:
        rows = [row for row in rows if row.task in tasks]
    if not rows:
        return None
    # Rows are matched with the first version of a metric's definition; a later one is another metric.
    metrics = {
        task: info.metric + ("" if info.metric_version == 1 else f" (version {info.metric_version})")
        for task, info in board.infos.items()
        if any(board.score(task, method).n for method in board.methods)
    }
    own = [
        own_row(task, method, metric, board.protocol, *board.score(task, method))
        for task, metric in metrics.items()
        for method in board.methods
        if board.score(task, method).n
    ]
    return compare(rows, board.benchmark, own=own, metrics=metrics, protocol=board.protocol, hide=hide)
