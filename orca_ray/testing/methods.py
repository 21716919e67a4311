"""The conformance suite of methods: they adapt to every kind of task, resume exactly, and a search does not read test.

A method runs on the kinds of tasks for which its `Recipe.problem` returns None.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from orca_ray.data.rows import Target
from orca_ray.methods.registry import get_method, relevant, resolve
from orca_ray.tasks.task import Task
from orca_ray.testing.suite import Suite, made_once, make_home, save_bert, save_vit
from orca_ray.testing.trials import (
    CLASSES,
    QUICK,
    changed,
    copy_of,
    make_data,
    make_task,
    reported,
    run,
    scores,
    start,
)

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
    return next(task for each in TASKS.values() if get_method(method).problem(task := make_task(*each)) is None)


class MethodSuite(Suite):
    """Test class of methods, on random bodies of two layers; set `names` to the registered names of the methods."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test once for each name; if it has an argument ``kind``, for each name and each of `TASKS`."""
        if "kind" in metafunc.fixturenames:
            self.parametrize(metafunc, "name,kind", [(name, kind) for name in sorted(self.names) for kind in TASKS])
        else:
            super().pytest_generate_tests(metafunc)

    @pytest.fixture(autouse=True)
    def home(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set the cache directory to a temporary one, which all tests of the suite share."""
        monkeypatch.setenv("ORCA_RAY_HOME", str(made_once("home", tmp_path_factory, make_home)))

    @pytest.fixture
    def bert(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        """Return the name of a random sequence body."""
        return str(made_once("bert", tmp_path_factory, save_bert))

    @pytest.fixture
    def vit(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        """Return the name of a random image body."""
        return str(made_once("vit", tmp_path_factory, save_vit))

    def test_every_kind_of_task(self, name: str, kind: str, bert: str, vit: str) -> None:
        task = make_task(*TASKS[kind])
        if problem := get_method(name).problem(task):
            pytest.skip(problem)
        body = vit if len(TASKS[kind][1]) == 3 else bert
        trainer = start(body, name, task=task, hyperparameters=SHORT)
        reports = run(trainer)
        outcome = trainer.result()
        num_epochs = int(relevant(resolve(name, SHORT), name).get("refine.epochs", 1))
        assert [report["epoch"] for report in reports if report["stage"] == "refine"] == list(range(1, 1 + num_epochs))
        stages = dict.fromkeys(report["stage"] for report in reports if report["stage"] != "probe")
        assert tuple(stages) == get_method(name).stage_names
        assert len({(report["stage"], report["epoch"]) for report in reports}) == len(reports)
        for value in (outcome.validation_score, outcome.test_score, outcome.peak_memory_mib):
            assert value is not None
            assert math.isfinite(value)
        assert 0 < outcome.num_trainable <= outcome.num_parameters

    def test_resume_after_every_step_is_exact_and_nothing_leaks(self, name: str, bert: str, tmp_path: Path) -> None:
        task = fitting_task(name)
        whole = start(bert, name, task=task, hyperparameters=SHORT)
        state = torch.get_rng_state(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        expected = run(whole)
        assert torch.equal(state[0], torch.get_rng_state())
        assert state[1:] == (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
        torch.manual_seed(2)
        np.random.seed(3)
        reports, piece = [], start(bert, name, task=task, hyperparameters=SHORT)
        while not piece.done:
            reports.append(reported(piece.step()))
            piece.save(tmp_path / "trial")
            piece = start(bert, name, task=task, hyperparameters=SHORT)
            assert piece.restore(tmp_path / "trial")
        assert reports == expected
        assert scores(piece.result()) == scores(whole.result())
        assert not changed(copy_of(piece.model), copy_of(whole.model))

    def test_a_search_trial_does_not_read_test(self, name: str, bert: str) -> None:
        task = fitting_task(name)
        data = make_data(task, readable_test=False)
        search = start(bert, name, task=task, data=data, test=False, hyperparameters=SHORT)
        run(search)
        assert search.result().test_score is None
