"""Trials so small that each takes a fraction of a second.

The conformance suite of methods, which runs them, is here, too. A method with a
`Recipe.problem` runs on the kinds of tasks that it can adapt to.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orca_ray.data.prepared import PreparedData, Split, SplitName
from orca_ray.data.rows import Target
from orca_ray.methods.options import Scalar
from orca_ray.methods.registry import get_method, relevant, resolve
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.results.record import Record
from orca_ray.tasks.task import Task
from orca_ray.testing.suite import Suite, made_once, make_home

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
    """Dictionary of splits that raises AssertionError when the test split is read."""

    def __getitem__(self, name: SplitName) -> Split:
        """Return a split; AssertionError for test."""
        assert name != "test", "the test split was read"
        return super().__getitem__(name)


def make_task(target: Target, input_shape: tuple[int, ...] = (2, 16)) -> Task:
    """Return a task of 50 training, 40 validation and 45 test samples.

    `make_data` draws them.
    """
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
    """Return random data from which a model can learn.

    Inputs are noise plus a sine with one of three frequencies. Classes and labels
    depend on the frequency, scalar targets also on the inputs, dense targets on the
    inputs alone. Without ``readable_test``, reading the test split fails an assertion.
    """
    assert task.num_samples is not None
    assert task.input_shape is not None
    splits: dict[SplitName, Split] = {}
    names: tuple[SplitName, ...] = ("train", "validation", "test")
    for number, (name, size) in enumerate(zip(names, task.num_samples, strict=True)):
        random = np.random.RandomState(number)
        hidden = np.arange(size) % 3
        x = 0.5 * random.normal(size=(size, *task.input_shape))
        x += np.sin(
            (hidden[:, None] + 1) * np.linspace(0, 3, task.input_shape[-1])
        ).reshape(size, *[1] * (len(task.input_shape) - 1), -1)
        splits[name] = Split(x.astype(np.float32), _target(task.target, hidden, x))
    y_mean = None
    y_std = None
    if task.target.kind in ("scalar", "dense"):
        y_mean = np.asarray(np.float32(splits["train"].y.mean()))
        y_std = np.asarray(np.float32(splits["train"].y.std()))
    return PreparedData(
        name=task.name,
        fingerprint="0" * 16,
        splits=splits if readable_test else NoTest(splits),
        y_mean=y_mean,
        y_std=y_std,
        directory=Path("unused"),
    )


def _target(target: Target, hidden: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the targets of inputs ``x`` [N, C, ...].

    ``hidden`` [N] is the number of the frequency in each input, 0 to 2.
    """
    if target.kind == "classes":
        return hidden.astype(np.int64)
    if target.kind == "labels":
        labels = [hidden == label for label in range(target.size)]
        return np.stack(labels, axis=1).astype(np.float32)
    flat = x.reshape(len(x), -1)
    if target.kind == "scalar":
        y = 5 + hidden + x.mean(axis=tuple(range(1, x.ndim)))
    else:
        y = 3 + flat[:, : target.num_outputs].reshape(len(x), *target.shape)
    return np.asarray(y, np.float32)


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
    """Return a `TrialTrainer` with ``options``.

    It stores and reuses aligned embedders in the directory ``aligned``, if not None.
    ``test``: whether the trial is scored on the test split.
    """
    return TrialTrainer(
        task,
        data or make_data(task),
        method,
        body,
        hyperparameters,
        seed,
        test=test,
        reuse_aligned=aligned is not None,
        aligned=aligned,
        **options,
    )


def run(trainer: TrialTrainer) -> list[dict[str, Any]]:
    """Run a trial to its end; return what `reported` returns for each step."""
    reports = []
    while not trainer.done:
        reports.append(reported(trainer.step()))
    return reports


def reported(progress: EpochProgress) -> dict[str, Any]:
    """Return the fields of a trial's progress by name, without its duration."""
    values = asdict(progress)
    del values["seconds"]
    return values


def scores(outcome: Outcome) -> dict[str, Any]:
    """Return the fields of an outcome that are equal in every run, by name.

    Times, memory and speed differ.
    """
    return {
        name: value
        for name, value in asdict(outcome).items()
        if name not in Record.RUN_COLUMNS
    }


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's weights by name."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Return the names of weights that differ in ``before`` and ``after``."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


