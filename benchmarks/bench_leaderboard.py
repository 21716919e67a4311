"""Time and memory of a leaderboard's board and page from a compacted store, beside
pandas and one JSON file per record.

``python benchmarks/bench_leaderboard.py [--records 100000 1000000 10000000]
[--json-files 20000] [--points 100000000] [--dir DIR]``. A store has 60 tasks and 20
methods in one sweep: 5 % of the trials are confirm trials, each with one of 5 seeds,
and 1 % ran twice. Each search trial has hyper-parameters of its own. Each measurement
is a process of its own on one core, imports included; memory is its largest resident
size. The board of a small store is first compared with one that pandas computes from
all of its rows; a difference ends with exit code 1. A missed goal, which depends on the
machine, is only reported. The files of 10 million records take 1.4 GB, those of 100
million points 2 GB.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # as the command does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BENCHMARK = "bench"
SWEEP = "bench/full"
TASKS = 60
METHODS = 20
SEEDS = 5
GOALS = {
    100_000: "1 s",
    1_000_000: "2 s and 400 MB",
    10_000_000: "10 s and 1000 MB",
}
"""What the board of a store of so many records should take at most."""
MOST_PAGE_RECORDS = 1_000_000
"""Largest store of which the HTML page is made."""
PAGE_GOAL = "500 MB"
CURVE_EPOCHS = 100


def main() -> None:
    """Make the stores and print a table of the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, nargs="*", default=list(GOALS))
    parser.add_argument("--json-files", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=100_000_000)
    parser.add_argument(
        "--dir", type=Path, help="Directory of the stores, by default a temporary one."
    )
    parser.add_argument(
        "--measure", nargs=2, metavar=("WHAT", "PATH"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.measure:
        what, path = options.measure
        print(json.dumps(MEASUREMENTS[what](path)))
        return
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        _check(Path(directory) / "small")
        print(f"{'':44} {'wall s':>8} {'CPU s':>8} {'MB':>8}  goal")
        for number in options.records:
            path = Path(directory) / str(number)
            write_store(path, number)
            goal = GOALS.get(number, "")
            _report(f"board of {number:,} records", "board", path, goal)
            if number <= MOST_PAGE_RECORDS:
                _report(f"page of {number:,} records", "page", path, PAGE_GOAL)
        if options.json_files:
            path = Path(directory) / "json"
            number = options.json_files
            write_json(path, number)
            _report(f"pandas, {number:,} JSON files", "json", path)
            store = Path(directory) / "same"
            write_store(store, number)
            _report(f"board of {number:,} records", "board", store)
        if options.points:
            path = Path(directory) / "curves"
            points = f"{options.points:,} points"
            write_curves(path, options.points)
            _report(f"curve of one trial among {points}", "curve", path)
            _report(f"curves of 100 trials among {points}", "curves", path)


def _report(title: str, what: str, path: Path, goal: str = "") -> None:
    command = [sys.executable, __file__, "--measure", what, str(path)]
    start = time.perf_counter()
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, preexec_fn=_use_one_core
    )
    wall = time.perf_counter() - start
    used = json.loads(process.stdout)
    print(
        f"{title:44} {wall:8.2f} {used['cpu']:8.2f} {used['mb']:8.0f}  {goal}",
        flush=True,
    )


def _use_one_core() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])


def _used(**facts: Any) -> dict[str, Any]:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu": own.ru_utime + own.ru_stime,
        "mb": own.ru_maxrss * 1024 / 1e6,
        **facts,
    }


def measure_board(path: str) -> dict[str, Any]:
    """Build the board of a store."""
    from orca_ray.leaderboard import build
    from orca_ray.results.store import ResultsStore

    board = build(ResultsStore(path), benchmark=BENCHMARK)
    assert len(board.cells) == TASKS * METHODS
    return _used(scores=len(board.scores))


def measure_page(path: str) -> dict[str, Any]:
    """Make the HTML page of a board, as ``orca-sweep leaderboard --format html``."""
    from orca_ray.cli.boards import BoardOptions, load_board
    from orca_ray.leaderboard import render

    report = load_board(BENCHMARK, BoardOptions(results=path))
    return _used(characters=len(str(render(report, "html"))))


