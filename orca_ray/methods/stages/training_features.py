"""Features and targets of the training samples, for stages that fit a model to them."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from orca_ray.methods.stages.ridge_regression import feature_moments
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.features import FeatureEmbedder, LimitedBody
from orca_ray.process import note_progress
from orca_ray.training.evaluate import BATCH_SIZE
from orca_ray.training.numerics import derive_seed

MOST_VALUES = 2**26
"""Largest number of features of all training samples that are in memory.

If there are more, random samples are fitted.
"""

Columns = slice | Tensor
"""Features that a method fits: all, or the indices of some of them."""


def regression_targets(trial: Trial) -> Tensor:
    """Return the training targets as float64 [N, K], which the K outputs are fitted to.

    Classes and labels are 1 if they apply, else -1. Scalar targets are standardised if
    the `Objective` has statistics.
    """
    y = torch.from_numpy(np.array(trial.data.train.y))
    if trial.task.target.kind == "classes":
        y = F.one_hot(y, trial.task.target.size)
    if trial.task.target.kind in ("classes", "labels"):
        return 2 * y.double() - 1
    mean = trial.objective.y_mean
    deviation = trial.objective.y_std
    if mean is not None and deviation is not None:
        y = (y - torch.tensor(np.asarray(mean))) / torch.tensor(np.asarray(deviation))
    return y.double().reshape(len(y), -1)


def scaled_targets(trial: Trial, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return `regression_targets` [n, K] of ``rows`` over their scales, and the scales.

    For several numbers, the scales [K] are deviations, so that no number counts for
    more than another in a common choice. Otherwise, they are 1.
    """
    y = regression_targets(trial)[rows]
    scales = torch.ones(y.shape[1], dtype=y.dtype)
    if trial.task.target.kind == "dense":
        deviations = y.std(dim=0, correction=0)
        scales = torch.where(deviations > 0, deviations, scales)
    return y / scales, scales


@torch.no_grad()
def varying_columns(trial: Trial) -> Columns:
    """Return the features of a table or field that differ among training samples.

    For other inputs, return all features. Tables have a token of equal width for each
    column, so that most of their values may be constant.
    """
    embedder = trial.model.embedder
    if not isinstance(embedder, FeatureEmbedder) or embedder.kind != "values":
        return slice(None)
    blocks = feature_blocks(trial, np.arange(len(trial.data.train)), encoded=False)
    first_block = next(blocks)
    first_sample = first_block[:1]
    varies = (first_block != first_sample).any(dim=0)
    for block in blocks:
        varies |= (block != first_sample).any(dim=0)
    if varies.all() or not varies.any():
        return slice(None)
    return torch.nonzero(varies)[:, 0]


def training_rows(
    trial: Trial, most: int = MOST_VALUES, columns: Columns = slice(None)
) -> np.ndarray:
    """Return the sorted indices of the training samples to fit.

    These are all samples or, if there are more than ``most`` or their features are too
    many, random ones.
    """
    num_samples = len(trial.data.train)
    if isinstance(columns, slice):
        width = getattr(trial.model.embedder, "width", trial.model.body.feature_width)
    else:
        width = len(columns)
    most = max(2, min(most, MOST_VALUES // width))
    if num_samples <= most:
        return np.arange(num_samples)
    trial.artefacts.notes.append(
        f"fitted on {most} of {num_samples} training samples, drawn at random, to save"
        " memory"
    )
    random = np.random.default_rng(derive_seed(trial.seed, "rows"))
    return np.sort(random.choice(num_samples, most, replace=False))


@torch.no_grad()
def training_features(
    trial: Trial,
    rows: np.ndarray,
    *,
    encoded: bool = True,
    columns: Columns = slice(None),
) -> Tensor:
    """Return the features [n, F] of the training samples ``rows``.

    These are the features that the body returns or, unless ``encoded``, that it gets.
    The features of a `LimitedBody` set its limits.
    """
    blocks = feature_blocks(trial, rows, encoded=encoded)
    features = torch.cat([block[:, columns] for block in blocks])
    body = trial.model.body
    if encoded and isinstance(body, LimitedBody):
        body.set_limits(*feature_moments(features), columns)
        return features.clamp(body.low[columns], body.high[columns])
    return features


@torch.no_grad()
def feature_blocks(
    trial: Trial, rows: np.ndarray, *, encoded: bool
) -> Iterator[Tensor]:
    """Yield the features [n, F] of the training samples ``rows``, block by block.

    ``encoded``: see `training_features`; limits are not set.
    """
    for part in np.array_split(rows, math.ceil(len(rows) / BATCH_SIZE)):
        note_progress()
        x = torch.from_numpy(np.asarray(trial.data.train.x[part], np.float32))
        tokens = trial.model.embed(x.to(trial.device))
        if encoded:
            tokens = trial.model.encode(tokens)
        yield tokens[:, 0]
