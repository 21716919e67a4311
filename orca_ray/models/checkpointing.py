"""Gradient checkpointing: keep a layer's input, compute the rest again when its gradient is due (Chen et al. 2016).

Done here for every body alike, not by the libraries' switches: MPNet has none, and timm's sits on the whole model.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def repeated_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformer: members, all of one class, of the innermost lists that hold such."""
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
    """Let every repeated layer of ``module`` recompute its activations in training; return how many there are.

    Gradients stay the same, dropout included: random states are kept and put back. Evaluation is left alone.
    """
    layers = repeated_layers(module)
    for layer in layers:
        if "forward" in layer.__dict__:
            continue  # done before
        layer.forward = _recomputed(layer, layer.forward)
    return len(layers)


def _recomputed(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any, **named: Any) -> Any:
        if layer.training and torch.is_grad_enabled():
            return checkpoint(forward, *given, use_reentrant=False, **named)
        return forward(*given, **named)

    return run
