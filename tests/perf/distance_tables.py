"""The statistics and the tables of the distance study; see ``docs/distance-study.md`` for what they mean.

Frames of scores have rows (task, seed) and a column a distance, the baseline `NONE` among them; lower is better.
"""

import json
import logging
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from orca_ray.errors import UserError
from orca_ray.leaderboard.leaderboard import mean_rank, wins

NONE = "none"
"""The baseline: method ``nft``, which refines without aligning."""
STANDARD_ERRORS = 2.0
"""Paired differences beyond so many standard errors count as a change on a task."""
BOOTSTRAP_DRAWS = 10_000
WORTH_SAVING = 0.05
"""A distance is cheaper than another when it saves this share of the baseline's trial time."""

_log = logging.getLogger(__name__)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a study; a line cut off by a kill is skipped, for its trial runs again."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            _log.warning("%s: a broken line is skipped", path)
    return rows


class Interval(NamedTuple):
    """An estimate with its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def score_table(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return scores with rows (task, seed) and a column a distance, the baseline first."""
    table = frame.pivot(index=["task", "seed"], columns="distance", values=column)
    return table[[name for name in [NONE, *table.columns.drop(NONE, errors="ignore")] if name in table]]


def complete_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Return means over seeds [task, distance], of the seeds that every distance has."""
    return scores.dropna().groupby(level="task").mean()


def paired_log_ratios(scores: pd.DataFrame, reference: str, floors: pd.Series) -> pd.DataFrame:
    """Return log(score / the reference's score of the same seed), averaged over seeds [task, distance].

    Scores below ``floors`` [task] count as the floor: a split of n samples cannot tell them from zero.
    """
    raised = scores.clip(lower=floors.reindex(scores.index.get_level_values("task")).set_axis(scores.index), axis=0)
    logs = cast(pd.DataFrame, np.log(raised))
    return logs.sub(logs[reference], axis=0).groupby(level="task").mean()


def geometric_mean(log_ratios: pd.Series) -> Interval:
    """Return the geometric mean of ratios over tasks, with a 95 % bootstrap interval that draws tasks as clusters.

    The percentiles are expanded for the few clusters (Hesterberg, What Teachers Should Know About the Bootstrap, 2015,
    arXiv:1411.5279): with eight, plain ones hold the true value in 87 % of cases only.
    """
    values = log_ratios.dropna().to_numpy(dtype=float)
    count = len(values)
    if count < 2:
        value = float(np.exp(values[0])) if count else float("nan")
        return Interval(value, float("nan"), float("nan"))
    draws = np.random.default_rng(0).choice(values, size=(BOOTSTRAP_DRAWS, count)).mean(axis=1)
    tail = norm.sf(np.sqrt(count / (count - 1)) * t.ppf(0.975, count - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(*(float(np.exp(value)) for value in (values.mean(), low, high)))


def any_better(log_ratios: pd.DataFrame) -> float:
    """Return the p-value of "no distance is better than the baseline", for the best of all distances.

    Log ratios [task, distance] change sign a task at a time, all distances together; p is the share of sign patterns
    whose lowest t statistic is as low as the one found. So it allows for having looked at many distances.
    """
    values = log_ratios.dropna().to_numpy(dtype=float)
    count = len(values)
    if count < 2:
        return float("nan")
    signs = np.array(list(product([1.0, -1.0], repeat=count)))
    means = signs @ values / count
    spread = np.sqrt(np.maximum((values**2).mean(axis=0) - means**2, np.finfo(float).tiny))
    lowest = (means / spread).min(axis=1)
    return float((lowest <= lowest[0] + 1e-12).mean())


def changed_tasks(scores: pd.DataFrame) -> pd.DataFrame:
    """Return in how many tasks each distance is better and worse than the baseline: columns ``better``, ``worse``.

    A task counts when the mean difference, paired by seed, exceeds `STANDARD_ERRORS` standard errors. The variance of
    differences between seeds is pooled over the distances of a task: three seeds alone say little about it.
    """
    differences = scores.drop(columns=NONE).sub(scores[NONE], axis=0).groupby(level="task")
    means, counts = differences.mean(), differences.count()
    freedom = (counts - 1).clip(lower=0)
    pooled = (differences.var() * freedom).sum(axis=1) / freedom.sum(axis=1).replace(0, np.nan)
    limits = STANDARD_ERRORS * np.sqrt((1 / counts).mul(pooled, axis=0))
    return pd.DataFrame({"better": (means < -limits).sum(), "worse": (means > limits).sum()})


class Choice(NamedTuple):
    """What `choose_default` comes to."""

    chosen: str
    best: str
    """The distance with the lowest ratio to the baseline."""
    within_noise: dict[str, Interval]
    """Distances, by their ratio to ``best``, whose interval holds 1."""


def choose_default(scores: pd.DataFrame, floors: pd.Series, costs: pd.Series) -> Choice:
    """Choose a distance by the rule: the lowest ratio, unless a cheaper one is within noise of it.

    Args:
        scores: validation scores.
        floors: as for `paired_log_ratios`.
        costs: time of aligning, as a share of the baseline's trial, by distance.
    """
    to_none = paired_log_ratios(scores, NONE, floors).drop(columns=NONE)
    best = str(to_none.mean().idxmin())
    to_best = paired_log_ratios(scores, best, floors).drop(columns=NONE)
    intervals = {str(name): geometric_mean(to_best[name]) for name in to_best}
    within = {name: interval for name, interval in intervals.items() if interval.low <= 1 <= interval.high}
    cheaper = [name for name in within if costs[name] < costs[best] - WORTH_SAVING]
    return Choice(min(cheaper, key=lambda name: float(costs[name]), default=best), best, within)


def report(path: Path, distances: Sequence[str] | None) -> str:
    """Return the study's tables as Markdown."""
    rows = pd.DataFrame(read_rows(path))
    if rows.empty:
        raise UserError(f"{path} holds no trials yet: run the study with --out {path}")
    rows = rows[rows["distance"].isin(distances)] if distances else rows
    rows = rows.drop_duplicates("key", keep="last")
    frame = rows[rows["status"] == "completed"]
    if NONE not in set(frame.loc[frame["configured"], "distance"]):
        raise UserError(f"{path} holds no finished trial of {NONE!r}, which all others are compared with")
    refuse_mixed(frame)
    own = frame[frame["configured"]]
    tables = [score_lines(own, "validation_score"), summary_lines(own), choice_lines(own)]
    tables += [rate_lines(frame)] if not frame["configured"].all() else []
    tables += [["Test scores (nothing was chosen by them):"], score_lines(own, "test_score"), ending_lines(rows)]
    return "\n\n".join("\n".join(lines) for lines in tables)


def refuse_mixed(frame: pd.DataFrame) -> None:
    """Raise UserError unless trials of a task differ in distance, align learning rate and seed alone."""
    for aligned, name in ((False, "refine. or embedder."), (True, "align.")):
        part = frame[frame["distance"] != NONE] if aligned else frame
        free = {"align.distance", "align.learning_rate"}
        kept = [
            json.dumps({k: v for k, v in values.items() if k.startswith("align.") == aligned and k not in free})
            for values in part["hyperparameters"]
        ]
        mixed = part.assign(kept=kept).groupby("task")["kept"].nunique()
        if (mixed > 1).any():
            raise UserError(f"trials of {mixed.idxmax()} differ in {name} settings: use one --out FILE a configuration")


def floors_of(frame: pd.DataFrame) -> pd.Series:
    """Return half a validation sample for every task."""
    return 0.5 / frame.groupby("task")["num_validation"].first()


def score_lines(frame: pd.DataFrame, column: str) -> list[str]:
    """Tabulate mean ± standard deviation over seeds, tasks down, distances across; a task's lowest mean is bold."""
    scores = score_table(frame, column)
    means, deviations = scores.groupby(level="task").mean(), scores.groupby(level="task").std(ddof=1)
    metric = frame.groupby("task")["metric"].first()
    cells = []
    for task in map(str, means.index):
        row, deviation = means.loc[task], deviations.loc[task]
        texts = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in zip(row, deviation, strict=True)]
        marked = [bold_if(text, mean == row.min()) for text, mean in zip(texts, row, strict=True)]
        cells.append([task.split("/")[1], str(metric[task]), *marked])
    return markdown(["task", "metric", *map(str, means.columns)], cells)


