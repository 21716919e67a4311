"""The stages of `mona`, among them the bilevel stage, which trains the embedder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter, functional

from orca_ray.methods.recipe import new_parameters
from orca_ray.methods.recipes.mona import MonaConfig
from orca_ray.methods.stages.epoch_stage import EpochStage, apply_in_parts
from orca_ray.methods.stages.refine_stage import RefineStage
from orca_ray.methods.stages.source_tokens import SourceTokens, source_tokens
from orca_ray.methods.stages.trial import Stage, Trial
from orca_ray.models.crossmodal import pooled
from orca_ray.training.evaluate import SplitInputs
from orca_ray.training.gradient_accumulation import GradientAccumulator
from orca_ray.training.optimisation import requires_grad

_STEP = 0.01
"""Length ε ‖g‖ of the perturbations of the body in the finite difference, as in DARTS.
"""
_TINY = 1e-12
"""Smallest norm ‖g‖ to divide by."""
_TEMPERATURE = 2.0
"""Factor t of squared distances in the uniformity exp(−t ‖u − v‖²) of the source."""


def mona_stages(trial: Trial) -> list[Stage]:
    """Return the stages of `mona`."""
    options = trial.hyperparameters.of(MonaConfig)
    refining = trial.hyperparameters.refine
    stages: list[Stage] = []
    if options.warmup_epochs > 0:
        config = replace(
            refining,
            epochs=options.warmup_epochs,
            warmup_epochs=0.0,
            schedule="constant",
        )
        warmup = RefineStage(
            trial, name="warmup", parameters=new_parameters, config=config, final=False
        )
        stages.append(warmup)
    if options.epochs > 0:
        stages.append(BilevelStage(trial, options))
    return [*stages, RefineStage(trial)]


class BilevelStage(EpochStage):
    """Stage that trains embedder and head by the task's loss and a source loss.

    The source loss is that of the body after a virtual step of fine-tuning.
    """

    name = "bilevel"
    precision_option = "float32"

    def __init__(self, trial: Trial, config: MonaConfig) -> None:
        refining = trial.hyperparameters.refine
        super().__init__(trial, config.epochs, refining.learning_rate)
        self._config = config
        self.optimizer = refining.optimizer
        self.momentum = refining.momentum
        self._step_size = refining.batch_size * refining.accumulation
        self._body = list(trial.model.body.parameters())

    def parameters(self) -> Sequence[Parameter]:
        """Return the parameters of embedder and head."""
        return [
            *self._trial.model.embedder.parameters(),
            *self._trial.model.head.parameters(),
        ]

    def batches(self, random: np.random.Generator) -> Sequence[np.ndarray]:
        """Return the indices of all training samples, shuffled, by optimiser step."""
        order = random.permutation(len(self._trial.data.train))
        return np.split(order, range(self._step_size, len(order), self._step_size))

    def backward(self, indices: np.ndarray) -> Tensor:
        """Set the gradients of the objective for the samples ``indices``.

        Returns the objective of `bilevel_gradients`.
        """
        # One pass for each of the three values of the body's parameters.
        passes = self._accumulator.gradients([indices] * 3)
        config = self._config
        return bilevel_gradients(
            self.parameters(),
            self._body,
            lambda: next(passes),
            self._source_gradients,
            weight=config.source_weight,
            rate=config.inner_learning_rate,
        )

    @cached_property
    def _source(self) -> SourceTokens:
        return source_tokens(self._trial)

    @cached_property
    def _accumulator(self) -> GradientAccumulator:
        """Accumulator of the task's gradients, also of those of the body."""
        trial = self._trial
        train = self._trial.data.train
        # Layers are recomputed in training mode only.
        config = replace(trial.hyperparameters.refine, gradient_checkpointing="off")
        feed = SplitInputs(train.x, trial.model, self._precision)
        loss = trial.objective.training_loss(train.y, trial.device)
        parameters = [*self.parameters(), *self._body]
        with requires_grad(self._body, True):
            return GradientAccumulator(
                trial.model, parameters, feed, train.y, loss, config, seed=trial.seed
            )

    def _source_gradients(self) -> Tensor:
        """Set the body's gradients of the loss of random source samples.

        Returns the detached loss.
        """
        anchors, positives = positive_pairs(self._source.y, self._config.source_batch)
        limit = self._accumulator.limit
        features_nF = apply_in_parts(
            self._features, torch.cat([anchors, positives]), limit
        )
        loss = alignment_and_uniformity(*features_nF.chunk(2))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _features(self, rows: Tensor) -> Tensor:
        model = self._trial.model
        return pooled(model.encode(self._source.tokens(rows)), model.body.pooling)


