"""Files and resume time of a sweep of many trials: trials that compute nothing, through conductor and results store.

``python tests/perf/bench_store.py [TRIALS]``. While the trials run, a thread counts the files of the store, those of
unfinished writes and outcome files included. Then the sweep is resumed from the store: once as a user would, and once
without the replay of the search, which is the time of the store alone.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from orca_ray.results.lease import Lease
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.planning.loading import parse_spec
from orca_ray.sweep.planning.searches import SearchPlan, plan_searches
from orca_ray.sweep.search import History
from tests.sweep.fakes import play

SWEEP = """\
name: many
benchmark: pocket
methods: [nft, orca, fpt, linear_probe, scratch]
tasks: [pocket/digits, pocket/wdbc, pocket/osuleaf, pocket/japanese_vowels, pocket/burgers16, pocket/mfeat_fourier]
early_stopping: null
parallel: 4
settings: {{refine.epochs: 1, refine.warmup_epochs: 0}}
space: {{refine.learning_rate: {{log_uniform: [1e-5, 1e-2]}}}}
budgets: {{full: {{search_trials: {search}, confirm_seeds: [1]}}}}
"""


def plans(num_trials: int) -> list[SearchPlan]:
    """Plan about ``num_trials`` trials of 30 searches."""
    spec = parse_spec(SWEEP.format(search=max(1, num_trials // 30 - 1)))
    return plan_searches(spec, dict.fromkeys(spec.tasks, "0" * 16), gpus=False)


class FileCounter(threading.Thread):
    """Counts the files below a directory again and again, and keeps the largest number."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._directory, self._ended = directory, threading.Event()

    def run(self) -> None:
        """Count until `end` is called."""
        while not self._ended.wait(0.05):
            self.most = max(self.most, sum(len(files) for _, _, files in os.walk(self._directory)))

    def end(self) -> int:
        """Stop counting and return the largest number."""
        self._ended.set()
        self.join()
        return self.most


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="?", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    searches = plans(options.trials)
    with tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name:
        uri = Path(name) / "results"
        store = ResultsStore(uri, create=True)
        counter = FileCounter(uri)
        counter.start()
        begin = time.perf_counter()
        with Lease(store, searches[0].spec.sweep_id) as lease:
            work = Conductor(searches, store, executor="noop", lease=lease)
            done = len(play(work))
        ran = time.perf_counter() - begin
        most = counter.end()
        begin = time.perf_counter()
        again = ResultsStore(uri)
        records = History.read(again, searches[0].spec).records
        read = time.perf_counter() - begin
        begin = time.perf_counter()
        resumed = Conductor(searches, again, executor="noop")
        whole = time.perf_counter() - begin
        assert resumed.done
        assert done > 0.9 * options.trials
    print(f"{done} no-op trials, {len(searches)} searches, {len(records)} records, {os.cpu_count()} CPUs")
    print(f"{done / ran:.0f} trials/s; at most {most} files; records read in {read:.2f} s; resumed in {whole:.2f} s")
    if options.json:
        options.json.write_text(json.dumps({"trials": done, "run": ran, "files": most, "read": read, "resume": whole}))


if __name__ == "__main__":
    main()
