"""The text and the picture of docs/findings.md, ``python -m benchmarks.findings_page
cabinet --results DIR``.

``make boards`` writes both. A task counts for a question when both sides have a score
of every planned seed. With ``--bodies``, the text is about bodies with different
pretraining.
"""

# ruff: noqa: T201 - a benchmark prints its text

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import special
from scipy.stats import gmean

from benchmarks import bodies, forest_plot
from benchmarks.findings import (
    BEST,
    QUESTIONS,
    REFERENCE,
    Data,
    Mask,
    Question,
    Study,
    answers,
    by_distance,
    by_doubling,
    by_samples,
    ratio_text,
)
from benchmarks.regression import Estimate, mean
from orca_ray.errors import UserError
from orca_ray.leaderboard import build
from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.leaderboard.statistics.intervals import LEVEL, MIN_TASKS
from orca_ray.leaderboard.statistics.table import Floats
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.loading import load_spec
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.tasks.registry import get_task, known_tasks

WITHOUT_BODY = (
    "linear",
    "nearest",
    "forest",
    "gradient_boosting",
    "minirocket",
    "hydra",
    "unet",
    "fno",
    "cnn",
)
"""Baselines, in the order that decides between equal validation scores."""
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
"""Distance that ``orca`` minimises on the tasks whose distances are compared: others
have other units.
"""
PLANNED = 41
"""Number of tasks of the study, for which the width of intervals is predicted."""
WANTED = 0.08
MOST_TASKS = 10_000
"""How far above its ratio an interval should reach, and the largest number of tasks
that is given for it.
"""
COMPARED = tuple(dict.fromkeys(question.sides for question in QUESTIONS))
"""Pairs of methods of the questions: columns of the tables."""


@dataclass(frozen=True)
class Found:
    """A study that was read from a store."""

    board: Board
    study: Study
    baselines: dict[str, str]
    """Best baseline of each task by validation; none where a planned baseline has no
    scores yet.
    """


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
    columns = ("validation_score", "distance_before")
    validation, distances = (
        dict(zip(trials["trial_key"], trials[name], strict=True)) for name in columns
    )
    complete = _complete(board, spec)
    baselines = _baselines(board, spec, validation)
    methods = sorted({method for sides in COMPARED for method in sides} - {BEST})
    scored = ScoreTable.of(board.scores)

    def row(task: str, method: str) -> Floats:
        known = (task, method) in complete
        at = (
            (scored.tasks.index(task), scored.methods.index(method))
            if known
            else (0, 0)
        )
        return np.where(known, scored.scores_TMS[at], np.nan)

    table = np.array(
        [
            [row(task, each) for each in [*methods, baselines.get(task, "")]]
            for task in board.tasks
        ]
    )
    known = np.isfinite(table).any(axis=(0, 2))
    names = tuple(
        name for name, scored in zip([*methods, BEST], known, strict=True) if scored
    )
    given = [get_task(task) for task in board.tasks]
    gaps = _gaps(store, board)
    properties = Data(
        np.zeros(len(given)),
        np.array([KINDS.get(task.domain, task.domain) for task in given]),
        np.array([task.modality == "image" for task in given]),
        np.array(
            [
                _samples(board, task.name, (task.num_samples or (1,))[0])
                for task in given
            ]
        ),
        np.array([_distance(board, task.name, distances) for task in given]),
        *np.array([gaps.get(task.name, (math.nan, math.nan)) for task in given]).T,
    )
    return Found(
        board,
        Study(ScoreTable(board.tasks, names, table[:, known]), properties),
        baselines,
    )


def read_bodies(found: Found, store: ResultsStore) -> Study:
    """Return the study of bodies with different pretraining; UserError if the store has
    no trial of it.
    """
    benchmark = found.board.benchmark
    budget = found.board.sweep.partition("/")[2]
    crossed = build(store.records(), benchmark=benchmark, sweep=f"transfer/{budget}")
    return bodies.read(
        found.study,
        found.board,
        crossed,
        load_spec(benchmark, budget=budget).confirm_seeds,
    )


def _complete(board: Board, spec: SweepSpec) -> set[tuple[str, str]]:
    """Return the tasks and methods that have a score of every planned seed."""
    return {
        key
        for key, cell in board.cells.items()
        if set(spec.confirm_seeds) <= cell.trial_keys.keys()
    }


def _baselines(
    board: Board, spec: SweepSpec, validation: dict[str, float]
) -> dict[str, str]:
    complete = _complete(board, spec)
    best = {}
    for task in board.tasks:
        pairs = {*spec.pairs, *board.cells}
        planned = [method for method in WITHOUT_BODY if (task, method) in pairs]
        if planned and {(task, method) for method in planned} <= complete:
            means = {
                method: np.mean(
                    [
                        validation[board.cells[task, method].trial_keys[seed]]
                        for seed in spec.confirm_seeds
                    ]
                )
                for method in planned
            }
            if np.isfinite(list(means.values())).all():
                best[task] = min(planned, key=means.__getitem__)
    return best


