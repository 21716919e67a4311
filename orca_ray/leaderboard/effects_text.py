"""Text about the effects of a grid's factors that several formats share."""

import math
from collections.abc import Iterator
from itertools import combinations

from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.statistics.paired import Levels, Ratio
from orca_ray.leaderboard.statistics.resampling import MIN_TASKS
from orca_ray.leaderboard.text import MISSING, metrics_text, score_text

Section = tuple[str, list[list[str]], int]
"""Title, cells (the first row holds the titles of columns), and number of columns that hold names."""
_PAIRED = (
    "Each ratio compares test scores that are paired by task, seed and the levels of all other factors; below 1 the "
    "level is better. On one task, it is the ratio of means over seeds, averaged geometrically over the other factors' "
    "levels. Over all tasks, it is the geometric mean, "
)
_OVER_TASKS = "with a 95% bootstrap interval over tasks."
_OVER_SEEDS = "with a 95% interval of the noise over seeds, which holds for these few tasks only."
_NOISE = (
    "better, worse: number of tasks on which the ratio differs from 1 by more than two standard errors, computed from "
    "the task's deviation over seeds (of log scores, pooled over all cells)."
)
_PAIRS = (
    "pairs: pairs of scores, of those planned. A mean below half of the task's smallest positive score counts as that."
)
_CHANCE = "There are {} intervals; if no factor had an effect, about one in twenty would exclude 1."


def _ratio(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.2g}"


def _interval(ratio: Ratio) -> str:
    text = _ratio(ratio.value)
    return text if math.isnan(ratio.low) else f"{text} [{_ratio(ratio.low)}, {_ratio(ratio.high)}]"


def _named(levels: Levels) -> str:
    return ", ".join(f"{factor} {level}" for factor, level in levels.items())


def _on_task(ratio: Ratio | None) -> str:
    """Format the ratio on one task: bold if better beyond noise, italic if worse."""
    if ratio is None:
        return MISSING
    mark = "**" if ratio.high < 1 else "*" if ratio.low > 1 else ""
    return f"{mark}{_ratio(ratio.value)}{mark}"


def sections(effects: Effects, *, full: bool) -> Iterator[Section]:
    """Yield the tables; ``full`` adds ratios on single tasks, and effects given a combination of levels."""
    tasks = {task: task.removeprefix(f"{effects.benchmark}/") for task in effects.metrics}
    for factor, (baseline, *_) in effects.factors.items():
        rows = [["level", "given", "ratio [95%]", "better", "worse", "pairs", *(tasks.values() if full else ())]]
        for each in effects.comparisons:
            if list(each.changed) == [factor] and (full or len(each.given) < 2):
                counts = [str(each.better), str(each.worse), f"{each.pairs}/{each.planned}"]
                name, given = each.levels[factor], _named(each.given) or "all"
                on_tasks = [_on_task(each.tasks.get(task)) for task in tasks] if full else []
                rows.append([name, given, _interval(each.ratio), *counts, *on_tasks])
        if len(rows) > 1:
            yield f"Effect of {factor}, relative to {baseline}", rows, 2
    for one, two in combinations(effects.factors, 2):
        title = f"{one} and {two}, relative to {effects.factors[one][0]}, {effects.factors[two][0]}"
        yield title, _crossed(effects, one, two), 1
    names = list(effects.factors)
    rows = [[*names, *tasks.values()]]
    for index, cell in enumerate(effects.cells):
        scores = (effects.scores[task, index] for task in tasks)
        texts = [score_text(score, len(effects.seeds), " ± " if full else "±") for score in scores]
        rows.append([*(cell.get(name, MISSING) for name in names), *texts])
    yield f"Test scores, mean ± standard deviation over seeds {', '.join(map(str, effects.seeds))}", rows, len(names)


def _crossed(effects: Effects, one: str, two: str) -> list[list[str]]:
    """Return the table of two factors: rows are levels of ``one``, columns of ``two``; both baselines have ratio 1."""
    base = {one: effects.factors[one][0], two: effects.factors[two][0]}
    rows = [[f"{one} \\ {two}", *effects.factors[two]]]
    for level in effects.factors[one]:
        found = [effects.find({one: level, two: other}, base) for other in effects.factors[two]]
        texts = [MISSING if each is None else _interval(each.ratio) for each in found]
        rows.append([level, *(["1", *texts[1:]] if level == base[one] else texts)])
    return rows


def title(effects: Effects) -> str:
    """Return the title of the effects."""
    return f"{effects.benchmark}: sweep {effects.sweep}, protocol {effects.protocol}"


def footer(effects: Effects) -> list[str]:
    """Return the sentences that explain the effects, and the numbers of scores and trials."""
    totals = ", ".join(f"{status.value} {count}" for status, count in effects.statuses.items() if count)
    missing = sum(len(effects.seeds) - score.n for score in effects.scores.values())
    counted = f"scores: {len(effects.scores) * len(effects.seeds) - missing} found, {missing} missing"
    return [
        _PAIRED + (_OVER_TASKS if len(effects.metrics) >= MIN_TASKS else _OVER_SEEDS),
        _NOISE,
        _PAIRS,
        _CHANCE.format(len(effects.comparisons)),
        metrics_text(effects.metrics, effects.benchmark),
        counted,
        f"trials: {totals}",
        *effects.notes,
    ]
