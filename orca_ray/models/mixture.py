"""`Mixture`: several networks for the same inputs and outputs, whose predictions are averaged."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from orca_ray.models.crossmodal import CrossModalModel

Average = Literal["softmax", "sigmoid", "values"]
"""What is averaged: the probabilities of classes, those of labels or masks, or the outputs themselves."""
_LEAST = 1e-7
"""Smallest probability, so that the logarithm is finite."""


class Mixture(nn.Module):
    """Weighted average of the predictions of networks; probabilities are averaged, and returned as logits."""

    weights: Tensor

    def __init__(
        self, networks: Sequence[CrossModalModel], weights: Sequence[float], average: Average, temperature: float = 1.0
    ) -> None:
        """Average the outputs [B, ...] of ``networks`` with ``weights``, which are scaled to the sum 1.

        ``temperature`` divides the logits of the average, which changes no decision but the probabilities.
        """
        super().__init__()
        self.networks = list(networks)
        """The networks, in the order of their weights."""
        self.members = nn.ModuleList(networks)
        scaled = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", scaled / scaled.sum(), persistent=False)
        self._average, self._temperature = average, temperature

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the averaged outputs [B, ...] for inputs [B, ...]."""
        return combined([network(inputs) for network in self.networks], self.weights, self._average, self._temperature)


def combined(outputs: Sequence[Tensor], weights: Tensor, average: Average, temperature: float = 1.0) -> Tensor:
    """Return the average of ``outputs``, each [B, ...], with ``weights`` [M] of sum 1; see `Mixture`."""
    if average == "values":
        return sum((weight * each for weight, each in zip(weights, outputs, strict=True)), torch.zeros_like(outputs[0]))
    chances = [each.softmax(dim=1) if average == "softmax" else each.sigmoid() for each in outputs]
    mixed = sum((weight * each for weight, each in zip(weights, chances, strict=True)), torch.zeros_like(outputs[0]))
    mixed = mixed.clamp(_LEAST, 1 - _LEAST)
    return (mixed.log() if average == "softmax" else torch.logit(mixed)) / temperature
