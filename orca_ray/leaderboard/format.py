"""Reports, and the formats that write them.

A report is a board with everything that is written beside the board. Each module of
`formats` declares a `Format` as ``FORMAT``, or several as ``FORMATS``.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orca_ray.discovery import declared, modules
from orca_ray.errors import UserError, lookup, printable, quoted, unknown_name
from orca_ray.leaderboard import formats
from orca_ray.leaderboard.board import Board, BoardCell
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.published import Published, PublishedRow
from orca_ray.leaderboard.statistics import (
    ScoreTable,
    all_statistics,
    get_statistic,
    on_boards,
)
from orca_ray.leaderboard.statistics.intervals import LEVEL
from orca_ray.leaderboard.statistics.paired import LogScores
from orca_ray.leaderboard.statistics.questions import QuestionAnswer, answers
from orca_ray.leaderboard.statistics.table import Shape
from orca_ray.leaderboard.training import (
    MethodTraining,
    method_trainings,
    training_curves,
)
from orca_ray.paths import open_regular
from orca_ray.results.parquet import read_bounded
from orca_ray.results.record import CurvePoint

_DIGITS = 10
"""Significant digits of statistics.

The last digits depend on the processor, and a board's bytes must not.
"""
FACTS = ("body", "body_licence", "body_sha256", "seen", "paper", "code")
"""Names of facts about a cell that are not in its records.