def bilevel_gradients(
    outer: Sequence[Parameter],
    inner: Sequence[Parameter],
    task: Callable[[], Tensor],
    source: Callable[[], Tensor],
    *,
    weight: float,
    rate: float,
) -> Tensor:
    """Set ``.grad`` of ``outer`` for the objective L(e, θ) + λ S(θ − α ∇_θ L(e, θ)).

    Returns the value of the objective; the recipe `mona` has the equations.

    Args:
        outer, inner: parameters e and θ; θ is unchanged afterwards, and has no
            gradients.
        task: adds the gradients of L at the present values to ``.grad`` of the
            parameters that require one, and returns L. It is called three times, for
            the same samples.
        source: does the same for S, which depends on ``inner`` alone; called once.
        weight, rate: λ and α.
    """
    before = [parameter.detach().clone() for parameter in inner]
    try:
        with requires_grad(inner, True):
            task_loss = task()
            task_gradients = _take_gradients(outer)
            _move(inner, before, _take_gradients(inner), -rate)
            with requires_grad(outer, False):
                source_loss = source()
        directions = _take_gradients(inner)
        norm = torch.stack([direction.norm() for direction in directions]).norm()
        scale = _STEP / max(float(norm), _TINY)
        with requires_grad(inner, False):
            _move(inner, before, directions, scale)
            task()
            ahead = _take_gradients(outer)
            _move(inner, before, directions, -scale)
            task()
            behind = _take_gradients(outer)
    finally:
        _move(inner, before, before, by=0.0)  # restores the values
    for parameter, gradient, plus, minus in zip(
        outer, task_gradients, ahead, behind, strict=True
    ):
        parameter.grad = gradient - (weight * rate / (2 * scale)) * (plus - minus)
    return task_loss + weight * source_loss


def alignment_and_uniformity(anchors_nF: Tensor, positives_nF: Tensor) -> Tensor:
    """Return the loss of alignment and uniformity of features [n, F] and [n, F].

    It is E ‖u − u⁺‖² over positive pairs, plus log E exp(−2 ‖u − v‖²) over all pairs
    of the 2n samples. u, u⁺ and v are features of samples, divided by their norm (Wang
    and Isola 2020, arXiv:2005.10242, α = t = 2).
    """
    u_nF = functional.normalize(anchors_nF)
    positive_nF = functional.normalize(positives_nF)
    aligned = (u_nF - positive_nF).square().sum(dim=1).mean()
    all_mF = torch.cat([u_nF, positive_nF])
    rows, columns = torch.triu_indices(
        len(all_mF), len(all_mF), offset=1, device=all_mF.device
    )
    squared = 2.0 - 2.0 * (all_mF @ all_mF.T)[rows, columns]
    uniform = (-_TEMPERATURE * squared).exp().mean().log()
    return aligned + uniform


def positive_pairs(y: Tensor, num_pairs: int) -> tuple[Tensor, Tensor]:
    """Draw pairs of samples of equal class, given all classes ``y`` [N].

    Returns the indices [num_pairs] of the first and of the second samples. A sample
    that is alone in its class is paired with itself. Random numbers come from torch's
    global CPU generator.
    """
    order = y.argsort(stable=True)
    counts_K = torch.bincount(y)
    starts_K = counts_K.cumsum(0) - counts_K
    places = torch.randint(len(y), (num_pairs,)).to(y.device)  # in ``order``
    classes = y[order[places]]
    starts = starts_K[classes]
    counts = counts_K[classes]
    num_partners = (counts - 1).clamp_min(1)
    draws = (torch.rand(num_pairs).to(y.device) * num_partners).long()
    # Rounding may give the number of partners itself.
    shifts = 1 + draws.clamp_max(num_partners - 1)
    partners = starts + (places - starts + shifts) % counts
    return order[places], order[partners]


def _take_gradients(parameters: Sequence[Parameter]) -> list[Tensor]:
    """Return the gradients of ``parameters``, 0 where there is none, and clear them."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            gradients.append(torch.zeros_like(parameter))
        else:
            gradients.append(parameter.grad)
        parameter.grad = None
    return gradients


@torch.no_grad()
def _move(
    parameters: Sequence[Parameter],
    before: Sequence[Tensor],
    directions: Sequence[Tensor],
    by: float,
) -> None:
    """Set ``parameters`` to ``before + by * directions``."""
    for parameter, value, direction in zip(parameters, before, directions, strict=True):
        parameter.copy_(value).add_(direction, alpha=by)
