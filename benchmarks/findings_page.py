"""The texts and the pictures of docs/trained.md and docs/six-epochs.md.

``python -m benchmarks.findings_page cabinet --results DIR`` prints the text; ``make
boards`` writes both. A task counts for a question when both sides have a score of every
planned seed. ``--budget`` names a study of `benchmarks.planned`. With ``--bodies``, the
text is about bodies with different pretraining.
"""

# ruff: noqa: T201 - a benchmark prints its text

import argparse
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from benchmarks import bodies, forest_plot, searches
from benchmarks.findings import (
    Answer,
    Data,
    Mask,
    Question,
    Sides,
    Study,
    answers,
    by_doubling,
    by_samples,
    joined_name,
    over_tasks,
    ratio_text,
)
from benchmarks.findings_reading import KINDS, Found, has_scores, read, read_bodies
from benchmarks.planned import PLANS, SIX_EPOCHS
from benchmarks.regression import Estimate, mean
from benchmarks.searches import (
    BEST_BASELINE,
    BEST_TRANSFORMER,
    REFERENCE,
    TYPICAL_BASELINE,
    label,
)
from orca_ray.data.prepared import HELD_OUT
from orca_ray.leaderboard.statistics import ScoreTable, get_statistic
from orca_ray.leaderboard.statistics.intervals import LEVEL, MIN_TASKS
from orca_ray.leaderboard.statistics.paired import Comparison
from orca_ray.results.store import ResultsStore
from orca_ray.tasks.registry import known_tasks

WANTED = 0.08
"""How far above its ratio an interval should reach, as a share of the ratio."""
DRAWN = (
    "orca",
    "orca_guarded",
    "fpt",
    "linear_probe",
    "scratch",
    "no_body",
    TYPICAL_BASELINE,
)
"""Sides whose ratios to plain fine-tuning are in the picture, if they have scores."""
MOST_TASKS = 10_000
"""Largest number of tasks that is given for an interval of this width."""
NO_RATIO = "–"
"""Text of a cell whose number is unknown."""


def text(found: Found, earlier: Sequence[Answer] = ()) -> str:
    """Return the Markdown of the page.

    It has the answers, ratios by kinds of tasks, ratios after several lengths of
    training, ratios to each baseline, ratios of searches by their size, and ratios of
    single tasks, as far as the plan of the study has them. ``earlier`` are answers of
    the study before, of which the page says what has changed.
    """
    study = found.study
    plan = found.plan
    parts = [
        "\n".join(_counts(found)),
        _sentences(
            study, plan.questions, lambda answer: _remarks(found, answer, earlier)
        ),
        _markdown(["", "tasks", *_titles(plan.compared)], _rows(found), 2),
    ]
    if plan.length:
        parts.append(_markdown(*_by_length(found), 2))
    best = _best_baselines(found)
    if plan.families.baselines:
        head = ["baseline", "best by validation", *_of_baseline()]
        parts.append(_markdown(head, _on_baselines(found, best), 1))
    if plan.families.rivals:
        head = [
            "candidates of each",
            "tasks",
            f"{BEST_TRANSFORMER} to {BEST_BASELINE}",
            "if methods were equal on average",
        ]
        parts.append(_markdown(head, _by_size(found), 0))
    parts.extend(_errors(found))
    head = ["task", "kind", "samples", *_titles(plan.compared)]
    tasks = list(_on_tasks(study, plan.compared))
    if plan.families.baselines:
        head.insert(3, BEST_BASELINE)
        for row, name in zip(tasks, best, strict=True):
            row.insert(3, f"`{name}`" if name else NO_RATIO)
    num_properties = len(head) - len(plan.compared)
    parts.append(_markdown(head, _with_number(tasks, num_properties), 2))
    return "\n\n".join([part for part in parts if part] + [""])


def _remarks(found: Found, answer: Answer, earlier: Sequence[Answer]) -> str:
    """Return what stands beside an answer: convergence, and what has changed."""
    remarks = [_convergence(found, answer.question.sides)]
    remarks += [
        _changed(found, answer, before)
        for before in earlier
        if before.question.sides == answer.question.sides
        and before.question.fit is answer.question.fit
    ]
    return "".join(f" {remark}" for remark in remarks if remark)


