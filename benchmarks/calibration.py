"""How often statements of a board are wrong on simulated scores of equal methods.

Each statement is simulated under several nulls; the table of docs/reading-a-board.md is
what ``python -m benchmarks.calibration`` prints. A number is the share of boards with a
false statement, or of intervals that hold the truth, in per cent.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from orca_ray.leaderboard.difference import Kind, compare_boards
from orca_ray.leaderboard.statistics import ScoreTable, get_statistic
from orca_ray.leaderboard.statistics.paired import LogScores, holm
from orca_ray.leaderboard.statistics.questions import answers
from orca_ray.leaderboard.statistics.table import Floats

SEEDS = 3
"""Usual number of seeds of each method and task."""
NUM_TEST = 100
"""Number of test samples, where a score is a share of errors."""
NAMES = (
    "nft",
    "orca",
    "scratch",
    "cnn",
    "pare",
    "orca_guarded",
    "joint",
    "mona",
    "recraft",
    "no_body",
    "orca_fpt",
    "fpt",
    "orca_lora",
    "lora",
    "linear_probe",
    "random_features",
)
"""Methods of the shipped board; the first ones are those of the questions."""


@dataclass(frozen=True)
class Null:
    """How scores of equal methods are distributed.

    Their logarithms have noise over seeds, and effects of the task.
    """

    tasks: tuple[int, ...] = (8,)
    """Numbers of tasks, taken in turn."""
    methods: int = 4
    unequal: float = 0.0
    """Standard deviation of the logarithm of a cell's noise."""
    tails: int = 0
    """Degrees of freedom of Student's distribution of noise and effects; 0: normal."""
    seeds: tuple[int, ...] = (SEEDS,)
    """Numbers of seeds, of which one is drawn for each cell."""
    errors: float = 0.0
    """Mean number of errors among `NUM_TEST` samples; 0: scores are continuous."""

    def draw(self, random: np.random.Generator, *shape: int) -> Floats:
        """Return random numbers; normal ones have the deviation 1."""
        if self.tails:
            return random.standard_t(self.tails, shape)
        return random.normal(size=shape)

    def table(self, random: np.random.Generator, effect: float) -> ScoreTable:
        """Return a score table; see `with_new_scores`."""
        return self.with_new_scores(random, effect)[0]

    def with_new_scores(
        self, random: np.random.Generator, effect: float
    ) -> tuple[ScoreTable, Floats]:
        """Return a score table, and scores [T, M] of one more seed.

        ``effect`` is the deviation over tasks of a method's true log score, with mean
        0. Statements about fewer than five tasks hold for these only: there are no
        effects then.
        """
        num_tasks = int(random.choice(self.tasks))
        if num_tasks < 5:
            effect = 0.0
        noise_of_task = random.normal(size=(num_tasks, 1, 1))
        noise_of_cell = self.unequal * random.normal(size=(num_tasks, self.methods, 1))
        noise = 0.1 * np.exp(noise_of_task + noise_of_cell)
        level = random.normal(size=(num_tasks, 1, 1))
        logs = level + effect * self.draw(random, num_tasks, self.methods, 1)
        most = max(self.seeds)
        if self.errors:
            means = self.errors * np.exp(np.clip(logs, -1, 1))
            shape = (num_tasks, self.methods, most + 1)
            scores = random.poisson(means, shape) / NUM_TEST
        else:
            deviations = self.draw(random, num_tasks, self.methods, most + 1)
            scores = np.exp(logs + noise * deviations)
        new_scores = scores[:, :, most]
        num = random.choice(self.seeds, (num_tasks, self.methods, 1))
        scores = np.where(np.arange(most) < num, scores[:, :, :most], np.nan)
        order = np.argsort(NAMES[: self.methods])
        table = ScoreTable(
            tuple(f"t{t:02}" for t in range(num_tasks)),
            tuple(NAMES[m] for m in order),
            scores,
        )
        return table, new_scores

    def cell(self, random: np.random.Generator) -> Floats:
        """Return the scores of one method on one task."""
        num = int(random.choice(self.seeds))
        if self.errors:
            return random.poisson(self.errors, num) / NUM_TEST
        return 1 + 0.05 * self.draw(random, num)


NULLS = {
    "equal noise": Null(),
    "unequal by cell": Null(unequal=0.5),
    "heavy tails": Null(tails=3),
    "3 to 5 tasks": Null(tasks=(3, 4, 5)),
    "16 methods": Null(methods=16, unequal=0.3),
    "1 to 3 seeds": Null(unequal=0.5, seeds=(1, 2, 3)),
    "2 seeds, few errors": Null(seeds=(2,), errors=2.0),
}
"""Simulated distributions by name: columns of the table."""
Rates = Iterator[float]
"""One number of each simulated board.

It is the share of the board's statements that are false, or of intervals that hold.
"""
Simulation = Callable[[Null, np.random.Generator], Rates]
"""Simulates boards, and yields the number of each."""