def _samples(board: Board, task: str, num: int) -> float:
    texts = [
        cell.provenance.hyperparameters
        for (name, _), cell in board.cells.items()
        if name == task
    ]
    shares = {json.loads(text).get("data.fraction", 1.0) for text in texts if text}
    return num * max(shares, default=1.0)


def _distance(board: Board, task: str, distances: dict[str, float | None]) -> float:
    cell = board.cells.get((task, "orca"))
    if (
        cell is None
        or json.loads(cell.provenance.hyperparameters or "{}").get("align.distance")
        != DISTANCE
    ):
        return math.nan
    known = [
        value
        for value in (distances[key] for key in cell.trial_keys.values())
        if value is not None and value > 0
    ]
    return math.exp(np.mean(np.log(known))) if known else math.nan


def _gaps(store: ResultsStore, board: Board) -> dict[str, tuple[float, float]]:
    """Return the centroid and the distribution gap of each task before ``orca`` aligns,
    geometric means over seeds.
    """
    aligned = {
        task: cell for (task, method), cell in board.cells.items() if method == "orca"
    }
    tasks = {
        key: task for task, cell in aligned.items() for key in cell.trial_keys.values()
    }
    kept = store.artefacts(sweep=board.sweep, trial_key=list(tasks))
    kept = kept[(kept["kind"] == "features") & (kept["name"] == "gap")]
    found: dict[str, list[tuple[float, float]]] = {}
    for key, payload in zip(kept["trial_key"], kept["payload"], strict=True):
        centroid, distribution = (
            series["values"][0] for series in json.loads(payload)["series"]
        )
        found.setdefault(tasks[key], []).append((centroid, distribution))
    return {
        task: tuple(gmean(np.array(values, float)).tolist())
        for task, values in found.items()
    }


def text(found: Found) -> str:
    """Return the Markdown of the page: the answers, ratios by kinds of tasks, and
    ratios of single tasks.
    """
    sides = _sides(COMPARED)
    rows = _markdown(["", "tasks", *sides], _rows(found.study), 2)
    best = [
        f"`{found.baselines[task]}`" if task in found.baselines else "–"
        for task in found.study.table.tasks
    ]
    of_tasks = zip(_on_tasks(found.study, COMPARED), best, strict=True)
    tasks = _markdown(
        ["task", "kind", "samples", BEST, *sides],
        ([*row[:3], at, *row[3:]] for row, at in of_tasks),
        2,
    )
    return "\n\n".join(
        ["\n".join(_counts(found)), _sentences(found.study, QUESTIONS), rows, tasks, ""]
    )


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
        f"{number}. {each.sentence}"
        for number, each in enumerate(answers(study, questions), 1)
    )


