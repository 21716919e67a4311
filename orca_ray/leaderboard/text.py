"""Boards as plain text, from which formats for people are made."""

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from orca_ray.errors import printable
from orca_ray.leaderboard.board import Score
from orca_ray.leaderboard.format import MAX_SEARCH_TRIALS, BoardReport
from orca_ray.leaderboard.statistics import get_statistic, on_boards
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS
from orca_ray.leaderboard.statistics.scores import Over
from orca_ray.leaderboard.statistics.verdict import describe
from orca_ray.leaderboard.training import (
    GRID_TITLE,
    convergence_lines,
    training_grid,
)
from orca_ray.results.record import Status

MISSING = "–"
"""Text in place of a number that there is not."""
Grid = list[list[str]]
"""Rows of the cells of a table, as text; the first row has the titles of columns."""
TIED = "≈"
"""Mark of methods that are not separable from the best one."""
WIDTH = 100
"""Width in characters of wrapped sentences, and of tables before they are split."""


def number(value: float) -> str:
    """Return a number as text, such as 0.1234 or 1.234e-05; a dash for NaN."""
    if math.isnan(value):
        return MISSING
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.4f}"
    return f"{value:.3e}"


def count_text(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 task" or "2 tasks"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def score_text(score: Score, num_seeds: int, between: str) -> str:
    """Return a score such as "0.1234 ± 0.0021 (n=2)".

    ``between`` stands in place of " ± "; n is left out if it is ``num_seeds``.
    """
    if not score.n:
        return MISSING
    text = number(score.mean)
    if score.n > 1:
        text += f"{between}{number(score.std)}"
    if score.n != num_seeds:
        text += f" (n={score.n})"
    return text


def score_grid(report: BoardReport, mark: str, between: str) -> Grid:
    """Return the score table, with rows of statistics below the scores.

    ``mark`` is a format string, such as "**{}**", applied to the best score of a task.
    ``between`` separates mean and standard deviation.
    """
    rows = [["task", *report.methods]]
    rows += [_score_row(report, task, mark, between) for task in report.board.tasks]
    rows += [_statistic_row(report, name) for name in on_boards()]
    return rows


def _score_row(report: BoardReport, task: str, mark: str, between: str) -> list[str]:
    """Return a row of `score_grid`: the name of a task and the score of each method.

    Scores tied with the best one have the mark `TIED`.
    """
    board = report.board
    best = board.best(task)
    row = [task.removeprefix(f"{board.benchmark}/")]
    for method in report.methods:
        text = score_text(board.score(task, method), len(board.seeds), between)
        if method in best:
            text = mark.format(text)
        elif (task, method) in report.tied:
            text = f"{text} {TIED}"
        row.append(text)
    return row


def _statistic_row(report: BoardReport, name: str) -> list[str]:
    """Return a row of `score_grid`: a statistic's title and its value by method."""
    values = report.statistic(name)[["value", "low", "high"]]
    row = [get_statistic(name).title]
    for method, value, low, high in values.itertuples():
        text = _with_interval(value, low, high)
        if name == "mean_rank" and method in report.tied_first:
            text = f"{text} {TIED}"
        row.append(text)
    return row


def column_parts(sizes: Sequence[int], width: int) -> Iterator[slice]:
    """Split a table that is too wide: yield slices of the columns after the first.

    The columns of a slice fit into ``width`` characters beside the first column, which
    each part of the table repeats. ``sizes`` has the width of every column. Columns are
    two spaces apart. A column too wide for ``width`` is alone in its slice.
    """
    start = 1
    while start < len(sizes):
        end = start + 1
        used_width = sizes[0] + 2 + sizes[start]
        while end < len(sizes) and used_width + 2 + sizes[end] <= width:
            used_width += 2 + sizes[end]
            end += 1
        yield slice(start, end)
        start = end


def _with_interval(value: float, low: float, high: float) -> str:
    """Return a statistic such as "1.25 [1, 1.5]".

    The interval is left out if it is NaN.
    """
    if math.isnan(value):
        return MISSING
    if math.isnan(low):
        return _short(value)
    return f"{_short(value)} [{_short(low)}, {_short(high)}]"


def _short(value: float) -> str:
    return f"{value:.2f}".removesuffix(".00")


class _CostColumn(NamedTuple):
    """A column of `cost_grid`."""

    title: str
    field: str
    """Field of `TrialCost`."""
    over_tasks: Over
    """How the costs on single tasks are combined."""
    num_decimals: int


_COSTS = (
    _CostColumn("device s", "device_seconds", "sum", 1),
    _CostColumn("wall s", "wall_seconds", "sum", 1),
    _CostColumn("peak MiB", "peak_memory_mib", "max", 0),
    _CostColumn("trained parameters", "num_trainable", "mean", 0),
)
"""The columns of `cost_grid`."""


class Section(NamedTuple):
    """A table with its title."""

    title: str
    grid: Grid


def cost_grid(report: BoardReport) -> Section | None:
    """Return a table of costs, with a column per kind; None if no cost is known.

    A column is computed on the tasks on which every method has the cost. If these are
    fewer than for the first kind of cost that is known, the column's title says how
    many they are. Methods without any cost are left out.
    """
    columns = [["method", *report.methods]]
    num_tasks = 0
    for column in _COSTS:
        costs = _costs(report, column)
        num_tasks_of_column = 0
        if costs["value"].notna().any():
            num_tasks_of_column = int(costs["num_tasks"].max())
        if num_tasks == 0:
            num_tasks = num_tasks_of_column
        title = column.title
        if num_tasks_of_column not in (0, num_tasks):
            title += f" ({num_tasks_of_column} of {num_tasks} tasks)"
        texts = [_cost_text(value, column.num_decimals) for value in costs["value"]]
        columns.append([title, *texts])
    if num_tasks == 0:
        return None
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Section(
        f"cost of one scored trial on each of {count_text(num_tasks, 'task')} (mean"
        " over seeds; seconds are summed over tasks, memory is the largest, parameters"
        " are averaged)",
        [row for row in rows if set(row[1:]) != {MISSING}],
    )


def training_section(report: BoardReport) -> Section | None:
    """Return the table of how long methods trained; None if none has a curve."""
    if not report.trainings:
        return None
    return Section(GRID_TITLE, training_grid(report.trainings))


def _costs(report: BoardReport, column: _CostColumn) -> pd.DataFrame:
    """Return the costs of the kind that ``column`` shows, by method.

    They are combined over tasks (the statistic "cost"). NaN if unknown.
    """
    costs = [
        (task, method, getattr(cell.cost, column.field))
        for (task, method), cell in report.board.cells.items()
    ]
    known_costs = pd.DataFrame(costs, columns=["task", "method", "cost"]).dropna()
    statistic = get_statistic("cost").compute(known_costs, over_tasks=column.over_tasks)
    return statistic.reindex(list(report.methods))


def _cost_text(value: float, num_decimals: int) -> str:
    return MISSING if math.isnan(value) else f"{value:,.{num_decimals}f}"


def titles(report: BoardReport) -> tuple[str, str]:
    """Return the title of a leaderboard, and a line that explains its scores."""
    board = report.board
    if not board.tasks:
        return (
            board.benchmark,
            f"nothing ran here yet: `orca-sweep benchmark {board.benchmark}` does",
        )
    seeds = ", ".join(map(str, board.seeds))
    if len(board.seeds) > 1:
        averaged = f"mean ± std over seeds {seeds}"
    elif seeds:
        averaged = f"seed {seeds}"
    else:
        averaged = "no confirm trial finished"
    title = f"{board.benchmark}: sweep {board.sweep}, protocol {board.protocol}"
    return title, f"test scores, lower is better; {averaged}"


def footer(report: BoardReport) -> list[str]:
    """Return the sentences below a leaderboard."""
    board = report.board
    lines = list(board.warnings)
    if board.tasks:
        lines = [
            *_coverage_lines(report),
            *_comparison_lines(report),
            *_tie_lines(report),
            *convergence_lines(report.trainings),
            *_missing_score_lines(report),
            *_status_lines(report),
            *board.notes,
            *_other_sweep_lines(report),
            *board.warnings,
        ]
    return lines


def _coverage_lines(report: BoardReport) -> Iterator[str]:
    """Yield sentences about the tasks and methods that a board's statistics use."""
    board = report.board
    scored_methods = report.scores.methods
    unranked = [name for name in scored_methods if name not in report.ranking.methods]
    if unranked:
        exception = f" but {', '.join(unranked)}, on less than half of the tasks"
    elif set(scored_methods) < set(board.methods):
        exception = " that has any"
    else:
        exception = ""
    yield (
        f"mean rank and wins use the {len(report.common_tasks)} of {len(board.tasks)}"
        f" tasks with scores of every method{exception}"
    )
    if report.common_tasks:
        yield (
            "in brackets: 95% interval over tasks, Student's of mean ranks, Clopper and"
            " Pearson's of wins"
        )


def _tie_lines(report: BoardReport) -> Iterator[str]:
    """Yield what the mark of ties means, and what was left out on request."""
    if report.tied_first or report.tied:
        yield (
            f"{TIED} not separable from the best of the task (by noise over seeds) or"
            " from the first by mean rank"
        )
    if report.left_out:
        yield f"left out on request, and out of all ranks: {', '.join(report.left_out)}"


def _missing_score_lines(report: BoardReport) -> Iterator[str]:
    """Yield which methods lack scores; methods that lack the same share a sentence."""
    board = report.board
    methods_by_scored: dict[tuple[bool, ...], list[str]] = {}
    for method in report.methods:
        is_scored = tuple(bool(board.score(task, method).n) for task in board.tasks)
        methods_by_scored.setdefault(is_scored, []).append(method)
    short_names = [task.removeprefix(f"{board.benchmark}/") for task in board.tasks]
    for is_scored, methods in methods_by_scored.items():
        scored = [task for task, has in zip(short_names, is_scored, strict=True) if has]
        missing = [
            task for task, has in zip(short_names, is_scored, strict=True) if not has
        ]
        if 0 < len(scored) < len(missing):
            yield f"scores of {', '.join(methods)} only on {', '.join(scored)}"
        elif missing:
            yield f"no score of {', '.join(methods)}: {', '.join(missing)}"


def _status_lines(report: BoardReport) -> Iterator[str]:
    """Yield how many trials ended with each status, and the failures by method."""
    board = report.board
    counts = {
        status: sum(board.count(method, status) for method in board.methods)
        for status in Status
    }
    yield f"trials by status: {statuses_text(counts)}"
    for method in report.methods:
        failures = statuses_text(
            {status: board.count(method, status) for status in Status if status.failed}
        )
        if failures:
            yield f"failed trials of {method}: {failures}"


def statuses_text(counts: Mapping[Status, int]) -> str:
    """Return the counts of trials that are not 0, such as "completed 3, lost 1"."""
    return ", ".join(
        f"{status.value} {count}" for status, count in counts.items() if count
    )


def _other_sweep_lines(report: BoardReport) -> Iterator[str]:
    """Yield which other sweeps of the benchmark have results that are not shown."""
    for other in report.board.others:
        yield (
            f"also in the store: sweep {other.sweep}, protocol {other.protocol},"
            f" {other.confirmed} completed confirm trial(s)"
        )


def _comparison_lines(report: BoardReport) -> Iterator[str]:
    """Yield the sentences about pairs of methods and the answers to questions."""
    ranked = list(report.statistic("mean_rank")["value"].dropna().index)
    if len(ranked) > 1:
        first, second = map(str, ranked[:2])
        row = {
            str(name): column.loc[(first, second)]
            for name, column in report.verdicts.items()
        }
        sentence = describe(first, second, row).removesuffix(".")
        yield f"first and second by mean rank: {sentence}"
    tested = report.verdicts[report.verdicts["p"].notna()]
    if len(tested):
        # Halved because the table has each pair of methods in both orders.
        num_separable = int(tested["separable"].sum()) // 2
        limit = ""
        if len(report.common_tasks) < MIN_TASKS:
            limit = ", for these tasks only"
        yield (
            f"separable pairs of methods: {num_separable} of {len(tested) // 2} (paired"
            f" test of log ratios, 5% level over all pairs by Holm{limit})"
        )
    yield from _answer_lines(report)


def _answer_lines(report: BoardReport) -> Iterator[str]:
    """Yield the sentences of `BoardReport.answers`, such as whether aligning helped."""
    # The adjusted p value of a question that was not tested is NaN.
    num_tests = sum(not math.isnan(answer.adjusted_p) for answer in report.answers)
    if num_tests > 1:
        yield (
            f"{num_tests} questions are answered at the 5% level over all of them"
            " (Holm); intervals are not adjusted"
        )
    num_of_question = Counter[str]()
    for answer in report.answers:
        num_of_question[answer.name] += 1
        # Answers about searching with single methods are in the formats for programs.
        if answer.name != "searching" or num_of_question["searching"] == 1:
            yield answer.sentence.removesuffix(".")
    if report.read_searches and report.searches is None:
        yield (
            f"Did searching help? Not computed: there are more than {MAX_SEARCH_TRIALS}"
            " search trials"
        )


def published_grids(report: BoardReport, mark: str) -> list[Section]:
    """Return the tables of published results.

    ``mark`` is a format string, such as "**{}**", applied to the best scores. The table
    with own scores beside published ones comes first.
    """
    published = report.published
    if published is None:
        return []
    benchmark = report.board.benchmark
    tables = list(published.tables)
    if published.beside:
        tables.insert(0, published.beside)
    return [
        Section(table.heading(benchmark), table.grid(benchmark, mark))
        for table in tables
    ]


def published_footer(report: BoardReport) -> list[str]:
    """Return the sentences below the published tables."""
    published = report.published
    if published is None or not published.rows:
        return []
    lines = [
        f"{count} published score(s) not beside own ones: {why}"
        for why, count in published.reasons.items()
    ]
    return [*lines, *published.notes]


def metrics_text(metrics: Mapping[str, str], benchmark: str) -> str:
    """Return a line that names the metric of each task.

    Tasks with the same metric are grouped.
    """
    tasks: dict[str, list[str]] = {}
    for task, metric in metrics.items():
        tasks.setdefault(metric, []).append(task.removeprefix(f"{benchmark}/"))
    if len(tasks) == 1:
        return f"metric: {next(iter(tasks))}"
    return "metrics: " + "; ".join(
        f"{metric} ({', '.join(names)})" for metric, names in tasks.items()
    )


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """Return the lines of a text, wrapped at ``width``; all but the first are indented.

    Unprintable characters are escaped.
    """
    return textwrap.wrap(
        printable(text),
        width,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
