"""Permutation importance: how much worse a score is if a feature is shuffled.

The values of one feature are permuted among the samples, so that it says nothing about
the target, and the model predicts again (Breiman, 2001, "Random forests"). Features are
the columns of a table, the positions of a vector, and the channels and windows of steps
of a series. Two features that tell the same share their importance.

Letters of shapes: N samples, C channels, L steps, W slots.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.own_data.array_inputs import ArrayInputs
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.own_data.tables import TableInputs

REPEATS = 5
"""Usual number of permutations of each feature."""
MOST_SAMPLES = 2000
"""Largest number of samples; of more, as many are drawn."""
LEAST_SAMPLES = 50
"""Least number of samples that the time may leave, if there are as many."""
MOST_WINDOWS = 10
"""Largest number of windows of the steps of a series."""


@dataclass(frozen=True)
class FeatureImportance:
    """Importance of one feature."""

    feature: str
    importance: float
    """Mean increase of the metric over the repeats; 0: the feature is not needed."""
    standard_error: float | None
    """Standard error over the repeats, without that of the choice of samples; None:
    there is one repeat.
    """
    num_repeats: int


@dataclass(frozen=True)
class Feature:
    """A part of the inputs that is permuted as a whole."""

    name: str
    place: tuple[slice | list[int], ...]
    """Index of the part in the inputs [N, ...], without the axis of samples."""


@dataclass(frozen=True)
class Evaluated:
    """Samples, and the model that predicts them."""

    x: Array
    """Inputs [N, ...] of the network."""
    y: Array
    """Targets [N, ...]."""
    predict: Callable[[Array], Array]
    """Function from inputs to predictions, both [N, ...]."""


def find_features(
    preprocessing: Preprocessing | None, input_shape: Sequence[int]
) -> list[Feature]:
    """Return the features of inputs of a shape.

    [] for images, fields and recordings, whose single values mean nothing.
    """
    encoder = None if preprocessing is None else preprocessing.encoder
    if isinstance(encoder, TableInputs):
        return _columns(encoder)
    if len(input_shape) != 2 or not isinstance(encoder, ArrayInputs | None):
        return []
    num_channels, length = input_shape
    if isinstance(encoder, ArrayInputs):
        if encoder.per_feature:
            return [
                Feature(f"feature {number}", (slice(None), [number]))
                for number in range(length)
            ]
        num_channels = encoder.num_channels
    return [*_channels(num_channels), *_windows(length)]


def _columns(encoder: TableInputs) -> list[Feature]:
    """Return the columns of a user's table, each with all places that encode it."""
    places: dict[str, list[int]] = {}
    for number, column in enumerate(encoder.columns):
        places.setdefault(column.name, []).append(number)
    return [Feature(name, (slice(None), found)) for name, found in places.items()]


def _channels(num_channels: int) -> list[Feature]:
    """Return the channels of series; [] for a single one."""
    if num_channels == 1:
        return []
    return [
        Feature(f"channel {number}", ([number], slice(None)))
        for number in range(num_channels)
    ]


def _windows(length: int) -> list[Feature]:
    """Return windows of about equal length, which divide the steps of series."""
    ends = np.linspace(0, length, min(length, MOST_WINDOWS) + 1).astype(int).tolist()
    return [
        Feature(f"steps {begin} to {end - 1}", (slice(None), slice(begin, end)))
        for begin, end in pairwise(ends)
    ]


def draw_rows(num_samples: int, most: int, seed: int = 0) -> Array:
    """Return sorted numbers of at most ``most`` samples, drawn at random."""
    if num_samples <= most:
        return np.arange(num_samples)
    random = np.random.default_rng(seed)
    return np.sort(random.choice(num_samples, most, replace=False))


def measure_importance(
    parts: Sequence[Evaluated],
    score: Callable[[Array, Array], float],
    features: Sequence[Feature],
    *,
    repeats: int = REPEATS,
    seconds: float = math.inf,
    seed: int = 0,
) -> list[FeatureImportance]:
    """Return the importance of ``features``, the largest first.

    A feature is permuted within each part, so that the model of a fold predicts the
    samples that it has not seen. All features are permuted once, then all again. When
    the time is over, the permutations so far count, and features without one are left
    out.

    Args:
        parts: samples with the models that predict them.
        score: score of the predictions and the targets of all parts, joined; lower is
            better.
        features: the features.
        repeats: largest number of permutations of a feature.
        seconds: time limit.
        seed: seed of the permutations.
    """
    deadline = time.monotonic() + seconds
    random = np.random.default_rng(seed)
    y = np.concatenate([part.y for part in parts])
    before = score(_predict(parts), y)
    increases: dict[str, list[float]] = {feature.name: [] for feature in features}
    for _ in range(repeats):
        for feature in features:
            if time.monotonic() >= deadline:
                return _summarise(increases)
            after = score(_predict(parts, feature, random), y)
            increases[feature.name].append(after - before)
    return _summarise(increases)


def samples_in_time(
    parts: Sequence[Evaluated], num_features: int, seconds: float
) -> list[Evaluated]:
    """Return parts with as many samples as can be predicted once for each feature.

    Each part keeps its share, but at least `LEAST_SAMPLES` remain of all parts, if
    there are as many. The time of a prediction is measured on a few samples.
    """
    num_samples = sum(len(part.x) for part in parts)
    first = parts[0]
    first.predict(first.x[:LEAST_SAMPLES])  # the first call also prepares the model
    begin = time.monotonic()
    first.predict(first.x[:LEAST_SAMPLES])
    seconds_per_sample = (time.monotonic() - begin) / min(LEAST_SAMPLES, len(first.x))
    needed = (1 + num_features) * num_samples * seconds_per_sample
    share = min(1.0, seconds / max(needed, 1e-9))
    share = max(share, min(1.0, LEAST_SAMPLES / num_samples))
    if share == 1:
        return list(parts)
    drawn = [draw_rows(len(part.x), math.ceil(share * len(part.x))) for part in parts]
    return [
        Evaluated(part.x[rows], part.y[rows], part.predict)
        for part, rows in zip(parts, drawn, strict=True)
    ]


def _predict(
    parts: Sequence[Evaluated],
    feature: Feature | None = None,
    random: np.random.Generator | None = None,
) -> Array:
    """Return the predictions of all parts, with a feature permuted if one is given."""
    predictions = list[Array]()
    for part in parts:
        x = part.x
        if feature is not None and random is not None:
            index = (slice(None), *feature.place)
            x = x.copy()
            x[index] = x[index][random.permutation(len(x))]
        predictions.append(part.predict(x))
    return np.concatenate(predictions)


def _summarise(increases: dict[str, list[float]]) -> list[FeatureImportance]:
    """Return mean and standard error of the increases of each feature."""
    measured = [
        FeatureImportance(
            feature=name,
            importance=mean(values),
            standard_error=_standard_error(values),
            num_repeats=len(values),
        )
        for name, values in increases.items()
        if values
    ]
    return sorted(measured, key=lambda feature: -feature.importance)


def _standard_error(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    return stdev(values) / math.sqrt(len(values))
