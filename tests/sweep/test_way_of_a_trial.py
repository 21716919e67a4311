"""How many files of the package a trial enters on its way (docs/way-of-a-trial.md)."""

import inspect
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

import orca_ray
from orca_ray.results.lease import Lease
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.requirements import resolve, with_fingerprints
from orca_ray.sweep.plan.searches import plan_searches
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.sweep.run.executor import ExecutorOptions
from tests.sweep.real import TEXT, make_tiny_spec

PACKAGE = Path(orca_ray.__file__).parent
WORK_OF_A_TRIAL = {"training", "models", "methods", "alignment", "tasks", "data"}
"""Rooms of what a trial computes; all others only bring it there and back."""
MOST_FILES = 35
"""Files that a reader may have to open to follow a trial from start to record."""


@contextmanager
def trace_files() -> Iterator[set[str]]:
    """Collect the files of the package whose functions are called, in any thread.

    Paths are relative to the package. Importing a module calls no function of it.
    """
    files = set[str]()

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_NEWLOCALS:
            path = Path(code.co_filename)
            if path.is_relative_to(PACKAGE):
                files.add(str(path.relative_to(PACKAGE)))

    threading.setprofile(on_event)
    sys.setprofile(on_event)
    try:
        yield files
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.mark.slow
@pytest.mark.usefixtures("module_home")
def test_a_trial_enters_few_files_beside_those_of_its_work(tmp_path: Path) -> None:
    text = TEXT.replace("confirm_seeds: [1, 2]", "confirm_seeds: [1]")
    uri = str(tmp_path / "results")
    earlier_spec = make_tiny_spec(tmp_path, text.replace("trials: 3", "trials: 1"))
    run_sweep(earlier_spec, uri, executor=InlineExecutor())

    store = ResultsStore(uri)
    settings = WorkerSettings(uri)
    spec = make_tiny_spec(tmp_path, text.replace("trials: 3", "trials: 2"))
    searches = resolve(with_fingerprints(plan_searches(spec, gpus=False)), print)
    with Lease(store, spec.sweep_id) as lease:
        controller = SweepController(
            searches[:1], store, executor="inline", lease=lease
        )
        with trace_files() as files:
            InlineExecutor().run(controller, settings, ExecutorOptions())
        assert controller.summary().ran >= 1
    files_on_the_way = {
        file for file in files if Path(file).parts[0] not in WORK_OF_A_TRIAL
    }
    assert len(files_on_the_way) <= MOST_FILES, "\n".join(sorted(files_on_the_way))
