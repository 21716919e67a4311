"""The align stage: train the embedder alone until its features resemble the source features.

Shapes: N training samples, n samples of one draw, D width of a token.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.alignment.distance import Distance, distance_names, get_distance
from orca_ray.alignment.labels import pseudo_labels
from orca_ray.alignment.source import source_features, source_names
from orca_ray.data.target import Target
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training import checks
from orca_ray.training.errors import NotFiniteError
from orca_ray.training.optimisation import (
    ParameterGroup,
    make_optimizer,
    make_schedule,
    optimizer_names,
    set_learning_rate,
)
from orca_ray.training.seeds import derive_seed, make_generator


@dataclass(frozen=True)
class AlignConfig:
    """Options of the align stage."""

    distance: str = "otdd"
    """Name in `orca_ray.alignment.distance`."""
    epochs: int = 10
    """Epochs, each one optimiser step on one draw; 0 skips the stage."""
    learning_rate: float = 0.02
    """Relative: the share of a token's RMS by which one Adam step may move it (`relative_steps`); multiplied by 0.2
    after one and two thirds of the epochs, as in the reference."""
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    samples: int = 256
    """Training samples of one draw, shared equally by the classes as far as they have enough."""
    source: str = ""
    """Source features to align to; empty: the default of the body's modality."""
    source_samples: int = 512
    """Source features to align to, in number."""
    clip: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""

    def __post_init__(self) -> None:
        checks.one_of("align.distance", self.distance, distance_names())
        checks.one_of("align.source", self.source or "vocabulary", source_names())
        checks.one_of("align.optimizer", self.optimizer, optimizer_names())
        checks.at_least("align.epochs", self.epochs, 0)
        checks.above("align.learning_rate", self.learning_rate, 0.0)
        checks.at_least("align.weight_decay", self.weight_decay, 0.0)
        checks.at_least("align.samples", self.samples, 2)
        checks.at_least("align.source_samples", self.source_samples, 2)
        checks.at_least("align.clip", self.clip, 0.0)


@dataclass(frozen=True)
class AlignEpoch:
    """What one epoch of aligning did."""

    epoch: int
    """Counted from 1."""
    distance: float
    """Distance of the epoch's draw before the epoch's step."""
    learning_rate: float
    seconds: float


@lru_cache(maxsize=4)
def fitted_distance(
    distance: str, source: str, body: str, image_size: int, source_samples: int, device: str
) -> Distance:
    """Return ``distance`` fitted to the source features of ``body``; kept in the process, for trials share it."""
    features = source_features(source, body, image_size=image_size, num_samples=source_samples)
    return get_distance(distance).fit(features.to(device))


