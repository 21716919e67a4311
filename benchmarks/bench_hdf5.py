"""Seconds to read 1 GB of HDF5: the whole array, and in blocks of 1,000 samples.

``python -m benchmarks.bench_hdf5 FOLDER [--trees NAME=PATH ...]`` writes the files to
FOLDER once and prints a table. Each other tree of the package is imported from its path
by processes of its own, which take turns with this one; the sums of all values must be
equal.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data.matlab import read_mat
from orca_ray.own_data import read

NUM_ROWS = 62_500
"""Number of samples; each has 4,000 float32, so that all are 1 GB."""
BLOCK_ROWS = 1_000
CASES: dict[str, dict[str, Any]] = {
    "h5": {},
    "h5 in chunks": {"chunks": (100, 4000)},
    "h5 in chunks, gzip": {"chunks": (100, 4000), "compression": "gzip"},
    "mat in chunks": {"chunks": (4000, 100)},
    "mat in chunks, gzip": {"chunks": (4000, 100), "compression": "gzip"},
}
"""Arguments of `h5py.Group.create_dataset` for each file."""


def write_files(folder: Path) -> None:
    """Write the file of each case that is missing."""
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    # Steps of 1/64 make gzip find something, as in measured data.
    normal = np.random.default_rng(0).standard_normal((NUM_ROWS, 4000), np.float32)
    rows = np.round(normal * 64) / 64
    for case, settings in CASES.items():
        path = file_of(folder, case)
        if path.exists():
            continue
        is_mat = path.suffix == ".mat"
        with h5py.File(path, "w", userblock_size=512 * is_mat) as file:
            file.create_dataset("x", data=rows.T if is_mat else rows, **settings)
            file.create_dataset("y", data=np.zeros(NUM_ROWS))


def file_of(folder: Path, case: str) -> Path:
    """Return the file of a case."""
    return folder / f"{case.replace(' ', '_')}.{case.split(' ')[0]}"


def measure(path: Path, is_by_blocks: bool) -> dict[str, float]:
    """Return the seconds to read a file, and the sum of its values."""
    begin = time.perf_counter()
    rows: Any = read_mat(path, "x") if path.suffix == ".mat" else read(path).x
    step = BLOCK_ROWS if is_by_blocks else NUM_ROWS
    seconds = time.perf_counter() - begin
    total = 0.0
    for start in range(0, NUM_ROWS, step):
        begin = time.perf_counter()
        block = np.asarray(rows[start : start + step])
        seconds += time.perf_counter() - begin
        total += float(block.sum(dtype=np.float64))
    return {"seconds": seconds, "sum": total}


def measure_in(tree: str, path: Path, is_by_blocks: bool) -> dict[str, float]:
    """Return what `measure` returns in a new process that imports from ``tree``."""
    output = subprocess.run(
        [sys.executable, __file__, "--measure", path, str(int(is_by_blocks))],
        env={**os.environ, "PYTHONPATH": tree},
        stdout=subprocess.PIPE,
        check=True,
    )
    measured: dict[str, float] = json.loads(output.stdout)
    return measured


def print_table(
    folder: Path, cases: list[str], trees: dict[str, str], repeats: int
) -> None:
    """Print the median seconds of each tree for each file and way of reading."""
    print(f"| file | read | {' | '.join(trees)} |")
    print(f"|---|---|{'---|' * len(trees)}")
    for case in cases:
        for is_by_blocks in (False, True):
            path = file_of(folder, case)
            seconds: dict[str, list[float]] = {name: [] for name in trees}
            sums = set()
            for _ in range(repeats):
                for name, tree in trees.items():
                    measured = measure_in(tree, path, is_by_blocks)
                    seconds[name].append(measured["seconds"])
                    sums.add(measured["sum"])
            if len(sums) > 1:
                raise SystemExit(f"{path}: expected equal values, found sums {sums}")
            medians = [f"{statistics.median(seconds[name]):.2f} s" for name in trees]
            way = "by blocks" if is_by_blocks else "whole"
            print(f"| {case} | {way} | {' | '.join(medians)} |", flush=True)


def main() -> None:
    """Read the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trees", nargs="*", default=[], metavar="NAME=PATH")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    write_files(arguments.folder)
    trees = dict(tree.split("=", 1) for tree in arguments.trees)
    trees["here"] = str(Path(__file__).parents[1])
    print_table(arguments.folder, arguments.cases, trees, arguments.repeats)


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3] == "1")))
    else:
        main()
