"""How often statements of a board are wrong on simulated scores of equal methods,
``python -m benchmarks.calibration``.

Each statement is simulated under five nulls; the table of docs/reading-a-board.md is
what this program prints. A number is the share of boards with a false statement, or of
intervals that hold the truth, in per cent.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy import special

from orca_ray.leaderboard.difference import Kind, compare_boards
from orca_ray.leaderboard.statistics import ScoreTable, get_statistic
from orca_ray.leaderboard.statistics.paired import LogScores, holm
from orca_ray.leaderboard.statistics.questions import answers
from orca_ray.leaderboard.statistics.table import Floats

SEEDS = 3
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
    """How scores of equal methods are distributed: their logarithms have noise over
    seeds, and effects of the task.
    """

    tasks: tuple[int, ...] = (8,)
    """Numbers of tasks, taken in turn."""
    methods: int = 4
    unequal: float = 0.0
    """Standard deviation of the logarithm of a cell's noise."""
    tails: int = 0
    """Degrees of freedom of Student's distribution of noise and effects; 0: normal."""

    def draw(self, random: np.random.Generator, *shape: int) -> Floats:
        """Return random numbers of a shape, with the deviation 1 where they are normal."""
        return (
            random.standard_t(self.tails, shape)
            if self.tails
            else random.normal(size=shape)
        )

    def table(self, random: np.random.Generator, effect: float) -> ScoreTable:
        """Return a score table; ``effect`` is the deviation over tasks of a method's
        true log score, with mean 0.

        Statements about fewer than five tasks hold for these only: there are no effects
        then.
        """
        num = int(random.choice(self.tasks))
        effect = effect if num >= 5 else 0.0
        noise = 0.1 * np.exp(
            random.normal(size=(num, 1, 1))
            + self.unequal * random.normal(size=(num, self.methods, 1))
        )
        logs = random.normal(size=(num, 1, 1)) + effect * self.draw(
            random, num, self.methods, 1
        )
        scores = np.exp(logs + noise * self.draw(random, num, self.methods, SEEDS))
        order = np.argsort(NAMES[: self.methods])
        return ScoreTable(
            tuple(f"t{t:02}" for t in range(num)),
            tuple(NAMES[m] for m in order),
            scores,
        )


NULLS = {
    "equal noise": Null(),
    "unequal by cell": Null(unequal=0.5),
    "heavy tails": Null(tails=3),
    "3 to 5 tasks": Null(tasks=(3, 4, 5)),
    "16 methods": Null(methods=16, unequal=0.3),
}
Rates = Iterator[float]
"""One number of each simulated board: the share of its statements that are false, or of
intervals that hold.
"""


def question(null: Null, random: np.random.Generator) -> Rates:
    """Any answer Yes or No, of all questions of a board."""
    while True:
        found = answers(null.table(random, 0.2))
        yield float(any(each.answer in ("yes", "no, it hurt") for each in found))


def separable(null: Null, random: np.random.Generator) -> Rates:
    """Any pair called separable."""
    while True:
        logs = LogScores.of(null.table(random, 0.2))
        pairs = [logs.paired(*pair) for pair in combinations(logs.table.methods, 2)]
        yield float(
            holm(
                np.array(
                    [each.ratio(over_tasks=len(each.tasks) >= 5).p for each in pairs]
                )
            ).min()
            <= 0.05
        )


def ratio(null: Null, random: np.random.Generator) -> Rates:
    """Intervals of ratios over tasks."""
    while True:
        found = LogScores.of(null.table(random, 0.2)).compare("nft", "orca").ratio
        yield float(found.low <= 1 <= found.high)


def on_task(null: Null, random: np.random.Generator) -> Rates:
    """Intervals of ratios on single tasks, where methods have no effects."""
    while True:
        found = (
            LogScores.of(null.table(random, 0.0)).compare("nft", "orca").tasks.values()
        )
        yield float(np.mean([each.low <= 1 <= each.high for each in found]))


def beyond_noise(null: Null, random: np.random.Generator) -> Rates:
    """Any task of a comparison called better or worse beyond noise."""
    while True:
        yield float(
            bool(
                LogScores.of(null.table(random, 0.0))
                .compare("nft", "orca")
                .beyond_noise
            )
        )


def tied(null: Null, random: np.random.Generator) -> Rates:
    """Any method without the mark of those that are not separable from the best of the
    task.
    """
    while True:
        tied_TM = LogScores.of(null.table(random, 0.0)).tied_TM
        yield float((tied_TM.sum(axis=1) < null.methods - 1).mean())


def covered(
    name: str, truth: Callable[[ScoreTable], float]
) -> Callable[[Null, np.random.Generator], Rates]:
    """Return the statement that intervals of a statistic hold the truth."""

    def statement(null: Null, random: np.random.Generator) -> Rates:
        while True:
            table = null.table(random, 0.2)
            found = get_statistic(name).compute(table).dropna(subset=["low"])
            if len(found):
                expected = truth(table)
                yield float(
                    ((found["low"] <= expected) & (found["high"] >= expected)).mean()
                )

    return statement


