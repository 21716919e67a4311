"""A store with the outputs of trials, which tests add."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from orca_ray.adaptation.judge import Judge
from orca_ray.data.prepared import PreparedData, Split, SplitName
from orca_ray.data.rows import Array, Target
from orca_ray.methods.model_folder import CONFIG
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.sweep.worker.models import OUTPUTS
from orca_ray.testing.trials import make_task
from tests.results.factories import make_record

NUM_KNOWN = 60
"""Number of samples of all folds."""
NUM_TEST = 40
"""Number of samples of the outer test."""
NUM_SAMPLES = NUM_KNOWN + NUM_TEST
NUM_FOLDS = 5
"""Number of folds of one division."""
TWO_CLASSES = Target("classes", size=2)
Predict = Callable[[Array], Array]
"""Function from the numbers of samples to their logits [n, 2] or numbers [n]."""


class Toy:
    """A store with the outputs of trials, which tests add."""

    def __init__(
        self, folder: Path, *, target: Target = TWO_CLASSES, num_divisions: int = 1
    ) -> None:
        random = np.random.default_rng(0)
        self.folder = folder
        self.models = StoredModels(folder)
        self.records = list[Record]()
        self.task = replace(make_task(target, (1, 1)), name="own/toy-123456")
        self.y = np.arange(NUM_SAMPLES) % 2
        if target.kind == "scalar":
            self.y = random.normal(size=NUM_SAMPLES).astype(np.float32)
        divisions = [
            random.permutation(np.arange(NUM_KNOWN) % NUM_FOLDS) + 1
            for _ in range(num_divisions)
        ]
        self.folds = np.array(divisions, np.int8)
        self.data = self._data()

    def _data(self) -> PreparedData:
        names: tuple[SplitName, ...] = ("train", "validation", "test")
        ends = [40, NUM_KNOWN]
        x = np.split(np.zeros((NUM_SAMPLES, 1, 1), np.float32), ends)
        y = np.split(self.y, ends)
        splits = {
            name: Split(inputs, targets)
            for name, inputs, targets in zip(names, x, y, strict=True)
        }
        return PreparedData(
            self.task.name, "0" * 16, splits, None, None, Path(), self.folds
        )

    def add(
        self,
        method: str,
        predict: Predict,
        folds: Sequence[int] = (),
        seconds: float = 1.0,
    ) -> None:
        """Add a trial of a method for each of ``folds`` (by default, for all folds).

        The model of each trial predicts ``predict(rows)``. Rows from `NUM_KNOWN` on are
        the outer test.
        """
        if not folds:
            folds = range(1, NUM_FOLDS * len(self.folds) + 1)
        for fold in folds:
            self._add_trial(method, predict, fold, seconds)

    def _add_trial(
        self, method: str, predict: Predict, fold: int, seconds: float
    ) -> None:
        key = f"{method}{fold}"
        division, number = divmod(fold - 1, NUM_FOLDS)
        rows = np.flatnonzero(self.folds[division] == number + 1)
        test_rows = np.arange(NUM_KNOWN, NUM_SAMPLES)
        outputs = {
            "validation": np.ascontiguousarray(predict(rows), np.float32),
            "test": np.ascontiguousarray(predict(test_rows), np.float32),
        }
        directory = self.folder / "new" / key
        directory.mkdir(parents=True)
        save_file(outputs, directory / OUTPUTS)
        (directory / CONFIG).write_text("{}")
        self.models.add(key, directory)
        score = 0.5
        if outputs["validation"].ndim == 2:
            classes = outputs["validation"].argmax(axis=1)
            score = float(np.mean(classes != self.y[rows]))
        self.records.append(
            make_record(
                key,
                method=method,
                body="none",
                hyperparameters=json.dumps({"data.fold": fold, "a": 1}),
                validation_score=score,
                wall_seconds=seconds,
                task=self.task.name,
            )
        )

    def add_training_on(
        self, method: str, predict: Predict, *, start: str, fold: int
    ) -> None:
        """Add a trial that continued the training of the trial ``start``'s model on all
        samples. ``fold`` only names the trial.
        """
        self.add(method, predict, folds=[fold])
        values = json.dumps({"data.fold": -1, "refine.start": start})
        self.records[-1] = replace(self.records[-1], hyperparameters=values)

    def judge(self) -> Judge:
        return Judge(self.task, self.data, self.records, self.models)

    def draw_classifier(
        self, share: float, seed: int, strength: float = 3.0
    ) -> Predict:
        """Return a classifier that is right on a random share of the samples."""
        is_right = np.random.default_rng(seed).random(NUM_SAMPLES) < share
        return self.make_classifier(np.where(is_right, strength, -strength))

    def make_classifier(self, strengths: Array) -> Predict:
        """Return a classifier whose logits for the true class are ``strengths`` [N].

        The logits for the other class are their negatives.
        """

        def predict(rows: Array) -> Array:
            signs = 2 * np.eye(2)[self.y[rows]] - 1
            return np.asarray(strengths[rows, None] * signs)

        return predict

    def make_classifier_wrong_at(self, rows: Sequence[int] | Array) -> Predict:
        """Return a classifier that is wrong on the samples ``rows``, and only there."""
        is_wrong = np.isin(np.arange(NUM_SAMPLES), rows)
        return self.make_classifier(np.where(is_wrong, -1.0, 1.0))
