"""Seeded stores with the outputs of trials, and everything that is chosen from them."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from orca_ray.data.prepared import PreparedData, Split, SplitName
from orca_ray.data.rows import Array, Target
from orca_ray.methods.model_folder import CONFIG
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.sweep.worker.models import OUTPUTS
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import make_task
from tests.results.factories import START, make_record

TARGETS = {
    "classes": Target("classes", size=3),
    "labels": Target("labels", size=4),
    "scalar": Target("scalar"),
    "dense": Target("dense", shape=(1, 6)),
}
METHODS = {
    "time series": ("linear", "minirocket_hydra", "minirocket", "cnn", "nft", "orca"),
    "tabular": ("linear", "forest", "gradient_boosting", "cnn", "nft", "linear_probe"),
}
Describe = Callable[[Task, PreparedData, Sequence[Record], StoredModels], Any]
"""Function that chooses from a store, and describes the choice in JSON values."""


class StoredTrials:
    """A store with the outputs of trials, which one seed decides."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._draw = random.Random(f"choice {seed}")
        self._arrays = np.random.default_rng(seed)
        draw = self._draw
        self.models = StoredModels(folder)
        self._folder = folder
        self.records = list[Record]()
        self.target = TARGETS[draw.choice(["classes", "classes", *sorted(TARGETS)])]
        self.num_known = draw.choice([60, 90, 240])
        self.num_test = draw.choice([0, 12, 60])
        self.num_folds = draw.choice([0, 2, 5])
        self.num_divisions = draw.choice([1, 1, 2])
        domain = draw.choice(sorted(METHODS))
        task = make_task(self.target, (1, 1))
        self.task = replace(task, name="own/toy-123456", domain=domain)
        self.y = self._draw_targets()
        self.data = self._draw_data()
        for method in draw.sample(METHODS[domain], draw.randint(2, 5)):
            for variant in range(draw.choice([1, 1, 2])):
                self._add_configuration(method, variant)
        if draw.random() < 0.4:
            self._train_on()

    @property
    def num_samples(self) -> int:
        """Number of all samples."""
        return self.num_known + self.num_test

    def _draw_targets(self) -> Array:
        arrays = self._arrays
        size = self.num_samples
        match self.target.kind:
            case "classes":
                return np.arange(size) % 3
            case "labels":
                return (arrays.random((size, 4)) < 0.4).astype(np.float32)
            case "scalar":
                return arrays.normal(size=size).astype(np.float32)
            case _:
                return arrays.normal(size=(size, 1, 6)).astype(np.float32)

    def _draw_data(self) -> PreparedData:
        known = self.num_known
        folds = None
        if self.num_folds:
            divisions = [
                self._arrays.permutation(np.arange(known) % self.num_folds) + 1
                for _ in range(self.num_divisions)
            ]
            folds = np.array(divisions, np.int8)
        units = None
        if self._draw.random() < 0.3:
            units = np.arange(self.num_samples) // 4
        x = np.zeros((self.num_samples, 1, 1), np.float32)
        cuts = [2 * known // 3, known]
        names: tuple[SplitName, ...] = ("train", "validation", "test")
        parts = zip(names, np.split(x, cuts), np.split(self.y, cuts), strict=True)
        splits = {name: Split(inputs, targets) for name, inputs, targets in parts}
        return PreparedData(
            self.task.name, "0" * 16, splits, None, None, Path(), folds, units
        )

    def _find_rows(self, fold: int) -> Array:
        """Return the validation rows of a fold; 0: the validation split."""
        if fold == 0:
            return np.arange(2 * self.num_known // 3, self.num_known)
        assert self.data.folds is not None
        division, number = divmod(fold - 1, self.num_folds)
        return np.flatnonzero(self.data.folds[division] == number + 1)

    def _draw_outputs(self, skill: float) -> Array:
        """Return the outputs of a model for all samples [N, ...]."""
        arrays = self._arrays
        if self.target.kind == "classes":
            is_right = arrays.random(self.num_samples) < skill
            shifted = (self.y + arrays.integers(1, 3, self.num_samples)) % 3
            guess = np.where(is_right, self.y, shifted)
            strength = arrays.uniform(0.5, 5.0)
            return np.asarray(strength * np.eye(3)[guess])
        noise = arrays.normal(size=self.y.shape)
        if self.target.kind == "labels":
            return np.asarray((2 * self.y - 1) * 3 * skill + 2 * noise)
        return np.asarray(self.y + (1 - skill) * noise)

    def _compute_score(self, outputs: Array, rows: Array) -> float:
        if self.target.kind == "classes":
            return float(np.mean(outputs[rows].argmax(axis=1) != self.y[rows]))
        return float(np.sqrt(np.mean(np.square(outputs[rows] - self.y[rows]))))

    def _add_configuration(self, method: str, variant: int) -> None:
        draw = self._draw
        skill = draw.choice([0.5, 0.7, 0.8, 0.85, 0.9])
        folds = list(range(1, self.num_folds * self.num_divisions + 1)) or [0]
        count = draw.choice([1, len(folds), len(folds), max(1, self.num_folds)])
        for fold in folds[:count]:
            self._add(method, {"a": variant}, fold, self._draw_outputs(skill))

    def _add(
        self, method: str, values: dict[str, Any], fold: int, outputs: Array
    ) -> str:
        """Add one trial with the outputs of its model; return the key."""
        draw = self._draw
        number = len(self.records)
        key = f"{method}-{number}"
        rows: Array = np.zeros(0, int)
        if fold >= 0 or not self.num_folds:
            rows = self._find_rows(max(fold, 0))
        directory = self._folder / "new" / key
        directory.mkdir(parents=True)
        arrays = {
            "validation": np.ascontiguousarray(outputs[rows], np.float32),
            "test": np.ascontiguousarray(outputs[self.num_known :], np.float32),
        }
        save_file(arrays, directory / OUTPUTS)
        if draw.random() < 0.95:
            (directory / CONFIG).write_text("{}")
        self.models.add(key, directory)
        uses_body = method in ("nft", "orca", "linear_probe")
        all_values = {**values, "data.fold": fold} if fold else values
        score = self._compute_score(outputs, rows) if len(rows) else 0.1
        seconds = draw.uniform(0.1, 20.0)
        started = START + timedelta(seconds=10 * number)
        self.records.append(
            make_record(
                key,
                task=self.task.name,
                method=method,
                body="minilm-l6" if uses_body else "none",
                hyperparameters=json.dumps(all_values),
                validation_score=score,
                wall_seconds=seconds,
                training_loss=0.5,
                align_seconds=1.0 if method == "orca" else 0.0,
                started_at=started,
                finished_at=started + timedelta(seconds=seconds),
            )
        )
        return key

    def _train_on(self) -> None:
        """Let the first network train on, with or without the outer test."""
        draw = self._draw
        networks = [
            record for record in self.records if record.method in ("cnn", "nft")
        ]
        if not networks:
            return
        start = networks[0]
        values: dict[str, Any] = {"a": 9, "refine.start": start.trial_key}
        skill = draw.choice([0.6, 0.85, 0.95])
        if self.num_test and draw.random() < 0.7:
            key = self._add(start.method, values, -2, self._draw_outputs(skill))
            values = {"a": 9, "refine.start": key}
        if draw.random() < 0.6:
            better = draw.choice([0.5, 0.99])
            self._add(start.method, values, -1, self._draw_outputs(better))


def round_numbers(value: Any) -> Any:
    """Return JSON values whose numbers have ten digits."""
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {name: round_numbers(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_numbers(item) for item in value]
    return value


def choose(seed: int, folder: Path, describe: Describe) -> Any:
    """Return the description of what is chosen in the scenario of a seed."""
    trials = StoredTrials(seed, folder)
    return round_numbers(
        describe(trials.task, trials.data, trials.records, trials.models)
    )
