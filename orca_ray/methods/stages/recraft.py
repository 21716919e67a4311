"""The stages of `recraft`, among them the source head and the distortion."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter, functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from orca_ray.alignment.labels import NUM_CLASSES, ClassIndex, pseudo_labels
from orca_ray.errors import UserError
from orca_ray.methods.recipe import align_then_refine
from orca_ray.methods.recipes.recraft import RecraftConfig
from orca_ray.methods.stages.epoch_stage import EpochStage, apply_in_parts
from orca_ray.methods.stages.source_tokens import SourceTokens, source_tokens
from orca_ray.methods.stages.trial import Stage, Trial
from orca_ray.models.body import seeded
from orca_ray.models.crossmodal import pooled
from orca_ray.training.config import AlignConfig
from orca_ray.training.numerics import derive_seed
from orca_ray.training.sample_cost import (
    budget_bytes,
    halve,
    max_micro_batch,
    measure_cost,
)

_FEATURE_BATCH = 32
"""Number of source samples in a forward pass without gradients."""


def recraft_stages(trial: Trial) -> list[Stage]:
    """Return the stages of `recraft`."""
    config = trial.hyperparameters.of(RecraftConfig)
    *aligning, refining = align_then_refine(trial, _align_options(trial))
    if config.distortion_epochs == 0:  # nothing would use the source head
        return [*aligning, refining]
    head = SourceHead(trial)
    return [
        *aligning,
        SourceHeadStage(trial, config, head),
        DistortionStage(trial, config, head),
        refining,
    ]


def _align_options(trial: Trial) -> AlignConfig:
    """Return the options of aligning by the Wasserstein distance, whatever the labels.

    ``align.samples_per_class`` counts the samples of an epoch in all classes.
    """
    options = trial.hyperparameters.align
    target = trial.task.target
    num_classes = target.size if target.kind == "classes" else NUM_CLASSES
    num_per_class = max(1, options.samples_per_class // num_classes)
    return replace(options, distance="wasserstein", samples_per_class=num_per_class)


class SourceHead:
    """Linear classifier of source classes on the body's pooled features.

    It is not part of the model.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    @cached_property
    def source(self) -> SourceTokens:
        """The source samples; raises UserError if all samples are of one class."""
        source = source_tokens(self._trial)
        if source.num_classes < 2:
            raise UserError(
                f"method {self._trial.method} needs source samples of at least 2"
                f" classes, got {source.num_classes} in {len(source)} samples: choose"
                " another align.source or more align.source_samples"
            )
        return source

    @cached_property
    def linear(self) -> nn.Linear:
        """The linear layer from features to source classes.

        The trial's seed determines the initial weights.
        """
        with seeded(derive_seed(self._trial.seed, "source_head")):
            linear = nn.Linear(
                self._trial.model.body.feature_width, self.source.num_classes
            )
        return linear.to(self._trial.device)

    def features(self, tokens_BTD: Tensor) -> Tensor:
        """Return the body's pooled features [B, F] of embedded samples."""
        return pooled(
            self._trial.model.encode(tokens_BTD), self._trial.model.body.pooling
        )


