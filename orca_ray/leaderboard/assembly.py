"""Build reports from a store: of a board, or of the effects of a grid's factors.

The modules of `formats` write the reports. Texts about declared tasks and methods, and
the cells of a grid, are not in a store; they are arguments.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orca_ray.errors import UserError
from orca_ray.leaderboard.board import Board, empty_board
from orca_ray.leaderboard.effects import COLUMNS, EffectGrid, build_effects
from orca_ray.leaderboard.format import MAX_SEARCH_TRIALS, BoardReport, subset
from orca_ray.leaderboard.page import chosen_pictures
from orca_ray.leaderboard.page.data import MAX_RECORDS, RECORD_COLUMNS, is_kept
from orca_ray.leaderboard.published import published_for
from orca_ray.leaderboard.selection import STATE
from orca_ray.results.scan import StoreSnapshot, invalid_rows_text
from orca_ray.results.store import ResultsStore, warn_once
from orca_ray.results.submissions import SubmittedScore, Versions, imported_scores
from orca_ray.results.tables import RECORDS, invalid_rows, to_frame

_Content = TypeVar("_Content")


def published_only(
    benchmark: str, store: ResultsStore | None, scan: StoreSnapshot | None
) -> Board | None:
    """Return an empty board if a benchmark has scores from elsewhere, else None.

    Scores from elsewhere are published, submitted and imported ones.
    """
    board = empty_board(benchmark, scan.warnings if scan else ())
    imported: Sequence[SubmittedScore] = ()
    if store is not None:
        imported, _ = imported_scores(store.uri)
    has_scores = published_for(board, imported=imported) is not None
    return board if has_scores else None


def board_report(
    board: Board,
    store: ResultsStore | None,
    scan: StoreSnapshot | None,
    *,
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    current: Versions,
    read_about: Callable[[Board], Mapping[str, Mapping[str, str]]],
) -> BoardReport:
    """Return the report of some tasks and methods (None: all) of a board.

    Curves, trials and pictures are read only when they are used, from the ``store`` and
    from ``scan``, the snapshot of the store that the board was built from.
    ``read_about`` takes the shown board and returns the texts of
    `BoardReport.read_about`; ``current`` is for `published_for`. Raises UserError for a
    task or method that the board does not have; an empty board accepts all tasks.
    """
    if methods and not board.tasks:
        raise UserError(
            f"--methods {','.join(methods)}: nothing of {board.benchmark} ran here;"
            " leave the option out"
        )
    shown = board
    left_out: tuple[str, ...] = ()
    if board.tasks:
        shown, left_out = subset(board, tasks, methods)
    report = BoardReport(shown, read_about=lambda: read_about(shown), left_out=left_out)
    imported: Sequence[SubmittedScore] = ()
    if store is not None:
        imported, warnings = imported_scores(store.uri)
        shown_with_warnings = replace(shown, warnings=(*shown.warnings, *warnings))
        report = replace(report, board=shown_with_warnings)
        keys = [
            key for cell in shown.cells.values() for key in cell.trial_keys.values()
        ]
        if keys:
            report = replace(
                report,
                read_curves=lambda: _read_or_warn(
                    lambda: store.curves(board.sweep, keys), None, "learning curves"
                ),
                read_artefacts=lambda: _read_or_warn(
                    lambda: chosen_pictures(shown, store), {}, "pictures"
                ),
            )
    if scan is not None:
        report = replace(
            report,
            read_records=lambda: _records(scan, shown),
            read_searches=lambda: read_searches(scan, shown),
        )
    # A task may be given with or without the name of its benchmark.
    task_names = None
    if tasks is not None:
        task_names = {*tasks, *(f"{board.benchmark}/{task}" for task in tasks)}
    published = published_for(
        shown, imported=imported, tasks=task_names, current=current
    )
    return replace(report, published=published)


def _read_or_warn(read: Callable[[], _Content], empty: _Content, what: str) -> _Content:
    """Return what ``read`` returns; after a UserError, warn and return ``empty``.

    A damaged file of curves or pictures thus does not stop a board, whose scores do not
    need it.
    """
    try:
        return read()
    except UserError as error:
        warn_once(f"the board leaves out the {what}: {error}")
        return empty


def effects_report(
    scan: StoreSnapshot,
    grid: EffectGrid,
    *,
    benchmark: str,
    sweep: str,
    protocol: str | None,
) -> BoardReport:
    """Return a report with the effects of a grid's factors and an empty board.

    Raises the errors of `build_effects`.
    """
    table = scan.take(_positions(scan, {"benchmark": [benchmark]}), COLUMNS)
    records = to_frame(table)
    warnings = list(scan.warnings)
    for invalid in invalid_rows(table.select(["hyperparameters"]), RECORDS):
        is_wrong = invalid.is_wrong.to_numpy()
        records = records[~is_wrong]
        num_wrong = int(is_wrong.sum())
        warnings.append(invalid_rows_text(num_wrong, "the store", invalid))
    effects = build_effects(
        records, grid, benchmark=benchmark, sweep=sweep, protocol=protocol
    )
    return BoardReport(
        empty_board(benchmark),
        effects=replace(effects, notes=[*effects.notes, *warnings]),
    )


def _records(scan: StoreSnapshot, board: Board) -> pd.DataFrame:
    """Return the records of a board's tasks and methods that its page holds.

    Of more than `MAX_RECORDS`, it holds few. They are chosen by batches, because all
    records would take a gigabyte of memory for a million of them.
    """
    wanted = {
        "benchmark": [board.benchmark],
        "sweep": [board.sweep],
        "protocol": [board.protocol],
        "task": board.tasks,
    }
    all_positions = [np.empty(0, np.int64)]
    kept_positions = [np.empty(0, np.int64)]
    columns = ["trial_key", "status", "method", "body"]
    for positions, table in scan.batches(columns, wanted):
        records = to_frame(table)
        is_of_board = board.labels(records).isin(board.methods).to_numpy()
        is_on_page = is_of_board & is_kept(board, records).to_numpy()
        all_positions.append(positions[is_of_board])
        kept_positions.append(positions[is_on_page])
    chosen = np.concatenate(all_positions)
    if len(chosen) > MAX_RECORDS:
        chosen = np.concatenate(kept_positions)
    return to_frame(scan.take(np.sort(chosen), RECORD_COLUMNS))


def _positions(
    scan: StoreSnapshot, wanted: Mapping[str, Collection[str]]
) -> NDArray[np.int64]:
    """Return the ascending positions of the records with ``wanted`` values."""
    batches = [positions for positions, _ in scan.batches(["benchmark"], wanted)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *batches]))


_SEARCHES = [
    "task",
    "method",
    "body",
    "trial_key",
    "started_at",
    "validation_score",
    "hyperparameters",
    *STATE,
]
"""Columns of records that `read_searches` uses."""


def read_searches(scan: StoreSnapshot, board: Board) -> pd.DataFrame | None:
    """Return the search trials of a board, in the order of their starts.

    Trials on another version of their task's data or metric than the board's scores
    have are left out. Columns are ``task``, ``method`` (as on the board), ``number``
    (place in the search), ``score`` (on validation) and ``hyperparameters`` (a JSON
    object). Returns None if there are more trials than `MAX_SEARCH_TRIALS`.
    """
    wanted = {
        "benchmark": [board.benchmark],
        "sweep": [board.sweep],
        "protocol": [board.protocol],
        "phase": ["search"],
        "task": board.tasks,
    }
    batches = [np.empty(0, np.int64)]
    num_trials = 0
    for positions, _ in scan.batches(["task"], wanted):
        num_trials += len(positions)
        if num_trials > MAX_SEARCH_TRIALS:
            return None
        batches.append(positions)
    trials: pd.DataFrame = scan.take(np.concatenate(batches), _SEARCHES).to_pandas()
    # Records from before versions were stored have version 1.
    metric_version = trials["metric_version"].fillna(1).astype("int64")
    # Merged on the common columns: this drops trials in another state than the board's.
    trials = trials.assign(metric_version=metric_version).merge(_states(board))
    trials = trials.assign(
        method=board.labels(trials), score=trials["validation_score"].astype("float64")
    )
    trials = trials[trials["method"].isin(board.methods)]
    trials = trials.sort_values(["started_at", "trial_key"], kind="stable")
    trials = trials.assign(number=trials.groupby(["task", "method"]).cumcount())
    return trials[["task", "method", "number", "score", "hyperparameters"]]


def _states(board: Board) -> pd.DataFrame:
    """Return the columns `STATE` of each task of a board."""
    infos = pd.DataFrame(map(asdict, board.infos.values()), columns=["name", *STATE])
    return infos.rename(columns={"name": "task"})