``body``, ``body_licence`` and ``body_sha256`` describe the weights that the trials
started from (the last two are empty for random weights). ``seen`` says whether the
pretraining of these weights saw the task's data: ``no``, ``unknown`` or ``known``.
``paper`` and ``code`` are URLs of the method's paper and of its authors' code.
"""
MAX_SEARCH_TRIALS = 20_000
"""Largest number of search trials of a board that `BoardReport.searches` holds."""


@dataclass(frozen=True)
class BoardReport:
    """A board with everything that is written beside it.

    Equal reports give equal bytes in every format.
    """

    board: Board
    published: Published | None = None
    effects: Effects | None = None
    """Effects of the factors of a grid, which formats write instead of the board."""
    read_curves: Callable[[], pd.DataFrame | None] | None = None
    """Reads the learning curves of the board's sweep (see `ResultsStore.curves`).

    Returns None if they cannot be read.
    """
    read_records: Callable[[], pd.DataFrame] | None = None
    """Reads the records of the board's sweep; see `ResultsStore.records`.

    Of a sweep with many trials, those that a page does not hold may be left out.
    """
    read_searches: Callable[[], pd.DataFrame | None] | None = None
    """Reads the search trials of the board's sweep, as `read_searches` returns them."""
    read_artefacts: Callable[[], Mapping[str, Sequence[Mapping[str, Any]]]] | None = (
        None
    )
    """Reads pictures of trials by trial key, as plain JSON, for the page."""
    read_about: Callable[[], Mapping[str, Mapping[str, str]]] | None = None
    """Returns texts about each task and method by name, for the page.

    A task has title, metric, definition, kind, modality and size; a method has title,
    paper and code.
    """
    read_facts: Callable[[BoardCell], Mapping[str, str]] = lambda cell: {}
    """Returns what is known of the `FACTS` of a cell."""
    reproduce: str = "orca-sweep reproduce KEY"
    """Command that runs a trial again, for the page."""
    refresh_seconds: int = 0
    """Number of seconds after which the page reloads itself; 0: never."""
    left_out: tuple[str, ...] = ()
    """Tasks and methods that have records and were left out on request.

    Every statistic is computed without them.
    """

    @cached_property
    def curves(self) -> pd.DataFrame | None:
        """The learning curves; None without ``read_curves`` or if it returns None."""
        return self.read_curves() if self.read_curves else None

    @cached_property
    def searches(self) -> pd.DataFrame | None:
        """The search trials; None without ``read_searches`` or with too many trials."""
        return self.read_searches() if self.read_searches else None

    @cached_property
    def answers(self) -> list[QuestionAnswer]:
        """Answers to the questions of `answers`, such as whether aligning helped."""
        return answers(self.scores, self.searches)

    @cached_property
    def scores(self) -> ScoreTable:
        """The score table as arrays, shared by all statistics."""
        return self.board.table

    @cached_property
    def ranking(self) -> ScoreTable:
        """The scores of the ranked methods.

        A ranked method has scores on at least half of the tasks.
        """
        scores = self.scores
        num_tasks_M = (scores.num_seeds_TM > 0).sum(axis=0)
        has_rank_M = num_tasks_M >= len(scores.tasks) / 2
        ranked = np.flatnonzero(has_rank_M)
        methods = tuple(scores.methods[m] for m in ranked)
        return replace(scores, methods=methods, scores_TMS=scores.scores_TMS[:, ranked])

    def statistic(self, name: str) -> pd.DataFrame:
        """Return the frame of a statistic of `on_boards`: a row for each method.

        The values of a method without a rank are NaN.
        """
        return self._statistics[name]

    @cached_property
    def _statistics(self) -> dict[str, pd.DataFrame]:
        """The statistics of `on_boards`; rows are sorted by mean rank."""
        frames = {
            name: _rounded(get_statistic(name).compute(self.ranking))
            for name in on_boards()
        }
        mean_ranks = frames["mean_rank"]["value"].reindex(list(self.board.methods))
        order = mean_ranks.sort_values(kind="stable").index
        return {name: frame.reindex(order) for name, frame in frames.items()}

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, lowest mean rank first; those without a rank last."""
        return tuple(map(str, self.statistic("mean_rank").index))

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """The statistic ``verdict``: a row for each ordered pair of methods."""
        return _rounded(get_statistic("verdict").compute(self.scores))

    @cached_property
    def tied(self) -> set[tuple[str, str]]:
        """Pairs (task, method) that are tied with the best; see `LogScores.tied_TM`."""
        tasks = self.scores.tasks
        methods = self.scores.methods
        if not tasks:
            return set()
        tied_TM = LogScores.of(self.scores).tied_TM
        return {(tasks[t], methods[m]) for t, m in np.argwhere(tied_TM)}

    @cached_property
    def tied_first(self) -> set[str]:
        """The methods that the verdicts do not separate from the first by mean rank."""
        ranked = list(self.statistic("mean_rank")["value"].dropna().index)
        return {
            str(method)
            for method in ranked[1:]
            if self.verdicts.loc[(ranked[0], method), "adjusted_p"] > LEVEL
        }

    def statistics(self, *shapes: Shape) -> dict[str, pd.DataFrame]:
        """Return the frames of the statistics that have one of ``shapes``, by name.

        Only statistics that need nothing but scores are computed.
        """
        frames = {}
        for name, statistic in all_statistics().items():
            if statistic.inputs == ("scores",) and statistic.shape in shapes:
                is_of_all_methods = statistic.shape in ("cell", "pair")
                table = self.scores if is_of_all_methods else self.ranking
                frames[name] = _rounded(statistic.compute(table))
        return frames

    @cached_property
    def curve_statistics(self) -> dict[str, pd.DataFrame]:
        """The statistics of learning curves by name: a row for each trained method."""
        if self._training_curves.empty:
            return {}
        return {
            name: _rounded(statistic.compute(self._training_curves))
            for name, statistic in all_statistics().items()
            if statistic.inputs == ("curves",)
        }

    @cached_property
    def trainings(self) -> list[MethodTraining]:
        """How long the methods trained, in the order of `methods`.

        Methods without learning curves, such as fitted ones, are left out.
        """
        return method_trainings(self.board, self._training_curves, self.methods)

    @cached_property
    def _training_curves(self) -> pd.DataFrame:
        """The learning curves that statistics take; empty without ``read_curves``."""
        points = self.curves
        if points is None:
            points = CurvePoint.SCHEMA.empty_table().to_pandas()
        return training_curves(self.board, points)

    @property
    def common_tasks(self) -> tuple[str, ...]:
        """Tasks on which every method of `ranking` has a score."""
        return self.ranking.common.tasks

    @property
    def published_scores(self) -> list[PublishedRow]:
        """The published rows that have a score."""
        if self.published is None:
            return []
        return [row for row in self.published.rows if row.score is not None]

    def validation_curves(self, task: str) -> dict[str, list[float]]:
        """Return the validation score of each refine epoch by method, mean over seeds.

        Methods without a learning curve are left out.
        """
        mean_curves = {}
        for method in self.methods:
            cell = self.board.cells.get((task, method))
            if cell is None:
                continue
            keys = cell.trial_keys.values()
            curves = [self._validation[key] for key in keys if key in self._validation]
            if curves:
                means = pd.concat(curves, axis=1).sort_index().mean(axis=1)
                mean_curves[method] = [float(value) for value in means]
        return mean_curves

    @cached_property
    def _validation(self) -> dict[str, pd.Series]:
        """Validation score by refine epoch of each trial that has a curve."""
        if self.curves is None:
            return {}
        is_refined = self.curves["stage"] == "refine"
        rows = self.curves[is_refined & self.curves["validation_score"].notna()]
        return {
            str(key): group.set_index("epoch")["validation_score"]
            for key, group in rows.groupby("trial_key")
        }


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with all floating-point numbers rounded to `_DIGITS` digits."""
    columns = {
        str(name): [float(f"{value:.{_DIGITS}g}") for value in column]
        for name, column in frame.select_dtypes("float").items()
    }
    return frame.assign(**columns)


