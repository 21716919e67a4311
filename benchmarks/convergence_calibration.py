"""How often a board says of simulated studies that they may not have converged.

The tables of docs/reading-a-board.md are what ``python -m
benchmarks.convergence_calibration`` prints. A study has one method and 20 trials. Their
validation scores are equally good in all epochs, except for noise: the best epoch is a
random one, and the statement is false.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics import get_statistic
from orca_ray.leaderboard.statistics.convergence import MAX_UNFINISHED
from orca_ray.leaderboard.statistics.table import Floats

TRIALS = 20
"""Number of trials of a study."""
EPOCHS = (6, 12, 30, 100)
"""Numbers of epochs of the simulated studies."""
FALLS = (0.05, 0.1, 0.2)
"""Shares by which scores fall in the last twentieth of studies that still improve."""
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]
"""Draws the relative scores of trials [N, E] that have converged."""


def normal(deviation: float) -> Noise:
    """Return noise whose logarithm is normal."""
    return lambda random, shape: np.exp(deviation * random.normal(size=shape))


def heavy(random: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw noise whose logarithm has the tails of Student's distribution."""
    noise: Floats = np.exp(0.05 * random.standard_t(3, shape))
    return noise


def error_rate(random: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw errors of 30 validation samples, of which each is wrong in one of ten."""
    return random.binomial(30, 0.1, shape) / 30


NULLS: dict[str, Noise] = {
    "noise of 1 %": normal(0.01),
    "noise of 5 %": normal(0.05),
    "noise of 20 %": normal(0.2),
    "heavy tails": heavy,
    "errors of 30 samples": error_rate,
}
"""Noise of validation scores by name: columns of the table."""


@dataclass(frozen=True)
class Study:
    """A simulated study of one method."""

    epochs: int
    noise: Noise
    fall: float = 0.0
    """Share by which the score falls in each twentieth of the epochs, at least one
    epoch; 0 for a method that has converged.
    """

    def curves(self, random: np.random.Generator, num_studies: int) -> pd.DataFrame:
        """Return random learning curves, as statistics take them.

        Each study is a method of its own: statistics do not compare methods.
        """
        num_trials = num_studies * TRIALS
        epochs = np.arange(1, self.epochs + 1)
        steps = epochs / max(1, self.epochs // 20)
        noise_NE = self.noise(random, (num_trials, self.epochs))
        scores_NE = noise_NE * (1 - self.fall) ** steps
        trials = np.repeat(np.arange(num_trials), self.epochs)
        return pd.DataFrame(
            {
                "task": trials % TRIALS,
                "method": trials // TRIALS,
                "trial": trials,
                "epoch": np.tile(epochs, num_trials),
                "score": scores_NE.ravel(),
                "learning_rate": 1.0,
            }
        )


def rate(study: Study, num_studies: int, seed: int, *, by_share: bool = False) -> float:
    """Return the share of studies that a board says may not have converged.

    ``by_share``: by the share of the trials alone, whatever chance explains.
    """
    curves = study.curves(np.random.default_rng(seed), num_studies)
    found = get_statistic("still_falling").compute(curves)
    is_unfinished = found["unfinished"]
    if by_share:
        is_unfinished = found["value"] > MAX_UNFINISHED
    return float(is_unfinished.mean())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000, help="Number of studies.")
    num_studies = parser.parse_args().studies

    def row(title: str, studies: list[Study], *, by_share: bool = False) -> None:
        rates = [rate(study, num_studies, 0, by_share=by_share) for study in studies]
        cells = [f"{100 * share:.1f}" for share in rates]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)

    print(f"| false statements, % (at most 5 is meant) | {' | '.join(NULLS)} |")
    print("|---|" + "--:|" * len(NULLS))
    for epochs in EPOCHS:
        studies = [Study(epochs, noise) for noise in NULLS.values()]
        row(f"{epochs} epochs", studies)
        row(f"{epochs} epochs, by the share alone", studies, by_share=True)
    # Errors of few samples reach 0 by chance, and fall no further.
    kinds = {name: noise for name, noise in NULLS.items() if noise is not error_rate}
    print(f"\n| true statements, % | {' | '.join(kinds)} |")
    print("|---|" + "--:|" * len(kinds))
    for fall in FALLS:
        for epochs in (EPOCHS[0], EPOCHS[-1]):
            title = f"{epochs} epochs, falling by {100 * fall:.0f} % at the end"
            row(title, [Study(epochs, noise, fall) for noise in kinds.values()])


if __name__ == "__main__":
    main()