class AlignLoop:
    """Trains ``model.embedder`` to minimise a fitted distance; one `step` is one epoch and one optimiser step.

    The distance is taken between the source features and ``model.features`` of a draw of training samples with their
    classes (pseudo-classes by k-means where the target has none), all classes jointly. The embedder runs in evaluation
    mode: source features know no dropout. Parameters outside the embedder are neither used nor changed, and
    ``requires_grad`` is left as it was found.
    """

    def __init__(
        self,
        model: CrossModalModel,
        x: np.ndarray,
        y: np.ndarray,
        target: Target,
        config: AlignConfig,
        distance: Callable[[Tensor, Tensor], Tensor],
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """Prepare to align to ``distance`` on the training inputs ``x`` [N, ...] and targets ``y`` [N, ...]."""
        self._model = model
        self._x = x
        self._config = config
        self._distance = distance
        self._seed = seed
        self._device = device
        self._parameters = list(model.embedder.parameters())
        self._optimizer = make_optimizer(
            config.optimizer,
            relative_steps(model.embedder),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self._schedule = make_schedule("step", warmup_steps=0, total_steps=config.epochs)
        self._labels = _class_labels(np.asarray(y), target, derive_seed(seed, "labels") % 2**32)
        self.epoch = 0
        self.distance_before: float | None = None
        """Distance of a fixed draw before the first epoch."""
        self.distance_after: float | None = None
        """Distance of the same draw after the last epoch."""

    @property
    def done(self) -> bool:
        """Whether all epochs have run."""
        return self.epoch >= self._config.epochs

    def step(self) -> AlignEpoch:
        """Run one epoch; raises NotFiniteError when features, distance or weights stop being finite."""
        assert not self.done, "all align epochs have run"
        started = perf_counter()
        if self.epoch == 0:
            self.distance_before = self._measure()
        learning_rate = self._config.learning_rate * self._schedule(self.epoch)
        with self._embedder_trains():
            distance = self._distance_of(self._draw(self.epoch))
            self._optimizer.zero_grad(set_to_none=True)
            distance.backward()  # type: ignore[no-untyped-call]
            if self._config.clip > 0:
                torch.nn.utils.clip_grad_norm_(self._parameters, self._config.clip)
            set_learning_rate(self._optimizer, learning_rate)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        self.epoch += 1
        if self.done:
            self.distance_after = self._measure()
        return AlignEpoch(self.epoch, float(distance.detach()), learning_rate, perf_counter() - started)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that an exact resume needs: embedder, optimiser, labels, epoch, distances."""
        return {
            "epoch": self.epoch,
            "embedder": {name: value.detach().cpu() for name, value in self._model.embedder.state_dict().items()},
            "optimizer": self._optimizer.state_dict(),
            "labels": torch.from_numpy(self._labels),
            "distance_before": self.distance_before,
            "distance_after": self.distance_after,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where the loop that gave ``state`` stood."""
        self._model.embedder.load_state_dict(state["embedder"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._labels = state["labels"].numpy()
        self.epoch = state["epoch"]
        self.distance_before = state["distance_before"]
        self.distance_after = state["distance_after"]

    @contextmanager
    def _embedder_trains(self) -> Iterator[None]:
        flags = [parameter.requires_grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter, flag in zip(self._parameters, flags, strict=True):
                parameter.requires_grad_(flag)

    def _measure(self) -> float:
        with torch.no_grad():
            return float(self._distance_of(self._draw("measure")))

    def _draw(self, place: int | str) -> np.ndarray:
        return balanced_draw(self._labels, self._config.samples, make_generator(self._seed, "align", place))

    def _distance_of(self, indices: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.array(self._x[indices], dtype=np.float32)).to(self._device)
        labels = torch.from_numpy(self._labels[indices]).to(self._device)
        self._model.embedder.eval()
        features = self._model.features(x)
        if not bool(torch.isfinite(features).all()):
            raise NotFiniteError(f"the embedder's features are not finite after {self.epoch} align epochs")
        distance = self._distance(features, labels)
        if not bool(torch.isfinite(distance)):
            raise NotFiniteError(f"the distance is {float(distance.detach())} after {self.epoch} align epochs")
        return distance


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


def balanced_draw(labels: np.ndarray, num_samples: int, generator: torch.Generator) -> np.ndarray:
    """Return min(num_samples, N) distinct sorted indices into ``labels`` [N], an equal share a class where possible.

    Places that a small class cannot fill go to samples of the other classes.
    """
    num_samples = min(num_samples, len(labels))
    order = torch.randperm(len(labels), generator=generator).numpy()
    # Rank of each sample among its class in shuffled order: taking the lowest ranks fills the classes evenly.
    ranks = np.empty(len(labels), dtype=np.int64)
    shuffled = labels[order]
    for label in np.unique(labels):
        members = np.flatnonzero(shuffled == label)
        ranks[members] = np.arange(len(members))
    chosen = np.argsort(ranks, kind="stable")[:num_samples]
    return np.sort(order[chosen])


def _class_labels(y: np.ndarray, target: Target, seed: int) -> np.ndarray:
    if target.kind == "classes":
        return y.astype(np.int64)
    return np.asarray(pseudo_labels(y, seed=seed), dtype=np.int64)
