"""The text and the picture of docs/findings.md.

``python -m benchmarks.findings_page cabinet --results DIR`` prints the text; ``make
boards`` writes both. A task counts for a question when both sides have a score of every
planned seed. With ``--bodies``, the text is about bodies with different pretraining.
"""

# ruff: noqa: T201 - a benchmark prints its text

import argparse
import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import special
from scipy.stats import gmean

from benchmarks import bodies, forest_plot, searches
from benchmarks.findings import (
    ON_BASELINES,
    QUESTIONS,
    REFERENCE,
    Data,
    Mask,
    Question,
    Study,
    answers,
    by_doubling,
    by_samples,
    over_tasks,
    ratio_text,
)
from benchmarks.regression import Estimate, mean
from benchmarks.searches import (
    BASELINES,
    BEST_BASELINE,
    BEST_TRANSFORMER,
    TRANSFORMERS,
    TYPICAL_BASELINE,
    label,
)
from orca_ray.errors import UserError
from orca_ray.leaderboard import build
from orca_ray.leaderboard.board import Board, BoardCell
from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.leaderboard.statistics.intervals import LEVEL, MIN_TASKS
from orca_ray.leaderboard.statistics.paired import Comparison
from orca_ray.leaderboard.statistics.table import Floats
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.loading import load_spec
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.tasks.registry import get_task, known_tasks

KINDS = {
    "time series": "series",
    "spectrum": "spectra, sequences",
    "DNA": "spectra, sequences",
    "radar": "spectra, sequences",
    "image": "images",
    "tabular": "tables",
    "pde": "fields",
}
"""Kind of data by the domain that a task declares."""
DISTANCE = "l2"
"""Distance that ``orca`` minimises on the tasks whose distances are compared.

Other distances have other units.
"""
PLANNED = 41
"""Number of tasks of the study, for which the width of intervals is predicted."""
WANTED = 0.08
"""How far above its ratio an interval should reach, as a share of the ratio."""
MOST_TASKS = 10_000
"""Largest number of tasks that is given for an interval of this width."""
COMPARED = tuple(dict.fromkeys(question.sides for question in QUESTIONS))
"""Pairs of methods of the questions: columns of the tables."""


@dataclass(frozen=True)
class Found:
    """A study that was read from a store."""

    board: Board
    study: Study
    validation_TM: Floats
    """Mean validation scores of the candidates of searches; NaN for no candidate."""


def read(benchmark: str, store: ResultsStore) -> Found:
    """Return the study of a benchmark in a store.

    Raises the errors of `build` and `load_spec`, and UserError if there is no test
    score.
    """
    records = store.records()
    board = build(records, benchmark=benchmark)
    if board.scores.empty:
        raise UserError(
            f"no confirm trial of {benchmark} has a test score yet: continue"
            f" `orca-sweep benchmark {benchmark}`"
        )
    spec = load_spec(benchmark, budget=board.sweep.partition("/")[2])
    trials = records[records["sweep"] == board.sweep]
    validation = dict(zip(trials["trial_key"], trials["validation_score"], strict=True))
    distances = dict(zip(trials["trial_key"], trials["distance_before"], strict=True))
    table = _score_table(board, spec)
    validation_TM = _validation(board, spec, table, validation)
    study = Study(
        table,
        _properties(board, store, distances),
        searches.sides(validation_TM, table.methods),
    )
    return Found(board, study, validation_TM)


def _score_table(board: Board, spec: SweepSpec) -> ScoreTable:
    """Return the scores of the methods and tasks that have every planned seed."""
    table = board.table
    complete = _complete(board, spec)
    is_complete_TM = np.array(
        [
            [(task, method) in complete for method in table.methods]
            for task in table.tasks
        ]
    )
    scores_TMS = np.where(is_complete_TM[:, :, None], table.scores_TMS, np.nan)
    return replace(table, scores_TMS=scores_TMS)


def _validation(
    board: Board, spec: SweepSpec, table: ScoreTable, scores: dict[str, float]
) -> Floats:
    """Return the mean validation scores [T, M] of the candidates of searches.

    They are NaN for all methods of a family on a task where a planned one has no scores
    of every seed yet, or has diverged. ``scores`` are validation scores by trial key.
    """
    complete = _complete(board, spec)
    pairs = {*spec.pairs, *board.cells}
    means_TM = np.full((len(table.tasks), len(table.methods)), np.nan)
    for t, task in enumerate(table.tasks):
        for family in (TRANSFORMERS, BASELINES):
            planned = [method for method in family if (task, method) in pairs]
            if any((task, method) not in complete for method in planned):
                continue
            means = [
                _mean_score(board.cells[task, method], spec, scores)
                for method in planned
            ]
            if np.isfinite(means).all():
                columns = [table.methods.index(method) for method in planned]
                means_TM[t, columns] = means
    return means_TM


