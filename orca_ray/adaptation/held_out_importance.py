"""Permutation importance of a chosen model, on samples that its parts have not seen.

The models of the folds predict the samples of their own folds, or those of the outer
test if the choice was scored there.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.adaptation.choice import Choice
from orca_ray.adaptation.intervals import Judged
from orca_ray.adaptation.judge import Judge
from orca_ray.adaptation.outputs import TrialOutputs
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.methods.importance import (
    MOST_SAMPLES,
    Evaluated,
    draw_rows,
    find_features,
    measure_importance,
    samples_in_time,
)
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.predictor import Predictor
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record

LOADING_SHARE = 0.3
"""Share of the time after which no further fold's models are loaded."""
MOST_BYTES = 2**30
"""Size of loaded models after which no further fold's are loaded."""

Weighted = Sequence[tuple[Record, float]]
"""Trials whose models are averaged, with their weights."""


def importance_of_choice(
    judge: Judge,
    choice: Choice,
    preprocessing: Mapping[str, Any] | None,
    models: StoredModels,
    seconds: float,
) -> dict[str, Any]:
    """Return `Report.importance` of a choice, in about ``seconds``.

    The time may leave out folds, repeats, samples and, at last, features. {} if the
    inputs have no features (see `find_features`), or if the metric is not defined for
    the samples.
    """
    outputs = judge.outputs
    fitted = None
    if preprocessing is not None:
        fitted = Preprocessing.from_json(preprocessing)
    shape = outputs.data.train.x.shape[1:]
    features = find_features(fitted, shape)
    if not features:
        return {}
    deadline = time.monotonic() + seconds
    parts = _load_parts(judge, choice, models, seconds)

    def score(predictions: Array, y: Array) -> float:
        judged = Judged(outputs.task.metric, outputs.average, y, (), 0)
        return judged.score(predictions)

    left = deadline - time.monotonic()
    try:
        parts = samples_in_time(parts, len(features), left)
        measured = measure_importance(
            parts, score, features, seconds=deadline - time.monotonic()
        )
    except UserError:  # e.g. all samples are of one class
        return {}
    return {
        "features": [asdict(feature) for feature in measured],
        "num_samples": sum(len(part.x) for part in parts),
    }


def _load_parts(
    judge: Judge, choice: Choice, models: StoredModels, seconds: float
) -> list[Evaluated]:
    """Return the held-out samples with the models that predict them.

    The first part is always loaded; others are, as long as `LOADING_SHARE` of
    ``seconds`` and `MOST_BYTES` are not used up.
    """
    deadline = time.monotonic() + LOADING_SHARE * seconds
    num_bytes = 0
    parts = list[Evaluated]()
    held_out = held_out_of(judge, choice)
    most_samples = MOST_SAMPLES // len(held_out)
    for fold, weighted in held_out:
        if parts and (time.monotonic() > deadline or num_bytes > MOST_BYTES):
            break
        loaded = [(_load(models, record), weight) for record, weight in weighted]
        num_bytes += sum(_num_bytes(model) for model, _ in loaded)
        parts.append(_part(judge.outputs, fold, loaded, most_samples))
    return parts


def held_out_of(judge: Judge, choice: Choice) -> list[tuple[int, Weighted]]:
    """Return folds with the trials that predict their samples.

    The folds are those of the first division that all parts have in common.
    """
    folds = set.intersection(*(set(each.records) for each, _ in choice.parts))
    first_division = folds & judge.outputs.first_division
    return [
        (fold, [(each.records[fold], weight) for each, weight in choice.parts])
        for fold in sorted(first_division or folds)
    ]


def _load(models: StoredModels, record: Record) -> Predictor:
    """Return the stored model of a trial, on the CPU."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        models.fetch(record.trial_key, folder)
        return Predictor.load(folder, device="cpu")


def _num_bytes(model: Predictor) -> int:
    return sum(value.nbytes for value in model.network.state_dict().values())


def _part(
    outputs: TrialOutputs,
    fold: int,
    loaded: Sequence[tuple[Predictor, float]],
    most_samples: int,
) -> Evaluated:
    """Return at most so many samples of a fold, with the mean of the loaded models."""
    x, y = outputs.held_out_samples(fold)
    rows = draw_rows(len(y), most_samples)

    def predict(inputs: Array) -> Array:
        weighted = [
            weight * outputs.as_predictions(model.outputs_of(inputs))
            for model, weight in loaded
        ]
        return np.asarray(sum(weighted))

    return Evaluated(x[rows], y[rows], predict)