def measure_json(path: str) -> dict[str, Any]:
    """Compute mean scores from one JSON file per record with pandas."""
    import pandas as pd

    rows = pd.DataFrame([json.loads(file.read_text()) for file in Path(path).iterdir()])
    return _used(scores=len(naive_scores(rows)))


def measure_curve(path: str) -> dict[str, Any]:
    """Read the curve of one trial."""
    return _measure_curves(path, 1)


def measure_curves(path: str) -> dict[str, Any]:
    """Read the curves of a task: 20 methods with 5 seeds each."""
    return _measure_curves(path, 100)


def _measure_curves(path: str, number: int) -> dict[str, Any]:
    from orca_ray.results.store import ResultsStore

    keys = json.loads((Path(path) / "keys").read_text())[:number]
    points = ResultsStore(path).curves(sweep=SWEEP, trial_key=keys)
    assert len(points) == number * CURVE_EPOCHS
    return _used(points=len(points))


MEASUREMENTS = {
    "board": measure_board,
    "page": measure_page,
    "json": measure_json,
    "curve": measure_curve,
    "curves": measure_curves,
}


def naive_scores(rows: Any) -> Any:
    """Return the score table of records by pandas alone: task, method, seed and score,
    sorted.
    """
    rows = rows.assign(ok=rows["status"].isin(["completed", "stopped_early"]))
    rows = rows.sort_values(["ok", "finished_at"], kind="stable")
    rows = rows.drop_duplicates("trial_key", keep="last")
    rows = rows[(rows["phase"] == "confirm") & (rows["status"] == "completed")]
    key = ["task", "method", "hyperparameters"]
    configurations = rows.groupby(key).agg(
        num_seeds=("seed", "nunique"), last=("finished_at", "max")
    )
    best = configurations.reset_index().sort_values(["num_seeds", "last"])
    best = best.drop_duplicates(["task", "method"], keep="last")
    rows = rows.merge(best[key], on=key).sort_values("finished_at", kind="stable")
    rows = rows.drop_duplicates(["task", "method", "seed"], keep="last")
    rows = rows.rename(columns={"test_score": "score"})
    rows = rows[["task", "method", "seed", "score"]]
    return rows.sort_values(["task", "method", "seed"]).reset_index(drop=True)


def _check(path: Path) -> None:
    """Compare the board of a small store with one computed by pandas; exit with 1 if
    they differ.
    """
    import pandas as pd

    from orca_ray.leaderboard import build
    from orca_ray.results.store import ResultsStore

    write_store(path, 30_000)
    rows = pd.concat(
        [pd.read_parquet(file) for file in sorted((path / "records").iterdir())]
    )
    expected = naive_scores(rows.astype({"task": "str", "method": "str"}))
    board = build(ResultsStore(path), benchmark=BENCHMARK)
    expected = expected.astype(board.scores.dtypes)
    num_trials = sum(cell.provenance.trials for cell in board.cells.values())
    same = board.scores.round(12).equals(expected.round(12))
    if not same or num_trials != rows["trial_key"].nunique():
        print("the board differs from the naive computation")
        raise SystemExit(1)
    print(
        f"board of {len(rows):,} records equals the naive computation:"
        f" {len(expected):,} scores, {num_trials:,} trials"
    )


def write_store(path: Path, num_records: int) -> None:
    """Write a store with compacted files of records."""
    from orca_ray.results.parquet import encode
    from orca_ray.results.store import ResultsStore
    from orca_ray.results.tables import RECORDS

    ResultsStore(path, create=True)
    (path / "records").mkdir()
    for number, table in enumerate(record_tables(num_records)):
        (path / "records" / f"{number:020d}-0.parquet").write_bytes(
            encode(table, RECORDS.group_rows)
        )


def write_json(path: Path, num_records: int) -> None:
    """Write each record to a JSON file of its own."""
    path.mkdir()
    rows = (row for table in record_tables(num_records) for row in table.to_pylist())
    for number, row in enumerate(rows):
        (path / f"{number}.json").write_text(json.dumps(row, default=str))


