"""CPU time of every statistic of a leaderboard, ``python benchmarks/bench_statistics.py
[TASKS METHODS SEEDS]``.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orca_ray.leaderboard.statistics import ScoreTable, all_statistics
from orca_ray.testing.scores import random_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "size", nargs="*", type=int, default=[60, 20, 5], metavar="TASKS METHODS SEEDS"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    scores = random_table(*options.size)
    seconds = {}
    for name, each in all_statistics().items():
        if each.inputs == ("scores",):
            start = time.process_time()
            each.compute(ScoreTable.of(scores))
            seconds[name] = time.process_time() - start
            print(f"{name:20} {seconds[name]:.3f} s")
    print(f"{'all':20} {sum(seconds.values()):.3f} s")
    if options.json:
        options.json.write_text(json.dumps({"size": options.size, **seconds}))


if __name__ == "__main__":
    main()
