"""Which distance to align with: the pocket tasks, aligned with each distance and with none, refined, over three seeds.

``python tests/perf/study_distances.py --out study.jsonl`` runs the trials that the file lacks, so it may be killed and
started again; ``--report study.jsonl`` prints the tables, which ``docs/distance-study.md`` explains. Trials use the
first configuration of the ``pocket`` sweep and one thread each; all of one seed run before the next.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from orca_ray.alignment.registry import distance_names, get_distance
from orca_ray.data.prepared import under_protocol
from orca_ray.errors import UserError, unknown_name
from orca_ray.methods.hyperparameters import resolve
from orca_ray.methods.recipe import Scalar
from orca_ray.sweep.planning.loading import load_spec
from orca_ray.sweep.planning.spec import Overrides, SweepSpec
from orca_ray.tasks.registry import get_task
from tests.perf import single_trial
from tests.perf.distance_tables import NONE, read_rows, report


@dataclass(frozen=True)
class Trial:
    """One trial of the study: everything that determines its scores."""

    task: str
    distance: str
    seed: int
    body: str
    configured: bool
    """Whether the align learning rate is the sweep's own."""
    hyperparameters: Mapping[str, Scalar]

    @property
    def method(self) -> str:
        """Recipe: the baseline's, or one that aligns."""
        return "nft" if self.distance == NONE else "orca"

    @property
    def key(self) -> str:
        """Identifier of a finished trial."""
        return json.dumps([self.task, self.distance, self.seed, self.body, dict(self.hyperparameters)], sort_keys=True)


def plan(spec: SweepSpec, options: argparse.Namespace) -> list[Trial]:
    """Return the trials in the order in which they run: balanced whenever the study is cut off."""
    trials = [
        make_trial(spec, task, distance, seed, rate, options.epochs)
        for seed in options.seeds
        for rate in [None, *options.align_learning_rates]
        for task in spec.tasks
        for distance in options.distances
        if not (rate is not None and distance == NONE)
    ]
    first: dict[str, Trial] = {}
    for trial in trials:  # a further rate that is the sweep's own gives trials that are there already
        first.setdefault(trial.key, trial)
    return list(first.values())


def make_trial(
    spec: SweepSpec, task: str, distance: str, seed: int, learning_rate: float | None, epochs: int | None
) -> Trial:
    """Build a trial from the sweep's first configuration; None keeps the sweep's align learning rate and epochs."""
    method = "nft" if distance == NONE else "orca"
    values = spec.settings(task, method)
    if epochs is not None:  # warm-up keeps its share
        values["refine.warmup_epochs"] = float(values["refine.warmup_epochs"]) * epochs / int(values["refine.epochs"])
        values["refine.epochs"] = epochs
    if distance != NONE:
        values["align.distance"] = distance
        values |= {} if learning_rate is None else {"align.learning_rate": learning_rate}
    relevant = resolve(method, values).relevant(method)
    return Trial(task, distance, seed, spec.body(task, method), learning_rate is None, relevant)


def run_trial(trial: Trial) -> dict[str, Any]:
    """Run one trial on one thread; a failure becomes part of the row that is returned."""
    code, begin = code_digest(), time.perf_counter()
    try:
        outcome = adapt(trial)
    except Exception as error:  # the study goes on without this trial, and its report names it
        outcome = {"status": "failed", "error": f"{type(error).__name__}: {error}"[:2000]}
    return {**asdict(trial), "key": trial.key, "code": code, "seconds": time.perf_counter() - begin, **outcome}


def adapt(trial: Trial) -> dict[str, Any]:
    """Align and refine; return the outcome with the validation score of every epoch."""
    task = get_task(trial.task)
    data = task.prepare()
    outcome, steps = single_trial.run_trial(
        trial.task, trial.method, trial.body, trial.hyperparameters, trial.seed, under_protocol(data, "held-out"),
        threads=1, deterministic=True, reuse_aligned=False,  # a replayed alignment would take no time
    )  # fmt: skip
    curve = [progress.validation_score for progress in steps if progress.stage == "refine"]
    extra = {"status": "completed", "error": None, "last_score": curve[-1], "curve": curve}
    return {**asdict(outcome), **extra, "metric": task.metric, "num_validation": len(data.validation.x)}


