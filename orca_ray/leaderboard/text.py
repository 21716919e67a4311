"""Boards and effects as plain text."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from string import Template

import pandas as pd

from orca_ray.errors import printable
from orca_ray.leaderboard.board import Score
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.format import MAX_SEARCH_TRIALS, BoardReport
from orca_ray.leaderboard.statistics import get_statistic, on_boards
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS
from orca_ray.leaderboard.statistics.paired import Ratio
from orca_ray.leaderboard.statistics.verdict import describe
from orca_ray.results.record import Status

MISSING = "–"
TIED = "≈"
"""Mark of methods that are not separable from the best one."""
WIDTH = 100
"""Width in characters of wrapped sentences, and of tables before they are split."""


def number(value: float) -> str:
    """Return a number as text, such as 0.1234 or 1.234e-05; a dash for NaN."""
    if math.isnan(value):
        return MISSING
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.3e}"


def score_text(score: Score, num_seeds: int, between: str) -> str:
    """Return a score such as "0.1234 ± 0.0021 (n=2)".

    ``between`` stands in place of " ± "; n is left out if it is ``num_seeds``.
    """
    if not score.n:
        return MISSING
    text = (
        number(score.mean)
        if score.n == 1
        else f"{number(score.mean)}{between}{number(score.std)}"
    )
    return text if score.n == num_seeds else f"{text} (n={score.n})"


def score_grid(report: BoardReport, mark: str, between: str) -> list[list[str]]:
    """Return the rows of the score table as text.

    ``mark`` formats best scores, ``between`` separates mean and std.
    """
    board = report.board
    grid = [["task", *report.methods]]
    for task in board.tasks:
        best = board.best(task)
        cells = {
            m: score_text(board.score(task, m), len(board.seeds), between)
            for m in report.methods
        }
        tied = {method for of, method in report.tied if of == task} - {*best}
        scores = (
            mark.format(s) if m in best else f"{s} {TIED}" if m in tied else s
            for m, s in cells.items()
        )
        grid.append([task.removeprefix(f"{board.benchmark}/"), *scores])
    for name in on_boards():
        rows = report.statistic(name)[["value", "low", "high"]].itertuples()
        tied = report.tied_first if name == "mean_rank" else set()
        cells = {str(method): _with_interval(*row) for method, *row in rows}
        grid.append(
            [
                get_statistic(name).title,
                *(f"{s} {TIED}" if m in tied else s for m, s in cells.items()),
            ]
        )
    return grid


def column_parts(sizes: Sequence[int], width: int) -> Iterator[slice]:
    """Yield slices of the columns after the first that fit beside it into ``width``.

    Columns are two spaces apart.
    """
    start = 1
    while start < len(sizes):
        end = start + 1
        used = sizes[0] + 2 + sizes[start]
        while end < len(sizes) and used + 2 + sizes[end] <= width:
            used += 2 + sizes[end]
            end += 1
        yield slice(start, end)
        start = end


def _with_interval(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return MISSING
    text, *ends = (f"{each:.2f}".removesuffix(".00") for each in (value, low, high))
    return text if math.isnan(low) else f"{text} [{', '.join(ends)}]"


_COSTS = (
    ("device s", "device_seconds", "sum", 1),
    ("wall s", "wall_seconds", "sum", 1),
    ("peak MiB", "peak_memory_mib", "max", 0),
    ("trained parameters", "num_trainable", "mean", 0),
)
"""Title, field of `TrialCost`, how tasks are combined, and number of decimals of each
column of `cost_grid`.
"""


def cost_grid(report: BoardReport) -> tuple[str, list[list[str]]] | None:
    """Return the title and the rows of a table of costs; None if no cost is known.

    The table has a column per kind of cost. A column is computed on the tasks on which
    every method has the cost. If these are fewer than for the first kind of cost that
    is known, the column's title says how many they are. Methods without any cost are
    left out.
    """
    columns = [["method", *report.methods]]
    most = 0
    for title, name, over_tasks, digits in _COSTS:
        found = [
            (*key, getattr(cell.cost, name)) for key, cell in report.board.cells.items()
        ]
        known = pd.DataFrame(found, columns=["task", "method", "cost"]).dropna()
        costs = (
            get_statistic("cost")
            .compute(known, over_tasks=over_tasks)
            .reindex(list(report.methods))
        )
        values: list[float] = costs["value"].tolist()
        num = 0 if costs["value"].isna().all() else int(costs["num_tasks"].max())
        most = most or num
        cells = [
            MISSING if math.isnan(value) else f"{value:,.{digits}f}" for value in values
        ]
        columns.append(
            [title if num in (0, most) else f"{title} ({num} of {most} tasks)", *cells]
        )
    if not most:
        return None
    grid = [
        list(row) for row in zip(*columns, strict=True) if set(row[1:]) != {MISSING}
    ]
    where = f"{most} task{'s' if most != 1 else ''}"
    about = (
        "mean over seeds; seconds are summed over tasks, memory is the largest,"
        " parameters are averaged"
    )
    return f"cost of one scored trial on each of {where} ({about})", grid


def titles(report: BoardReport) -> tuple[str, str]:
    """Return the title of a leaderboard, and a line that explains its scores."""
    board = report.board
    if not board.tasks:
        return (
            board.benchmark,
            f"nothing ran here yet: `orca-sweep benchmark {board.benchmark}` does",
        )
    seeds = ", ".join(map(str, board.seeds))
    scored = (
        f"mean ± std over seeds {seeds}" if len(board.seeds) > 1 else f"seed {seeds}"
    )
    title = f"{board.benchmark}: sweep {board.sweep}, protocol {board.protocol}"
    return (
        title,
        (
            "test scores, lower is better;"
            f" {scored if seeds else 'no confirm trial finished'}"
        ),
    )


def footer(report: BoardReport) -> list[str]:
    """Return the sentences below a leaderboard."""
    board = report.board
    return [*(_own_lines(report) if board.tasks else ()), *board.warnings]


def _own_lines(report: BoardReport) -> Iterator[str]:
    board = report.board
    few = [
        method
        for method in report.scores.methods
        if method not in report.ranking.methods
    ]
    but = f" but {', '.join(few)}, on less than half of the tasks" if few else ""
    yield (
        f"mean rank and wins use the {len(report.common_tasks)} of {len(board.tasks)}"
        " tasks with scores of every method"
        + (
            but
            or (
                " that has any"
                if set(report.scores.methods) < set(board.methods)
                else ""
            )
        )
    )
    if report.common_tasks:
        yield (
            "in brackets: 95% interval over tasks, Student's of mean ranks, Clopper and"
            " Pearson's of wins"
        )
    yield from _verdict(report)
    if report.tied_first or report.tied:
        yield (
            f"{TIED} not separable from the best of the task (by noise over seeds) or"
            " from the first by mean rank"
        )
    if report.left_out:
        yield f"left out on request, and out of all ranks: {', '.join(report.left_out)}"
    alike: dict[tuple[bool, ...], list[str]] = {}
    for method in report.methods:
        alike.setdefault(
            tuple(bool(board.score(task, method).n) for task in board.tasks), []
        ).append(method)
    for scored, methods in alike.items():
        on_few = (
            0 < 2 * sum(scored) < len(scored)
        )  # then the tasks with scores are the shorter list
        tasks = [
            task for task, has in zip(board.tasks, scored, strict=True) if has == on_few
        ]
        if named := [task.removeprefix(f"{board.benchmark}/") for task in tasks]:
            start = (
                f"scores of {', '.join(methods)} only on"
                if on_few
                else f"no score of {', '.join(methods)}:"
            )
            yield f"{start} {', '.join(named)}"
    totals = {
        status.value: sum(board.count(m, status) for m in board.methods)
        for status in Status
    }
    yield (
        "trials by status:"
        f" {', '.join(f'{status} {count}' for status, count in totals.items() if count)}"
    )
    for method in report.methods:
        failed = {
            status.value: board.count(method, status)
            for status in Status
            if status.failed
        }
        if counts := ", ".join(
            f"{status} {count}" for status, count in failed.items() if count
        ):
            yield f"failed trials of {method}: {counts}"
    yield from board.notes
    for o in board.others:
        yield (
            f"also in the store: sweep {o.sweep}, protocol {o.protocol}, {o.confirmed}"
            " completed confirm trial(s)"
        )


def _verdict(report: BoardReport) -> Iterator[str]:
    """Yield the sentences about pairs of methods and the answers to questions."""
    ranked = [
        str(name) for name in report.statistic("mean_rank")["value"].dropna().index
    ]
    if len(ranked) > 1:
        row = {
            str(name): values.loc[(ranked[0], ranked[1])]
            for name, values in report.verdicts.items()
        }
        yield (
            "first and second by mean rank:"
            f" {describe(ranked[0], ranked[1], row).removesuffix('.')}"
        )
    tested = report.verdicts[report.verdicts["p"].notna()]
    if len(tested):
        few = "" if len(report.common_tasks) >= MIN_TASKS else ", for these tasks only"
        yield (
            f"separable pairs of methods: {int(tested['separable'].sum()) // 2} of"
            f" {len(tested) // 2} (paired test of log ratios, 5% level over all pairs"
            f" by Holm{few})"
        )
    tests = sum(not math.isnan(answer.adjusted_p) for answer in report.answers)
    if tests > 1:
        yield (
            f"{tests} questions are answered at the 5% level over all of them (Holm);"
            " intervals are not adjusted"
        )
    searching = [answer for answer in report.answers if answer.name == "searching"]
    for answer in report.answers:
        if (
            answer not in searching[1:]
        ):  # those of single methods are in the formats for programs
            yield answer.sentence.removesuffix(".")
    if report.read_searches and report.searches is None:
        yield (
            f"Did searching help? Not computed: there are more than {MAX_SEARCH_TRIALS}"
            " search trials"
        )


def published_grids(
    report: BoardReport, mark: str
) -> list[tuple[str, list[list[str]]]]:
    """Return heading and rows of each table of published results.

    ``mark`` formats the best scores.
    """
    published = report.published
    benchmark = report.board.benchmark
    tables = (
        []
        if published is None
        else [*([published.beside] if published.beside else []), *published.tables]
    )
    return [(table.heading(benchmark), table.grid(benchmark, mark)) for table in tables]


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
    """Return a text's lines of at most ``width``, the first not indented.

    Unprintable characters are escaped.
    """
    return textwrap.wrap(
        printable(text),
        width,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _ratio(value: float) -> str:
    return (
        MISSING
        if math.isnan(value)
        else f"{value:.2f}"
        if 0.1 <= value < 100
        else f"{value:.2g}"
    )


def _interval(ratio: Ratio) -> str:
    text = _ratio(ratio.value)
    return (
        text
        if math.isnan(ratio.low)
        else f"{text} [{_ratio(ratio.low)}, {_ratio(ratio.high)}]"
    )


def _on_task(ratio: Ratio | None, *, beyond: bool) -> str:
    """Format the ratio on one task: bold if better beyond noise, italic if worse."""
    if ratio is None:
        return MISSING
    mark = "" if not beyond else "**" if ratio.value < 1 else "*"
    return f"{mark}{_ratio(ratio.value)}{mark}"


def effects_sections(
    effects: Effects, *, full: bool
) -> Iterator[tuple[str, list[list[str]], int]]:
    """Yield for each table of effects: title, rows of text (column titles first),
    number of leading columns of names.

    ``full`` adds ratios on single tasks, and effects over the cells with one level of
    each of several other factors.
    """
    tasks = {
        task: task.removeprefix(f"{effects.benchmark}/") for task in effects.metrics
    }
    for factor, (baseline, *_) in effects.factors.items():
        rows = [
            [
                "level",
                "given",
                "ratio [95%]",
                "better",
                "worse",
                "pairs",
                *(tasks.values() if full else ()),
            ]
        ]
        for each in effects.comparisons:
            if list(each.changed) == [factor] and (full or len(each.given) < 2):
                clear = each.beyond_noise
                counts = [
                    str(each.better),
                    str(each.worse),
                    f"{each.pairs}/{each.planned}",
                ]
                given = (
                    ", ".join(f"{other} {level}" for other, level in each.given.items())
                    or "all"
                )
                on_tasks = (
                    [
                        _on_task(each.tasks.get(task), beyond=task in clear)
                        for task in tasks
                    ]
                    if full
                    else []
                )
                rows.append(
                    [
                        each.levels[factor],
                        given,
                        _interval(each.ratio),
                        *counts,
                        *on_tasks,
                    ]
                )
        if len(rows) > 1:
            yield f"Effect of {factor}, relative to {baseline}", rows, 2
    for one, two in combinations(effects.factors, 2):
        title = (
            f"{one} and {two}, relative to {effects.factors[one][0]},"
            f" {effects.factors[two][0]}"
        )
        yield title, _crossed(effects, one, two), 1
    names = list(effects.factors)
    rows = [[*names, *tasks.values()]]
    for index, cell in enumerate(effects.cells):
        scores = (effects.scores[task, index] for task in tasks)
        texts = [
            score_text(score, len(effects.seeds), " ± " if full else "±")
            for score in scores
        ]
        rows.append([*(cell.get(name, MISSING) for name in names), *texts])
    yield (
        (
            "Test scores, mean ± standard deviation over seeds"
            f" {', '.join(map(str, effects.seeds))}"
        ),
        rows,
        len(names),
    )


def _crossed(effects: Effects, one: str, two: str) -> list[list[str]]:
    """Return the table of two factors: ratios to the cell of both baselines.

    Rows are levels of the first factor, columns are levels of the second.
    """
    base = {one: effects.factors[one][0], two: effects.factors[two][0]}
    rows = [[f"{one} \\ {two}", *effects.factors[two]]]
    for level in effects.factors[one]:
        found = [
            effects.find({one: level, two: other}, base)
            for other in effects.factors[two]
        ]
        texts = [MISSING if each is None else _interval(each.ratio) for each in found]
        rows.append([level, *(["1", *texts[1:]] if level == base[one] else texts)])
    return rows


def effects_title(effects: Effects) -> str:
    """Return the title of the tables of effects: benchmark, sweep and protocol."""
    return f"{effects.benchmark}: sweep {effects.sweep}, protocol {effects.protocol}"


def effects_footer(effects: Effects) -> list[str]:
    """Return the sentences below the tables of effects, from ``effects.txt``."""
    found = sum(score.n for score in effects.scores.values())
    few = "interval of the noise over seeds, which holds for these few tasks only"
    values = {
        "interval": (
            few
            if len(effects.metrics) < MIN_TASKS
            else "interval over tasks (Student's)"
        ),
        "intervals": len(effects.comparisons),
        "metrics": metrics_text(effects.metrics, effects.benchmark),
        "found": found,
        "missing": len(effects.scores) * len(effects.seeds) - found,
        "trials": ", ".join(
            f"{status.value} {count}"
            for status, count in effects.statuses.items()
            if count
        ),
    }
    lines = (
        Path(__file__).with_name("effects.txt").read_text(encoding="utf-8").splitlines()
    )
    return [*(Template(line).substitute(values) for line in lines), *effects.notes]
