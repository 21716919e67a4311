"""Assembly of the model of own data from the stored models of trials."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from orca_ray.adaptation.configuration import ALL, FOLD
from orca_ray.data.rows import Array
from orca_ray.methods.conformal import Conformal
from orca_ray.methods.model_config import ModelConfig
from orca_ray.methods.model_folder import (
    read_config,
    read_preprocessing,
    write_folder,
)
from orca_ray.methods.snapshot import read_weights
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.predictor import Predictor
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record

NUM_PREDICTIONS = 6
"""Number of predictions that are timed; the first one is slow and does not count."""


@dataclass(frozen=True)
class AssembledModel:
    """A model in memory, which can be written to a folder."""

    config: ModelConfig
    weights: Mapping[str, Any]
    preprocessing: Any
    """JSON values of the preprocessing; None: there is none."""
    conformal: Conformal | None = None
    """Scores of which intervals of predictions are made; None: there are none."""

    @property
    def label_names(self) -> Sequence[str]:
        """Names of the classes or labels; (): they have none."""
        if self.preprocessing is None:
            return ()
        return Preprocessing.from_json(self.preprocessing).target.label_names

    def write(self, folder: Path, card: str = "") -> None:
        """Write the model to a folder, with its card."""
        write_folder(
            folder,
            self.config,
            self.weights,
            card=card,
            preprocessing=self.preprocessing,
            conformal=self.conformal,
        )


def assemble_model(
    parts: Sequence[tuple[Sequence[Record], float]],
    temperature: float,
    models: StoredModels,
    scratch: Path,
) -> AssembledModel:
    """Return the mean of stored models.

    Args:
        parts: records of the trials whose models stand for a configuration, with the
            weight of the configuration.
        temperature: number that logits are divided by.
        models: models of the results store.
        scratch: temporary folder to which the models are copied.
    """
    members = list[ModelConfig]()
    weights = dict[str, Any]()
    member_weights = list[float]()
    for records, weight in parts:
        for record in records:
            folder = scratch / record.trial_key
            models.fetch(record.trial_key, folder)
            for name, value in read_weights(folder).items():
                weights[f"{len(members)}.{name}"] = value
            members.append(_without_seen_scores(read_config(folder)))
            member_weights.append(weight / len(records))
    # All models of a task have the same preprocessing, so that of the last one is used.
    preprocessing = read_preprocessing(folder, read_config(folder))
    first = members[0]
    if len(members) == 1 and temperature == 1:
        own_weights = {name.partition(".")[2]: value for name, value in weights.items()}
        return AssembledModel(first, own_weights, preprocessing)
    mixed = replace(
        first,
        members=tuple(members),
        member_weights=tuple(member_weights),
        temperature=temperature,
        trial="",
    )
    return AssembledModel(mixed, weights, preprocessing)


def _without_seen_scores(config: ModelConfig) -> ModelConfig:
    """Return ``config`` without the scores on samples that the model trained on."""
    fold = int(config.hyperparameters.get(FOLD, 0))
    return replace(
        config,
        files={},
        command="",
        validation_score=None if fold < 0 else config.validation_score,
        test_score=None if fold == ALL else config.test_score,
    )


@dataclass(frozen=True, order=True)
class Measurement:
    """Size and latency of a model."""

    size_mb: float
    latency_ms: float
    """Time of a prediction for one sample, median of several, on this machine."""


def measure_model(folder: Path, sample: Array) -> Measurement:
    """Return size and latency of the model in ``folder``.

    ``sample`` is one sample [1, ...].
    """
    model = Predictor.load(folder)
    milliseconds = list[float]()
    for _ in range(NUM_PREDICTIONS):
        started = time.perf_counter()
        model.outputs_of(sample)
        milliseconds.append(1000 * (time.perf_counter() - started))
    size = sum(path.stat().st_size for path in folder.iterdir())
    # The first prediction also prepares the model.
    return Measurement(size / 1e6, median(milliseconds[1:]))