def _convergence(found: Found, sides: Sides) -> str:
    """Return how many trials behind a ratio still improved at the end of training.

    Trials count whose scores are in the ratio, if they have epochs of training. Methods
    that may not have converged are named; see `convergence.still_falling`. The text is
    empty if no trial counts.
    """
    table = found.study.table
    weights_TM = found.study.difference_TM(*sides)
    is_known_TM = np.isfinite(weights_TM).all(axis=1, keepdims=True)
    counts_TM = is_known_TM & (weights_TM != 0)
    pairs = [(table.tasks[t], table.methods[m]) for t, m in np.argwhere(counts_TM)]
    curves = found.curves
    keys = pd.MultiIndex.from_frame(curves[["task", "method"]])
    behind = curves[keys.isin(pairs)]
    if behind.empty:
        return ""
    statistic = get_statistic("still_falling")
    together = statistic.compute(behind.assign(method="all"))
    (share,) = together["value"].tolist()
    (num_trials,) = together["num_trials"].tolist()
    trials = (
        f"{_percent(share)} of the {num_trials} trials with epochs still improved at"
        " the end of training"
    )
    of_methods = statistic.compute(behind)
    unfinished = of_methods.loc[of_methods["unfinished"], "value"].to_dict()
    names = [f"{label(str(name))} {_percent(x)}" for name, x in unfinished.items()]
    if names:
        trials += f" ({', '.join(names)})"
    if names or together["unfinished"].all():
        return f"It may not have converged: {trials}."
    return f"{trials}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _changed(found: Found, answer: Answer, before: Answer) -> str:
    """Return how an answer differs from that of the study before; "" if it does not.

    Answers differ if their verdicts do, or if no ratio is in both of their intervals.
    """
    low, high = answer.estimate.ends
    low_before, high_before = before.estimate.ends
    is_apart = high < low_before or high_before < low
    if answer.is_unknown or (answer.verdict == before.verdict and not is_apart):
        return ""
    candidates = ""
    is_of_search = BEST_TRANSFORMER in answer.question.sides
    if is_of_search and found.plan.families != SIX_EPOCHS.families:
        candidates = " among other candidates"
    return (
        f"**Changed**: was {before.verdict}, {before.numbers}{candidates}"
        f" {SIX_EPOCHS.trained}."
    )


def _by_length(found: Found) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of the ratios after each length of training.

    They are over the tasks that have scores of all lengths that were run.
    """
    study = found.study
    plan = found.plan
    lengths = [part.name for part in plan.parts if part.name in found.boards]
    columns = []
    titles = []
    for sides in dict.fromkeys(sides for sides in plan.compared if sides.earlier):
        pair = (sides.side, sides.reference)
        pairs = [
            *(
                (joined_name(pair[0], name), joined_name(pair[1], name))
                for name in lengths
            ),
            pair,
        ]
        is_known_T = np.all(
            [np.isfinite(study.difference_TM(*names)).all(axis=1) for names in pairs],
            axis=0,
        )
        common = np.array(study.table.tasks)[is_known_T]
        for length, names in zip([*lengths, plan.length], pairs, strict=True):
            ratios = study.ratios(*names)
            is_common = np.isin(ratios.tasks, common)
            columns.append(study.data(*names).part(is_common))
            titles.append(f"{label(pair[0])} to {label(pair[1])}, {length}")
    rows = rows_by_kind(columns, study.properties.kinds)
    return ["", "tasks", *titles], list(_with_number(rows, 2))


def _errors(found: Found) -> Iterator[str]:
    """Yield the table of errors of each protocol, if the plan compares protocols."""
    if all(part.protocol == found.board.protocol for part in found.plan.parts):
        return
    for board in (found.board, *found.boards.values()):
        table = board.table
        head = [f"error by `{board.protocol}`", *map(label, table.methods)]
        yield _markdown(head, _error_rows(table), 1)


def _error_rows(table: ScoreTable) -> Iterator[list[str]]:
    """Yield the name and the mean scores of each task."""
    for task, means_M in zip(table.tasks, table.means_TM, strict=True):
        cells = [f"{mean:.4f}" if np.isfinite(mean) else NO_RATIO for mean in means_M]
        yield [task.partition("/")[2], *cells]


def _best_baselines(found: Found) -> list[str]:
    """Return the baseline of each task with the best validation; "" if unknown."""
    table = found.study.table
    columns = [
        table.methods.index(name)
        for name in found.plan.families.baselines
        if name in table.methods
    ]
    best = []
    for validation_M in found.validation_TM:
        candidates = [m for m in columns if not np.isnan(validation_M[m])]
        name = ""
        if candidates and np.isfinite(validation_M[candidates]).all():
            name = table.methods[min(candidates, key=validation_M.__getitem__)]
        best.append(name)
    return best


def _of_baseline() -> list[str]:
    """Return the titles of the numbers of `_on_baselines`."""
    return ["tasks", f"`{REFERENCE}` to it", "adjusted p", "better, worse beyond noise"]


def _on_baselines(found: Found, best: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows of the table of ratios to each baseline.

    ``best`` is the best baseline of each task.
    """
    study = found.study
    for answer in answers(study, found.plan.on_baselines):
        name = answer.question.sides.reference
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
    families = found.plan.families
    for size in range(1, len(families.transformers) + 1):
        sides = searches.sides(found.validation_TM, study.table.methods, families, size)
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
    centred_TM = validation_TM - centres_TM
    sides = searches.sides(centred_TM, study.table.methods, found.plan.families, size)
    weights_TM = sides[BEST_TRANSFORMER] - sides[BEST_BASELINE]
    logs_T = (weights_TM * (filled_TM - centres_TM)).sum(axis=1)
    return math.exp(np.nanmean(logs_T))


