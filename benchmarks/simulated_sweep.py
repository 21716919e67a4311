"""A sweep of many trials that compute nothing: its plan, its workers, and checks and
figures of its run.
"""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
import pyarrow.parquet as pq

from orca_ray.errors import UserError
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.sweep.plan.searches import SearchPlan, plan_searches
from orca_ray.sweep.plan.trial_spec import TrialSpec, stable_seed
from orca_ray.sweep.run.events import Event, TrialFinished
from tests.sweep.fakes import fake_reports

SWEEP = """\
name: scale
benchmark: openml
methods: [nft, orca, scratch]
early_stopping: null
deterministic: {deterministic}
parallel: {parallel}
settings: {{refine.epochs: {epochs}, refine.warmup_epochs: 0, align.epochs: 1}}
space: {{refine.learning_rate: {{log_uniform: [1e-5, 1e-2]}}}}
budgets: {{full: {{search_trials: {search}, confirm_seeds: {confirm}}}}}
"""
THOUSAND = 1000


def plans(
    num_searches: int,
    search_trials: int,
    confirm_trials: int = 1,
    *,
    gpus: bool = False,
    epochs: int = 1,
    generation: int | None = None,
) -> list[SearchPlan]:
    """Plan the first ``num_searches`` of 126 searches (42 tasks, 3 methods).

    With a ``generation``, that many trials of a search are suggested together, and the
    sweep is deterministic.
    """
    deterministic, parallel = ("true", generation) if generation else ("false", "null")
    spec = parse_spec(
        SWEEP.format(
            search=search_trials,
            confirm=list(range(1, confirm_trials + 1)),
            epochs=epochs,
            deterministic=deterministic,
            parallel=parallel,
        )
    )
    return plan_searches(spec, dict.fromkeys(spec.tasks, "0" * 16), gpus=gpus)[
        :num_searches
    ]


def uneven_seconds(task: str, method: str, seed: int) -> float:
    """Draw the duration of a trial of (task, method): log-uniform from 1 to 30 s."""
    return float(30 ** (stable_seed("duration", task, method, seed) / 2**32))


class SimulatedRunner:
    """Takes the place of `TrialRunner` in a worker: sleeps, then reports the only
    epoch.
    """

    seconds: ClassVar[float] = 0.0

    def __init__(self, trial: TrialSpec, *_: object, **__: object) -> None:
        self.trial = trial
        self._staged = False

    def step(self) -> TrialReport:
        """Report that there is nothing to stage; in the second step, run the only
        epoch.
        """
        if not self._staged:
            self._staged = True
            return TrialReport()
        time.sleep(self.seconds)
        (report,) = fake_reports(self.trial)
        return report

    def interrupt(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Point:
    """State of the driver's process when a trial ended."""

    wall: float
    cpu: float
    rss_mb: float


class Meter:
    """Listener that notes time and memory at the end of each trial."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._process = psutil.Process()
        self.points: list[Point] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, TrialFinished):
            self.keys.append(event.record.trial_key)
            self.points.append(self._now())

    def figures(self, num_random: int) -> dict[str, float]:
        """Return rate, durations of the last thousand (or tenth) of the trials relative
        to the first, and growth in MB.

        Times count from the end of the first trial, when a worker is warm.
        ``num_random`` is the number of trials that start before TPE suggests others:
        each of its suggestions takes milliseconds, random ones nothing.
        """
        points = self.points
        some = max(1, min(THOUSAND, len(self.keys) // 10))
        spans = {
            name: (points[start], points[start + some])
            for name, start in (("first", 0), ("tpe", num_random))
        }
        last = points[-1].wall - points[-1 - some].wall
        cpu_last = points[-1].cpu - points[-1 - some].cpu
        return {
            "trials": len(self.keys),
            "trials_per_second": (len(points) - 1) / (points[-1].wall - points[0].wall),
            "trials_per_cpu_second": (
                (len(points) - 1) / (points[-1].cpu - points[0].cpu)
            ),
            **{
                f"last_to_{name}": last / (b.wall - a.wall)
                for name, (a, b) in spans.items()
            },
            **{
                f"last_to_{name}_cpu": cpu_last / (b.cpu - a.cpu)
                for name, (a, b) in spans.items()
            },
            "growth_mb": points[-1].rss_mb - points[some].rss_mb,
        }

    def check(self, searches: list[SearchPlan], store: ResultsStore) -> None:
        """Raise UserError unless each planned trial ran once and has one row in the
        store.
        """
        suggestions = store.journal(searches[0].spec.sweep_id)
        planned = {each.trial_key for each in suggestions}
        folder = Path(store.uri) / "records"
        rows = sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
        confirm = sum(plan.num_confirm for plan in searches)
        found = {
            "suggestions": (
                len(suggestions),
                sum(plan.num_search for plan in searches),
            ),
            "trials": (len(self.keys), len(planned) + confirm),
            "distinct trials": (len(set(self.keys)), len(planned) + confirm),
            "rows": (rows, len(planned) + confirm),
            "records": (
                len(store.load(searches[0].spec.sweep_id).keys() & set(self.keys)),
                len(planned) + confirm,
            ),
        }
        wrong = [
            f"{name}: {number}, planned {wanted}"
            for name, (number, wanted) in found.items()
            if number != wanted
        ]
        if wrong:
            raise UserError("not each planned trial ran once: " + "; ".join(wrong))

    def _now(self) -> Point:
        return Point(
            time.perf_counter(),
            time.process_time(),
            self._process.memory_info().rss / 1e6,
        )


class FileCounter(threading.Thread):
    """Counts the files below a directory repeatedly, and keeps the largest number."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._directory = directory
        self._ended = threading.Event()

    def run(self) -> None:
        """Count until `end` is called."""
        while not self._ended.wait(0.05):
            self.most = max(
                self.most, sum(len(files) for _, _, files in os.walk(self._directory))
            )

    def end(self) -> int:
        """Stop counting and return the largest number."""
        self._ended.set()
        self.join()
        return self.most
