"""Probe of an embedder: how well a ridge regression on the frozen body's pooled features predicts the targets.

Shapes: n probed samples, F features, C numbers of one target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from orca_ray.alignment.labels import SKETCH_WIDTH, sketched
from orca_ray.data.prepared import Split
from orca_ray.data.rows import Array, Rows, Target
from orca_ray.models.crossmodal import CrossModalModel, pooled
from orca_ray.training.evaluate import head_inputs
from orca_ray.training.numerics import NotFiniteError, Precision, derive_seed

NUM_SAMPLES = 512
"""Largest number of samples that a probe uses."""
PENALTIES = tuple(10.0**power for power in range(-4, 3))
"""Penalties of the ridge regression; the one of least error is used. Features have a mean square of at most 1 / F."""


@dataclass(frozen=True)
class ProbePoint:
    """Record of one probe of the embedder during the align stage."""

    epoch: int
    """Number of align epochs that had run; 0: the embedder before aligning."""
    error: float
    """Mean of `ridge_errors`; lower is better, and predicting the mean target has error 1."""


class Probe:
    """Probe that scores the present embedder of ``model`` by ridge regression on at most `NUM_SAMPLES` random samples.

    A call costs one forward pass of these samples, and the regression, which takes 0.1 s for 512 samples.
    """

    def __init__(
        self, model: CrossModalModel, splits: Sequence[Split], target: Target, *, seed: int, device: torch.device
    ) -> None:
        """Draw the samples, the same for all calls, and read their targets; at most one row of each group is drawn."""
        self._model, self._precision = model, Precision("float32", device)
        groups = [np.arange(len(split)) if split.group is None else split.group for split in splits]
        rows = [np.unique(group, return_index=True)[1] for group in groups]
        pool = np.stack([np.repeat(np.arange(len(rows)), [len(each) for each in rows]), np.concatenate(rows)], axis=1)
        drawn = np.random.default_rng(derive_seed(seed, "probe")).permutation(pool)[:NUM_SAMPLES]
        chosen = [(split, np.sort(drawn[drawn[:, 0] == number, 1])) for number, split in enumerate(splits)]
        self._x = np.concatenate([split.x[indices] for split, indices in chosen])
        self._targets_nC = encoded_targets([(split.y, indices) for split, indices in chosen], target)

    def __call__(self) -> Tensor:
        """Return the error of each sample, [n], see `ridge_errors`; NotFiniteError if a feature is NaN or infinite."""
        batches = head_inputs(self._model, self._x, self._precision)
        features_nF = torch.cat([pooled(each, self._model.body.pooling) for each in batches]).cpu().double()
        if not bool(torch.isfinite(features_nF).all()):
            raise NotFiniteError(f"the body's features {tuple(features_nF.shape)} of a probe are not finite")
        return ridge_errors(features_nF, self._targets_nC)


def encoded_targets(parts: Sequence[tuple[Rows, Array]], target: Target) -> Tensor:
    """Return targets as numbers [n, C] float64; ``parts`` are the targets ``y`` and the chosen indices of each split.

    Classes are one-hot. Fields of more than 4096 numbers are reduced by a random sketch, which keeps distances.
    """
    if target.kind == "classes":
        labels = np.concatenate([y[indices] for y, indices in parts])
        return functional.one_hot(torch.from_numpy(np.unique(labels, return_inverse=True)[1])).double()
    # In blocks, because all fields together may exceed the memory.
    blocks = (y[part] for y, indices in parts for part in np.array_split(indices, 1 + len(indices) // 32))
    wide = target.num_outputs > SKETCH_WIDTH
    flat = [sketched(block, seed=0) if wide else block.reshape(len(block), -1) for block in blocks if len(block)]
    return torch.from_numpy(np.concatenate(flat)).double()


def ridge_errors(features_nF: Tensor, targets_nC: Tensor) -> Tensor:
    """Return the relative squared error [n] of predicting each sample by a ridge regression on all other samples.

    Features are standardised. All left-out predictions follow from one decomposition; the penalty of `PENALTIES` with
    the lowest mean error is used. Errors are divided by the targets' variance: predicting the mean target has error 1.
    """
    from sklearn.linear_model import RidgeCV

    deviation_F = features_nF.std(dim=0, correction=0)
    scaled_nF = features_nF / torch.where(deviation_F > 0, deviation_F, 1.0) / features_nF.shape[1] ** 0.5
    ridge = RidgeCV(PENALTIES, store_cv_results=True).fit(scaled_nF.numpy(), targets_nC.numpy())
    errors_nP = torch.from_numpy(ridge.cv_results_.reshape(*targets_nC.shape, len(PENALTIES)).sum(axis=1))
    variance = (targets_nC - targets_nC.mean(dim=0)).square().sum(dim=1).mean()
    return errors_nP[:, errors_nP.mean(dim=0).argmin()] / (variance if variance > 0 else 1.0)
