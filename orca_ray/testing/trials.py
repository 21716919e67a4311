"""Tasks, data and hyper-parameters so small that a whole trial takes a fraction of a second."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.data.prepared import PreparedData, Split, SplitName
from orca_ray.data.rows import Target
from orca_ray.methods.options import Scalar
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.results.record import Record
from orca_ray.tasks.task import Task

QUICK: dict[str, Scalar] = {
    "embedder.sequence_length": 8,
    "embedder.image_size": 16,
    "align.epochs": 3,
    "align.samples_per_class": 8,
    "align.source_samples": 40,
    "refine.epochs": 3,
    "refine.batch_size": 16,
    "refine.learning_rate": 1e-2,
    "refine.dropout": 0.1,
}
"""Hyper-parameters of three epochs in each stage."""


class NoTest(dict[SplitName, Split]):
    """Splits whose test split fails an assertion when it is read."""

    def __getitem__(self, name: SplitName) -> Split:
        """Return a split; AssertionError for test."""
        assert name != "test", "the test split was read"
        return super().__getitem__(name)


def make_task(target: Target, input_shape: tuple[int, ...] = (2, 16)) -> Task:
    """Return a task of 50 training, 40 validation and 45 test samples; `make_data` draws them."""
    loss, metric = {
        "classes": ("cross_entropy", "error"),
        "labels": ("bce", "one_minus_auroc"),
        "scalar": ("mse", "rmse"),
        "dense": ("relative_l2", "relative_l2"),
    }[target.kind]
    return Task(
        name=f"tiny/{target.kind}",
        title="",
        domain="",
        input_shape=input_shape,
        target=target,
        loss=loss,
        metric=metric,
        body="minilm-l6",
        num_samples=(50, 40, 45),
        licence="",
        citation="",
        reference="",
        build=lambda _: {},
    )


CLASSES = Target("classes", size=3)
TASK = make_task(CLASSES)


def make_data(task: Task, *, readable_test: bool = True) -> PreparedData:
    """Return random data from which a model can learn: inputs are noise plus a sine with one of three frequencies.

    Classes and labels depend on the frequency, scalar targets also on the inputs, dense targets on the inputs alone.
    Without ``readable_test``, reading the test split fails an assertion.
    """
    assert task.num_samples is not None
    assert task.input_shape is not None
    splits: dict[SplitName, Split] = {}
    names: tuple[SplitName, ...] = ("train", "validation", "test")
    for number, (name, size) in enumerate(zip(names, task.num_samples, strict=True)):
        random = np.random.RandomState(number)
        hidden = np.arange(size) % 3
        x = 0.5 * random.normal(size=(size, *task.input_shape))
        x += np.sin((hidden[:, None] + 1) * np.linspace(0, 3, task.input_shape[-1])).reshape(
            size, *[1] * (len(task.input_shape) - 1), -1
        )
        splits[name] = Split(x.astype(np.float32), _target(task.target, hidden, x))
    scaled = task.target.kind in ("scalar", "dense")
    mean, std = (np.float32(splits["train"].y.mean()), np.float32(splits["train"].y.std())) if scaled else (None, None)
    return PreparedData(
        name=task.name,
        fingerprint="0" * 16,
        splits=splits if readable_test else NoTest(splits),
        y_mean=None if mean is None else np.asarray(mean),
        y_std=None if std is None else np.asarray(std),
        directory=Path("unused"),
    )


def _target(target: Target, hidden: np.ndarray, x: np.ndarray) -> np.ndarray:
    if target.kind == "classes":
        return hidden.astype(np.int64)
    if target.kind == "labels":
        return np.stack([hidden == label for label in range(target.size)], axis=1).astype(np.float32)
    if target.kind == "scalar":
        scalar: np.ndarray = (5 + hidden + x.mean(axis=tuple(range(1, x.ndim)))).astype(np.float32)
        return scalar
    return (3 + x.reshape(len(x), -1)[:, : target.num_outputs].reshape(len(x), *target.shape)).astype(np.float32)


def start(
    body: str,
    method: str = "orca",
    *,
    task: Task = TASK,
    data: PreparedData | None = None,
    hyperparameters: Mapping[str, Scalar] = QUICK,
    seed: int = 0,
    test: bool = True,
    aligned: Path | None = None,
    **options: Any,
) -> TrialTrainer:
    """Return a new `TrialTrainer` with ``options``; aligned embedders are stored and reused only with ``aligned``."""
    return TrialTrainer(
        task, data or make_data(task), method, body, hyperparameters, seed,
        test=test, reuse_aligned=aligned is not None, aligned=aligned, **options,
    )  # fmt: skip


def run(trainer: TrialTrainer) -> list[dict[str, Any]]:
    """Run a trial to its end; return the progress after every step, without durations."""
    reports = []
    while not trainer.done:
        reports.append(reported(trainer.step()))
    return reports


def reported(progress: EpochProgress) -> dict[str, Any]:
    """Return the progress of a step without its duration."""
    values = asdict(progress)
    del values["seconds"]
    return values


def scores(outcome: Outcome) -> dict[str, Any]:
    """Return the fields of an outcome by name, without times, memory and speed, as these differ from run to run."""
    return {name: value for name, value in asdict(outcome).items() if name not in Record.RUN_COLUMNS}


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's weights by name."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the weights with a value that differs between ``before`` and ``after``."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}
