"""How often answers about simulated studies are wrong, ``python -m
benchmarks.findings_calibration``.

The table of docs/findings.md is what this program prints. No method is better than
another on average; on a single task methods differ, and the seeds of a method do.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.findings import Data, Study, answers, by_distance, by_samples
from benchmarks.findings_page import COMPARED, on_new_task
from benchmarks.regression import Estimate, mean
from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS
from orca_ray.leaderboard.statistics.table import Floats

KINDS = {"fields": 6, "images": 6, "series": 12, "spectra, sequences": 5, "tables": 12}
"""Numbers of tasks of the study."""
METHODS = tuple(sorted({method for sides in COMPARED for method in sides}))


@dataclass(frozen=True)
class Null:
    """How scores are distributed of methods that are equal on average."""

    spreads: Sequence[float] = (0.2,) * 5
    """Deviation over tasks of a method's true log score, for each of `KINDS`."""
    unequal: float = 0.0
    """Deviation of the logarithm of a cell's noise over seeds."""
    tails: int = 0
    """Degrees of freedom of Student's distribution of noise and effects; 0: normal."""
    tasks: int = 41
    """Number of tasks that have ended, drawn from all."""

    def draw(self, random: np.random.Generator, *shape: int) -> Floats:
        """Return random numbers of a shape, with the deviation 1 where they are normal."""
        return (
            random.standard_t(self.tails, shape)
            if self.tails
            else random.normal(size=shape)
        )

    def study(
        self, random: np.random.Generator, logs_M: Floats | float = 0.0
    ) -> tuple[Study, Study]:
        """Return a study, and one more task of it alone; ``logs_M`` are the mean log
        scores of `METHODS`.
        """
        places = random.permutation(
            np.repeat(np.arange(len(KINDS)), list(KINDS.values()))
        )
        places = np.append(places[: self.tasks], random.choice(places))
        num = len(places)
        width = len(METHODS)
        noise = 0.1 * np.exp(
            random.normal(size=(num, 1, 1))
            + self.unequal * random.normal(size=(num, width, 1))
        )
        spread = np.array(self.spreads)[places].reshape(-1, 1)
        truth = (
            random.normal(size=(num, 1))
            + logs_M
            + spread * self.draw(random, num, width)
        )
        scores = np.exp(truth[:, :, None] + noise * self.draw(random, num, width, 3))
        same = random.random(num) < 0.6  # the probe chose not to align
        scores[same, METHODS.index("orca_guarded")] = scores[same, METHODS.index("nft")]
        kinds = np.array(list(KINDS))[places]
        samples = np.where(kinds == "fields", 400.0, 10 ** random.uniform(1.5, 3, num))
        images = np.isin(kinds, ["images", "fields"]) & (random.random(num) < 0.8)
        distances = np.exp(random.normal(size=num) + 2.0 * images)
        unknown = np.full(num, np.nan)
        properties = Data(
            np.zeros(num), kinds, images, samples, distances, unknown, unknown
        )

        def part(kept: slice) -> Study:
            given = Data(*(each[kept] for each in vars(properties).values()))
            names = tuple(f"t{number:02}" for number in range(len(given.logs)))
            return Study(ScoreTable(names, METHODS, scores[kept]), given)

        return part(slice(self.tasks)), part(slice(self.tasks, None))


UNEQUAL = (0.6, 0.3, 0.2, 0.1, 0.1)
NULLS = {
    "equal": Null(),
    "no effects": Null(spreads=(0.0,) * 5),
    "unequal": Null(UNEQUAL, unequal=0.5),
    "heavy tails": Null(tails=3),
    "16 of 41 tasks": Null(UNEQUAL, unequal=0.5, tasks=16),
}
STATEMENTS = (
    "any of the ten answers Yes or No",
    "interval over all tasks",
    "interval of a kind of data",
    "interval of ten times the samples",
    "interval of twice the distance",
    "interval of one new task",
)
"""Statements; the number of the first one is a rate of false statements, the others are
coverages.
"""


def simulate(null: str, num: int, seed: int = 0) -> dict[str, float]:
    """Return the share of false statements, or the coverage, of each of `STATEMENTS`
    over ``num`` studies.
    """
    random = np.random.default_rng([seed, *map(ord, null)])
    found: dict[str, list[bool]] = {name: [] for name in STATEMENTS}
    for _ in range(num):
        study, new = NULLS[null].study(random)
        found[STATEMENTS[0]].append(any(each.clear for each in answers(study)))
        for sides in COMPARED:
            data = study.data(*sides)
            (log,) = new.data(*sides).logs
            parts = [data.logs[data.kinds == kind] for kind in KINDS]
            estimates: list[list[tuple[Estimate, float]]] = [
                [(mean(data.logs), 0.0)],
                [(mean(part), 0.0) for part in parts if len(part) >= MIN_TASKS],
                [(by_samples(data), 0.0)],
                [(by_distance(data), 0.0)],
                [(on_new_task(data), float(log))],
            ]
            for name, several in zip(STATEMENTS[1:], estimates, strict=True):
                found[name] += [
                    each.ends[0] <= truth <= each.ends[1]
                    for each, truth in several
                    if each.error >= 0
                ]
    return {name: float(np.mean(each)) for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--studies", type=int, default=1000, help="simulated studies of each number"
    )
    studies = parser.parse_args().studies
    found = {null: simulate(null, studies) for null in NULLS}
    print(f"| % | {' | '.join(NULLS)} |\n|---|{'--:|' * len(NULLS)}")
    for name in STATEMENTS:
        print(
            f"| {name} |"
            f" {' | '.join(f'{100 * found[null][name]:.1f}' for null in NULLS)} |"
        )


if __name__ == "__main__":
    main()