@cache
def code_digest() -> str:
    """Return a short hash of the package's source as this process found it: rows of one study should share it."""
    digest = hashlib.sha256()
    for path in sorted(Path(sys.modules["orca_ray"].__path__[0]).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def run_all(trials: Sequence[Trial], workers: int) -> Iterator[dict[str, Any]]:
    """Yield the row of every trial as it ends."""
    if workers == 1:
        yield from map(run_trial, trials)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run_trial, trial) for trial in trials]):
            yield future.result()


def run_study(options: argparse.Namespace) -> None:
    """Run what the file lacks, appending a line a trial."""
    spec = load_spec("pocket", budget="full", overrides=Overrides(tasks=options.tasks, protocol="held-out"))
    trials = plan(spec, options)
    finished = {row["key"] for row in read_rows(options.out) if row["status"] == "completed"}
    missing = [trial for trial in trials if trial.key not in finished]
    print(f"{len(trials)} trials, {len(trials) - len(missing)} finished before", flush=True)
    begin = time.perf_counter()
    with options.out.open("a", encoding="utf-8") as file:
        for done, row in enumerate(run_all(missing, options.workers), 1):
            file.write(json.dumps(row) + "\n")
            file.flush()
            elapsed = time.perf_counter() - begin
            left = elapsed / done * (len(missing) - done)
            print(
                f"{time.strftime('%H:%M:%S')} {done}/{len(missing)} {describe(row)}; left {left / 60:.0f} min",
                flush=True,
            )


def describe(row: Mapping[str, Any]) -> str:
    """Return one trial in a line."""
    name = f"{row['task']} {row['distance']} seed {row['seed']}"
    if row["status"] != "completed":
        return f"{name}: FAILED, {row['error']}"
    fall = (
        ""
        if row["distance_before"] is None
        else f", distance {row['distance_before']:.4g} → {row['distance_after']:.4g}"
    )
    return f"{name}: {row['validation_score']:.4f}{fall}, {row['seconds']:.1f} s (align {row['align_seconds']:.1f})"


def available_distances() -> list[str]:
    """Return the baseline and every distance that can be built here; what cannot is told."""
    names = [NONE]
    for name in distance_names():
        try:
            get_distance(name)
        except (ImportError, AttributeError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
        else:
            names.append(name)
    return names


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options; a list is comma-separated."""

    def names(text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]

    def seeds(text: str) -> list[int]:
        return [int(part) for part in names(text)]

    def rates(text: str) -> list[float]:
        return [float(part) for part in names(text)]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, metavar="FILE", help="run the study; append its trials to this JSONL file")
    action.add_argument("--report", type=Path, metavar="FILE", help="print the tables of a study")
    parser.add_argument("--tasks", type=names, help="default: all of the pocket benchmark")
    parser.add_argument("--distances", type=names, help=f"default: {NONE} and all that are registered")
    parser.add_argument("--seeds", type=seeds, default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, help="refine epochs; default: the sweep's")
    parser.add_argument(
        "--align-learning-rates", type=rates, default=[], help="further rates to try, beside the sweep's own"
    )
    parser.add_argument("--workers", type=int, default=1, help="trials at the same time, one thread each")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the study or print its report."""
    options = parse()
    try:
        for name in options.distances or []:
            if name not in (allowed := [NONE, *distance_names()]):
                raise unknown_name("distance", name, allowed)
        if options.report:
            print(report(options.report, options.distances))
            return
        options.distances = options.distances or available_distances()
        run_study(options)
    except UserError as error:
        sys.exit(f"study_distances: {error}")


if __name__ == "__main__":
    main()