def subset(
    board: Board, tasks: Sequence[str] | None, methods: Sequence[str] | None
) -> tuple[Board, tuple[str, ...]]:
    """Return the board with some tasks and methods (None: all), and what is left out.

    The latter are the names of tasks and methods. A task may be given without the name
    of its benchmark. Raises UserError for a name that the board does not have.
    """
    shown_tasks = _select_names("task", tasks, board.tasks, f"{board.benchmark}/")
    shown_methods = _select_names("method", methods, board.methods)
    has_shown_task = board.scores["task"].isin(shown_tasks)
    has_shown_method = board.scores["method"].isin(shown_methods)
    scores = board.scores[has_shown_task & has_shown_method]
    shown_board = replace(
        board,
        infos={task: board.infos[task] for task in shown_tasks},
        methods=shown_methods,
        scores=scores.reset_index(drop=True),
        cells={
            key: cell
            for key, cell in board.cells.items()
            if cell.task in shown_tasks and cell.method in shown_methods
        },
    )
    shown_names = {*shown_tasks, *shown_methods}
    left_out = [
        name for name in (*board.tasks, *board.methods) if name not in shown_names
    ]
    return shown_board, tuple(left_out)


def _select_names(
    kind: str,
    requested: Sequence[str] | None,
    available: Sequence[str],
    prefix: str = "",
) -> tuple[str, ...]:
    """Return the requested names (none: all), in the order of ``available``.

    ``prefix`` may be left out of a requested name.
    """
    if not requested:
        return tuple(available)
    full_names = {
        name if name in available else f"{prefix}{name}" for name in requested
    }
    unknown = sorted(full_names - set(available))
    if unknown:
        hint = "These have records in this sweep."
        raise unknown_name(kind, unknown[0], available, hint)
    return tuple(name for name in available if name in full_names)


KIND = "orca-ray board"
"""Value of the key ``kind`` in exported boards."""
VERSION = 1
"""Version of the columns of exported scores, and of the JSON document."""
_NAMES = (
    "benchmark",
    "sweep",
    "protocol",
    "task",
    "metric",
    "metric_version",
    "data_fingerprint",
    "method",
    "seed",
    "score",
    "trial_key",
)
_TYPES = {"metric_version": pa.int64(), "seed": pa.int64(), "score": pa.float64()}
SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in _NAMES])
"""Columns of exported scores.

A (task, method) without a score has one row, without ``seed`` and ``score``.
"""
SUFFIXES = (".json", ".parquet")
"""Endings of the names of files that `read_scores` reads."""
_MAX_BYTES = 2**28
"""Largest size of a file that `read_scores` reads."""
_MAX_JSON_OBJECTS = 2**22
"""Largest number of lists and objects in a JSON file that `read_scores` reads.

Python takes up to 200 bytes for each.
"""
_MAX_JSON_VALUES = 2**24
"""Largest number of commas in a JSON file that `read_scores` reads."""


def score_rows(board: Board) -> list[dict[str, Any]]:
    """Return the scores of a board as rows with the columns of `SCHEMA`.

    Rows are sorted by task, method and seed.
    """
    scores: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for task, method, seed, score in board.scores.itertuples(index=False):
        scores.setdefault((task, method), []).append((int(seed), float(score)))
    rows: list[dict[str, Any]] = []
    for task, info in board.infos.items():
        for method in sorted(board.methods):
            common = {
                "benchmark": board.benchmark,
                "sweep": board.sweep,
                "protocol": board.protocol,
                "metric": info.metric,
                "metric_version": info.metric_version,
                "data_fingerprint": info.data_fingerprint,
                "task": task,
                "method": method,
            }
            if (task, method) not in scores:
                rows.append({**common, "seed": None, "score": None, "trial_key": None})
                continue
            cell = board.cells.get((task, method))
            trial_keys = cell.trial_keys if cell else {}
            for seed, score in scores[task, method]:
                key = trial_keys.get(seed)
                rows.append({**common, "seed": seed, "score": score, "trial_key": key})
    return rows


