"""`Mixture`: average of the predictions of several networks."""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.models.crossmodal import CrossModalModel

Average = Literal["softmax", "sigmoid", "values"]
"""Quantity that is averaged: probabilities of classes, probabilities of labels or
masks, or the outputs themselves.
"""


class Mixture(nn.Module):
    """Weighted average of the predictions of networks.

    Probabilities are averaged and returned as logits.
    """

    weights: Tensor

    def __init__(
        self,
        networks: Sequence[CrossModalModel],
        weights: Sequence[float],
        average: Average,
        temperature: float = 1.0,
    ) -> None:
        """Average the outputs [B, ...] of ``networks``.

        ``weights`` are scaled to the sum 1. ``temperature`` divides the logits of the
        average, which changes probabilities but no decision.
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
        """Return the average of the outputs [B, ...] of all members.

        At most two of the outputs are in memory at a time. Logits of mean probabilities
        are computed from logarithms, so that certain predictions do not become ties.
        """
        if self._average == "values":
            weighted_outputs = (
                output * weight
                for output, weight in zip(outputs, self.weights, strict=True)
            )
            total: Tensor = reduce(torch.add, weighted_outputs)
            return total
        if self._average == "softmax":
            log_probabilities = (output.log_softmax(dim=1) for output in outputs)
        else:  # probabilities of a label and of its absence
            log_probabilities = (
                torch.stack([F.logsigmoid(output), F.logsigmoid(-output)])
                for output in outputs
            )
        weighted = (
            logs + weight.log()
            for logs, weight in zip(log_probabilities, self.weights, strict=True)
        )
        mixed: Tensor = reduce(torch.logaddexp, weighted)
        if self._average == "softmax":
            return mixed / self._temperature
        return (mixed[0] - mixed[1]) / self._temperature