def improvement(null: Null, random: np.random.Generator) -> Rates:
    """Intervals of scores relative to the method with the highest mean rank."""
    while True:
        found = get_statistic("improvement").compute(null.table(random, 0.2))
        others = found[found.index != found["baseline"].iloc[0]]
        yield float(((others["low"] <= 1) & (others["high"] >= 1)).mean())


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


def moved(shared: bool) -> Callable[[Null, np.random.Generator], Rates]:
    """Return the statement that a score moved, of two boards of one trial, with equal
    seeds or others.
    """

    def statement(null: Null, random: np.random.Generator) -> Rates:
        while True:
            before, after = (
                board_scores(1 + 0.05 * null.draw(random, SEEDS)) for _ in range(2)
            )
            after = after if shared else after.assign(seed=after["seed"] + 100)
            (change,) = compare_boards(before, after)
            yield float(change.kind in (Kind.BETTER, Kind.WORSE))

    return statement


def differs(null: Null, random: np.random.Generator) -> Rates:
    """`reproduce` says that the score of a new seed differs."""
    from orca_ray.sweep.run.reproduce import _within_spread

    while True:
        trials = null.draw(random, 20, SEEDS + 1).tolist()
        yield float(
            np.mean(
                [not _within_spread(each[0], each[-1], each[:-1])[0] for each in trials]
            )
        )


STATEMENTS: dict[str, tuple[bool, Callable[[Null, np.random.Generator], Rates]]] = {
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
    "interval of a score relative to the worst method": (True, improvement),
}
"""Statements: whether the number is a coverage, which should be 95 %, or a rate of
false statements, 5 %.
"""


def rate(statement: str, null: str, num: int, seed: int = 0) -> float:
    """Return the share of false statements, or the coverage, over ``num`` simulated
    boards.
    """
    rates = STATEMENTS[statement][1](
        NULLS[null], np.random.default_rng([seed, *map(ord, statement + null)])
    )
    return float(np.mean([next(rates) for _ in range(num)]))


POWERS = {(0.08, 0.05, 8), (0.05, 0.03, 8), (0.1, 0.15, 8), (0.05, 0.05, 20)}
"""True log ratio of two methods, its deviation over tasks, and number of tasks; noise
over seeds is 0.1.
"""


def powers(
    effect: float, spread: float, tasks: int, num: int
) -> dict[str, tuple[float, float]]:
    """Return the mean power of as many tasks, or seeds, as boards advise, and the share
    of boards with an advice.

    Only boards that do not separate the two methods advise. The power follows from the
    true effect and deviations.
    """
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {"tasks": [], "seeds": []}
    silent = 0
    for _ in range(num):
        logs = 0.1 * random.normal(size=(tasks, 2, SEEDS))
        logs[:, 1] += effect + spread * random.normal(size=(tasks, 1))
        table = ScoreTable(
            tuple(f"t{t:02}" for t in range(tasks)), ("a", "b"), np.exp(logs)
        )
        row = get_statistic("verdict").compute(table).iloc[0]
        silent += not row["separable"]
        for name, more in (("tasks", row["more_tasks"]), ("seeds", row["more_seeds"])):
            if not row["separable"] and np.isfinite(more):
                number, seeds = (
                    (tasks + more, SEEDS) if name == "tasks" else (tasks, SEEDS + more)
                )
                error = np.sqrt((spread**2 + 2 * 0.1**2 / seeds) / number)
                critical = special.stdtrit(number - 1, 0.975)
                found[name].append(
                    1 - float(special.nctdtr(number - 1, effect / error, critical))
                )
    return {
        name: (float(np.mean(each)), len(each) / silent) for name, each in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--boards", type=int, default=400, help="simulated boards of each number"
    )
    boards = parser.parse_args().boards
    for wanted, title in (
        (False, "false statements, % (5 is meant)"),
        (True, "coverage, % (95 is meant)"),
    ):
        print(f"| {title} | {' | '.join(NULLS)} |\n|---|{'--:|' * len(NULLS)}")
        for name, (coverage, _) in STATEMENTS.items():
            if coverage is wanted:
                found = [round(100 * rate(name, null, boards), 1) for null in NULLS]
                meant = 95 if coverage else 5
                cells = (
                    f"*{each}*" if abs(each - meant) > 1.5 else f"{each}"
                    for each in found
                )
                print(f"| {name} | {' | '.join(cells)} |", flush=True)
        print()
    for case in sorted(POWERS):
        for name, (power, share) in powers(*case, num=300).items():
            print(
                f"power of the advised {name} {case}: {power:.2f}, advised on"
                f" {100 * share:.0f} % of the boards"
            )


if __name__ == "__main__":
    main()