SHORT = {**QUICK, "align.epochs": 2, "refine.epochs": 2}
TASKS = {
    "series": (CLASSES, (2, 16)),
    "labels": (Target("labels", size=3), (2, 16)),
    "table": (Target("scalar"), (7, 1)),
    "field-1d": (Target("dense", shape=(16,)), (1, 16)),
    "image": (CLASSES, (1, 8, 8)),
    "field-2d": (Target("dense", shape=(8, 8)), (2, 8, 8)),
}


def fitting_task(method: str) -> Task:
    """Return a task of the first kind in `TASKS` that the method can adapt to."""
    tasks = (make_task(*arguments) for arguments in TASKS.values())
    return next(task for task in tasks if get_method(method).problem(task) is None)


class MethodSuite(Suite):
    """Test class of methods, on random bodies of two layers.

    Set `names` to the registered names of the methods.
    """

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test once for each of `names`.

        A test with an argument ``kind`` runs once for each pair of a name and one of
        `TASKS`.
        """
        if "kind" in metafunc.fixturenames:
            self.parametrize(
                metafunc,
                "name,kind",
                [(name, kind) for name in sorted(self.names) for kind in TASKS],
            )
        else:
            super().pytest_generate_tests(metafunc)

    @pytest.fixture(autouse=True)
    def home(
        self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Set the cache directory to a temporary one of the whole suite."""
        monkeypatch.setenv(
            "ORCA_RAY_HOME", str(made_once("home", tmp_path_factory, make_home))
        )

    def test_every_kind_of_task(
        self, name: str, kind: str, bodies: dict[str, str]
    ) -> None:
        task = make_task(*TASKS[kind])
        if problem := get_method(name).problem(task):
            pytest.skip(problem)
        body = bodies["image" if len(TASKS[kind][1]) == 3 else "sequence"]
        trainer = start(body, name, task=task, hyperparameters=SHORT)
        reports = run(trainer)
        outcome = trainer.result()
        num_epochs = int(relevant(resolve(name, SHORT), name).get("refine.epochs", 1))
        assert [
            report["epoch"] for report in reports if report["stage"] == "refine"
        ] == list(range(1, 1 + num_epochs))
        stages = dict.fromkeys(
            report["stage"] for report in reports if report["stage"] != "probe"
        )
        assert tuple(stages) == get_method(name).stage_names
        assert len({(report["stage"], report["epoch"]) for report in reports}) == len(
            reports
        )
        for value in (
            outcome.validation_score,
            outcome.test_score,
            outcome.peak_memory_mib,
        ):
            assert value is not None
            assert math.isfinite(value)
        assert 0 < outcome.num_trainable <= outcome.num_parameters

    def test_resume_after_every_step_is_exact_and_nothing_leaks(
        self, name: str, bodies: dict[str, str], tmp_path: Path
    ) -> None:
        task = fitting_task(name)
        bert = bodies["sequence"]
        whole = start(bert, name, task=task, hyperparameters=SHORT)
        state = (
            torch.get_rng_state(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
        )
        expected = run(whole)
        assert torch.equal(state[0], torch.get_rng_state())
        assert state[1:] == (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
        )
        torch.manual_seed(2)
        np.random.seed(3)
        reports = []
        piece = start(bert, name, task=task, hyperparameters=SHORT)
        while not piece.done:
            reports.append(reported(piece.step()))
            piece.save(tmp_path / "trial")
            piece = start(bert, name, task=task, hyperparameters=SHORT)
            assert piece.restore(tmp_path / "trial")
        assert reports == expected
        assert scores(piece.result()) == scores(whole.result())
        assert not changed(copy_of(piece.model), copy_of(whole.model))

    def test_a_search_trial_does_not_read_test(
        self, name: str, bodies: dict[str, str]
    ) -> None:
        task = fitting_task(name)
        data = make_data(task, readable_test=False)
        search = start(
            bodies["sequence"],
            name,
            task=task,
            data=data,
            test=False,
            hyperparameters=SHORT,
        )
        run(search)
        assert search.result().test_score is None
