"""Optimisers and learning-rate schedules by name.

A schedule is a pure function of the optimiser step, so resuming needs the step number only.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from orca_ray.errors import unknown_name

Schedule = Callable[[int], float]
"""Maps the optimiser step (from 0) to a factor on the base learning rate."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate."""

    parameters: Sequence[Parameter]
    scale: float = 1.0
    """Factor on the base learning rate."""


def _adamw(groups: list[dict[str, object]], betas: tuple[float, float], momentum: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=betas, fused=True)


def _adam(groups: list[dict[str, object]], betas: tuple[float, float], momentum: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, betas=betas, fused=True)


def _sgd(groups: list[dict[str, object]], betas: tuple[float, float], momentum: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=momentum, fused=True)


_OPTIMIZERS = {"adamw": _adamw, "adam": _adam, "sgd": _sgd}


def optimizer_names() -> list[str]:
    """Return the names `make_optimizer` knows."""
    return sorted(_OPTIMIZERS)


def make_optimizer(
    name: str,
    groups: Iterable[ParameterGroup],
    *,
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.98),
) -> torch.optim.Optimizer:
    """Build an optimiser; ``betas`` default to the reference's (every published ORCA configuration has 0.9, 0.98).

    ``adam`` adds the decay to the gradient (L2), ``adamw`` decouples it; ``momentum`` matters to ``sgd`` only. The
    fused kernels are used: one pass over the parameters instead of one per operation. Raises UserError for an unknown
    name.
    """
    if name not in _OPTIMIZERS:
        raise unknown_name("optimizer", name, _OPTIMIZERS)
    described: list[dict[str, object]] = [
        {"params": list(group.parameters), "scale": group.scale, "lr": learning_rate * group.scale}
        | {"weight_decay": weight_decay}
        for group in groups
        if group.parameters
    ]
    return _OPTIMIZERS[name](described, betas, momentum)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every group: ``learning_rate`` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["scale"]


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _constant(progress: float) -> float:
    return 1.0


def _step(progress: float) -> float:
    # The reference's align schedule: x0.2 at epochs 20 and 40 of 60.
    return float(0.2 ** min(2, math.floor(3.0 * progress + 1e-9)))


_DECAYS = {"warmup_linear": _linear, "cosine": _cosine, "constant": _constant, "step": _step}


def schedule_names() -> list[str]:
    """Return the names `make_schedule` knows."""
    return sorted(_DECAYS)


def _reference_step(epoch: int) -> float:
    return float(0.2 ** sum(epoch > last for last in (20, 40, 60)))


_ALIGN_SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "step": lambda epochs: make_schedule("step", warmup_steps=0, total_steps=epochs),
    "reference_step": lambda epochs: _reference_step,
}


def align_schedule_names() -> list[str]:
    """Return the names `make_align_schedule` knows."""
    return sorted(_ALIGN_SCHEDULES)


def make_align_schedule(name: str, epochs: int) -> Schedule:
    """Build the schedule of the align stage, a factor by epoch (from 0).

    ``step`` is x0.2 after one and two thirds of ``epochs``; ``reference_step`` is the reference's: x0.2 from the epochs
    21, 41 and 61 on, however many there are. Raises UserError for an unknown name.
    """
    if name not in _ALIGN_SCHEDULES:
        raise unknown_name("align schedule", name, _ALIGN_SCHEDULES)
    return _ALIGN_SCHEDULES[name](epochs)


def make_schedule(name: str, *, warmup_steps: int, total_steps: int) -> Schedule:
    """Build a schedule: linear warm-up over ``warmup_steps``, then the decay ``name`` until ``total_steps``.

    ``warmup_linear`` is the reference's WarmupLR, ``(total - t) / (total - warmup)``, except that warm-up is
    ``(t + 1) / warmup``: the reference begins with a step of rate zero. ``cosine`` is half a cosine to zero,
    ``constant`` stays, ``step`` is x0.2 after one and two thirds. Past ``total_steps`` the last value holds. Raises
    UserError for an unknown name.
    """
    if name not in _DECAYS:
        raise unknown_name("schedule", name, _DECAYS)
    decay = _DECAYS[name]
    span = max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return decay(min(1.0, (step - warmup_steps) / span))

    return factor
