"""Optimisers, schedules, trained parameters and their groups, and plateau detection.

A schedule is a pure function of the optimiser step, so that a resumed trial only needs
the number of the step.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn, optim
from torch.nn import Parameter

from orca_ray.errors import UserError
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training.config import DECAYS, OPTIMIZERS, Schedule

_BETAS = (0.9, 0.98)
"""Betas of Adam and AdamW, those of all published ORCA configurations."""


class ParameterGroup(NamedTuple):
    """Parameters that share a learning rate."""

    parameters: Sequence[Parameter]
    scale: float = 1.0
    """Factor on the base learning rate."""


def make_optimizer(
    name: str,
    groups: Iterable[ParameterGroup],
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.9,
) -> optim.Optimizer:
    """Return the optimiser ``name``, one of `OPTIMIZERS`.

    Only ``sgd`` uses ``momentum``.
    """
    optimizer_class = getattr(optim, OPTIMIZERS[name])
    param_groups: list[dict[str, object]] = [
        {
            "params": list(group.parameters),
            "scale": group.scale,
            "lr": learning_rate * group.scale,
            "weight_decay": weight_decay,
        }
        for group in groups
        if group.parameters
    ]
    options: dict[str, object] = {"betas": _BETAS}
    if name == "sgd":
        options = {"momentum": momentum}
    optimizer: optim.Optimizer = optimizer_class(param_groups, fused=True, **options)
    return optimizer


def set_learning_rate(optimizer: optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of each group: ``learning_rate`` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["scale"]


@contextmanager
def requires_grad(parameters: Iterable[Parameter], value: bool) -> Iterator[None]:
    """Set ``requires_grad`` of ``parameters`` in the block, then restore it.

    ``value`` is the value in the block.
    """
    former = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter, _ in former:
            parameter.requires_grad_(value)
        yield
    finally:
        for parameter, value_before in former:
            parameter.requires_grad_(value_before)


class TrainedParameters:
    """Holder of the parameters of a model that are trained; all others are frozen."""

    def __init__(self, model: CrossModalModel, parameters: Iterable[Parameter]) -> None:
        """Freeze all parameters of ``model`` but ``parameters``.

        Raises UserError if the model has none of these.
        """
        trained_ids = {id(parameter) for parameter in parameters}
        self._model = model
        self._named = {
            name: value
            for name, value in model.named_parameters()
            if id(value) in trained_ids
        }
        if not self._named:
            raise UserError("the method trains no parameter of this model")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self._named)
        self.parameters = list(self._named.values())

    def groups(self, body_scale: float) -> list[ParameterGroup]:
        """Return two groups: the parameters outside the body, and those inside.

        The latter have the scale ``body_scale``.
        """
        body = set(self._model.body.parameters())  # tensors are hashed by identity
        inside = [parameter for parameter in self.parameters if parameter in body]
        outside = [parameter for parameter in self.parameters if parameter not in body]
        return [ParameterGroup(outside), ParameterGroup(inside, body_scale)]

    def weights(self) -> dict[str, Tensor]:
        """Return the present trained parameters and saved buffers by name.

        The tensors share the model's memory.
        """
        weights = {name: value.detach() for name, value in self._named.items()}
        saved_names = self._model.state_dict().keys()
        for name, buffer in self._model.named_buffers():
            if name in saved_names:
                weights[name] = buffer
        return weights

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Set trained parameters and saved buffers to ``weights``.

        ``weights`` is a result of the method `weights`.
        """
        with torch.no_grad():
            for name, value in self.weights().items():
                value.copy_(weights[name])


def make_schedule(name: str, *, warmup_steps: int, total_steps: int) -> Schedule:
    """Return a schedule: linear warm-up, then a decay.

    Warm-up takes ``warmup_steps``; the decay ``name`` (`DECAYS`) ends after
    ``total_steps``. The factor of warm-up step t is ``(t + 1) / warmup_steps``; in the
    ORCA reference it is ``t / warmup_steps``, so that the first step has no effect.
    After ``total_steps`` the factor is constant.
    """
    decay = DECAYS[name]
    span = max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return decay(min(1.0, (step - warmup_steps) / span))

    return factor


def relative_steps(embedder: nn.Module) -> list[ParameterGroup]:
    """Return one group per parameter, with scales for relative steps.

    An Adam step then changes tokens by a fixed share of their RMS. An Adam step changes
    every weight by about the learning rate lr. In a layer whose weights have RMS w and
    fan-in n, a token has RMS w sqrt(n), but the step changes it by n lr if the inputs
    are correlated (e.g. neighbouring pixels), which destroys a pretrained kernel. Hence
    the scale of the layer's weights is w / sqrt(n), and that of its bias w sqrt(n). The
    scale of any other parameter is its own RMS.
    """
    parameters = dict(embedder.named_parameters())
    fan_in = {
        name: parameter[0].numel()
        for name, parameter in parameters.items()
        if parameter.dim() > 1 and name.endswith("weight")
    }
    rms = {
        name: float(parameter.detach().square().mean().sqrt())
        for name, parameter in parameters.items()
    }
    groups = []
    for name, parameter in parameters.items():
        sibling = f"{name.removesuffix('bias')}weight"
        scale = rms[name]
        if name in fan_in:
            scale /= math.sqrt(fan_in[name])
        elif name.endswith("bias") and sibling in fan_in:
            scale = rms[sibling] * math.sqrt(fan_in[sibling])
        if scale == 0:  # e.g. a bias before training
            scale = 1.0
        groups.append(ParameterGroup([parameter], scale))
    return groups


class Plateau:
    """Detector of a plateau: a noisy curve no longer decreases.

    On a plateau, the mean of the last ``patience`` values is at most ``tolerance``
    times the curve's start below the mean of the ``patience`` values before.
    """

    def __init__(self, patience: int, tolerance: float) -> None:
        """Start with an empty curve; ``patience`` 0 never detects a plateau."""
        self._patience = patience
        self._tolerance = tolerance
        self.values: list[float] = []
        """The last 2 * ``patience`` values at most, which are the whole state; an empty
        list starts a new curve.
        """

    def add(self, value: float, start: float) -> bool:
        """Append ``value``, and return whether the curve has reached a plateau.

        ``start`` is the first value of the curve.
        """
        if self._patience == 0:
            return False
        self.values = [*self.values, value][-2 * self._patience :]
        if len(self.values) < 2 * self._patience:
            return False
        earlier = sum(self.values[: self._patience]) / self._patience
        latest = sum(self.values[self._patience :]) / self._patience
        return earlier - latest <= self._tolerance * abs(start)