class _HeadStage(EpochStage):
    """Stage that uses the source head, whose weights are part of the stage's state."""

    def __init__(
        self,
        trial: Trial,
        config: RecraftConfig,
        head: SourceHead,
        epochs: int,
        learning_rate: float,
    ) -> None:
        super().__init__(trial, epochs, learning_rate)
        self._config = config
        self._head = head
        self._follows_code = config.form == "code"

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state for `load_state_dict`.

        It includes the source head even before the first step.
        """
        return {"head": self._head.linear.state_dict(), "stage": super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._head.linear.load_state_dict(state["head"])
        if state["stage"] is not None:
            super().load_state_dict(state["stage"])

    def _max_samples(
        self, loss: Callable[[int], Tensor], num_samples: int, graphs: int = 1
    ) -> int:
        """Return how many samples fit in memory.

        ``loss(n)`` returns the loss of the first n of ``num_samples`` samples. Memory
        must hold ``graphs`` autograd graphs of the size of that loss's graph.
        """
        body = self._trial.model.body
        device = self._trial.device
        cost = measure_cost(loss, body, num_samples=min(2, num_samples))
        budget = budget_bytes(self._trial.hyperparameters.refine.memory_mib, device)
        return halve(max_micro_batch(cost, budget // graphs, device))


class SourceHeadStage(_HeadStage):
    """Stage that trains the source head by cross-entropy.

    The last epochs add a gradient penalty.
    """

    name = "source_head"
    weight_decay = 0.05

    def __init__(self, trial: Trial, config: RecraftConfig, head: SourceHead) -> None:
        super().__init__(
            trial, config, head, config.source_epochs, config.source_learning_rate
        )
        sequence = trial.model.body.modality == "sequence"
        self._softmax_twice = self._follows_code and sequence
        self._penalty_epochs = 0 if self._softmax_twice else config.penalty_epochs

    def parameters(self) -> Sequence[Parameter]:
        """Return the parameters of the source head."""
        return list(self._head.linear.parameters())

    def batches(self, random: np.random.Generator) -> Sequence[np.ndarray]:
        """Return the indices of all source samples, shuffled, by optimiser step."""
        size = self._config.source_batch_size
        order = random.permutation(len(self._head.source))
        return np.split(order, range(size, len(order), size))

    def backward(self, indices: np.ndarray) -> Tensor:
        """Set the gradients of the mean loss of the source samples ``indices`` [n].

        Returns the detached loss.
        """
        rows = torch.from_numpy(indices).to(self._trial.device)
        if self._epochs - self._epoch > self._penalty_epochs:
            return _backward(self._losses(self._features[rows], rows), len(rows))
        losses = [
            _backward(self._penalised_losses(part, len(rows)), len(rows))
            for part in torch.split(rows, self._limit)
        ]
        return torch.stack(losses).sum()

    @cached_property
    def _features(self) -> Tensor:
        """Mean features [N, F] of all source samples, computed once.

        The body is frozen.
        """
        source = self._head.source
        rows = torch.arange(len(source), device=self._trial.device)
        parts = torch.split(rows, _FEATURE_BATCH)
        with torch.no_grad(), self._precision.autocast():
            features = [self._head.features(source.tokens(part)) for part in parts]
        return torch.cat(features)

    @cached_property
    def _limit(self) -> int:
        """Number of source samples whose losses with a penalty fit in memory."""

        def loss(num: int) -> Tensor:
            rows = torch.arange(num, device=self._trial.device)
            return self._losses(self._through_body(rows)[1], rows).mean()

        return self._max_samples(loss, len(self._head.source), graphs=3)

    def _losses(self, features_nF: Tensor, rows: Tensor) -> Tensor:
        """Return the cross-entropy [n] of each of the source samples ``rows`` [n]."""
        logits = self._head.linear(features_nF)
        if self._softmax_twice:
            logits = logits.softmax(dim=1)
        return functional.cross_entropy(
            logits, self._head.source.y[rows], reduction="none"
        )

    def _penalised_losses(self, rows: Tensor, step_size: int) -> Tensor:
        """Return the penalised loss [n] of each of the source samples ``rows`` [n].

        The optimiser step has ``step_size`` samples.
        """
        tokens_nTD, features_nF = self._through_body(rows)
        losses_n = self._losses(features_nF, rows)
        (gradients_nTD,) = torch.autograd.grad(
            losses_n.sum(), tokens_nTD, create_graph=True
        )
        if self._follows_code:
            gradients_nTD = gradients_nTD / step_size
        penalties_n = gradient_penalty(
            gradients_nTD, self._config.threshold, by_channel=self._follows_code
        )
        return losses_n + self._config.penalty * penalties_n

    def _through_body(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens [n, T, D] of source samples, and their features [n, F].

        The tokens are a leaf, and the features are differentiable twice.
        """
        tokens_nTD = self._head.source.tokens(rows).requires_grad_()
        # Of torch's attention kernels, only this one has second derivatives.
        with sdpa_kernel(SDPBackend.MATH), self._precision.autocast():
            return tokens_nTD, self._head.features(tokens_nTD)


