"""Scores of XGBoost with default settings on the prepared tables of a benchmark.

``python -m benchmarks.xgboost_defaults openml --out FILE.csv`` fits ``XGBClassifier()``
to each table whose data are in the cache, under both protocols, and writes its test
scores. ``orca-sweep results import FILE.csv --results DIR`` adds them to a store. The
ORCA paper compares with XGBoost, and `gradient_boosting` here is LightGBM with settings
that validation chooses, so that this row shows what the choice brings.

Nothing is chosen: under ``held-out`` only the training rows are used, as by other
methods, and under ``paper`` the validation rows too. XGBoost is no dependency of the
project: ``pip install xgboost-cpu`` (3.2 was used).
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data.prepared import HELD_OUT, PAPER
from orca_ray.data.rows import Array, Rows
from orca_ray.results.submissions import SubmittedScore, write_scores
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import get_benchmark
from orca_ray.tasks.task import Task

METHOD = "XGBoost, defaults"
"""Name of the row on boards."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the tables that are there, print their scores, and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("--out", required=True, help="CSV file of scores to write")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        xgboost = import_module("xgboost")
    except ImportError:
        sys.exit("XGBoost is not installed: pip install xgboost-cpu")
    scores: list[SubmittedScore] = []
    for task in get_benchmark(options.benchmark):
        for protocol in (HELD_OUT, PAPER):
            scores += fit(task, protocol, xgboost, options.threads)
    Path(options.out).write_text(write_scores(scores))


def fit(
    task: Task, protocol: str, xgboost: Any, threads: int
) -> Iterator[SubmittedScore]:
    """Yield the test score of one table; nothing if its data are not prepared."""
    data = task.prepared(protocol)
    if data is None:
        print(f"{task.name} {protocol}: not prepared", file=sys.stderr)
        return
    splits = [data.train]
    if protocol == PAPER:
        splits.append(data.validation)
    x = np.concatenate([features(split.x) for split in splits])
    y = np.concatenate([np.asarray(split.y) for split in splits])
    model = xgboost.XGBClassifier(n_jobs=threads)
    model.fit(x, y)
    logits = model.predict(features(data.test.x), output_margin=True)
    if logits.ndim == 1:  # two classes
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    metric = get_metric(task.under(protocol).metric)
    score = metric.compute(logits, np.asarray(data.test.y))
    print(f"{task.name} {protocol}: {metric.name} {score:.4f}", flush=True)
    yield SubmittedScore(
        method=METHOD,
        task=task.name,
        metric=metric.name,
        protocol=protocol,
        score=score,
        seed=1,
        source=f"benchmarks/xgboost_defaults.py, XGBoost {xgboost.__version__}",
        metric_version=metric.version,
        data_fingerprint=data.fingerprint,
    )


def features(x: Rows) -> Array:
    """Return inputs [N, channels, length] as rows of features [N, F]."""
    return np.asarray(x, dtype=np.float32).reshape(len(x), -1)


if __name__ == "__main__":
    main()
