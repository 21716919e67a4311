"""The align stage: train the embedder alone until its features resemble the source features.

Shapes: N training samples, n samples of one draw, D width of a token.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from orca_ray.alignment.distance import Diagnosis
from orca_ray.alignment.labels import is_sketched, pseudo_labels
from orca_ray.data.rows import Rows
from orca_ray.data.target import Target
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training.align_config import AlignConfig, AlignEpoch
from orca_ray.training.align_draw import ClassIndex, Inputs, balanced_draw, draw_per_class
from orca_ray.training.align_notes import AlignNotes
from orca_ray.training.align_steps import relative_steps
from orca_ray.training.aligned_cache import Alignment
from orca_ray.training.errors import NotFiniteError
from orca_ray.training.optimisation import ParameterGroup, make_align_schedule, make_optimizer, set_learning_rate
from orca_ray.training.plateau import Plateau
from orca_ray.training.seeds import derive_seed

_T = TypeVar("_T")

__all__ = ["AlignConfig", "AlignEpoch", "AlignLoop", "Measure"]

CHUNK_BYTES = {"cpu": 6 * 2**20, "cuda": 256 * 2**20}
"""Tokens of one pass through the embedder. On a CPU, tensors much above this are given back to the system and zeroed
anew at every use, which costs more than the arithmetic."""

HELD_BYTES = 2**29
"""Inputs of one draw up to this size are held for the length of an epoch."""


class Measure(Protocol):
    """What the loop needs of a fitted `Distance`."""

    diagnosis: Diagnosis
    """Of the last call."""

    def __call__(self, features: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
        """Return the differentiable distance of features [n, D] with class ids [n]; ``shares`` as `Distance` says."""
        ...


class AlignLoop:
    """Trains ``model.embedder`` to minimise a fitted distance; one `step` is one epoch and one optimiser step.

    The distance is taken between the source features and ``model.features`` of a draw of training samples with their
    classes (pseudo-classes by k-means where the target has none), all classes jointly; distances that go class by class
    weigh a class by its share of the training set, as far as the draw has it. The embedder runs in evaluation mode:
    source features know no dropout. Parameters outside the embedder are neither used nor changed, and
    ``requires_grad`` is left as it was found.

    Draws too large for one pass of the embedder go through it in chunks, which the backward pass embeds again: the
    embedder's memory is that of one chunk, whatever the draw. Its features are held whole, and its inputs where they
    are no more than `HELD_BYTES`; larger ones are read again, too.

    Every epoch draws anew, so the curve is noisy and `Plateau` judges it by means. A curve flat at a high learning rate
    may fall again at a lower one, so a plateau only cuts its rate short; the stage ends early when the curve is flat at
    the last rate. Each rate is judged by its own epochs and lasts a third of ``config.epochs`` at most.
    """

    def __init__(
        self,
        model: CrossModalModel,
        x: Rows,
        y: Rows,
        target: Target,
        config: AlignConfig,
        distance: Measure,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """Prepare to align to ``distance`` on the training inputs ``x`` [N, ...] and targets ``y`` [N, ...]."""
        self._model = model
        self._inputs = Inputs(x, device)
        self._config = config
        self._distance = distance
        self._seed = seed
        self._device = device
        self._parameters = list(model.embedder.parameters())
        self._optimizer = make_optimizer(
            config.optimizer,
            relative_steps(model.embedder) if config.steps == "relative" else [ParameterGroup(self._parameters)],
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )
        self._schedule = make_align_schedule(config.schedule, config.epochs)
        self._plateau = Plateau(config.patience, config.tolerance)
        self._notes = AlignNotes()
        if target.kind != "classes" and is_sketched(y):
            self._notes.add(f"pseudo-classes come from a sketch of the targets {tuple(y.shape)}, too large to cluster")
        self._set_labels(_class_labels(y, target, derive_seed(seed, "labels") % 2**32))
        self._chunk_size: int | None = None
        self._history: list[AlignEpoch] | None = []  # None: part of it ran elsewhere
        self._place = 0  # in the schedule, from 0; ahead of the epochs run where a plateau cut a rate short
        self.epoch = 0
        self.plateaued = False
        """Whether a plateau, at whichever learning rate, made the stage shorter than its epochs."""
        self.distance_before: float | None = None
        """Distance of a fixed draw before the first epoch."""
        self.distance_after: float | None = None
        """Distance of the same draw after the last epoch."""

    @property
    def done(self) -> bool:
        """Whether all epochs have run, or the curve is flat at the last learning rate."""
        return self._place >= self._config.epochs

    @property
    def notes(self) -> tuple[str, ...]:
        """Fallbacks taken so far, one sentence each."""
        return self._notes.sentences

    def step(self) -> AlignEpoch:
        """Run one epoch; raises NotFiniteError when features, distance or weights stop being finite."""
        assert not self.done, "all align epochs have run"
        started = perf_counter()
        indices = self._draw(self.epoch)
        if self.epoch == 0 and not np.array_equal(indices, self._draw("measure")):
            self.distance_before = self._measure()
        learning_rate = self._config.learning_rate * self._schedule(self._place)
        distance = self._train(indices, learning_rate)
        if self.epoch == 0 and self.distance_before is None:
            self.distance_before = distance  # every draw is the whole set
        self.epoch += 1
        self._advance(distance)
        if self.done:
            self.distance_after = self._measure()
        epoch = AlignEpoch(self.epoch, distance, learning_rate, perf_counter() - started)
        if self._history is not None:
            self._history.append(epoch)
        return epoch

    def alignment(self) -> Alignment | None:
        """Return the whole alignment once `done`, its tensors the live ones.

        None where this loop was resumed: it may have begun on another kind of machine.
        """
        if not self.done or not self._history:
            return None
        assert self.distance_before is not None
        assert self.distance_after is not None
        return Alignment(
            embedder=self._embedder_state(),
            epochs=tuple(self._history),
            distance_before=self.distance_before,
            distance_after=self.distance_after,
            plateaued=self.plateaued,
            notes=self.notes,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that an exact resume needs: embedder, optimiser, labels, position, plateau, distances."""
        return {
            "epoch": self.epoch,
            "place": self._place,
            "plateau": self._plateau.values,
            "plateaued": self.plateaued,
            "embedder": self._embedder_state(),
            "optimizer": self._optimizer.state_dict(),
            "labels": torch.from_numpy(self._labels),
            "notes": list(self.notes),
            "distance_before": self.distance_before,
            "distance_after": self.distance_after,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where the loop that gave ``state`` stood."""
        self._model.embedder.load_state_dict(state["embedder"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._set_labels(state["labels"].numpy())
        self._notes.sentences = tuple(state["notes"])
        self._plateau.restart(state["plateau"])
        self._history = None
        self.epoch, self._place, self.plateaued = state["epoch"], state["place"], state["plateaued"]
        self.distance_before = state["distance_before"]
        self.distance_after = state["distance_after"]

    def _embedder_state(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu() for name, value in self._model.embedder.state_dict().items()}

    def _set_labels(self, labels: np.ndarray) -> None:
        self._labels = labels
        self._index = ClassIndex(labels)
        num_classes = len(self._index.classes)
        if not self._config.samples_per_class and self._config.samples < num_classes:
            self._notes.add(
                f"each draw of align.samples={self._config.samples} holds that many of {num_classes} classes"
            )

    def _train(self, indices: np.ndarray, learning_rate: float) -> float:
        """Take one optimiser step and return the distance before it."""
        with self._embedder_trains():
            distance = self._distance_of(indices)
            self._optimizer.zero_grad(set_to_none=True)
            distance.backward()  # type: ignore[no-untyped-call]
            if self._config.clip > 0:
                torch.nn.utils.clip_grad_norm_(self._parameters, self._config.clip)
            set_learning_rate(self._optimizer, learning_rate)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return float(distance.detach())

    def _advance(self, distance: float) -> None:
        """Move on in the schedule: by one place, or to the next learning rate where the curve is flat."""
        rate = self._schedule(self._place)
        flat = self._plateau.add(distance)
        self._place += 1
        if flat:
            while not self.done and self._schedule(self._place) == rate:
                self._place += 1
        if self._schedule(self._place) != rate:
            self._plateau.restart()
        self.plateaued = self.done and self.epoch < self._config.epochs

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
        generator = np.random.default_rng(derive_seed(self._seed, "align", place))
        if self._config.samples_per_class:
            return draw_per_class(self._index, self._config.samples_per_class, generator)
        return balanced_draw(self._index, self._config.samples, generator)

    def _distance_of(self, indices: np.ndarray) -> Tensor:
        labels = torch.from_numpy(self._labels[indices]).to(self._device)
        shares = torch.from_numpy(self._index.shares_of(indices)).float().to(self._device)
        features = self._embed(indices)
        if not bool(torch.isfinite(features).all()):
            raise NotFiniteError(
                f"the embedder's features {tuple(features.shape)} are not finite after {self.epoch} align epochs: "
                "check the inputs for NaN, or lower align.learning_rate"
            )
        distance = self._distance(features, labels, shares)
        self._notes.add(*self._distance.diagnosis.notes)
        if not bool(torch.isfinite(distance)):
            raise NotFiniteError(f"the distance is {float(distance.detach())} after {self.epoch} align epochs")
        return distance

    def _embed(self, indices: np.ndarray) -> Tensor:
        """Return the features [n, D] of samples [n]."""
        self._model.embedder.eval()
        if self._chunk_size is None:
            self._chunk_size = self._samples_per_pass(self._inputs.take(indices[:1]))
        if self._inputs.num_bytes(len(indices)) > HELD_BYTES:
            parts = np.array_split(indices, -(-len(indices) // self._chunk_size))
            return torch.cat([self._checkpointed(self._read_features, part) for part in parts])
        x = self._inputs.take(indices)
        if len(x) <= self._chunk_size:
            return self._model.features(x)
        return torch.cat([self._checkpointed(self._model.features, part) for part in torch.split(x, self._chunk_size)])

    def _read_features(self, indices: np.ndarray) -> Tensor:
        return self._model.features(self._inputs.take(indices))

    @staticmethod
    def _checkpointed(features: Callable[[_T], Tensor], part: _T) -> Tensor:
        # Evaluation mode draws no random number, so there is no state to preserve for the second pass.
        return cast(Tensor, checkpoint(features, part, use_reentrant=False, preserve_rng_state=False))

    @torch.no_grad()
    def _samples_per_pass(self, sample: Tensor) -> int:
        tokens = self._model.embed(sample)
        most = CHUNK_BYTES.get(self._device.type, CHUNK_BYTES["cuda"])
        return max(1, most // (tokens.numel() * tokens.element_size()))


def _class_labels(y: Rows, target: Target, seed: int) -> np.ndarray:
    if target.kind == "classes":
        return np.asarray(y).astype(np.int64)
    return np.asarray(pseudo_labels(y, seed=seed), dtype=np.int64)
