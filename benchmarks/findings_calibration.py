"""How often answers about simulated studies are wrong.

The table of docs/findings.md is what ``python -m benchmarks.findings_calibration``
prints. No method is better than another on average; on a single task methods differ,
and the seeds of a method do.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from benchmarks.findings import Data, Study, answers, by_distance, by_samples
from benchmarks.findings_page import COMPARED, on_new_task
from benchmarks.regression import Estimate, mean
from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.leaderboard.statistics.intervals import MIN_TASKS
from orca_ray.leaderboard.statistics.table import Floats

KINDS = {"fields": 6, "images": 6, "series": 12, "spectra, sequences": 5, "tables": 12}
"""Numbers of tasks of the study."""
METHODS = tuple(sorted({method for sides in COMPARED for method in sides}))
"""Names of the methods of the study."""


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
        """Return random numbers; normal ones have the deviation 1."""
        if self.tails:
            return random.standard_t(self.tails, shape)
        return random.normal(size=shape)

    def study(
        self, random: np.random.Generator, logs_M: Floats | float = 0.0
    ) -> tuple[Study, Study]:
        """Return a study, and one more task of it alone.

        ``logs_M`` are the mean log scores of `METHODS`.
        """
        all_kinds = np.repeat(np.arange(len(KINDS)), list(KINDS.values()))
        places = random.permutation(all_kinds)
        places = np.append(places[: self.tasks], random.choice(places))
        scores_TMS = self._scores(random, places, logs_M)
        properties = _properties(random, np.array(list(KINDS))[places])

        def part(tasks: slice) -> Study:
            scores = scores_TMS[tasks]
            names = tuple(f"t{number:02}" for number in range(len(scores)))
            return Study(ScoreTable(names, METHODS, scores), properties.part(tasks))

        return part(slice(self.tasks)), part(slice(self.tasks, None))

    def _scores(
        self,
        random: np.random.Generator,
        places_T: NDArray[np.int64],
        logs_M: Floats | float,
    ) -> Floats:
        """Return scores [T, M, 3]; ``places_T`` are the places of tasks in `KINDS`."""
        num = len(places_T)
        width = len(METHODS)
        noise_of_task = random.normal(size=(num, 1, 1))
        noise_of_cell = self.unequal * random.normal(size=(num, width, 1))
        noise = 0.1 * np.exp(noise_of_task + noise_of_cell)
        level = random.normal(size=(num, 1))
        spread = np.array(self.spreads)[places_T].reshape(-1, 1)
        truth = level + logs_M + spread * self.draw(random, num, width)
        scores = np.exp(truth[:, :, None] + noise * self.draw(random, num, width, 3))
        chose_not_to_align = random.random(num) < 0.6
        guarded = METHODS.index("orca_guarded")
        scores[chose_not_to_align, guarded] = scores[
            chose_not_to_align, METHODS.index("nft")
        ]
        return scores


def _properties(random: np.random.Generator, kinds_T: NDArray[np.str_]) -> Data:
    """Return random properties of tasks of some kinds of data."""
    num = len(kinds_T)
    samples = np.where(kinds_T == "fields", 400.0, 10 ** random.uniform(1.5, 3, num))
    images = np.isin(kinds_T, ["images", "fields"]) & (random.random(num) < 0.8)
    unknown = np.full(num, np.nan)
    return Data(
        logs=np.zeros(num),
        kinds=kinds_T,
        images=images,
        samples=samples,
        distances=np.exp(random.normal(size=num) + 2.0 * images),
        centroids=unknown,
        distributions=unknown,
    )


UNEQUAL = (0.6, 0.3, 0.2, 0.1, 0.1)
"""Deviations over tasks that differ between kinds of data."""
NULLS = {
    "equal": Null(),
    "no effects": Null(spreads=(0.0,) * 5),
    "unequal": Null(UNEQUAL, unequal=0.5),
    "heavy tails": Null(tails=3),
    "16 of 41 tasks": Null(UNEQUAL, unequal=0.5, tasks=16),
}
"""Simulated distributions by name: columns of the table."""
STATEMENTS = (
    "any of the ten answers Yes or No",
    "interval over all tasks",
    "interval of a kind of data",
    "interval of ten times the samples",
    "interval of twice the distance",
    "interval of one new task",
)
"""Statements: rows of the table.

The number of the first one is a rate of false statements, the others are coverages.
"""


def simulate(null: str, num: int, seed: int = 0) -> dict[str, float]:
    """Return the number of each of `STATEMENTS` over ``num`` studies.

    It is the share of false statements, or the coverage.
    """
    random = np.random.default_rng([seed, *map(ord, null)])
    outcomes: dict[str, list[bool]] = {name: [] for name in STATEMENTS}
    for _ in range(num):
        study, new_task = NULLS[null].study(random)
        is_any_clear = any(answer.clear for answer in answers(study))
        outcomes[STATEMENTS[0]].append(is_any_clear)
        for sides in COMPARED:
            (log,) = new_task.data(*sides).logs
            estimates = _estimates(study.data(*sides), float(log))
            for name, pairs in zip(STATEMENTS[1:], estimates, strict=True):
                outcomes[name] += [
                    estimate.ends[0] <= truth <= estimate.ends[1]
                    for estimate, truth in pairs
                    if estimate.error >= 0
                ]
    return {name: float(np.mean(values)) for name, values in outcomes.items()}


def _estimates(data: Data, log: float) -> list[list[tuple[Estimate, float]]]:
    """Return the estimates of each statement about intervals, with their true values.

    ``log`` is the log ratio of a new task.
    """
    parts = [data.logs[data.kinds == kind] for kind in KINDS]
    return [
        [(mean(data.logs), 0.0)],
        [(mean(part), 0.0) for part in parts if len(part) >= MIN_TASKS],
        [(by_samples(data), 0.0)],
        [(by_distance(data), 0.0)],
        [(on_new_task(data), log)],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--studies", type=int, default=1000, help="simulated studies of each number"
    )
    num_studies = parser.parse_args().studies
    columns = [simulate(null, num_studies) for null in NULLS]
    print(f"| % | {' | '.join(NULLS)} |\n|---|{'--:|' * len(NULLS)}")
    for name in STATEMENTS:
        cells = [f"{100 * column[name]:.1f}" for column in columns]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
