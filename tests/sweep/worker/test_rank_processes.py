"""Trials of several ranks, on CPUs: the same code as on GPUs, with the backend gloo
instead of NCCL.
"""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.options import Scalar
from orca_ray.methods.reports import EpochProgress
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.results.record import Status
from orca_ray.sweep.messages.causes import RankFailedError
from orca_ray.sweep.plan.searches import plan_searches
from orca_ray.sweep.plan.trial_spec import Resources
from orca_ray.sweep.worker import runner as trial_runner
from orca_ray.sweep.worker.checkpoints import Checkpoints
from orca_ray.sweep.worker.rank_processes import Build, RankProcesses
from orca_ray.tasks.registry import get_task
from orca_ray.testing.suite import save_bert
from orca_ray.testing.trials import CLASSES, QUICK, start
from orca_ray.testing.trials import make_task as tiny_task
from orca_ray.training.ranks import ALONE, RankLostError, Ranks
from tests.session import folder
from tests.sweep.rank_toys import build
from tests.sweep.real import make_tiny_spec
from tests.sweep.worker.test_runner import finish, make_runner

pytestmark = pytest.mark.slow
ALL = pytest.mark.exhaustive
DENSE = Target("dense", shape=(16,))


@contextmanager
def start_ranks(size: int, build: Build) -> Iterator[tuple[RankProcesses, Any]]:
    """Start ranks, and give the first one's trainer; at the end no process is left."""
    processes = RankProcesses(size, build)
    try:
        yield processes, build(processes.first)
    finally:
        processes.close()
    assert multiprocessing.active_children() == []


def step_together(processes: RankProcesses, trainer: Any) -> Any:
    """Run one step with all ranks; raises the cause of a failure."""
    try:
        processes.join(trainer)
        return trainer.step()
    except Exception as error:
        raise processes.find_cause(error) from error


def test_ranks_take_over_the_state_of_the_first_and_one_that_dies_is_the_cause() -> (
    None
):
    with start_ranks(3, build) as (processes, toy):
        step_together(processes, toy)
        assert toy.counted == [6, 6, 6]
        step_together(processes, toy)
        assert toy.counted == [7, 7, 7]
        ranks = {process.name: process for process in multiprocessing.active_children()}
        ranks["rank 2 of 3"].kill()
        with pytest.raises(
            RankFailedError, match=r"^rank 2 of 3 ended by SIGKILL$"
        ) as raised:
            step_together(processes, toy)
        assert raised.value.status is Status.LOST
        with pytest.raises(RankLostError):
            processes.check()


@pytest.mark.parametrize(
    ("failures", "status", "text"),
    [
        (
            {"building": UserError("no such body")},
            Status.FAILED_USER,
            "UserError: no such body",
        ),
        (
            {"stepping": KeyError("x")},
            Status.FAILED_CODE,
            r"Traceback[^$]*KeyError: 'x'\n",
        ),
    ],
    ids=["data", "code"],
)
def test_the_error_of_a_rank_is_that_of_the_trial(
    failures: dict[str, Any], status: Status, text: str
) -> None:
    with start_ranks(2, partial(build, **failures)) as (processes, toy):
        with pytest.raises(RankFailedError, match=f"^rank 1 of 2: {text}$") as raised:
            step_together(processes, toy)
        assert raised.value.status is status


def test_ranks_end_when_their_worker_is_killed() -> None:
    command = [sys.executable, "-m", "tests.sweep.rank_toys"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        ranks = [psutil.Process(int(pid)) for pid in worker.stdout.readline().split()]
        worker.kill()
    assert len(ranks) == 2
    _, alive = psutil.wait_procs(ranks, timeout=20)
    assert alive == []


def start_tiny(
    ranks: Ranks, *, body: str, method: str, target: Target, changes: dict[str, Scalar]
) -> TrialTrainer:
    task = tiny_task(target, (1, 16) if target.kind == "dense" else (2, 16))
    options = {**QUICK, "refine.dropout": 0.0, **changes}
    return start(
        body,
        method,
        task=task,
        hyperparameters=options,
        deterministic=True,
        ranks=ranks,
    )


def list_numbers(progress: EpochProgress) -> list[float]:
    """Return loss, distance and score; -1 if there is none."""
    values = (progress.loss, progress.distance, progress.validation_score)
    return [-1.0 if value is None else value for value in values]


@pytest.mark.parametrize(
    ("size", "method", "target", "changes"),
    [
        pytest.param(
            3,
            "orca",
            CLASSES,
            {"refine.batch_size": 49},
            id="fewer samples than ranks in the last step",
        ),
        pytest.param(
            2,
            "orca",
            DENSE,
            {"refine.accumulation": 2, "refine.batch_size": 8},
            marks=ALL,
        ),
        pytest.param(
            2,
            "joint",
            CLASSES,
            {"joint.epochs": 2},
            marks=ALL,
            id="two parallel stages, a loss of the step",
        ),
        pytest.param(
            2,
            "mona",
            CLASSES,
            {"mona.epochs": 1},
            marks=ALL,
            id="and between them one of the first rank",
        ),
    ],
)
def test_ranks_reach_the_scores_of_one_process(
    tmp_path: Path,
    own_home: Path,
    size: int,
    method: str,
    target: Target,
    changes: dict[str, Scalar],
) -> None:
    make = partial(
        start_tiny,
        body=save_bert(tmp_path / "bert"),
        method=method,
        target=target,
        changes=changes,
    )
    alone = make(ALONE)
    with start_ranks(size, make) as (processes, together):
        while not alone.done:
            expected = alone.step()
            progress = step_together(processes, together)
            assert progress.stage == expected.stage
            assert progress.epoch == expected.epoch
            numbers = list_numbers(progress)
            assert numbers == pytest.approx(list_numbers(expected), rel=1e-4)
    assert together.done
    one = alone.result()
    several = together.result()
    assert one.test_score is not None
    assert several.test_score == pytest.approx(one.test_score, rel=1e-4)
    assert several.best_epoch == one.best_epoch


def test_a_trial_whose_rank_dies_is_lost_with_a_checkpoint(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial asks for two GPUs, and gets CPUs."""
    monkeypatch.setattr(trial_runner, "device_for", lambda trial: "cpu")
    fingerprints = {"pocket/wdbc": get_task("pocket/wdbc").prepare().fingerprint}
    plans = plan_searches(make_tiny_spec(folder()), fingerprints, gpus=False)
    plan = next(plan for plan in plans if plan.method == "nft")
    trial = plan.trial({"refine.batch_size": 32}, 1, "confirm")
    trial = replace(trial, resources=Resources(1, 2.0))
    save = Checkpoints.save
    saves = 0

    def save_and_kill(*arguments: Any) -> None:
        nonlocal saves
        save(*arguments)
        saves += 1
        if saves == 9:
            [rank] = multiprocessing.active_children()
            rank.kill()
            time.sleep(1.0)  # the next checkpoint would be in time

    monkeypatch.setattr(Checkpoints, "save", save_and_kill)
    _, failed = finish(make_runner(trial, tmp_path, checkpoint_seconds=0.0))
    assert failed.status is Status.LOST
    assert failed.error == "RankFailedError: rank 1 of 2 ended by SIGKILL"
    assert multiprocessing.active_children() == []
    saved = Checkpoints(tmp_path).restore(trial.key, lambda path: True)
    assert saved is not None
    assert 0 < len(saved.progress) < trial.epochs, "within an epoch after the first"
