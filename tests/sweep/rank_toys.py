"""A stand-in for a trainer that several ranks run.

``python -m tests.sweep.rank_toys`` runs the trainer until the process is killed.
"""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.sweep.worker.rank_processes import RankProcesses
from orca_ray.training.ranks import Ranks


class Toy:
    """Trainer that counts steps; in each step, the ranks exchange their counts."""

    stage = "refine"
    parallel = True

    def __init__(self, ranks: Ranks, epoch: int, failing: Exception | None) -> None:
        self._ranks = ranks
        self.epoch = epoch
        self._failing = failing
        self.counted: list[int] = []

    def save(self, path: Path) -> None:
        path.write_text(str(self.epoch))

    def restore(self, path: Path) -> bool:
        self.epoch = int(path.read_text())
        return True

    def step(self) -> None:
        if self._failing is not None and self._ranks.rank == self._ranks.size - 1:
            raise self._failing
        self.epoch += 1
        counts = self._ranks.join_rows(np.array([self.epoch]), self._ranks.size)
        self.counted = counts.tolist()


def build(
    ranks: Ranks,
    *,
    building: Exception | None = None,
    stepping: Exception | None = None,
) -> Any:
    """Return the trainer of a rank.

    In the last rank, ``building`` is raised here, and ``stepping`` by each step.
    """
    if building is not None and ranks.rank == ranks.size - 1:
        raise building
    epoch = 5 if ranks.rank == 0 else 0
    return Toy(ranks, epoch=epoch, failing=stepping)


def main() -> None:
    """Step for ever; after the first step, print the ids of the other processes."""
    processes = RankProcesses(3, build)
    toy = build(processes.first)
    while True:
        processes.join(toy)
        toy.step()
        if toy.epoch == 6:
            pids = [process.pid for process in multiprocessing.active_children()]
            print(*pids, flush=True)  # noqa: T201
        time.sleep(0.05)


if __name__ == "__main__":
    main()
