"""Optimisers and learning-rate schedules by name, parameter groups for aligning, and plateau detection.

A schedule is a pure function of the optimiser step, so that resuming needs the step number only.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from orca_ray.errors import lookup

if TYPE_CHECKING:  # torch is imported where it is used: a sweep is planned without it
    from torch import nn
    from torch.nn import Parameter
    from torch.optim import Optimizer

Schedule = Callable[[int], float]
"""Maps the optimiser step (from 0) to a factor on the base learning rate."""
_Groups = list[dict[str, object]]
_BETAS = (0.9, 0.98)  # those of all published ORCA configurations
OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}
"""Class in `torch.optim` of each optimiser."""
DECAYS: dict[str, Callable[[float], float]] = {
    "warmup_linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "constant": lambda progress: 1.0,
    # The reference's align schedule: times 0.2 at the epochs 20 and 40 of 60.
    "step": lambda progress: float(0.2 ** min(2, math.floor(3.0 * progress + 1e-9))),
}
"""Factor on the learning rate by the share of the decay that is over, from 0 to 1."""
ALIGN_SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "step": lambda epochs: make_schedule("step", warmup_steps=0, total_steps=epochs),
    "reference_step": lambda epochs: lambda epoch: float(0.2 ** sum(epoch > last for last in (20, 40, 60))),
}


class ParameterGroup(NamedTuple):
    """Parameters that share a learning rate."""

    parameters: "Sequence[Parameter]"
    scale: float = 1.0
    """Factor on the base learning rate."""


def make_optimizer(
    name: str, groups: Iterable[ParameterGroup], learning_rate: float, weight_decay: float, momentum: float = 0.9
) -> "Optimizer":
    """Build an optimiser with fused kernels; only ``sgd`` uses ``momentum``. Unknown names raise UserError."""
    from torch import optim

    kind = getattr(optim, lookup("optimizer", name, OPTIMIZERS))
    described: _Groups = [
        {"params": list(params), "scale": scale, "lr": learning_rate * scale, "weight_decay": weight_decay}
        for params, scale in groups
        if params
    ]
    options: dict[str, object] = {"momentum": momentum} if name == "sgd" else {"betas": _BETAS}
    optimizer: Optimizer = kind(described, fused=True, **options)
    return optimizer


def set_learning_rate(optimizer: "Optimizer", learning_rate: float) -> None:
    """Set the learning rate of each group to ``learning_rate`` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["scale"]


def make_schedule(name: str, *, warmup_steps: int, total_steps: int) -> Schedule:
    """Build a schedule: linear warm-up over ``warmup_steps``, then the decay ``name`` until ``total_steps``.

    ``warmup_linear`` is the reference's WarmupLR, but with a warm-up of ``(t + 1) / warmup``, because the reference's
    first step has rate zero. After ``total_steps`` the last value applies. Unknown names raise UserError.
    """
    decay = lookup("schedule", name, DECAYS)
    span = max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return decay(min(1.0, (step - warmup_steps) / span))

    return factor


def make_align_schedule(name: str, epochs: int) -> Schedule:
    """Build the schedule ``name`` of `ALIGN_SCHEDULES`, a factor by epoch (from 0); raises UserError for another."""
    return lookup("align schedule", name, ALIGN_SCHEDULES)(epochs)


def relative_steps(embedder: "nn.Module") -> list[ParameterGroup]:
    """Return one group per parameter, scaled so that a step moves tokens by an equal share of their RMS.

    An Adam step moves every weight by about the learning rate. For correlated inputs, such as neighbouring pixels, n
    weights of RMS w then change a token of RMS w sqrt(n) by n times the rate, which destroys a pretrained kernel. The
    scales are w / sqrt(n) for weights, w sqrt(n) for the bias of the same layer, the parameter's own RMS for others.
    """
    parameters = dict(embedder.named_parameters())
    fan_in = {name: p[0].numel() for name, p in parameters.items() if p.dim() > 1 and name.endswith("weight")}
    rms = {name: float(parameter.detach().square().mean().sqrt()) for name, parameter in parameters.items()}
    groups = []
    for name, parameter in parameters.items():
        sibling = f"{name.removesuffix('bias')}weight"
        scale = rms[name]
        if name in fan_in:
            scale /= math.sqrt(fan_in[name])
        elif name.endswith("bias") and sibling in fan_in:
            scale = rms[sibling] * math.sqrt(fan_in[sibling])
        groups.append(ParameterGroup([parameter], scale or 1.0))
    return groups


class Plateau:
    """Detects that a noisy curve no longer decreases.

    The plateau is reached when the mean of the last ``patience`` values is lower than the mean of the ``patience``
    values before by at most ``tolerance`` of it.
    """

    def __init__(self, patience: int, tolerance: float) -> None:
        """Start with an empty curve; ``patience`` 0 never detects a plateau."""
        self._patience, self._tolerance = patience, tolerance
        self.values: list[float] = []
        """The last values, at most 2 ``patience``: the whole state."""

    def add(self, value: float) -> bool:
        """Append a value and return whether the curve has reached a plateau."""
        if self._patience == 0:
            return False
        self.values = [*self.values, value][-2 * self._patience :]
        if len(self.values) < 2 * self._patience:
            return False
        earlier = sum(self.values[: self._patience]) / self._patience
        latest = sum(self.values[self._patience :]) / self._patience
        return earlier - latest <= self._tolerance * abs(earlier)

    def restart(self, values: Iterable[float] = ()) -> None:
        """Start again, with ``values`` of another instance."""
        self.values = list(values)
