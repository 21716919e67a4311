"""How far one optimiser step of aligning moves each of the embedder's parameters."""

import math

import torch
from torch import nn

from orca_ray.training.optimisation import ParameterGroup


@torch.no_grad()
def relative_steps(embedder: nn.Module) -> list[ParameterGroup]:
    """Return the embedder's parameters, each with the step that moves tokens by a like share of their RMS.

    An Adam step moves every weight by about the learning rate, whatever the gradient. Where the inputs of a token move
    together, as neighbouring pixels do, n weights of RMS w so change a token of RMS w sqrt(n) by n times the rate: for
    a pretrained 14 x 14 patch kernel, at the usual 1e-3, by 70 % a step, and aligning destroys what it should adapt.
    Hence w / sqrt(n) for weights, w sqrt(n) for the bias beside them, and the parameter's own RMS for all others.
    """
    parameters = dict(embedder.named_parameters())
    fan_in = {name: p[0].numel() for name, p in parameters.items() if p.dim() > 1 and name.endswith("weight")}
    rms = {name: float(parameter.square().mean().sqrt()) for name, parameter in parameters.items()}
    groups = []
    for name, parameter in parameters.items():
        sibling = f"{name.removesuffix('bias')}weight"
        if name in fan_in:
            scale = rms[name] / math.sqrt(fan_in[name])
        elif name.endswith("bias") and sibling in fan_in:
            scale = rms[sibling] * math.sqrt(fan_in[sibling])
        else:
            scale = rms[name]
        groups.append(ParameterGroup([parameter], scale or 1.0))
    return groups
