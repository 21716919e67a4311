"""A process that runs the fake sweep slowly, for tests that watch or kill it.

``python -m tests.sweep.slow_sweep STORE SECONDS [SWEEP]`` runs one epoch every
``SECONDS`` with the inline executor, and ends with the exit code of ``orca-sweep run``.
Driver, lease, controller, writer, runner, checkpoints and outcome files are real; data
and model are not.
"""

import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.process import NodeResources
from orca_ray.results import lease
from orca_ray.sweep.executors import inline
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.messages.report import Worker
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run import driver
from orca_ray.sweep.worker import runner as trial_runner
from orca_ray.sweep.worker import staging
from tests.sweep.fakes import TEXT, fake_outcome, fake_reports, fake_spec

FAILING_SEED = 2
"""Trials with this seed fail, unless the file ``mended`` lies beside the store."""

logger = logging.getLogger("orca_ray.tests.slow_sweep")


class SlowTrainer:
    """Stand-in for `TrialTrainer`: each step sleeps, and returns a computed score."""

    def __init__(self, trial: TrialSpec, seconds: float, mended: Path) -> None:
        self._trial = trial
        self._seconds = seconds
        self._mended = mended
        self._epochs = 0

    @property
    def done(self) -> bool:
        return self._epochs >= self._trial.epochs

    def step(self) -> EpochProgress:
        time.sleep(self._seconds)
        if self._trial.seed == FAILING_SEED and not self._mended.exists():
            raise UserError("the data are spoilt")
        self._epochs += 1
        logger.info("epoch %d of seed %d", self._epochs, self._trial.seed)
        reports = list(fake_reports(self._trial))
        [progress] = reports[self._epochs - 1].progress
        return progress

    def result(self) -> Outcome:
        return fake_outcome(self._trial, max(1, self._epochs))

    def artefacts(self) -> tuple[()]:
        return ()

    def save(self, path: Path) -> None:
        path.write_text(str(self._epochs))

    def restore(self, path: Path) -> bool:
        self._epochs = int(path.read_text()) if path.exists() else 0
        return path.exists()

    def close(self) -> None:
        pass


def replace_data_and_model(seconds: float, mended: Path) -> None:
    """Replace what the sweep reads and trains by what needs no data and no model."""

    def build(runner: Any) -> SlowTrainer:
        return SlowTrainer(runner.trial, seconds, mended)

    def add_fingerprints(searches: list[SearchPlan]) -> list[SearchPlan]:
        return [replace(search, fingerprint="0123456789abcdef") for search in searches]

    here = NodeResources("here", 2.0, 0.0, 8.0)
    quick_lease = partial(lease.Lease, renew_seconds=0.2, expiry_seconds=3.0)
    patches: list[tuple[Any, str, Any]] = [
        (trial_runner.TrialRunner, "_build", build),
        (trial_runner, "this_worker", lambda device: Worker(node="here")),
        (inline, "this_node", lambda: here),
        (trial_runner, "limit_memory", lambda limits, device: None),
        (driver, "resolve", lambda searches, say: searches),
        (driver, "with_fingerprints", add_fingerprints),
        (staging, "stage", lambda request, shared, progress: request.fingerprint),
        (trial_runner, "staged_data", lambda request, shared: None),
        (driver, "trial_seconds", lambda searches: {}),
        (driver, "Lease", quick_lease),
    ]
    for owner, attribute, value in patches:
        setattr(owner, attribute, value)


def main(uri: str, seconds: float, name: str = "fake") -> int:
    """Run the sweep ``name`` in the store at ``uri``, and return its exit code."""
    text = TEXT.replace("name: fake", f"name: {name}")
    spec = fake_spec(text.replace("{eta: 2, min_epochs: 2}", "null"))
    replace_data_and_model(seconds, mended=Path(uri).parent / "mended")
    try:
        summary = driver.run_sweep(
            spec, uri, executor=InlineExecutor(), checkpoint_seconds=0.0
        )
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if summary.interrupted:
        return 130
    return 1 if summary.failed else 0


def start_slow_sweep(
    store: Path, seconds: float, *arguments: str
) -> subprocess.Popen[str]:
    """Start a process that runs the fake sweep in ``store``, an epoch every
    ``seconds``.
    """
    command = [
        sys.executable,
        "-m",
        "tests.sweep.slow_sweep",
        str(store),
        str(seconds),
        *arguments,
    ]
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "ORCA_RAY_HOME": str(store.parent / "home"),
    }
    return subprocess.Popen(
        command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:]))