def record_tables(num_records: int) -> Iterator[Any]:
    """Yield tables of records, each in the order of a compacted file: confirm trials
    first, then by task and method.

    As in a sweep that compacts while it runs, each file has trials of both phases, and
    of all tasks and methods.
    """
    import numpy as np
    import pyarrow as pa

    from orca_ray.results.tables import RECORDS

    rng = np.random.default_rng(0)
    num_files = -(-num_records // RECORDS.file_rows)
    for file in range(num_files):
        rows = np.arange(file, num_records, num_files)
        columns = _varied_columns(rng, rows, num_records)
        arrays = []
        for field in RECORDS.schema:
            if field.name in columns:
                arrays.append(columns[field.name])
            else:
                arrays.append(_filler(rng, field, len(rows)))
        yield pa.table(arrays, names=RECORDS.schema.names).cast(RECORDS.schema)


STATUSES = {
    "completed": 0.6,
    "stopped_early": 0.3,
    "failed_user": 0.02,
    "failed_oom": 0.04,
    "failed_nan": 0.02,
    "lost": 0.02,
}
"""Share of each status among the search trials."""
LOST = list(STATUSES).index("lost")
METRICS = ["error", "rmse", "relative_l2", "one_minus_map", "mae_lr_d8"]


def _varied_columns(rng: Any, rows: Any, num_records: int) -> dict[str, Any]:
    """Return the columns of a file whose values depend on the trial.

    ``rows`` [N] holds the numbers of the file's rows among all ``num_records``.
    """
    import numpy as np
    import pyarrow as pa

    cells = TASKS * METHODS
    num_confirm = max(SEEDS, num_records // 20 // cells) * cells
    num_search = max(num_records - num_confirm, 1)
    is_confirm = rows < num_confirm
    cell = np.where(
        is_confirm,
        rows * cells // num_confirm,
        (rows - num_confirm) * cells // num_search,
    )
    task, method = divmod(cell, METHODS)
    trial_of_cell = rows % (num_confirm // cells)
    configuration = trial_of_cell // SEEDS
    if num_confirm < num_records // 20:
        configuration = np.zeros_like(rows)

    runs_again = rng.random(len(rows) - 1) < 0.01
    is_second_run = np.insert(runs_again, 0, False) & ~is_confirm
    has_second_run = np.append(is_second_run[1:], False)
    keys = random_keys(rng, len(rows))
    keys[is_second_run] = keys[np.flatnonzero(is_second_run) - 1]
    finished = 1_700_000_000_000_000 + rng.permutation(len(rows)) * 1_000_000
    status = rng.choice(len(STATUSES), len(rows), p=list(STATUSES.values()))
    status[has_second_run] = LOST
    status[is_confirm] = 0

    confirmed_settings = _pick(configuration[is_confirm], _confirmed_settings())
    searched_settings = _distinct_settings(rng, int((~is_confirm).sum()))
    same = np.zeros_like(rows)
    return {
        "trial_key": pa.array(keys),
        "hyperparameters": pa.concat_arrays(
            [confirmed_settings.cast(pa.string()), searched_settings]
        ),
        "sweep": _pick(same, [SWEEP]),
        "benchmark": _pick(same, [BENCHMARK]),
        "task": _pick(task, [f"bench/task-{number:02d}" for number in range(TASKS)]),
        "method": _pick(method, [f"method-{number:02d}" for number in range(METHODS)]),
        "phase": _pick(np.where(is_confirm, 0, 1), ["confirm", "search"]),
        "status": _pick(status, list(STATUSES)),
        "metric": _pick(task % len(METRICS), METRICS),
        "device": _pick(rows % 2, ["GPU one", "GPU two"]),
        "protocol": _pick(same, ["held-out"]),
        "seed": pa.array(np.where(is_confirm, trial_of_cell % SEEDS, 0)),
        "metric_version": pa.array(same + 1),
        "attempts": pa.array(same + 1),
        "started_at": pa.array(finished),
        "finished_at": pa.array(finished),
    }


def _filler(rng: Any, field: Any, num_rows: int) -> Any:
    """Return values of a column that no board reads."""
    import pyarrow as pa

    if field.name in ("error", "notes"):
        return pa.nulls(num_rows, field.type)
    if pa.types.is_string(field.type):
        return pa.DictionaryArray.from_arrays(
            pa.repeat(pa.scalar(0, pa.int32()), num_rows), pa.array([f"a {field.name}"])
        )
    if pa.types.is_floating(field.type):
        return pa.array(rng.random(num_rows))
    if pa.types.is_boolean(field.type):
        return pa.repeat(False, num_rows)
    return pa.repeat(7, num_rows)


def _confirmed_settings() -> list[str]:
    """Return hyper-parameters of confirm trials, by number of the configuration."""
    epochs = {"align.epochs": 60, "refine.epochs": 100}
    return [
        json.dumps({**epochs, "refine.learning_rate": number / 1e6})
        for number in range(5000)
    ]


def _pick(codes: Any, names: list[str]) -> Any:
    import numpy as np
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32)), pa.array(names)
    )