def _mean_score(cell: BoardCell, spec: SweepSpec, scores: dict[str, float]) -> float:
    """Return the mean score of the planned seeds of a cell of a board."""
    keys = cell.trial_keys
    return float(np.mean([scores[keys[seed]] for seed in spec.confirm_seeds]))


def _properties(
    board: Board, store: ResultsStore, distances: dict[str, float | None]
) -> Data:
    """Return the properties of the tasks of a board."""
    tasks = [get_task(name) for name in board.tasks]
    gaps = _gaps(store, board)
    no_gaps = (math.nan, math.nan)
    centroids, distributions = np.array(
        [gaps.get(task.name, no_gaps) for task in tasks]
    ).T
    num_samples = [task.num_samples[0] if task.num_samples else 1 for task in tasks]
    return Data(
        logs=np.zeros(len(tasks)),
        kinds=np.array([KINDS.get(task.domain, task.domain) for task in tasks]),
        images=np.array([task.modality == "image" for task in tasks]),
        samples=np.array(
            [
                _samples(board, task.name, num)
                for task, num in zip(tasks, num_samples, strict=True)
            ]
        ),
        distances=np.array([_distance(board, task.name, distances) for task in tasks]),
        centroids=centroids,
        distributions=distributions,
    )


def read_bodies(found: Found, store: ResultsStore) -> Study:
    """Return the study of bodies with different pretraining.

    Raises UserError if the store has no trial of the study.
    """
    benchmark = found.board.benchmark
    budget = found.board.sweep.partition("/")[2]
    crossed = build(store.records(), benchmark=benchmark, sweep=f"transfer/{budget}")
    seeds = load_spec(benchmark, budget=budget).confirm_seeds
    return bodies.read(found.study, found.board, crossed, seeds)


def _complete(board: Board, spec: SweepSpec) -> set[tuple[str, str]]:
    """Return the tasks and methods that have a score of every planned seed."""
    return {
        key
        for key, cell in board.cells.items()
        if set(spec.confirm_seeds) <= cell.trial_keys.keys()
    }


def _samples(board: Board, task: str, num: int) -> float:
    """Return the number of training samples, of which a trial may use a share."""
    texts = [
        cell.provenance.hyperparameters
        for (name, _), cell in board.cells.items()
        if name == task
    ]
    shares = {json.loads(text).get("data.fraction", 1.0) for text in texts if text}
    return num * max(shares, default=1.0)


def _distance(board: Board, task: str, distances: dict[str, float | None]) -> float:
    """Return the geometric mean of a task's distances over seeds, NaN if unknown."""
    cell = board.cells.get((task, "orca"))
    if cell is None or not cell.provenance.hyperparameters:
        return math.nan
    hyperparameters = json.loads(cell.provenance.hyperparameters)
    if hyperparameters.get("align.distance") != DISTANCE:
        return math.nan
    values = [distances[key] for key in cell.trial_keys.values()]
    known = [value for value in values if value is not None and value > 0]
    return math.exp(np.mean(np.log(known))) if known else math.nan


def _gaps(store: ResultsStore, board: Board) -> dict[str, tuple[float, float]]:
    """Return the centroid and the distribution gap of each task before ``orca`` aligns.

    They are geometric means over seeds.
    """
    tasks = {
        key: task
        for (task, method), cell in board.cells.items()
        if method == "orca"
        for key in cell.trial_keys.values()
    }
    artefacts = store.artefacts(sweep=board.sweep, trial_key=list(tasks))
    is_gap = (artefacts["kind"] == "features") & (artefacts["name"] == "gap")
    gaps: dict[str, list[tuple[float, float]]] = {}
    for key, payload in artefacts.loc[is_gap, ["trial_key", "payload"]].itertuples(
        index=False
    ):
        centroid, distribution = (
            series["values"][0] for series in json.loads(payload)["series"]
        )
        gaps.setdefault(tasks[key], []).append((centroid, distribution))
    return {
        task: tuple(gmean(np.array(values, float)).tolist())
        for task, values in gaps.items()
    }


