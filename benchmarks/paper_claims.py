"""The table of docs/paper.md: claims of the ORCA paper beside what was measured here.

``python -m benchmarks.paper_claims docs/stores`` prints the text, which ``make boards``
writes. With ``--missing``, it prints the studies that have not been run, or only in
part. ``paper_claims.toml`` lists the claims and these studies. Published numbers come
from ``orca_ray/leaderboard/published/results.csv``, measured ones from the stores below
the folder. A store that is not there gives "not run yet".
"""

# ruff: noqa: T201 - a benchmark prints its text

import argparse
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.planned import SIX_EPOCHS, STEPS
from orca_ray.data.prepared import HELD_OUT, PAPER
from orca_ray.leaderboard import Board, EffectGrid, build
from orca_ray.leaderboard.effects import Effects, build_effects
from orca_ray.leaderboard.formats.markdown import markdown_table
from orca_ray.leaderboard.published.tables import (
    PublishedRow,
    all_published,
    sources,
)
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS, binomial, student
from orca_ray.results.store import ResultsStore
from orca_ray.results.submissions import imported_scores
from orca_ray.sweep.plan.grid import grid_cells
from orca_ray.sweep.plan.loading import load_spec
from orca_ray.tasks.openml.tables import TABLES
from orca_ray.tasks.registry import get_task

AGREES = "agrees"
DIFFERS = "differs"
OPEN = "cannot be said"
NOT_RUN = "not run yet"
LEAST_RATIO = 1.1
"""Least ratio of the errors of two methods on one task, with one seed, that counts as a
difference.
"""
LARGEST_GAIN = 0.95
"""Largest ratio of errors that counts as a gain where a claim says there is none."""
TIME_FACTOR = 2.0
"""Factor within which a share of time agrees with the published one."""
TIME_SHARE = 0.1
"""Published share of the time of aligning."""
STUDIES = {"cabinet/small": SIX_EPOCHS.trained, "cabinet/trained": f"after {STEPS}"}
"""Sweeps with methods on many tasks, and how long their transformers trained."""
DISTANCES = ("otdd", "mmd", "l2")
"""Distances of the study of aligning, the one that the paper finds best first."""
START = {"embedder.initialisation": "random"}
"""Start of the embedder from which the paper aligns."""


@dataclass(frozen=True)
class Claim:
    """One claim of ``paper_claims.toml``."""

    text: str
    rule: str
    stores: Sequence[str]
    """Names of the stores that the claim is measured in."""
    confound: str
    published: Sequence[Sequence[str]] = ()
    """Published rows: task, method, and quantity of each."""
    quote: str = ""
    """Statement without a number."""
    source: str = ""
    """Source of ``quote``."""
    tables: str = ""
    """``tabpfn`` or ``lift``, a group of OpenML's tables, or the name of a task."""
    method: str = ""
    rival: str = ""

    @property
    def rows(self) -> list[PublishedRow]:
        """The published rows; ValueError if one is missing or ambiguous."""
        return [_published_row(*names) for names in self.published]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that the claim is measured on."""
        return tasks_of(self.tables)


@dataclass(frozen=True)
class Missing:
    """One study of ``paper_claims.toml`` that has not been run, or only in part."""

    text: str
    reason: str
    sweep: str = ""
    """Start of the name of its sweeps; empty if no sweep file has it."""
    store: str = ""
    protocol: str = ""
    """Protocol of the study; empty: any."""
    body: str = ""
    """Body of the study; empty: any."""
    tables: str = ""
    """Group of OpenML's tables, as in `Claim`; empty: all tasks."""

    def num_scores(self, stores: Path) -> int:
        """Return the number of pairs of task and method that have a score."""
        rows = read_scores(stores / self.store)
        is_of_study = rows["sweep"].str.startswith(self.sweep)
        for column, value in (("protocol", self.protocol), ("body", self.body)):
            is_of_study &= (rows[column] == value) | (not value)
        if self.tables:
            is_of_study &= rows["task"].isin(tasks_of(self.tables))
        return len(rows[is_of_study])


def tasks_of(tables: str) -> list[str]:
    """Return the names of tasks of a group of OpenML's tables, or of one task."""
    if tables not in ("tabpfn", "lift"):
        return [tables]
    return [
        f"openml/{dataset_id}"
        for dataset_id, declared in TABLES.items()
        if "rows" in declared and ("lift" in declared) == (tables == "lift")
    ]


