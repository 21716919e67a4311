"""Reports, and the formats that write them.

A report is a board with everything that is written beside the board. Each module of
`formats` declares a `Format` as ``FORMAT``, or several as ``FORMATS``.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
from orca_ray.leaderboard.statistics.paired import LogScores, QuestionAnswer, answers
from orca_ray.leaderboard.statistics.table import Shape
from orca_ray.paths import open_regular

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
    read_curves: Callable[[], pd.DataFrame] | None = None
    """Reads the learning curves of the board's sweep; see `ResultsStore.curves`."""
    read_records: Callable[[], pd.DataFrame] | None = None
    """Reads the records of the board's sweep, for the page; see `ResultsStore.records`."""
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
        """The learning curves; None without ``read_curves``."""
        return self.read_curves() if self.read_curves else None

    @cached_property
    def searches(self) -> pd.DataFrame | None:
        """The search trials; None without ``read_searches``, or if there are too many."""
        return self.read_searches() if self.read_searches else None

    @cached_property
    def answers(self) -> list[QuestionAnswer]:
        """Answers to the questions of `answers`, such as whether aligning helped."""
        return answers(self.scores, self.searches)

    @cached_property
    def scores(self) -> ScoreTable:
        """The score table as arrays, shared by all statistics."""
        return ScoreTable.of(self.board.scores)

    @cached_property
    def ranking(self) -> ScoreTable:
        """The scores of the ranked methods.

        A ranked method has scores on at least half of the tasks.
        """
        on_M = (self.scores.num_seeds_TM > 0).sum(axis=0)
        kept = np.flatnonzero(2 * on_M >= len(self.scores.tasks))
        methods = tuple(self.scores.methods[m] for m in kept)
        return ScoreTable(self.scores.tasks, methods, self.scores.scores_TMS[:, kept])

    def statistic(self, name: str) -> pd.DataFrame:
        """Return the frame of a statistic of `on_boards`: a row for each method.

        The values of a method without a rank are NaN.
        """
        return self._statistics[name]

    @cached_property
    def _statistics(self) -> dict[str, pd.DataFrame]:
        found = {
            name: _rounded(get_statistic(name).compute(self.ranking))
            for name in on_boards()
        }
        order = (
            found["mean_rank"]["value"]
            .reindex(list(self.board.methods))
            .sort_values(kind="stable")
            .index
        )
        return {name: values.reindex(order) for name, values in found.items()}

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, lowest mean rank first; those without a rank come last."""
        return tuple(map(str, self.statistic("mean_rank").index))

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """The statistic ``verdict``: a row for each ordered pair of methods with scores."""
        return _rounded(get_statistic("verdict").compute(self.scores))

    @cached_property
    def tied(self) -> set[tuple[str, str]]:
        """Pairs of a task and a method that `LogScores.tied_TM` ties with the best."""
        tied_TM = (
            LogScores.of(self.scores).tied_TM if self.scores.tasks else np.zeros((0, 0))
        )
        return {
            (self.scores.tasks[t], self.scores.methods[m])
            for t, m in np.argwhere(tied_TM)
        }

    @cached_property
    def tied_first(self) -> set[str]:
        """The methods that the verdicts do not separate from the first by mean rank."""
        ranked = self.statistic("mean_rank")["value"].dropna().index
        return {
            str(name)
            for name in ranked[1:]
            if self.verdicts.loc[(ranked[0], name), "adjusted_p"] > LEVEL
        }

    def statistics(self, *shapes: Shape) -> dict[str, pd.DataFrame]:
        """Return the frames of the statistics that have one of ``shapes``, by name.

        Only statistics that need nothing but scores are computed.
        """
        return {
            name: _rounded(
                each.compute(
                    self.scores if each.shape in ("cell", "pair") else self.ranking
                )
            )
            for name, each in all_statistics().items()
            if each.inputs == ("scores",) and each.shape in shapes
        }

    @property
    def common_tasks(self) -> tuple[str, ...]:
        """Tasks on which every method of `ranking` has a score."""
        return self.ranking.common.tasks

    @property
    def published_scores(self) -> list[PublishedRow]:
        """The published rows that have a score."""
        return (
            [row for row in self.published.rows if row.score is not None]
            if self.published
            else []
        )

    def validation_curves(self, task: str) -> dict[str, list[float]]:
        """Return the validation score of each refine epoch by method, mean over seeds.

        Methods without a learning curve are left out.
        """
        found = {}
        for method in self.methods:
            cell = self.board.cells.get((task, method))
            keys = cell.trial_keys.values() if cell else ()
            if curves := [
                self._validation[key] for key in keys if key in self._validation
            ]:
                found[method] = [
                    float(value)
                    for value in pd.concat(curves, axis=1).sort_index().mean(axis=1)
                ]
        return found

    @cached_property
    def _validation(self) -> dict[str, pd.Series]:
        """Validation score by refine epoch of each trial that has a curve."""
        if self.curves is None:
            return {}
        rows = self.curves[
            (self.curves["stage"] == "refine") & self.curves["validation_score"].notna()
        ]
        return {
            str(key): group.set_index("epoch")["validation_score"]
            for key, group in rows.groupby("trial_key")
        }


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    floats = {
        str(name): column for name, column in frame.select_dtypes("float").items()
    }
    return frame.assign(
        **{
            name: [float(f"{v:.{_DIGITS}g}") for v in column]
            for name, column in floats.items()
        }
    )


def subset(
    board: Board, tasks: Sequence[str] | None, methods: Sequence[str] | None
) -> tuple[Board, tuple[str, ...]]:
    """Return the board with some tasks and methods (None: all), and what is left out.

    The latter are the names of tasks and methods. A task may be given without the name
    of its benchmark. Raises UserError for a name that the board does not have.
    """
    kept = tuple(_chosen("task", tasks, board.tasks, f"{board.benchmark}/"))
    columns = tuple(_chosen("method", methods, board.methods))
    scores = board.scores[
        board.scores["task"].isin(kept) & board.scores["method"].isin(columns)
    ]
    chosen = replace(
        board,
        infos={task: board.infos[task] for task in kept},
        methods=columns,
        scores=scores.reset_index(drop=True),
        cells={
            (t, m): cell
            for (t, m), cell in board.cells.items()
            if t in kept and m in columns
        },
    )
    return chosen, tuple(
        each for each in (*board.tasks, *board.methods) if each not in {*kept, *columns}
    )


def _chosen(
    kind: str, wanted: Sequence[str] | None, known: Sequence[str], prefix: str = ""
) -> Iterator[str]:
    """Yield the requested names (None: all), in the order of ``available``."""
    full = {each if each in known else f"{prefix}{each}" for each in wanted or known}
    if unknown := sorted(full - set(known)):
        raise unknown_name(kind, unknown[0], known, "These have records in this sweep.")
    return (each for each in known if each in full)


KIND = "orca-ray board"
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
_MAX_BYTES = 1 << 30


def score_rows(board: Board) -> list[dict[str, Any]]:
    """Return the scores of a board as rows with the columns of `SCHEMA`.

    Rows are sorted by task, method and seed.
    """
    common = {
        "benchmark": board.benchmark,
        "sweep": board.sweep,
        "protocol": board.protocol,
    }
    scores: dict[tuple[str, str], list[tuple[int | None, float | None]]] = {}
    for task, method, seed, score in board.scores.itertuples(index=False):
        scores.setdefault((str(task), str(method)), []).append(
            (int(seed), float(score))
        )
    rows = []
    for task, info in board.infos.items():
        of_task = {
            name: getattr(info, name)
            for name in ("metric", "metric_version", "data_fingerprint")
        }
        for method in sorted(board.methods):
            cell = board.cells.get((task, method))
            for seed, score in scores.get((task, method), [(None, None)]):
                key = (
                    None if cell is None or seed is None else cell.trial_keys.get(seed)
                )
                row = {
                    "task": task,
                    "method": method,
                    "seed": seed,
                    "score": score,
                    "trial_key": key,
                }
                rows.append({**common, **of_task, **row})
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
            f"{path} has more than {_MAX_BYTES >> 30} GiB: that is no board"
        )
    try:
        table = (
            _from_json(content)
            if path.suffix == ".json"
            else pq.read_table(pa.BufferReader(content))
        )
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
        why = printable(
            str(error).splitlines()[0] if str(error) else type(error).__name__
        )
        raise UserError(
            f"{path} is no board of scores ({why}): write one with `orca-sweep"
            f" leaderboard NAME -o FILE{path.suffix}`"
        ) from error
    return _frame(table)


def _from_json(content: bytes) -> Any:
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
    found = lookup("format", format, all_formats())
    report = BoardReport(report) if isinstance(report, Board) else report
    if report.effects is None:
        return found.render(report)
    if found.effects is None:
        allowed = ", ".join(
            name for name, each in all_formats().items() if each.effects
        )
        raise UserError(
            f"the effects of a grid cannot be written as {format}: give one of"
            f" {allowed}"
        )
    return found.effects(report.effects)