def score_frame(board: Board) -> pd.DataFrame:
    """Return `score_rows` as a data frame with the types that `read_scores` returns."""
    return _frame(pa.Table.from_pylist(score_rows(board), schema=SCHEMA))


def _frame(table: Any) -> pd.DataFrame:
    return table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)  # type: ignore[no-any-return]


def read_scores(path: Path) -> pd.DataFrame:
    """Return the scores of a board from a JSON or Parquet export.

    Columns are those of `SCHEMA`. Published scores are left out. Raises UserError if
    the file is not an exported board, and OSError if there is no file or it cannot be
    read.
    """
    with open_regular(path) as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise UserError(
            f"{path} has more than {_MAX_BYTES >> 20} MiB: that is no board"
        )
    try:
        if path.suffix == ".json":
            table = _from_json(content)
        else:
            table = read_bounded(content, [*SCHEMA.names, "kind"])
        if "kind" in table.column_names:  # a Parquet file also holds published scores
            table = table.filter(pc.equal(table["kind"], "own"))
        table = table.select(SCHEMA.names).cast(SCHEMA)
        if table["task"].null_count or table["method"].null_count:
            raise ValueError("a row names no task or method")
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        pa.ArrowException,
    ) as error:
        message = str(error)
        reason = message.splitlines()[0] if message else type(error).__name__
        raise UserError(
            f"{path} is no board of scores ({printable(reason)}): write one with"
            f" `orca-sweep leaderboard NAME -o FILE{path.suffix}`"
        ) from error
    return _frame(table)


def _from_json(content: bytes) -> Any:
    """Return the scores in an exported JSON document as an Arrow table.

    Raises ValueError if it is not an exported board of `VERSION`.
    """
    num_objects = content.count(b"[") + content.count(b"{")
    if num_objects > _MAX_JSON_OBJECTS or content.count(b",") > _MAX_JSON_VALUES:
        raise ValueError(
            f"it has more than {_MAX_JSON_OBJECTS:,} lists and objects, or"
            f" {_MAX_JSON_VALUES:,} values"
        )
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ValueError(f'it has no "kind": {quoted(KIND)}')
    if document.get("version") != VERSION:
        raise ValueError(
            f"it has version {quoted(document.get('version'))}, and this orca-ray reads"
            f" {VERSION}"
        )
    rows: Sequence[dict[str, Any]] = document["scores"]
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


@dataclass(frozen=True)
class Format:
    """A format of leaderboards, and of effects of a grid unless ``effects`` is None.

    Equal boards give equal text or bytes. Text has no line break at the end. Formats
    for people mark the best score of each task, explain the numbers, and escape
    unprintable characters; formats for programs hold numbers in full.
    """

    name: str
    suffix: str
    """Ending of the names of files in this format, e.g. ``.md``."""
    render: Callable[[BoardReport], str | bytes]
    effects: Callable[[Effects], str] | None = None
    same: Callable[[bytes, bytes], bool] = eq
    """Returns whether the contents of two files in this format hold the same board."""


@cache
def all_formats() -> Mapping[str, Format]:
    """Return all formats by name, sorted by name.

    Raises ValueError if two modules declare the same name.
    """
    return declared(Format, "FORMAT", modules(formats))


def render(report: BoardReport | Board, format: str = "table") -> str | bytes:
    """Return a report in the format named ``format``.

    A report with effects is written as its effects, another one as its leaderboard.
    Raises `UserError` if the format is unknown, or if it cannot write effects and the
    report has effects.
    """
    writer = lookup("format", format, all_formats())
    if isinstance(report, Board):
        report = BoardReport(report)
    if report.effects is None:
        return writer.render(report)
    if writer.effects is None:
        allowed = [name for name, entry in all_formats().items() if entry.effects]
        raise UserError(
            f"the effects of a grid cannot be written as {format}: give one of"
            f" {', '.join(allowed)}"
        )
    return writer.effects(report.effects)