class DistortionStage(_HeadStage):
    """Stage that trains the embedder to reduce the feature-label distortion.

    It lowers the entropy of the source head's mean prediction for each target class.
    Targets other than classes are clustered to pseudo-classes, as in the align stage.
    """

    name = "distortion"

    def __init__(self, trial: Trial, config: RecraftConfig, head: SourceHead) -> None:
        super().__init__(
            trial,
            config,
            head,
            config.distortion_epochs,
            config.distortion_learning_rate,
        )

    def parameters(self) -> Sequence[Parameter]:
        """Return the parameters of the embedder.

        If ``recraft.form`` is ``code``, those of the source head follow.
        """
        parameters = list(self._trial.model.embedder.parameters())
        if self._follows_code:
            parameters.extend(self._head.linear.parameters())
        return parameters

    def batches(self, random: np.random.Generator) -> Sequence[np.ndarray]:
        """Return batches of sample indices, each of one class, in random order.

        A class is split into batches of equal size.
        """
        size = self._config.distortion_batch_size
        batches: list[np.ndarray] = []
        for members in self._classes:
            num_batches = math.ceil(len(members) / size)
            batches.extend(np.array_split(random.permutation(members), num_batches))
        return [batches[index] for index in random.permutation(len(batches))]

    def backward(self, indices: np.ndarray) -> Tensor:
        """Set the gradients of the entropy of the batch's mean prediction.

        Returns the detached entropy, whose gradients are weighted by the batch's size.
        """
        self._head.linear.requires_grad_(self._follows_code)
        entropy = self._entropy(indices, self._limit)
        # Each batch counts by its size, so an epoch weighs the classes by their shares
        # P(y).
        share = len(indices) / self._config.distortion_batch_size
        (entropy * share).backward()  # type: ignore[no-untyped-call]
        return entropy.detach()

    @cached_property
    def _classes(self) -> list[np.ndarray]:
        """Indices of the training samples of each class or pseudo-class."""
        trial = self._trial
        y = self._trial.data.train.y
        if trial.task.target.kind != "classes":
            y = pseudo_labels(y, seed=derive_seed(trial.seed, "labels") % 2**32)
        return ClassIndex(np.asarray(y)).members

    @cached_property
    def _limit(self) -> int:
        """Number of training samples whose predictions fit in memory."""
        num_samples = len(self._trial.data.train)
        return self._max_samples(
            lambda num: self._entropy(np.arange(num), num), num_samples
        )

    def _entropy(self, indices: np.ndarray, limit: int) -> Tensor:
        """Return the entropy of the mean prediction for the samples ``indices``.

        At most ``limit`` samples are computed at a time.
        """
        # Indexing by an array copies, so that the memory map itself is never written
        # to.
        rows = np.asarray(self._trial.data.train.x[indices], dtype=np.float32)
        x = torch.from_numpy(rows).to(self._trial.device)
        return entropy_of_mean(apply_in_parts(self._predictions, x, limit))

    def _predictions(self, x: Tensor) -> Tensor:
        """Return the source head's probabilities [B, K] of inputs [B, ...]."""
        tokens_BTD = self._trial.model.embed(x)
        with self._precision.autocast():
            features_BF = self._head.features(tokens_BTD)
        predictions: Tensor = self._head.linear(features_BF).softmax(dim=1)
        return predictions


def _backward(losses_n: Tensor, step_size: int) -> Tensor:
    """Add the gradients of a part of a step's mean loss, and return that part."""
    loss = losses_n.sum() / step_size
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def gradient_penalty(
    gradients_nTD: Tensor, threshold: float, *, by_channel: bool = False
) -> Tensor:
    """Return max(0, ‖g‖ − threshold)² [n] of each sample's gradient g.

    ‖g‖ is the norm of all T·D numbers. If ``by_channel``, return Σ_d max(0, ‖g_d‖ −
    threshold)², where g_d [T] is the gradient in channel d of all tokens.
    """
    norms = torch.linalg.vector_norm(gradients_nTD, dim=1 if by_channel else (1, 2))
    penalties: Tensor = (norms - threshold).clamp_min(0).square()
    return penalties.sum(dim=1) if by_channel else penalties


def entropy_of_mean(probabilities_nK: Tensor) -> Tensor:
    """Return the entropy in nats of the mean [K] of ``probabilities_nK``.

    The mean is over the n samples; 0 log 0 counts as 0.
    """
    mean_K = probabilities_nK.mean(dim=0)
    return -(mean_K * mean_K.clamp_min(torch.finfo(mean_K.dtype).tiny).log()).sum()
