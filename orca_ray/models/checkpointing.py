"""Gradient checkpointing (Chen et al., 2016): store each layer's input, recompute its activations in the backward pass.

It is implemented here for all bodies, because Hugging Face's MPNet lacks it and timm offers it for whole models.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def repeated_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformer: the members of each innermost module list whose members share a class."""
    found: list[nn.Module] = []
    for part in module.modules():
        members = list(part.children())
        if not isinstance(part, nn.ModuleList | nn.Sequential) or not members:
            continue
        alike = len({type(member) for member in members}) == 1 and all(list(m.children()) for m in members)
        if alike and not any(repeated_layers(member) for member in members):
            found += members
    return found


def checkpoint_layers(module: nn.Module) -> int:
    """Make every repeated layer of ``module`` recompute its activations in training; return the number of layers.

    Gradients do not change: random states are stored, so dropout masks are the same. Evaluation is not affected.
    """
    layers = repeated_layers(module)
    for layer in layers:
        if "forward" not in layer.__dict__:  # otherwise it is already wrapped
            layer.forward = _recomputed(layer, layer.forward)
    return len(layers)


def _recomputed(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any, **named: Any) -> Any:
        if layer.training and torch.is_grad_enabled():
            return checkpoint(forward, *given, use_reentrant=False, **named)
        return forward(*given, **named)

    return run