def _published_row(task: str, method: str, quantity: str) -> PublishedRow:
    rows = [
        row
        for row in all_published()
        if (row.task, row.method, row.quantity) == (task, method, quantity)
        and not row.flag
        and not row.source.startswith(("wizwand", "diffpde"))
    ]
    if len(rows) != 1:
        raise ValueError(
            f"{task}, {method}, {quantity}: expected one published row, found"
            f" {len(rows)}"
        )
    return rows[0]


@dataclass(frozen=True)
class Measured:
    """What was measured for a claim: numbers as text, and the verdict."""

    text: str
    verdict: str


@cache
def read_scores(store: Path) -> pd.DataFrame:
    """Return the mean test scores of a store.

    Columns are sweep, protocol, body, task, method and score. Imported scores have the
    sweep "" and the body "none". There are no rows if the store does not exist.
    """
    columns = ["sweep", "protocol", "body", "task", "method"]
    if not store.is_dir():
        return pd.DataFrame(columns=[*columns, "score"])
    records = ResultsStore(store).records()
    is_scored = (records["phase"] == "confirm") & (records["status"] == "completed")
    rows = records[is_scored].rename(columns={"test_score": "score"})
    imported, _ = imported_scores(str(store))
    others = pd.DataFrame(
        [("", s.protocol, "none", s.task, s.method, s.score) for s in imported],
        columns=[*columns, "score"],
    )
    both = pd.concat([rows[[*columns, "score"]], others])
    return both.groupby(columns)["score"].mean().reset_index()


@dataclass(frozen=True)
class Side:
    """Scores of one method and body in one sweep, by task."""

    sweep: str
    body: str
    scores: Mapping[str, float]


def sides(rows: pd.DataFrame, method: str, tasks: Sequence[str]) -> list[Side]:
    """Return the scores of a method on some tasks, one `Side` for each sweep and body.

    Tasks without a score are left out.
    """
    chosen = rows[(rows["method"] == method) & rows["task"].isin(tasks)]
    return [
        Side(
            str(sweep), str(body), dict(zip(group["task"], group["score"], strict=True))
        )
        for (sweep, body), group in chosen.groupby(["sweep", "body"])
    ]


def rival_of(side: Side, rows: pd.DataFrame, rival: str, tasks: Sequence[str]) -> Side:
    """Return the scores of a rival that stand beside those of ``side``.

    They are of the same sweep, or imported. If there are none, the result has no score.
    """
    for other in sides(rows, rival, tasks):
        if other.sweep in (side.sweep, ""):
            return other
    return Side(side.sweep, "none", {})


def gain(claim: Claim, rows: pd.DataFrame) -> Iterator[Measured]:
    """Compare the mean of the differences of tables with 0; more than 0 is published.

    Errors are compared in points.
    """
    sign = -1.0 if claim.rule == "loss" else 1.0
    is_accuracy = claim.tables == "lift"
    scale = 100.0 if is_accuracy else 1.0
    digits = 1 if is_accuracy else 4
    for side in sides(rows, claim.method, claim.tasks):
        other = rival_of(side, rows, claim.rival, claim.tasks)
        common = [task for task in side.scores if task in other.scores]
        differences = np.array(
            [scale * (other.scores[task] - side.scores[task]) for task in common]
        )
        if not common:
            continue
        means, low, high = student(differences[:, None])
        interval = f" [{low[0]:+.{digits}f}, {high[0]:+.{digits}f}]"
        if len(common) < MIN_TASKS:
            interval = ""
        text = f"{means[0]:+.{digits}f}{interval}, {_count(common, claim)}{_on(side)}"
        ends = sorted((sign * low[0], sign * high[0]))
        yield Measured(text, _complete(common, claim, _verdict_of_side(*ends)))


def _verdict_of_side(low: float, high: float) -> str:
    """Return the verdict of an interval; numbers above 0 are the published side."""
    if low > 0:
        return AGREES
    if high < 0:
        return DIFFERS
    return OPEN


def _complete(common: Sequence[str], claim: Claim, verdict: str) -> str:
    """Return the verdict, unless tables are still missing."""
    return verdict if len(common) == len(claim.tasks) else f"{OPEN}: not complete"


def _count(common: Sequence[str], claim: Claim) -> str:
    return f"{len(common)} of {len(claim.tasks)} tables"


def _on(side: Side) -> str:
    """Return the body of a side as text."""
    return "" if side.body == "none" else f", `{side.body}`"