def text(found: Found) -> str:
    """Return the Markdown of the page.

    It has the answers, ratios by kinds of tasks, ratios to each baseline, ratios of
    searches by their size, and ratios of single tasks.
    """
    study = found.study
    sides = _sides(COMPARED)
    best = _best_baselines(found)
    tasks = (
        [*row[:3], f"`{name}`" if name else "–", *row[3:]]
        for row, name in zip(_on_tasks(study, COMPARED), best, strict=True)
    )
    parts = [
        "\n".join(_counts(found)),
        _sentences(study, QUESTIONS),
        _markdown(["", "tasks", *sides], _rows(study), 2),
        _markdown(
            ["baseline", "best by validation", *_of_baseline()],
            _on_baselines(study, best),
            1,
        ),
        _markdown(
            [
                "candidates of each",
                "tasks",
                f"{BEST_TRANSFORMER} to {BEST_BASELINE}",
                "if methods were equal on average",
            ],
            _by_size(found),
            0,
        ),
        _markdown(["task", "kind", "samples", BEST_BASELINE, *sides], tasks, 2),
    ]
    return "\n\n".join([*parts, ""])


def _best_baselines(found: Found) -> list[str]:
    """Return the baseline of each task with the best validation; "" if unknown."""
    table = found.study.table
    columns = [table.methods.index(name) for name in BASELINES if name in table.methods]
    best = []
    for validation_M in found.validation_TM:
        known = [m for m in columns if np.isfinite(validation_M[m])]
        name = table.methods[min(known, key=validation_M.__getitem__)] if known else ""
        best.append(name)
    return best


def _of_baseline() -> list[str]:
    """Return the titles of the numbers of `_on_baselines`."""
    return ["tasks", f"`{REFERENCE}` to it", "adjusted p", "better, worse beyond noise"]