def summary_lines(frame: pd.DataFrame) -> list[str]:
    """Tabulate what each distance comes to over all tasks."""
    floors = floors_of(frame)
    tables = {name: score_table(frame, name) for name in ("validation_score", "last_score", "test_score")}
    ratios = {name: paired_log_ratios(table, NONE, floors) for name, table in tables.items()}
    means = complete_means(tables["validation_score"])
    ranks, won, changed = mean_rank(means), wins(means), changed_tasks(tables["validation_score"])
    cells = []
    for name in map(str, tables["validation_score"].columns):
        part = frame[frame["distance"] == name]
        aligned = name != NONE
        compared = [str(geometric_mean(table[name])) if aligned else "1" for table in ratios.values()]
        counts = [str(changed.at[name, side]) if aligned else "" for side in ("better", "worse")]
        cost = [*([fall(part), f"{align_seconds(part):.2f}"] if aligned else ["", ""]), f"{trial_seconds(part):.1f}"]
        cells.append([name, f"{ranks[name]:.2f}", f"{won[name]:.2f}", *compared, *counts, *cost])
    header = ["distance", "mean rank", "wins", "validation ÷ none", "last epoch ÷ none", "test ÷ none"]
    header += ["better on", "worse on", "distance after ÷ before", "align, s", "trial, s"]
    lines = markdown(header, cells)
    return [*lines, "", f"Ranks and wins over {len(means)} tasks, of the seeds that every distance has."]