def best(claim: Claim, rows: pd.DataFrame) -> Iterator[Measured]:
    """Count the tables on which a method is the best; ties are shared."""
    rivals = claim.rival.split("; ")
    for side in sides(rows, claim.method, claim.tasks):
        others = [rival_of(side, rows, rival, claim.tasks).scores for rival in rivals]
        common = [
            task for task in side.scores if all(task in scores for scores in others)
        ]
        wins = 0.0
        for task in common:
            values = [side.scores[task], *(scores[task] for scores in others)]
            if values[0] == min(values):
                wins += 1 / values.count(values[0])
        chance = 1 / (1 + len(rivals))
        if common:
            yield _share_of_wins(claim, side, wins, common, chance)


def published_rival(claim: Claim, rows: pd.DataFrame) -> Iterator[Measured]:
    """Count the tables on which a method is better than a published score."""
    published = {
        row.task: row.score
        for row in all_published()
        if row.method == claim.rival and row.score is not None
    }
    for side in sides(rows, claim.method, claim.tasks):
        common = [task for task in side.scores if task in published]
        wins = 0.0
        for task in common:
            difference = published[task] - side.scores[task]
            wins += 0.5 + 0.5 * float(np.sign(difference))
        if common:
            yield _share_of_wins(claim, side, wins, common, chance=0.5)


def _share_of_wins(
    claim: Claim, side: Side, wins: float, common: Sequence[str], chance: float
) -> Measured:
    """Return the verdict of a share of tables beside the published one.

    ``chance`` is the share if methods were equal.
    """
    low, high = (end[0] for end in binomial(np.array([wins]), len(common)))
    won, total = claim.rows[0].published.split("/")
    if not low <= int(won) / int(total) <= high:
        verdict = DIFFERS
    elif low <= chance <= high:
        verdict = OPEN
    else:
        verdict = AGREES
    text = f"{wins:g} of {len(common)}{_on(side)}"
    return Measured(text, _complete(common, claim, verdict))


def order(claim: Claim, rows: pd.DataFrame) -> Iterator[Measured]:
    """Compare the errors of two methods on one task, for each sweep."""
    (task,) = claim.tasks
    for side in sides(rows, claim.method, claim.tasks):
        other = rival_of(side, rows, claim.rival, claim.tasks)
        if task not in other.scores:
            continue
        ratio = side.scores[task] / other.scores[task]
        text = (
            f"{side.scores[task]:.3g} to {other.scores[task]:.3g}"
            f" ({side.sweep.partition('/')[2]}{_on(side)})"
        )
        yield Measured(text, _verdict_of_ratio(claim.rule, ratio))


def _verdict_of_ratio(rule: str, ratio: float) -> str:
    """Return the verdict of a ratio of errors on one task."""
    is_level = 1 / LEAST_RATIO <= ratio <= LEAST_RATIO
    if rule == "level":
        return AGREES if is_level else DIFFERS
    if is_level:
        return OPEN
    is_lower_published = rule == "order"
    return AGREES if (ratio < 1) == is_lower_published else DIFFERS


def absent(claim: Claim, rows: pd.DataFrame) -> Iterator[Measured]:
    """Yield nothing: the method is not here."""
    return iter(())


@cache
def read_effects(store: Path) -> Effects:
    """Return the effects of the study of aligning."""
    spec = load_spec("aligning")
    cells = {
        (task, method): grid_cells(spec, task, method) for task, method in spec.pairs
    }
    return build_effects(
        ResultsStore(store).records(),
        EffectGrid(cells, spec.confirm_seeds),
        benchmark=spec.file.benchmark,
        sweep=spec.sweep_id,
    )


def log_scores(effects: Effects, distance: str) -> dict[str, float]:
    """Return mean log scores from a random start, over shares of labels, by task."""
    wanted = {"aligning": distance, **START}
    logs: dict[str, list[float]] = {}
    for (task, cell), score in effects.scores.items():
        if wanted.items() <= effects.cells[cell].items():
            logs.setdefault(task, []).append(math.log(score.mean))
    return {task: float(np.mean(values)) for task, values in logs.items()}


def ratio_over_tasks(
    logs: Mapping[str, float], reference: Mapping[str, float]
) -> tuple[float, float, float]:
    """Return the geometric mean ratio over common tasks, and the ends of its interval.

    The ends are NaN below five tasks.
    """
    common = [task for task in logs if task in reference]
    differences = np.array([logs[task] - reference[task] for task in common])
    means, low, high = student(differences[:, None])
    return math.exp(means[0]), math.exp(low[0]), math.exp(high[0])


