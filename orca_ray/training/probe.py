"""Probe of an embedder: how well neighbours among the frozen body's pooled features predict the targets.

Shapes: n probed training samples, F features, C numbers of one target.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from orca_ray.alignment.labels import SKETCH_WIDTH, sketched
from orca_ray.data.prepared import Split
from orca_ray.data.rows import Rows, Target
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training.errors import NotFiniteError
from orca_ray.training.feed import head_inputs
from orca_ray.training.precision import Precision
from orca_ray.training.reproducibility import derive_seed

NUM_SAMPLES = 512
"""Largest number of training samples that are probed."""
NUM_NEIGHBOURS = 5


@dataclass(frozen=True)
class ProbePoint:
    """Result of one probe on the path of aligning."""

    epoch: int
    """Number of align epochs that had run; 0: the embedder before aligning."""
    error: float
    """Mean of `neighbour_errors`; lower is better, and 1 is as good as the mean target."""


class Probe:
    """Scores ``model``'s present embedder on at most `NUM_SAMPLES` random samples of the training split.

    It reads training data only, so it is the same under every protocol, and costs one forward pass of these samples.
    """

    def __init__(
        self, model: CrossModalModel, train: Split, target: Target, *, seed: int, device: torch.device
    ) -> None:
        """Draw the samples, which all calls share, and read their targets."""
        self._model, self._precision = model, Precision("float32", device)
        random = np.random.default_rng(derive_seed(seed, "probe"))
        indices = np.sort(random.permutation(len(train))[:NUM_SAMPLES])
        self._x = train.x[indices]
        self._targets_nC = encoded_targets(train.y, indices, target)
        self._groups_n = None if train.group is None else torch.from_numpy(np.asarray(train.group)[indices])

    def __call__(self) -> Tensor:
        """Return the error of each sample [n], on the CPU; raises NotFiniteError if a feature is NaN or infinite."""
        batches = head_inputs(self._model, self._x, self._precision)
        features_nF = torch.cat([features_BSF.mean(dim=1) for features_BSF in batches]).cpu().double()
        if not bool(torch.isfinite(features_nF).all()):
            raise NotFiniteError(f"the body's features {tuple(features_nF.shape)} of a probe are not finite")
        return neighbour_errors(features_nF, self._targets_nC, self._groups_n)


def encoded_targets(y: Rows, indices: np.ndarray, target: Target) -> Tensor:
    """Return the targets of the samples ``indices`` [n] as numbers [n, C] float64.

    Classes are one-hot. Fields of more than 4096 numbers are reduced by a random sketch, which keeps distances.
    """
    if target.kind == "classes":
        labels = np.unique(y[indices], return_inverse=True)[1]
        return functional.one_hot(torch.from_numpy(labels)).double()
    wide = target.num_outputs > SKETCH_WIDTH
    blocks = (y[block] for block in np.array_split(indices, -(-len(indices) // 32)))  # all fields may exceed the memory
    flat = [sketched(block, seed=0) if wide else block.reshape(len(block), -1) for block in blocks]
    return torch.from_numpy(np.concatenate(flat)).double()


def neighbour_errors(features_nF: Tensor, targets_nC: Tensor, groups_n: Tensor | None = None) -> Tensor:
    """Return the relative squared error of each sample [n], predicted by its neighbours among the others.

    The prediction is the mean target of the `NUM_NEIGHBOURS` nearest samples, by the Euclidean distance of standardised
    features; samples of the same group are not neighbours. Errors are divided by the targets' variance.
    """
    deviation_F = features_nF.std(dim=0, correction=0)
    scaled_nF = features_nF / torch.where(deviation_F > 0, deviation_F, 1.0)
    distances_nn = torch.cdist(scaled_nF, scaled_nF)
    same_nn = torch.eye(len(features_nF), dtype=torch.bool)
    if groups_n is not None:
        same_nn = groups_n[:, None] == groups_n[None]
    distances_nn[same_nn] = torch.inf
    num_neighbours = max(1, min(NUM_NEIGHBOURS, len(features_nF) - 1))
    nearest_nk = distances_nn.topk(num_neighbours, largest=False).indices
    errors_n = (targets_nC[nearest_nk].mean(dim=1) - targets_nC).square().sum(dim=1)
    variance = (targets_nC - targets_nC.mean(dim=0)).square().sum(dim=1).mean()
    return errors_n / (variance if variance > 0 else 1.0)