def _on_baselines(study: Study, best: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows of the table of ratios to each baseline.

    ``best`` is the best baseline of each task.
    """
    for answer in answers(study, ON_BASELINES):
        _, name = answer.question.sides
        num_tasks = len(answer.data.logs)
        if num_tasks:
            yield [
                f"`{name}`",
                str(best.count(name)),
                str(num_tasks),
                ratio_text(answer.estimate),
                f"{answer.adjusted_p:.2g}",
                _counts_beyond_noise(study, answer.question.sides),
            ]


def _by_size(found: Found) -> Iterator[list[str]]:
    """Yield the rows of the table of searches by their number of candidates."""
    study = found.study
    for size in range(1, len(TRANSFORMERS) + 1):
        sides = searches.sides(found.validation_TM, study.table.methods, size)
        data = replace(study, searches=sides).data(BEST_TRANSFORMER, BEST_BASELINE)
        if len(data.logs):
            num_tasks = len(data.logs)
            if_equal = f"{_ratio_if_equal(found, size):.2f}"
            yield [str(size), str(num_tasks), ratio_text(over_tasks(data)), if_equal]


def _ratio_if_equal(found: Found, size: int) -> float:
    """Return the ratio of searches of a size if methods were equal on average.

    A method's mean log test score over the tasks of a kind of data is taken from its
    test and validation scores there. What is left is how much methods differ from task
    to task, how alike they are, and how well validation chooses.
    """
    study = found.study
    logs_TM = study.logs.means_TM
    validation_TM = np.log(np.maximum(found.validation_TM, study.logs.floors_T))
    has_log_TM = np.isfinite(logs_TM)
    filled_TM = np.where(has_log_TM, logs_TM, 0.0)
    centres_TM = np.zeros(logs_TM.shape)
    for kind in np.unique(study.properties.kinds):
        is_kind = study.properties.kinds == kind
        num_M = np.maximum(has_log_TM[is_kind].sum(axis=0), 1)
        centres_TM[is_kind] = filled_TM[is_kind].sum(axis=0) / num_M
    sides = searches.sides(validation_TM - centres_TM, study.table.methods, size)
    weights_TM = sides[BEST_TRANSFORMER] - sides[BEST_BASELINE]
    logs_T = (weights_TM * (filled_TM - centres_TM)).sum(axis=1)
    return math.exp(np.nanmean(logs_T))


def text_of_bodies(study: Study) -> str:
    """Return the Markdown about bodies with different pretraining, in the same form."""
    pairs = [question.sides for question in bodies.QUESTIONS]
    rows = _markdown(["", "tasks", *_sides(pairs)], _of_kinds(study, pairs), 2)
    tasks = _markdown(
        ["task", "kind", "samples", *_sides(pairs)], _on_tasks(study, pairs), 2
    )
    complete = int((study.table.num_seeds_TM > 0).all(axis=1).sum())
    count = (
        f"All {len(study.table.methods)} scores of {complete} of"
        f" {len(study.table.tasks)} tasks."
    )
    return "\n\n".join([count, _sentences(study, bodies.QUESTIONS), rows, tasks, ""])


def _sentences(study: Study, questions: Sequence[Question]) -> str:
    return "\n".join(
        f"{number}. {answer.sentence}"
        for number, answer in enumerate(answers(study, questions), 1)
    )


def _sides(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{label(method)} to {label(reference)}" for method, reference in pairs]


def _counts(found: Found) -> Iterator[str]:
    """Yield how many tasks have all scores, and which have only some."""
    board = found.board
    table = found.study.table
    is_complete_T = np.all(
        [
            np.isfinite(found.study.weights_TM(side)).all(axis=1)
            for sides in COMPARED
            for side in sides
        ],
        axis=0,
    )
    planned = sum(task.benchmark == board.benchmark for task in known_tasks().values())
    yield (
        f"`{board.benchmark}`, sweep {board.sweep}: all scores of"
        f" {is_complete_T.sum()} of {planned} tasks."
    )
    partial = [
        task.partition("/")[2]
        for task, is_complete in zip(table.tasks, is_complete_T, strict=True)
        if not is_complete
    ]
    if partial:
        yield (
            "Tasks that have only some of them count where both sides of a ratio do:"
            f" {', '.join(partial)}."
        )


def _rows(study: Study) -> Iterator[list[str]]:
    """Yield the rows of the table of ratios by kinds of tasks."""
    columns = [study.data(*sides) for sides in COMPARED]

    def row(title: str, cell: Callable[[Data], str]) -> list[str]:
        return [title, "", *map(cell, columns)]

    def slope(values: str) -> Callable[[Data], str]:
        return lambda data: ratio_text(by_doubling(data, getattr(data, values)))

    yield from _of_kinds(study, COMPARED)
    yield _row("text body", columns, [~data.images for data in columns])
    yield _row("image body", columns, [data.images for data in columns])
    yield row("ten times the samples", lambda data: ratio_text(by_samples(data)))
    yield row("twice the distance", slope("distances"))
    yield row("twice the centroid gap", slope("centroids"))
    yield row("twice the distribution gap", slope("distributions"))
    yield row("one new task", lambda data: ratio_text(on_new_task(data)))
    counts = [_counts_beyond_noise(study, sides) for sides in COMPARED]
    yield ["better, worse beyond noise", "", *counts]
    yield row("interval over all", lambda data: half_text(data, len(data.logs)))
    if any(len(data.logs) < PLANNED for data in columns):
        title = f"interval at {PLANNED} tasks"
        yield row(title, lambda data: half_text(data, PLANNED))
    yield row(f"tasks for ±{100 * WANTED:.0f} %", tasks_text)


def _counts_beyond_noise(study: Study, sides: tuple[str, str]) -> str:
    comparison = study.compare(*sides)
    if comparison is None:
        return "–"
    return f"{comparison.better}, {comparison.worse}"


def _of_kinds(study: Study, pairs: Sequence[tuple[str, str]]) -> Iterator[list[str]]:
    """Yield rows of ratios over all tasks and by kind of data."""
    columns = [study.data(*sides) for sides in pairs]
    yield _row("all", columns, [np.ones(len(data.logs), bool) for data in columns])
    for kind in dict.fromkeys(KINDS.values()):
        if kind in study.properties.kinds:
            yield _row(kind, columns, [data.kinds == kind for data in columns])


def _row(name: str, columns: Sequence[Data], masks: Sequence[Mask]) -> list[str]:
    """Return name, number of tasks and mean ratios of a group of tasks.

    ``masks`` are the tasks of the group in each column, which may differ in number.
    """
    nums = sorted({int(mask.sum()) for mask in masks})
    count = str(nums[0])
    if len(nums) > 1:
        count = f"{nums[0]} to {nums[-1]}"
    ratios = [
        ratio_text(over_tasks(data.part(mask)))
        for data, mask in zip(columns, masks, strict=True)
    ]
    return [name, count, *ratios]


def on_new_task(data: Data) -> Estimate:
    """Return the ratio with an interval that holds that of one more task.

    It does so with a probability of 95 %.
    """
    num_tasks = len(data.logs)
    if num_tasks < MIN_TASKS:
        return Estimate()
    over_tasks = mean(data.logs)
    return over_tasks._replace(error=over_tasks.error * math.sqrt(num_tasks + 1))


def half_text(data: Data, num: int) -> str:
    """Return how far an interval over ``num`` tasks reaches above its ratio.

    The tasks spread as those of ``data`` do. The number is in per cent.
    """
    if len(data.logs) < MIN_TASKS:
        return "–"
    return f"±{100 * math.expm1(_half(data, num)):.0f} %"


def tasks_text(data: Data) -> str:
    """Return how many tasks make an interval that reaches `WANTED` above its ratio.

    The tasks spread as those of ``data`` do.
    """
    if len(data.logs) < MIN_TASKS:
        return "–"
    sizes = range(MIN_TASKS, MOST_TASKS)
    place = bisect_left(
        sizes, True, key=lambda num: math.expm1(_half(data, num)) <= WANTED
    )
    return f"{MIN_TASKS + place:,}"


def _half(data: Data, num: int) -> float:
    """Return half of the width of an interval of the mean of ``num`` log ratios."""
    over_all = over_tasks(data)
    share = num / len(data.logs)
    quantile = float(special.stdtrit(over_all.freedom * share, 1 - LEVEL / 2))
    return quantile * over_all.error / math.sqrt(share)


def _on_tasks(study: Study, pairs: Sequence[tuple[str, str]]) -> Iterator[list[str]]:
    """Yield name, kind, number of samples and ratios of each task."""
    comparisons = [study.compare(*sides) for sides in pairs]
    properties = study.properties
    for index, task in enumerate(study.table.tasks):
        yield [
            task.partition("/")[2],
            str(properties.kinds[index]),
            f"{properties.samples[index]:,.0f}",
            *(_on_task(comparison, task) for comparison in comparisons),
        ]


def _on_task(comparison: Comparison | None, task: str) -> str:
    """Return the ratio on a task, in bold if it differs from 1 beyond noise."""
    if comparison is None or task not in comparison.tasks:
        return "–"
    ratio = f"{comparison.tasks[task].value:.2f}"
    return f"**{ratio}**" if task in comparison.beyond_noise else ratio


def _markdown(head: Sequence[str], rows: Iterator[list[str]], left: int) -> str:
    """Return a table with ``left`` columns of text, then columns of numbers."""
    alignment = ["---"] * left + ["--:"] * (len(head) - left)
    lines = [list(head), alignment, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(found: Found, *, totals: bool = False) -> str:
    """Return the forest plot of ratios against plain fine-tuning as SVG.

    It shows ratios by kind of data or, with ``totals``, only over all tasks.
    """
    groups = []
    sides = ("orca", "orca_guarded", "fpt", "linear_probe", "scratch", TYPICAL_BASELINE)
    for side in sides:
        data = found.study.data(side, REFERENCE)
        if not len(data.logs):
            continue
        parts = {side: data}
        for kind in dict.fromkeys(KINDS.values()):
            if kind in data.kinds and not totals:
                parts[kind] = data.part(data.kinds == kind)
        groups.append(
            [
                (f"{name} ({len(part.logs)})", over_tasks(part))
                for name, part in parts.items()
            ]
        )
    return forest_plot.draw(
        f"Test error relative to fine-tuning (nft), {found.board.benchmark}", groups
    )


def page(arguments: Sequence[str] | None = None) -> tuple[str, str, str]:
    """Return text, picture and picture of totals of a study.

    The command-line ``arguments`` name the study.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("--results", required=True, help="folder of the results store")
    parser.add_argument(
        "--picture", type=Path, help="write the forest plot to this file"
    )
    parser.add_argument(
        "--bodies",
        action="store_true",
        help="print the text about bodies with different pretraining",
    )
    options = parser.parse_args(arguments)
    store = ResultsStore(options.results)
    found = read(options.benchmark, store)
    if options.bodies:
        content = text_of_bodies(read_bodies(found, store))
    else:
        content = text(found)
    plot = picture(found)
    if options.picture:
        options.picture.write_text(plot)
    return content, plot, picture(found, totals=True)


if __name__ == "__main__":
    print(page()[0], end="")
