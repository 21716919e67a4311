"""Feeds: from sample indices of a split to model outputs, through the whole model or through cached features."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from orca_ray.models.crossmodal import CrossModalModel

CACHE_BYTES = 512 * 2**20
"""Largest feature cache of one split."""
_CACHE_BATCH = 64


class Feed(Protocol):
    """Gives the float32 model outputs [b, *output_shape] of the samples ``indices`` [b] of one split."""

    def __call__(self, indices: np.ndarray) -> Tensor:
        """Return the outputs; differentiable in the trained parameters unless gradients are off."""
        ...


def to_tensor(array: np.ndarray, indices: np.ndarray, device: torch.device) -> Tensor:
    """Copy rows of a (memory-mapped) array to ``device``, keeping their dtype."""
    return torch.from_numpy(np.array(array[indices])).to(device)


def autocast(device: torch.device) -> torch.autocast:
    """Return the precision context of a forward pass: bfloat16 where CUDA has it, float32 elsewhere.

    bfloat16 has float32's range, so no loss scaling is needed; on CPU it would be slower than float32.
    """
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=able)


class ModelFeed:
    """Runs the whole model."""

    def __init__(self, model: nn.Module, x: np.ndarray, device: torch.device) -> None:
        self._model = model
        self._x = x
        self._device = device

    def __call__(self, indices: np.ndarray) -> Tensor:
        """Return the outputs of the whole model."""
        with autocast(self._device):
            output: Tensor = self._model(to_tensor(self._x, indices, self._device))
        return output.float()


class CachedFeed:
    """Runs the head alone on features that were computed once, in evaluation mode and without gradients."""

    def __init__(self, model: CrossModalModel, x: np.ndarray, device: torch.device) -> None:
        self._head = model.head
        self._device = device
        starts = range(0, len(x), _CACHE_BATCH)
        parts = [
            _head_inputs(model, x, np.arange(start, min(start + _CACHE_BATCH, len(x))), device) for start in starts
        ]
        self._features = torch.cat(parts)

    def __call__(self, indices: np.ndarray) -> Tensor:
        """Return the outputs of the head on the cached features."""
        with autocast(self._device):
            output: Tensor = self._head(self._features[torch.from_numpy(indices).to(self._device)])
        return output.float()


def make_feed(
    model: CrossModalModel, trained: Iterable[Parameter], x: np.ndarray, *, stochastic: bool, device: torch.device
) -> Feed:
    """Return the cheapest feed for a split ``x`` [N, ...]: cached features when only the head learns.

    ``stochastic`` (dropout is on) rules the cache out, for then the body's features differ from one epoch to the next;
    so do features that would take more than `CACHE_BYTES`.
    """
    head = {id(parameter) for parameter in model.head.parameters()}
    if stochastic or any(id(parameter) not in head for parameter in trained):
        return ModelFeed(model, x, device)
    sample = _head_inputs(model, x, np.arange(1), device)
    if sample.numel() * sample.element_size() * len(x) > CACHE_BYTES:
        return ModelFeed(model, x, device)
    return CachedFeed(model, x, device)


def _head_inputs(model: CrossModalModel, x: np.ndarray, indices: np.ndarray, device: torch.device) -> Tensor:
    """Return what reaches the head, [b, ...], in evaluation mode.

    A hook on the head sees exactly what the model passes it, whatever the model does in between.
    """
    seen: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(device):
            model(to_tensor(x, indices, device))
    finally:
        model.train(was_training)
        handle.remove()
    return seen[0]