def text_of_bodies(study: Study) -> str:
    """Return the Markdown about bodies with different pretraining, in the same form."""
    pairs = [question.sides for question in bodies.QUESTIONS]
    rows = _markdown(["", "tasks", *_titles(pairs)], _of_kinds(study, pairs), 2)
    tasks = _markdown(
        ["task", "kind", "samples", *_titles(pairs)], _on_tasks(study, pairs), 2
    )
    complete = int((study.table.num_seeds_TM > 0).all(axis=1).sum())
    count = (
        f"All {len(study.table.methods)} scores of {complete} of"
        f" {len(study.table.tasks)} tasks."
    )
    return "\n\n".join([count, _sentences(study, bodies.QUESTIONS), rows, tasks, ""])


def _sentences(
    study: Study,
    questions: Sequence[Question],
    remarks: Callable[[Answer], str] = lambda answer: "",
) -> str:
    """Return the numbered answers, each with the remarks that stand beside it."""
    return "\n".join(
        f"{number}. {answer.sentence}{remarks(answer)}"
        for number, answer in enumerate(answers(study, questions), 1)
    )


def _titles(pairs: Sequence[Sides]) -> list[str]:
    return [sides.title for sides in pairs]


def _num_planned(found: Found) -> int:
    """Return the number of tasks that the study is meant to have."""
    if found.plan.num_tasks is not None:
        return found.plan.num_tasks
    return sum(
        task.benchmark == found.board.benchmark for task in known_tasks().values()
    )


