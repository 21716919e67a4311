"""The stage of ``minirocket``: fits the biases of the features, then the head in closed form."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from orca_ray.heartbeat import beat
from orca_ray.methods.stages.fitted import FittedStage, regressed
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.head import PooledHead
from orca_ray.models.minirocket import MiniRocketBody
from orca_ray.training.evaluate import score
from orca_ray.training.feed import head_inputs
from orca_ray.training.reproducibility import derive_seed

PENALTIES = tuple(10.0**exponent for exponent in np.linspace(3, -3, 10))
"""Penalties that are tried, as by the authors of MiniRocket; of equally good ones, the largest is chosen."""
_BLOCK = 1024


class RidgeStage(FittedStage):
    """One epoch: biases from random training series, then ridge regression with the penalty best on validation."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial, epochs=1)

    @torch.no_grad()
    def fit(self, epoch: int) -> None:
        """Fit features and head."""
        trial, data = self._trial, self._trial.data
        body, head = trial.model.body, trial.model.head
        assert isinstance(body, MiniRocketBody)
        assert isinstance(head, PooledHead)
        random = np.random.default_rng(derive_seed(trial.seed, "biases"))
        body.fit(lambda number: self._tokens(random.integers(len(data.train), size=number)))
        x, validation = (
            torch.cat(list(head_inputs(trial.model, split.x, self._precision)))
            for split in (data.train, data.validation)
        )
        decode, best = trial.objective.decoder(trial.device), np.inf
        for weight, bias in ridge(x[:, 0], regressed(trial).to(trial.device), PENALTIES):
            beat()
            former = head.output.weight.clone(), head.output.bias.clone()
            head.output.weight.copy_(weight)
            head.output.bias.copy_(bias)
            predictions = decode(head(validation)).cpu().numpy()
            value = score(predictions, data.validation.y, trial.objective, data.validation.group)
            if value < best:
                best = value
            else:
                head.output.weight.copy_(former[0])
                head.output.bias.copy_(former[1])

    def _tokens(self, indices: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.asarray(self._trial.data.train.x[indices], np.float32))
        return self._trial.model.embed(x.to(self._trial.device))


def ridge(x: Tensor, y: Tensor, penalties: Sequence[float]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the weights [K, F] and biases [K] of linear ridge regression for each penalty, in float64.

    Features ``x`` [N, F] are standardised first; then |y - x w - b|² + penalty |w|² is minimised for each column of
    ``y`` [N, K] float64. The smaller of the two equivalent systems, of size N or F, is solved. ``x`` is changed.
    """
    deviation, mean = (each.double() for each in torch.std_mean(x, dim=0, correction=0))
    deviation = torch.where(deviation > 1e-6, deviation, 1.0)
    centre = y.mean(dim=0)
    x.sub_(mean).div_(deviation)
    dual = x.shape[0] <= x.shape[1]
    gram = _gram(x if dual else x.T)
    right = y - centre if dual else _product(x, y - centre)
    for penalty in penalties:
        factor = torch.linalg.cholesky(gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        solution = torch.cholesky_solve(right, factor)
        weight = (_product(x, solution) if dual else solution) / deviation[:, None]
        yield weight.T, centre - mean @ weight


def _gram(x: Tensor) -> Tensor:
    """Return x xᵀ in float64, block by block."""
    total = x.new_zeros(len(x), len(x), dtype=torch.float64)
    for block in torch.split(x, _BLOCK, dim=1):
        total += block.double() @ block.double().T
    return total


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Return xᵀ y in float64, block by block."""
    return torch.cat([block.double().T @ y for block in torch.split(x, _BLOCK, dim=1)])