def question(null: Null, random: np.random.Generator) -> Rates:
    """Any answer Yes or No, of all questions of a board."""
    while True:
        all_answers = answers(null.table(random, 0.2))
        yield float(
            any(answer.answer in ("yes", "no, it hurt") for answer in all_answers)
        )


def separable(null: Null, random: np.random.Generator) -> Rates:
    """Any pair called separable."""
    while True:
        logs = LogScores.of(null.table(random, 0.2))
        p = []
        for method, other in combinations(logs.table.methods, 2):
            ratios = logs.paired(method, other)
            p.append(ratios.ratio(over_tasks=len(ratios.tasks) >= 5).p)
        yield float(holm(np.array(p)).min() <= 0.05)


def ratio(null: Null, random: np.random.Generator) -> Rates:
    """Intervals of ratios over tasks."""
    while True:
        ratio = LogScores.of(null.table(random, 0.2)).compare("nft", "orca").ratio
        yield float(ratio.low <= 1 <= ratio.high)


def on_task(null: Null, random: np.random.Generator) -> Rates:
    """Intervals of ratios on single tasks, where methods have no effects."""
    while True:
        comparison = LogScores.of(null.table(random, 0.0)).compare("nft", "orca")
        ratios = comparison.tasks.values()
        yield float(np.mean([ratio.low <= 1 <= ratio.high for ratio in ratios]))


def beyond_noise(null: Null, random: np.random.Generator) -> Rates:
    """Any task of a comparison called better or worse beyond noise."""
    while True:
        comparison = LogScores.of(null.table(random, 0.0)).compare("nft", "orca")
        yield float(len(comparison.beyond_noise) > 0)


def tied(null: Null, random: np.random.Generator) -> Rates:
    """Any method without the mark of those not separable from the best of the task."""
    while True:
        logs = LogScores.of(null.table(random, 0.0))
        is_best_TM = logs.means_TM == logs.means_TM.min(axis=1, keepdims=True)
        yield float(1 - (logs.tied_TM | is_best_TM).all(axis=1).mean())


def covered(name: str, truth: Callable[[ScoreTable], float]) -> Simulation:
    """Return the statement that intervals of a statistic hold the truth."""

    def statement(null: Null, random: np.random.Generator) -> Rates:
        while True:
            table = null.table(random, 0.2)
            frame = get_statistic(name).compute(table).dropna(subset=["low"])
            if len(frame):
                expected = truth(table)
                holds = (frame["low"] <= expected) & (frame["high"] >= expected)
                yield float(holds.mean())

    return statement


def board_scores(scores: Floats) -> pd.DataFrame:
    """Return scores of one task and method, [S], as a board has them."""
    same = {
        "task": "t",
        "method": "m",
        "protocol": "p",
        "metric": "e",
        "metric_version": 1,
        "data_fingerprint": "f",
    }
    return pd.DataFrame({"seed": range(len(scores)), "score": scores, **same})


def moved(shared: bool) -> Simulation:
    """Return the statement that a score moved between two boards of one trial.

    The boards have equal seeds if ``shared``, else different ones.
    """

    def statement(null: Null, random: np.random.Generator) -> Rates:
        while True:
            before = board_scores(null.cell(random))
            after = board_scores(null.cell(random))
            if not shared:
                after = after.assign(seed=after["seed"] + 100)
            (change,) = compare_boards(before, after)
            yield float(change.kind in (Kind.BETTER, Kind.WORSE))

    return statement


def differs(null: Null, random: np.random.Generator) -> Rates:
    """`reproduce` says that the score of a new seed differs."""
    while True:
        table, new_TM = null.with_new_scores(random, 0.2)
        yield float(outside(LogScores.of(table), new_TM).mean())


def outside(logs: LogScores, new_TM: Floats) -> NDArray[np.bool_]:
    """Return whether new scores are outside of their prediction intervals, [T, M]."""
    ends = [
        [logs.prediction_interval(task, method) for method in logs.table.methods]
        for task in logs.table.tasks
    ]
    low_TM, high_TM = np.moveaxis(np.array(ends), -1, 0)
    raised_TM = np.maximum(new_TM, logs.floors_T)
    is_outside: NDArray[np.bool_] = (raised_TM < low_TM) | (raised_TM > high_TM)
    return is_outside


def power_to_differ(null: str, deviations: float, num: int, seed: int = 0) -> float:
    """Return how often `reproduce` finds that a score moved by some deviations.

    These are true standard deviations over seeds of the logarithm of a cell's score,
    estimated from many more seeds.
    """
    random = np.random.default_rng([seed, *map(ord, null)])
    many = replace(NULLS[null], seeds=(1000,))
    num_seeds = max(NULLS[null].seeds)
    rates = []
    for _ in range(num):
        table, new_TM = many.with_new_scores(random, 0.2)
        noise_TM = np.log(table.scores_TMS).std(axis=2)
        few = replace(table, scores_TMS=table.scores_TMS[:, :, :num_seeds])
        moved_TM = new_TM * np.exp(deviations * noise_TM)
        rates.append(outside(LogScores.of(few), moved_TM).mean())
    return float(np.mean(rates))