def _ratio_text(ratio: tuple[float, float, float]) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(*ratio)


def distances(claim: Claim, store: Path) -> Iterator[Measured]:
    """Compare each distance with no aligning, over tasks."""
    effects = read_effects(store)
    ratios = {}
    for name in DISTANCES:
        compared = effects.find(
            {"aligning": name, **START}, {"aligning": "none", **START}
        )
        assert compared is not None, f"the study of aligning lacks {name}"
        ratios[name] = (compared.ratio.value, compared.ratio.low, compared.ratio.high)
    text = ", ".join(f"`{name}` {_ratio_text(ratios[name])}" for name in DISTANCES)
    yield Measured(text, _verdict_of_all(list(ratios.values())))


def _verdict_of_all(ratios: Sequence[tuple[float, float, float]]) -> str:
    """Return the verdict of ratios that are all below 1 in the claim."""
    if all(high < 1 for _, _, high in ratios):
        return AGREES
    if any(low > 1 for _, low, _ in ratios):
        return DIFFERS
    return OPEN


def best_distance(claim: Claim, store: Path) -> Iterator[Measured]:
    """Compare OTDD with the two other distances, over tasks."""
    effects = read_effects(store)
    first, *others = DISTANCES
    logs = log_scores(effects, first)
    ratios = {
        name: ratio_over_tasks(logs, log_scores(effects, name)) for name in others
    }
    text = ", ".join(f"{_ratio_text(ratios[name])} to `{name}`" for name in others)
    yield Measured(text, _verdict_of_all(list(ratios.values())))


def study_of(store: Path) -> Board:
    """Return the board of the sweep of `STUDIES` that a store has."""
    records = ResultsStore(store).records()
    (sweep,) = set(records["sweep"]).intersection(STUDIES)
    return build(records, benchmark="cabinet", sweep=sweep, protocol=HELD_OUT)


def log_means(board: Board, *methods: str) -> dict[str, dict[str, float]]:
    """Return the log mean scores of methods, by task, on their common tasks.

    A score of zero counts as on the board.
    """
    table = board.table
    present = [method for method in methods if method in table.methods]
    if len(present) < len(methods):
        return {method: {} for method in methods}
    columns = [table.methods.index(method) for method in methods]
    means_TM = np.maximum(table.means_TM, table.floors_T[:, None])[:, columns]
    common_T = np.isfinite(means_TM).all(axis=1)
    tasks = [table.tasks[t] for t in np.flatnonzero(common_T)]
    logs_TM = np.log(means_TM[common_T])
    return {
        method: dict(zip(tasks, logs_TM[:, m].tolist(), strict=True))
        for m, method in enumerate(methods)
    }


def by_modality(claim: Claim, store: Path) -> Iterator[Measured]:
    """Compare two methods on the tasks of one modality, over tasks."""
    is_image = claim.rule == "no_gain_images"
    modality = "image" if is_image else "sequence"
    board = study_of(store)
    logs = {
        method: {
            task: value
            for task, value in values.items()
            if get_task(task).modality == modality
        }
        for method, values in log_means(board, claim.method, claim.rival).items()
    }
    ratio = ratio_over_tasks(logs[claim.method], logs[claim.rival])
    _, low, high = ratio
    verdict = _verdict_of_no_gain(low, high)
    if not is_image:
        verdict = _verdict_of_side(1 - high, 1 - low)
    num_tasks = len(logs[claim.method])
    text = f"{_ratio_text(ratio)} to `{claim.rival}`, {num_tasks} tasks"
    yield Measured(f"{text}, {STUDIES[board.sweep]}", verdict)


def _verdict_of_no_gain(low: float, high: float) -> str:
    """Return the verdict of an interval of ratios where no gain is claimed."""
    if low > LARGEST_GAIN:
        return AGREES
    if high < 1:
        return DIFFERS
    return OPEN


