"""`Mixture`: several networks for the same inputs and outputs, whose predictions are
averaged.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.models.crossmodal import CrossModalModel

Average = Literal["softmax", "sigmoid", "values"]
"""What is averaged: the probabilities of classes, those of labels or masks, or the
outputs themselves.
"""


class Mixture(nn.Module):
    """Weighted average of the predictions of networks; probabilities are averaged, and
    returned as logits.
    """

    weights: Tensor

    def __init__(
        self,
        networks: Sequence[CrossModalModel],
        weights: Sequence[float],
        average: Average,
        temperature: float = 1.0,
    ) -> None:
        """Average the outputs [B, ...] of ``networks`` with ``weights``, which are
        scaled to the sum 1.

        ``temperature`` divides the logits of the average, which changes no decision but
        the probabilities.
        """
        super().__init__()
        self.networks = list(networks)
        """The networks, in the order of their weights."""
        self.members = nn.ModuleList(networks)
        scaled = torch.tensor(weights, dtype=torch.float64)
        self.register_buffer(
            "weights", (scaled / scaled.sum()).float(), persistent=False
        )
        self._average = average
        self._temperature = temperature

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the averaged outputs [B, ...] for inputs [B, ...]."""
        return self.combined(network(inputs) for network in self.networks)

    def combined(self, outputs: Iterable[Tensor]) -> Tensor:
        """Return the average of the outputs [B, ...] of all members; two of them are in
        memory at a time.

        Logits of mean probabilities are computed from logarithms, so that certain
        predictions do not become ties.
        """
        if self._average == "values":
            parts = (
                each * weight
                for each, weight in zip(outputs, self.weights, strict=True)
            )
            total: Tensor = reduce(torch.add, parts)
            return total
        if self._average == "softmax":
            logs = (each.log_softmax(dim=1) for each in outputs)
        else:  # of a label and of its absence
            logs = (
                torch.stack([F.logsigmoid(each), F.logsigmoid(-each)])
                for each in outputs
            )
        weighted = (
            each + weight.log() for each, weight in zip(logs, self.weights, strict=True)
        )
        mixed: Tensor = reduce(torch.logaddexp, weighted)
        return (
            mixed if self._average == "softmax" else mixed[0] - mixed[1]
        ) / self._temperature