def _distinct_settings(rng: Any, number: int) -> Any:
    """Return hyper-parameters of search trials: JSON objects, of which no two are
    equal.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rates, decays = (
        pa.array(10 ** rng.uniform(-6, -1, number)).cast(pa.string()) for _ in range(2)
    )
    start = '{"align.epochs": 60, "refine.epochs": 100, "refine.learning_rate": '
    return pc.binary_join_element_wise(
        start, rates, ', "refine.weight_decay": ', decays, "}", ""
    )


def random_keys(rng: Any, number: int) -> Any:
    """Return random trial keys, of 20 hexadecimal digits, as an array."""
    import numpy as np

    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[
        rng.integers(0, 16, (number, 20))
    ]
    return np.ascontiguousarray(digits).view("S20")[:, 0].astype("U20")


def write_curves(path: Path, num_points: int) -> None:
    """Write a store with compacted files of curves, of `CURVE_EPOCHS` points per trial,
    and keys of 100 trials.
    """
    import numpy as np
    import pyarrow as pa

    from orca_ray.results.parquet import encode
    from orca_ray.results.store import ResultsStore
    from orca_ray.results.tables import CURVES

    ResultsStore(path, create=True)
    (path / "curves").mkdir()
    rng = np.random.default_rng(0)

    def draw_numbers(count: int) -> Any:
        """Return float64 values of single precision, which compress as those do."""
        return pa.array(rng.random(count, dtype=np.float32).astype(np.float64))

    chosen = []
    for number, start in enumerate(range(0, num_points, CURVES.file_rows)):
        trials = min(CURVES.file_rows, num_points - start) // CURVE_EPOCHS
        keys = np.sort(random_keys(rng, trials))
        rows = trials * CURVE_EPOCHS
        columns = {
            "sweep": _pick(np.zeros(rows), [SWEEP]),
            "trial_key": _pick(np.repeat(np.arange(trials), CURVE_EPOCHS), list(keys)),
            "stage": _pick(np.zeros(rows), ["refine"]),
            "epoch": pa.array(np.tile(np.arange(1, CURVE_EPOCHS + 1), trials)),
            "loss": draw_numbers(rows),
            "validation_score": draw_numbers(rows),
            "seconds": draw_numbers(rows),
            "distance": pa.nulls(rows, pa.float64()),
            "learning_rate": pa.repeat(1e-4, rows),
            "attempt": pa.repeat(1, rows),
        }
        table = pa.table(
            [columns[name] for name in CURVES.schema.names], names=CURVES.schema.names
        ).cast(CURVES.schema)
        (path / "curves" / f"{number:020d}-0.parquet").write_bytes(
            encode(table, CURVES.group_rows)
        )
        chosen += rng.choice(keys, 100 * CURVES.file_rows // num_points + 1).tolist()
    (path / "keys").write_text(json.dumps(sorted(set(chosen))[:100]))


if __name__ == "__main__":
    main()