def time(claim: Claim, store: Path) -> Iterator[Measured]:
    """Compare the median share of time of aligning with the published one."""
    sweep = study_of(store).sweep
    records = ResultsStore(store).records(sweep=sweep)
    rows = records[
        (records["phase"] == "confirm")
        & (records["status"] == "completed")
        & (records["method"] == claim.method)
    ]
    share = float((rows["align_seconds"] / rows["refine_seconds"]).median())
    is_close = TIME_SHARE / TIME_FACTOR <= share <= TIME_SHARE * TIME_FACTOR
    text = f"{100 * share:.2g} %, median of {len(rows)} trials, {STUDIES[sweep]}"
    yield Measured(text, AGREES if is_close else DIFFERS)


SCORE_RULES: Mapping[str, Callable[[Claim, pd.DataFrame], Iterator[Measured]]] = {
    "gain": gain,
    "loss": gain,
    "best": best,
    "published_rival": published_rival,
    "order": order,
    "reverse_order": order,
    "level": order,
    "absent": absent,
}
"""Rules for scores of one protocol, by name."""
STUDY_RULES: Mapping[str, Callable[[Claim, Path], Iterator[Measured]]] = {
    "distances": distances,
    "best_distance": best_distance,
    "no_gain_images": by_modality,
    "gain_sequences": by_modality,
    "time": time,
}
"""Rules for studies, whose protocol is ``held-out``."""


def claims() -> list[Claim]:
    """Return the claims in the order of the page."""
    return [Claim(**values) for values in _content()["claims"]]


def missing() -> list[Missing]:
    """Return the studies that have not been run in the order of the page."""
    return [Missing(**values) for values in _content()["missing"]]


def _content() -> dict[str, list[dict[str, Any]]]:
    path = Path(__file__).with_suffix(".toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def measure(claim: Claim, stores: Path, protocol: str) -> list[Measured]:
    """Return what was measured for a claim under one protocol.

    There is one entry for each body, or for each store of a study.
    """
    measured: list[Measured] = []
    for store in (stores / name for name in claim.stores):
        if claim.rule in SCORE_RULES:
            rows = read_scores(store)
            of_protocol = rows[rows["protocol"] == protocol]
            measured += SCORE_RULES[claim.rule](claim, of_protocol)
        elif protocol == HELD_OUT and store.is_dir():
            measured += STUDY_RULES[claim.rule](claim, store)
    return measured


def published_text(claim: Claim) -> str:
    """Return what was published: numbers with their methods, or a quote."""
    if claim.quote:
        return f"“{claim.quote}”"
    values = []
    for row in claim.rows:
        value = row.published
        if "improvement" in row.quantity and not value.startswith("-"):
            value = f"+{value}"
        values.append(f"{row.method} {value}")
    return ", ".join(values)


def source_text(claim: Claim) -> str:
    """Return where a claim was published, and how it was read."""
    if claim.quote:
        return claim.source
    return "; ".join(dict.fromkeys(sources()[row.source] for row in claim.rows))


def cell(measured: Sequence[Measured], rule: str) -> str:
    """Return the text of a cell of the table, one line for each body or sweep."""
    if rule == "absent":
        return OPEN
    if not measured:
        return NOT_RUN
    return "<br>".join(f"{item.text}: **{item.verdict}**" for item in measured)


def missing_table(stores: Path) -> str:
    """Return the table of the studies that have not been run, or only in part."""
    grid = [["study", "sweep", "scores here", "why"]]
    for study in missing():
        sweep = "none"
        num_scores = 0
        if study.sweep:
            sweep = f"`{study.sweep}`"
            num_scores = study.num_scores(stores)
        grid.append([study.text, sweep, str(num_scores), study.reason])
    return "\n".join([*markdown_table(grid, 4), ""])


def page(arguments: Sequence[str] | None = None) -> str:
    """Return the table of claims and the notes below it, or that of missing studies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", type=Path, help="folder of the stores")
    parser.add_argument(
        "--missing", action="store_true", help="print what has not been run"
    )
    options = parser.parse_args(arguments)
    if options.missing:
        return missing_table(options.stores)
    grid = [["", "claim", "published", "here, `paper`", "here, `held-out`"]]
    notes = []
    for number, claim in enumerate(claims(), start=1):
        cells = [
            cell(measure(claim, options.stores, protocol), claim.rule)
            for protocol in (PAPER, HELD_OUT)
        ]
        if claim.rule in STUDY_RULES:
            cells[0] = "–"
        grid.append([str(number), claim.text, published_text(claim), *cells])
        notes.append(f"{number}. {claim.confound} Published in: {source_text(claim)}.")
    return "\n".join([*markdown_table(grid, 5), "", *notes, ""])


if __name__ == "__main__":
    print(page())