def fall(part: pd.DataFrame) -> str:
    """Return the median over trials of the distance after aligning by that before."""
    return f"{(part['distance_after'] / part['distance_before']).median():.2f}"


def align_seconds(part: pd.DataFrame) -> float:
    """Return the mean over tasks of the median seconds of aligning, of trials that did not take over another's."""
    own = part[~part["align_reused"].astype(bool)]
    return float(own.groupby("task")["align_seconds"].median().mean())


def trial_seconds(part: pd.DataFrame) -> float:
    """Return the mean over tasks of the median seconds of a trial; medians, for another process may disturb one."""
    return float(part.groupby("task")["seconds"].median().mean())


def choice_lines(frame: pd.DataFrame) -> list[str]:
    """Say which distance the rule chooses, and by what."""
    scores, floors = score_table(frame, "validation_score"), floors_of(frame)
    if len(scores.columns) < 2:
        return ["No distance has finished a trial."]
    whole = trial_seconds(frame[frame["distance"] == NONE])
    parts = {str(name): frame[frame["distance"] == name] for name in scores.columns}
    costs = pd.Series({name: align_seconds(part) / whole for name, part in parts.items()})
    chosen, best, within = choose_default(scores, floors, costs)
    log_ratios = paired_log_ratios(scores, NONE, floors).drop(columns=NONE)
    to_none = geometric_mean(log_ratios[best])
    others = [f"{name} {interval}, cost {costs[name]:.1%}" for name, interval in within.items() if name != best]
    return [
        f"Lowest ratio: **{best}**, {to_none}; aligning costs {costs[best]:.1%} of a trial of {NONE}.",
        f"Within noise of it, with the ratio to it: {'; '.join(others) or 'no other'}.",
        f"Is any better than {NONE}: p = {any_better(log_ratios):.3f}, all distances allowed for.",
        f"By the rule: **{chosen}**.",
    ]


def rate_lines(frame: pd.DataFrame) -> list[str]:
    """Tabulate the ratio to none of every distance at every align learning rate; a distance's lowest is bold."""
    aligned, floors = frame[frame["distance"] != NONE], floors_of(frame)
    rates = aligned["hyperparameters"].map(lambda values: values["align.learning_rate"])
    table: dict[float, dict[str, Interval]] = {}
    for rate in sorted({float(rate) for rate in rates}):
        part = pd.concat([frame[frame["distance"] == NONE], aligned[rates == rate]])
        ratios = paired_log_ratios(score_table(part, "validation_score"), NONE, floors).drop(columns=NONE)
        table[rate] = {str(name): geometric_mean(ratios[name]) for name in ratios}
    cells = []
    for name in sorted(set(aligned["distance"])):
        found = {rate: intervals[name] for rate, intervals in table.items() if name in intervals}
        lowest = min(found, key=lambda rate: found[rate].value)
        cells.append([name, *(bold_if(str(found.get(rate, "")), rate == lowest) for rate in table)])
    return markdown(["validation ÷ none at align.learning_rate", *(f"{rate:g}" for rate in table)], cells)


def ending_lines(rows: pd.DataFrame) -> list[str]:
    """Count trials, and name those that failed."""
    failed = rows[rows["status"] != "completed"]
    seconds, codes = rows["seconds"].sum(), rows["code"].nunique()
    epochs = sorted({values["refine.epochs"] for values in rows["hyperparameters"]})
    head = (
        f"{len(rows) - len(failed)} trials completed, {len(failed)} failed; {seconds / 60:.0f} minutes of trial time; "
    )
    lines = [f"{head}refine epochs {', '.join(map(str, epochs))}; {codes} version(s) of the code."]
    for row in failed.itertuples():
        lines.append(f"- failed: {row.task} {row.distance} seed {row.seed}: {row.error}")
    return lines


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    rule = ["---"] * len(header)
    return [f"| {' | '.join(line)} |" for line in (header, rule, *cells)]


def bold_if(text: str, condition: bool) -> str:
    """Return the text, in bold where the condition holds."""
    return f"**{text}**" if condition else text
