"""How often `predict --interval` holds the truth, on outer test samples.

``python -m benchmarks.interval_coverage --work DIR [--minutes 0.3] [--sets 10]``

The data sets are the smallest of ``benchmarks/adapt_peers.py``, by the number of
training samples. `adapt` gets the training part and compares the methods that fit in
seconds; `predict --interval LEVEL` gets the outer test. DIR keeps the data sets and the
predictions: a second start skips what is there.

The table has the share of test samples whose target is in its interval (numbers), whose
class is in its set (classes), or, for fields, the mean share of a field's values; and
how wide they are: half the width relative to the standard deviation of the targets, or
the mean number of classes in a set. The last line has the share of all test samples.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers.parts import DataSet, Kind
from benchmarks.peers.sets import FIELDS, IMAGES, LATER_IMAGES, SERIES, TABLES
from benchmarks.peers.writing import Written, write
from orca_ray.data.rows import Array

QUICK: dict[Kind, str] = {
    "table": "linear,nearest,kernel_ridge,forest,gradient_boosting",
    "series": "linear,linear_values,nearest,minirocket,minirocket_hydra",
    "images": "linear,nearest,forest",
    "fields": "linear",
}
"""Methods that fit in seconds, by kind of data."""


@dataclass(frozen=True)
class Coverage:
    """How often the intervals or sets of one data set hold the truth."""

    name: str
    target: str
    num_train: int
    num_test: int
    share: float
    """Share of the test samples that hold."""
    width: float
    """Mean number of classes in a set, or half the width of an interval relative to the
    standard deviation of the targets.
    """


def main() -> None:
    """Run `adapt` and `predict` on the smallest sets, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for all files")
    parser.add_argument("--minutes", type=float, default=0.3, help="time of adapt")
    parser.add_argument("--sets", type=int, default=10, help="number of data sets")
    parser.add_argument("--level", type=float, default=0.9, help="level of intervals")
    options = parser.parse_args()
    work = options.work.resolve()
    all_sets = [*TABLES, *SERIES, *IMAGES, *LATER_IMAGES, *FIELDS]
    written = [write(data, work / "sets") for data in all_sets]
    written.sort(key=num_train)
    rows = list[Coverage]()
    for each in written[: options.sets]:
        out = predict(each, work, options.minutes, options.level)
        rows.append(measure(each, out))
        print(rows[-1], file=sys.stderr)
    print_table(rows, options.level)


def num_train(written: Written) -> int:
    """Return the number of training samples of a data set."""
    about = json.loads((written.folder / "about.json").read_text())
    return int(about["train"][0])


def predict(written: Written, work: Path, minutes: float, level: float) -> Path:
    """Return the file of predictions for the outer test, which is made if needed."""
    data: DataSet = written.data
    folder = work / f"{minutes:g}" / data.name
    out = folder / f"out-{level:g}.npz"
    if out.exists():
        return out
    folder.mkdir(parents=True, exist_ok=True)
    orca = [sys.executable, "-m", "orca_ray.cli.main"]
    model = folder / "model"
    target = []
    if not data.in_folders:
        target = ["--target", "target" if data.kind == "table" else "y"]
    adapt = [*orca, "adapt", str(written.train), *data.options, *target]
    adapt += ["--metric", data.metric, "--methods", QUICK[data.kind], "--quiet"]
    adapt += ["--minutes", f"{minutes:g}", "--executor", "inline"]
    adapt += ["--out", str(model), "--results", str(folder / "results")]
    subprocess.run(adapt, check=True)
    command = [*orca, "predict", str(model), str(written.test), "-o", str(out)]
    subprocess.run([*command, "--interval", f"{level:g}", "--quiet"], check=True)
    return out


def measure(written: Written, out: Path) -> Coverage:
    """Return how often the predictions in the file ``out`` hold the truth."""
    answers = written.answers
    with np.load(out) as arrays:
        if written.data.target == "classes":
            is_held, width = held_by_sets(arrays["set"], arrays["labels"], answers)
        else:
            is_held, width = held_by_intervals(arrays["low"], arrays["high"], answers)
    return Coverage(
        name=written.data.name,
        target=written.data.target,
        num_train=num_train(written),
        num_test=len(answers),
        share=float(is_held.mean()),
        width=width,
    )


def held_by_sets(sets: Array, labels: Array, answers: Array) -> tuple[Array, float]:
    """Return whether each set [N, K] has its class, and the mean size of a set."""
    is_class = labels.astype(str) == answers.astype(str)[:, None]
    return (sets & is_class).any(axis=1), float(sets.sum(axis=1).mean())


def held_by_intervals(low: Array, high: Array, answers: Array) -> tuple[Array, float]:
    """Return the share of each sample's values that are held, and the relative width.

    The width is half that of the intervals, relative to the deviation of the targets.
    """
    is_held = (low <= answers) & (answers <= high)
    of_samples = is_held.reshape(len(answers), -1).mean(axis=1)
    return of_samples, float((high - low).mean() / 2 / answers.std())


def print_table(rows: list[Coverage], level: float) -> None:
    """Print a row for each data set in Markdown, and the share over all samples."""
    print(f"| data set | target | train | test | held at {level:g} | width |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.name} | {row.target} | {row.num_train} | {row.num_test} |"
            f" {row.share:.3f} | {row.width:.2f} |"
        )
    num_test = sum(row.num_test for row in rows)
    share = sum(row.share * row.num_test for row in rows) / num_test
    print(f"| all | | | {num_test} | {share:.3f} | |")


if __name__ == "__main__":
    main()