STATEMENTS: dict[str, tuple[bool, Simulation]] = {
    "any *Did … help?* answered Yes or No": (False, question),
    "any pair *separable*": (False, separable),
    "any task *better or worse beyond noise*": (False, beyond_noise),
    "any method of a task without ≈": (False, tied),
    "`leaderboard-diff`: a score *moved*, equal seeds": (False, moved(True)),
    "`leaderboard-diff`: a score *moved*, other seeds": (False, moved(False)),
    "`reproduce`: scores *differ*": (False, differs),
    "interval of a ratio over tasks": (True, ratio),
    "interval of a ratio on a task": (True, on_task),
    "interval of a mean rank": (
        True,
        covered("mean_rank", lambda table: (len(table.methods) + 1) / 2),
    ),
    "interval of wins": (
        True,
        covered("wins", lambda table: len(table.tasks) / len(table.methods)),
    ),
    "interval of a win rate": (True, covered("win_rate", lambda table: 0.5)),
    "interval of Elo": (True, covered("bradley_terry", lambda table: 1000.0)),
    "interval of a score relative to the mean": (
        True,
        covered("improvement", lambda table: 1.0),
    ),
}
"""Statements, with whether the number is a coverage.

A coverage should be 95 %, a rate of false statements 5 %.
"""


def rate(statement: str, null: str, num: int, seed: int = 0) -> float:
    """Return the share of false statements, or the coverage, over ``num`` boards."""
    _, simulate = STATEMENTS[statement]
    random = np.random.default_rng([seed, *map(ord, statement + null)])
    rates = simulate(NULLS[null], random)
    return float(np.mean([next(rates) for _ in range(num)]))


POWERS = {(0.08, 0.05, 8), (0.05, 0.03, 8), (0.1, 0.15, 8), (0.05, 0.05, 20)}
"""True log ratio of two methods, its deviation over tasks, and number of tasks.

The noise over seeds is 0.1.
"""


def powers(
    effect: float, spread: float, tasks: int, num: int
) -> dict[str, tuple[float, float]]:
    """Return the mean power of advised tasks and seeds, and the share with an advice.

    Only boards that do not separate the two methods advise. The power follows from the
    true effect and deviations.
    """
    random = np.random.default_rng(0)
    by_name: dict[str, list[float]] = {"tasks": [], "seeds": []}
    num_unclear = 0
    for _ in range(num):
        logs = 0.1 * random.normal(size=(tasks, 2, SEEDS))
        logs[:, 1] += effect + spread * random.normal(size=(tasks, 1))
        names = tuple(f"t{t:02}" for t in range(tasks))
        table = ScoreTable(names, ("a", "b"), np.exp(logs))
        row = get_statistic("verdict").compute(table).iloc[0]
        if row["separable"]:
            continue
        num_unclear += 1
        if np.isfinite(row["more_tasks"]):
            total = tasks + row["more_tasks"]
            by_name["tasks"].append(_power(effect, spread, total, SEEDS))
        if np.isfinite(row["more_seeds"]):
            total = SEEDS + row["more_seeds"]
            by_name["seeds"].append(_power(effect, spread, tasks, total))
    return {
        name: (float(np.mean(values)), len(values) / num_unclear)
        for name, values in by_name.items()
    }


def _power(effect: float, spread: float, tasks: float, seeds: float) -> float:
    """Return the probability that Student's test over tasks finds the effect."""
    error = np.sqrt((spread**2 + 2 * 0.1**2 / seeds) / tasks)
    critical = special.stdtrit(tasks - 1, 0.975)
    return 1 - float(special.nctdtr(tasks - 1, effect / error, critical))


def print_table(title: str, coverage: bool, num_boards: int) -> None:
    """Print the numbers of the statements that are coverages, or of the others."""
    meant = 95 if coverage else 5
    print(f"| {title} | {' | '.join(NULLS)} |\n|---|{'--:|' * len(NULLS)}")
    for name, (is_coverage, _) in STATEMENTS.items():
        if is_coverage is not coverage:
            continue
        cells = []
        for null in NULLS:
            number = round(100 * rate(name, null, num_boards), 1)
            is_off = abs(number - meant) > 1.5
            cells.append(f"*{number}*" if is_off else f"{number}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--boards", type=int, default=400, help="simulated boards of each number"
    )
    num_boards = parser.parse_args().boards
    print_table("false statements, % (5 is meant)", False, num_boards)
    print_table("coverage, % (95 is meant)", True, num_boards)
    for null in ("equal noise", "unequal by cell"):
        power = power_to_differ(null, 4.0, num=100)
        print(f"power of `reproduce` at four deviations ({null}): {power:.2f}")
    for case in sorted(POWERS):
        for name, (power, share) in powers(*case, num=300).items():
            print(
                f"power of the advised {name} {case}: {power:.2f}, advised on"
                f" {100 * share:.0f} % of the boards"
            )


if __name__ == "__main__":
    main()