def _sides(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [
        f"`{method}` to `{reference}`".replace(f"`{BEST}`", BEST)
        for method, reference in pairs
    ]


def _counts(found: Found) -> Iterator[str]:
    board = found.board
    table = found.study.table
    methods = {method for sides in COMPARED for method in sides}
    scored_T = (table.num_seeds_TM > 0).sum(axis=1) == len(methods)
    every = [task for task, scored in zip(table.tasks, scored_T, strict=True) if scored]
    planned = sum(task.benchmark == board.benchmark for task in known_tasks().values())
    yield (
        f"`{board.benchmark}`, sweep {board.sweep}: all scores of {len(every)} of"
        f" {planned} tasks."
    )
    if others := [task.partition("/")[2] for task in table.tasks if task not in every]:
        yield (
            "Tasks that have only some of them count where both sides of a ratio do:"
            f" {', '.join(others)}."
        )


def _rows(study: Study) -> Iterator[list[str]]:
    yield from _of_kinds(study, COMPARED)
    given = [study.data(*sides) for sides in COMPARED]
    yield _row("text body", given, [~each.images for each in given])
    yield _row("image body", given, [each.images for each in given])
    yield [
        "ten times the samples",
        "",
        *(ratio_text(by_samples(each)) for each in given),
    ]
    yield ["twice the distance", "", *(ratio_text(by_distance(each)) for each in given)]
    yield [
        "twice the centroid gap",
        "",
        *(ratio_text(by_doubling(each, each.centroids)) for each in given),
    ]
    yield [
        "twice the distribution gap",
        "",
        *(ratio_text(by_doubling(each, each.distributions)) for each in given),
    ]
    yield ["one new task", "", *(ratio_text(on_new_task(each)) for each in given)]
    compared = [study.compare(*sides) for sides in COMPARED]
    counts = (
        "–" if each is None else f"{each.better}, {each.worse}" for each in compared
    )
    yield ["better, worse beyond noise", "", *counts]
    yield [
        "interval over all",
        "",
        *(half_text(each, len(each.logs)) for each in given),
    ]
    if any(len(each.logs) < PLANNED for each in given):
        yield [
            f"interval at {PLANNED} tasks",
            "",
            *(half_text(each, PLANNED) for each in given),
        ]
    yield [
        f"tasks for ±{100 * WANTED:.0f} %",
        "",
        *(tasks_text(each) for each in given),
    ]


def _of_kinds(study: Study, pairs: Sequence[tuple[str, str]]) -> Iterator[list[str]]:
    """Yield rows of ratios over all tasks and by kind of data."""
    given = [study.data(*sides) for sides in pairs]
    yield _row("all", given, [np.ones(len(each.logs), bool) for each in given])
    for kind in dict.fromkeys(KINDS.values()):
        if kind in study.properties.kinds:
            yield _row(kind, given, [each.kinds == kind for each in given])


def _row(name: str, given: Sequence[Data], masks: Sequence[Mask]) -> list[str]:
    nums = sorted({int(mask.sum()) for mask in masks})
    ratios = [
        ratio_text(mean(each.logs[mask]))
        for each, mask in zip(given, masks, strict=True)
    ]
    return [
        name,
        " to ".join(map(str, (nums[0], nums[-1]) if len(nums) > 1 else nums)),
        *ratios,
    ]


def on_new_task(found: Data) -> Estimate:
    """Return the ratio with an interval that holds that of one more task with a
    probability of 95 %.
    """
    over = mean(found.logs)
    known = len(found.logs) >= MIN_TASKS
    return (
        over._replace(error=over.error * math.sqrt(len(found.logs) + 1))
        if known
        else Estimate()
    )


def half_text(found: Data, num: int) -> str:
    """Return how far an interval over ``num`` tasks that spread as these do reaches
    above its ratio, in per cent.
    """
    if len(found.logs) < MIN_TASKS:
        return "–"
    return f"±{100 * math.expm1(_half(found, num)):.0f} %"


def tasks_text(found: Data) -> str:
    """Return how many tasks that spread as these do make an interval that reaches
    `WANTED` above its ratio.
    """
    if len(found.logs) < MIN_TASKS:
        return "–"
    enough = (
        num
        for num in range(MIN_TASKS, MOST_TASKS)
        if math.expm1(_half(found, num)) <= WANTED
    )
    return f"{next(enough, MOST_TASKS):,}"


def _half(found: Data, num: int) -> float:
    return (
        float(special.stdtrit(num - 1, 1 - LEVEL / 2))
        * float(found.logs.std(ddof=1))
        / math.sqrt(num)
    )


def _on_tasks(study: Study, pairs: Sequence[tuple[str, str]]) -> Iterator[list[str]]:
    given = [study.compare(*sides) for sides in pairs]
    properties = study.properties
    for at, task in enumerate(study.table.tasks):
        ratios = [
            (
                "–"
                if each is None or task not in each.tasks
                else f"{each.tasks[task].value:.2f}"
            )
            for each in given
        ]
        marked = [
            f"**{ratio}**" if each is not None and task in each.beyond_noise else ratio
            for ratio, each in zip(ratios, given, strict=True)
        ]
        yield [
            task.partition("/")[2],
            str(properties.kinds[at]),
            f"{properties.samples[at]:,.0f}",
            *marked,
        ]


def _markdown(head: Sequence[str], rows: Iterator[list[str]], left: int) -> str:
    lines = [list(head), ["---"] * left + ["--:"] * (len(head) - left), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(found: Found, *, totals: bool = False) -> str:
    """Return the forest plot of ratios against plain fine-tuning as SVG, by kind of
    data or only ``totals``.
    """
    groups = []
    for method in ("orca", "orca_guarded", "fpt", "linear_probe", "scratch", BEST):
        data = found.study.data(method, REFERENCE)
        kinds = [
            kind
            for kind in dict.fromkeys(KINDS.values())
            if kind in data.kinds and not totals
        ]
        only = set(found.baselines.values()) if method == BEST else set()
        name = f"baseline {only.pop()}" if len(only) == 1 else method
        parts = [
            (name, data.logs),
            *((kind, data.logs[data.kinds == kind]) for kind in kinds),
        ]
        groups += (
            [[(f"{name} ({len(logs)})", mean(logs)) for name, logs in parts]]
            if len(data.logs)
            else []
        )
    return forest_plot.draw(
        f"Test error relative to fine-tuning (nft), {found.board.benchmark}", groups
    )


def page(arguments: Sequence[str] | None = None) -> tuple[str, str, str]:
    """Return `text`, `picture` and its totals of the study that command-line arguments
    name.
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
    chosen = (
        text_of_bodies(read_bodies(found, store)) if options.bodies else text(found)
    )
    written = chosen, picture(found), picture(found, totals=True)
    if options.picture:
        options.picture.write_text(written[1])
    return written


if __name__ == "__main__":
    print(page()[0], end="")