def _counts(found: Found) -> Iterator[str]:
    """Yield how many tasks have all scores, and what has not been run yet."""
    board = found.board
    table = found.study.table
    is_complete_T = np.all(
        [_is_complete(found, sides) for sides in found.plan.compared], axis=0
    )
    yield (
        f"`{board.benchmark}`, sweep {board.sweep}: all scores of"
        f" {is_complete_T.sum()} of {_num_planned(found)} tasks."
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
    for part in found.plan.parts:
        if part.name not in found.boards:
            yield not_run(board.benchmark, part.budget, part.protocol)


def _is_complete(found: Found, sides: Sides) -> Mask:
    """Return for each task whether a ratio is known, or is not planned."""
    known_T = np.isfinite(found.study.difference_TM(*sides)).all(axis=1)
    methods = {method for _, method in found.pairs}
    names = [name.partition(" (")[0] for name in sides[:2]]
    unplanned_T = [
        any(name in methods and (task, name) not in found.pairs for name in names)
        for task in found.study.table.tasks
    ]
    return known_T | np.array(unplanned_T, dtype=bool)


def not_run(benchmark: str, budget: str, protocol: str) -> str:
    """Return the sentence that no trial of a sweep has a score."""
    return f"Sweep {benchmark}/{budget}, protocol {protocol}: not run yet."


def _rows(found: Found) -> Iterator[list[str]]:
    """Yield the rows of the table of ratios by kinds of tasks, if any are known."""
    yield from _with_number(_all_rows(found), 2)


def _with_number(rows: Iterable[list[str]], left: int) -> Iterator[list[str]]:
    """Yield the rows that have a number after ``left`` columns of text."""
    for row in rows:
        if any(cell != NO_RATIO for cell in row[left:]):
            yield row


def _all_rows(found: Found) -> Iterator[list[str]]:
    study = found.study
    compared = found.plan.compared
    columns = [study.data(*sides) for sides in compared]
    num_planned = _num_planned(found)

    def row(title: str, cell: Callable[[Data], str]) -> list[str]:
        return [title, "", *map(cell, columns)]

    def slope(values: str) -> Callable[[Data], str]:
        return lambda data: ratio_text(by_doubling(data, getattr(data, values)))

    yield from rows_by_kind(columns, study.properties.kinds)
    yield _row("text body", columns, [~data.images for data in columns])
    yield _row("image body", columns, [data.images for data in columns])
    yield row("ten times the samples", lambda data: ratio_text(by_samples(data)))
    yield row("twice the distance", slope("distances"))
    yield row("twice the centroid gap", slope("centroids"))
    yield row("twice the distribution gap", slope("distributions"))
    yield row("one new task", lambda data: ratio_text(on_new_task(data)))
    counts = [_counts_beyond_noise(study, sides) for sides in compared]
    yield ["better, worse beyond noise", "", *counts]
    yield row("interval over all", lambda data: half_text(data, len(data.logs)))
    if any(len(data.logs) < num_planned for data in columns):
        title = f"interval at {num_planned} tasks"
        yield row(title, lambda data: half_text(data, num_planned))
    yield row(f"tasks for ±{100 * WANTED:.0f} %", tasks_text)


def _counts_beyond_noise(study: Study, sides: Sides) -> str:
    """Return on how many tasks a ratio is below and above 1 beyond noise over seeds."""
    comparison = study.compare(*sides)
    if comparison is None:
        return NO_RATIO
    if all(math.isnan(ratio.p) for ratio in comparison.tasks.values()):
        return NO_RATIO  # scores of one seed
    return f"{comparison.better}, {comparison.worse}"


def _of_kinds(study: Study, pairs: Sequence[Sides]) -> Iterator[list[str]]:
    """Yield rows of ratios over all tasks and by kind of data."""
    columns = [study.data(*sides) for sides in pairs]
    yield from rows_by_kind(columns, study.properties.kinds)


def rows_by_kind(
    columns: Sequence[Data], kinds_T: NDArray[np.str_]
) -> Iterator[list[str]]:
    """Yield rows over all tasks and by kind, of which the study has ``kinds_T``."""
    yield _row("all", columns, [np.ones(len(data.logs), bool) for data in columns])
    for kind in dict.fromkeys(KINDS.values()):
        if kind in kinds_T:
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


def _on_tasks(study: Study, pairs: Sequence[Sides]) -> Iterator[list[str]]:
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


def _markdown(head: Sequence[str], rows: Iterable[list[str]], left: int) -> str:
    """Return a table with ``left`` columns of text, then columns of numbers.

    The text is empty if there are no rows.
    """
    alignment = ["---"] * left + ["--:"] * (len(head) - left)
    body = list(rows)
    if not body:
        return ""
    return "\n".join(
        f"| {' | '.join(line)} |" for line in [list(head), alignment, *body]
    )


def picture(found: Found, *, totals: bool = False) -> str:
    """Return the forest plot of ratios against plain fine-tuning as SVG.

    It shows ratios by kind of data or, with ``totals``, only over all tasks.
    """
    groups = []
    for side in DRAWN:
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


class Page(NamedTuple):
    """What `page` returns."""

    text: str
    pictures: dict[str, str]
    """Pictures as SVG, by what their names have beyond that of the page."""


def page(arguments: Sequence[str] | None = None) -> Page:
    """Return text and pictures of a study.

    The command-line ``arguments`` name the study. There are pictures of a study that
    has a typical baseline.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("--results", required=True, help="folder of the results store")
    parser.add_argument(
        "--picture", type=Path, help="write the forest plot to this file"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--bodies",
        action="store_true",
        help="print the text about bodies with different pretraining",
    )
    kind.add_argument("--budget", choices=PLANS, help="study with a plan of its own")
    parser.add_argument(
        "--before", help="folder of the results store of the study of six epochs"
    )
    options = parser.parse_args(arguments)
    plan = PLANS.get(options.budget, SIX_EPOCHS)
    if plan.budget and not _is_run(options.results, options.benchmark, plan.budget):
        return Page(f"{not_run(options.benchmark, plan.budget, HELD_OUT)}\n", {})
    store = ResultsStore(options.results)
    found = read(options.benchmark, store, plan)
    if options.bodies:
        content = text_of_bodies(read_bodies(found, store))
    else:
        content = text(found, _answers_before(options.benchmark, options.before))
    if not plan.families.baselines:
        return Page(content, {})
    plot = picture(found)
    if options.picture:
        options.picture.write_text(plot)
    return Page(content, {"": plot, "-totals": picture(found, totals=True)})


def _is_run(results: str, benchmark: str, budget: str) -> bool:
    """Return whether a store is there and has a score of a sweep."""
    if not Path(results).is_dir():
        return False
    return has_scores(ResultsStore(results).records(), benchmark, budget)


def _answers_before(benchmark: str, results: str | None) -> list[Answer]:
    """Return the answers of the study of six epochs in a store, if one is given."""
    if results is None:
        return []
    return answers(read(benchmark, ResultsStore(results)).study, SIX_EPOCHS.questions)


if __name__ == "__main__":
    print(page().text, end="")
