"""Effect of the precision of the refine stage on scores: trials of a pocket task over
seeds, in each precision.

``python benchmarks/compare_precisions.py [--task pocket/digits] [--method orca]
[--seeds 3] [--epochs N] [--device cuda] [--precisions float32,tf32,bfloat16] [--json
FILE]``. Trials take the first configuration of the ``pocket`` sweep; the trials of a
seed share its alignment. Exits with 1 where a precision's mean is worse than the first
one's by more than the seeds' spread.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.single_trial import run_trial
from orca_ray.sweep.plan.loading import load_spec
from orca_ray.sweep.plan.spec import Overrides


def adapt(options: argparse.Namespace, precision: str, seed: int) -> dict[str, Any]:
    """Run one trial; return its scores and rates."""
    spec = load_spec("pocket", budget="full", overrides=Overrides(tasks=[options.task]))
    (task,) = spec.tasks
    values = spec.settings(task, options.method) | {"refine.precision": precision}
    if options.epochs:
        values |= {"refine.epochs": options.epochs, "refine.warmup_epochs": 0}
    body = spec.body(task, options.method)
    outcome, _ = run_trial(
        task, options.method, body, values, seed, device=options.device
    )
    return {
        "asked": precision,
        "precision": outcome.precision,
        "seed": seed,
        "validation": outcome.validation_score,
        "test": outcome.test_score,
        "samples_per_second": outcome.samples_per_second,
        "notes": outcome.notes,
    }


def spread(values: list[float]) -> float:
    """Return the range of the values."""
    return max(values) - min(values)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="pocket/digits")
    parser.add_argument("--method", default="orca")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--epochs", type=int, help="refine epochs; default: the sweep's"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    precisions = options.precisions.split(",")
    rows = []
    for seed in range(options.seeds):
        rows += [adapt(options, precision, seed) for precision in precisions]
    print(
        f"{options.task}, {options.method}, {options.device}, test score, lower is"
        " better"
    )
    print(f"{'':10}{'ran in':>10}{'mean':>9}{'spread':>9}{'samples/s':>11}  scores")
    scores: dict[str, list[float]] = {}
    for precision in precisions:
        trials = [row for row in rows if row["asked"] == precision]
        scores[precision] = [row["test"] for row in trials]
        print_row(precision, trials)
    if options.json:
        content = {"arguments": vars(options) | {"json": None}, "trials": rows}
        options.json.write_text(json.dumps(content, indent=1))
    if options.seeds == 1:
        print("one seed has no spread: the scores are not judged")
        return 0
    allowed = max(map(spread, scores.values()))
    first, *others = precisions
    expected = mean(scores[first])
    worse = [name for name in others if mean(scores[name]) - expected > allowed]
    names = ", ".join(worse) or "none"
    print(f"worse than {first} beyond the spread of seeds: {names}")
    return 1 if worse else 0


def print_row(precision: str, trials: Sequence[dict[str, Any]]) -> None:
    """Print what the trials of one precision scored."""
    ran_in = trials[0]["precision"]
    scores = [trial["test"] for trial in trials]
    speed = mean(trial["samples_per_second"] for trial in trials)
    print(
        f"{precision:10}{ran_in:>10}{mean(scores):9.4f}{spread(scores):9.4f}"
        f"{speed:11.1f}  {', '.join(f'{score:.4f}' for score in scores)}"
    )


if __name__ == "__main__":
    sys.exit(main())
