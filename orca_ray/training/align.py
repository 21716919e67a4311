"""The align stage: train the embedder alone until features resemble the source's.

The module also has the probe, which scores an embedder. Shapes: N training samples, n
samples of one epoch or probe, D features (the token width of the body), F features of a
probe, C numbers of one target.
"""

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from orca_ray.alignment.cost import call_recomputed
from orca_ray.alignment.distance import Distance
from orca_ray.alignment.labels import (
    SKETCH_WIDTH,
    ClassIndex,
    is_sketched,
    pseudo_labels,
    sketch_targets,
)
from orca_ray.data.prepared import Split
from orca_ray.data.rows import Array, Rows, Target
from orca_ray.models.crossmodal import CrossModalModel, pooled
from orca_ray.process import note_progress
from orca_ray.training import optimisation
from orca_ray.training.checkpoint import AlignEpoch, Alignment
from orca_ray.training.config import ALIGN_SCHEDULES, AlignConfig
from orca_ray.training.evaluate import head_inputs
from orca_ray.training.numerics import NotFiniteError, Precision, derive_seed

CHUNK_BYTES = {"cpu": 6 * 2**20, "cuda": 256 * 2**20}
"""Maximum bytes of the tokens of one forward pass of the embedder, by device type.

On a CPU, the system allocates and zeroes much larger tensors anew every time, which
takes longer than the arithmetic.
"""
_STORED = ("epoch", "plateaued", "distance_before", "distance_after")
"""Names of the `AlignLoop` attributes that `state_dict` stores unchanged."""
_log = logging.getLogger(__name__)


class AlignLoop:
    """Loop that trains ``model.embedder`` to minimise a distance.

    One `step` is one epoch and one optimiser step. Each epoch draws a random subset of
    the training set. The distance compares the subset's ``model.features`` and classes
    (k-means clusters of the targets if the task has no classes) with the source
    features. The embedder is in evaluation mode, as for the source features. A subset
    too large for one forward pass is split into chunks, whose activations the backward
    pass recomputes. On a plateau of the distance, the schedule skips to its next
    learning rate, or the stage ends.
    """

    def __init__(
        self,
        model: CrossModalModel,
        x: Rows,
        y: Rows,
        target: Target,
        config: AlignConfig,
        distance: Distance,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """Plan to minimise ``distance``, which is already fitted.

        ``x`` [N, ...] are the training inputs, ``y`` [N, ...] the targets.
        """
        self._model = model
        self._x = x
        self._distance = distance
        self._config = config
        self._seed = seed
        self._device = device
        self._learning_rate = config.learning_rate
        if config.learning_rate == 0:
            self._learning_rate = distance.learning_rate
        self._parameters = list(model.embedder.parameters())
        groups = [optimisation.ParameterGroup(self._parameters)]
        if config.steps == "relative":
            groups = optimisation.relative_steps(model.embedder)
        self._optimizer = optimisation.make_optimizer(
            config.optimizer,
            groups,
            self._learning_rate,
            config.weight_decay,
            config.momentum,
        )
        self._schedule = ALIGN_SCHEDULES[config.schedule](config.epochs)
        self._plateau = optimisation.Plateau(config.patience, config.tolerance)
        self.notes: tuple[str, ...] = ()
        """Sentences about the fallbacks taken so far, one for each."""
        self._labels = self._class_ids(y, target)
        self._index = ClassIndex(self._labels)
        self._chunk_size: int | None = None
        self._history: list[AlignEpoch] | None = []  # None: the loop was resumed
        # Argument of the schedule; larger than `epoch` after a plateau.
        self._position = 0
        self.epoch = 0
        self.plateaued = False
        """Whether plateaus of the distance made the stage end before ``config.epochs``
        epochs.
        """
        self.distance_before: float | None = None
        """Distance of a fixed sample before the first epoch; None until measured."""
        self.distance_after: float | None = None
        """Distance of the same sample after the last epoch; None until measured."""

    def _class_ids(self, y: Rows, target: Target) -> np.ndarray:
        """Return the class ids [N] of the targets, or clusters of other targets."""
        if target.kind == "classes":
            return np.asarray(y).astype(np.int64)
        if is_sketched(y):
            self._note(
                f"pseudo-classes come from a sketch of the targets {tuple(y.shape)},"
                " too large to cluster"
            )
        return pseudo_labels(y, seed=derive_seed(self._seed, "labels") % 2**32)

    @property
    def done(self) -> bool:
        """Whether the stage has ended.

        All epochs have run, or the distance has reached a plateau at the last learning
        rate.
        """
        return self._position >= self._config.epochs

    @property
    def progress(self) -> float:
        """Share of the schedule, 0 to 1, that has passed.

        A plateau of the distance skips a part of the schedule.
        """
        return min(1.0, self._position / self._config.epochs)

    def step(self) -> AlignEpoch:
        """Run one epoch and return its report.

        Raises NotFiniteError if the features or the distance are NaN or infinite.
        """
        assert not self.done, "all align epochs have run"
        started = perf_counter()
        indices = self._sample(self.epoch)
        if self.epoch == 0 and not np.array_equal(indices, self._sample("measure")):
            self.distance_before = self._measure()
        learning_rate = self._learning_rate * self._schedule(self._position)
        distance = self._train(indices, learning_rate)
        if self.epoch == 0 and self.distance_before is None:
            self.distance_before = distance  # every sample is the whole training set
        self.epoch += 1
        self._advance(distance)
        if self.done:
            self.distance_after = self._measure()
        epoch = AlignEpoch(
            self.epoch, distance, learning_rate, perf_counter() - started
        )
        if self._history is not None:
            self._history.append(epoch)
        return epoch

    def distance_of(self, indices: np.ndarray) -> Tensor:
        """Return the scalar distance of training samples from the source.

        It is differentiable; ``indices`` [n] are those of the samples. The embedder is
        in evaluation mode. Raises NotFiniteError if a feature or the distance is NaN or
        infinite.
        """
        labels = torch.from_numpy(self._labels[indices]).to(self._device)
        class_shares = torch.from_numpy(self._index.shares_of(indices))
        shares = class_shares.float().to(self._device)
        features = self._features(indices)
        if not bool(torch.isfinite(features).all()):
            raise NotFiniteError(
                f"the embedder's features {tuple(features.shape)} are not finite after"
                f" {self.epoch} align epochs: check the inputs for NaN, or lower"
                " align.learning_rate"
            )
        distance = self._distance(features, labels, shares)
        self._note(*self._distance.diagnosis.notes)
        if not bool(torch.isfinite(distance)):
            raise NotFiniteError(
                f"the distance is {float(distance.detach())} after {self.epoch} align"
                " epochs"
            )
        return distance

    def alignment(self) -> Alignment | None:
        """Return the result of the stage; None until `done`.

        It is always None if the loop was resumed: the first epochs may have run on
        other hardware, so the result must not be cached. On a CPU, the tensors are no
        copies: they share the embedder's memory.
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
        """Return the state for an exact resume."""
        return {
            **{name: getattr(self, name) for name in _STORED},
            "place": self._position,
            "plateau": self._plateau.values,
            "labels": torch.from_numpy(self._labels),
            "embedder": self._embedder_state(),
            "optimizer": self._optimizer.state_dict(),
            "notes": list(self.notes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the ``state`` of an earlier loop, to continue exactly there."""
        self._model.embedder.load_state_dict(state["embedder"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._labels = state["labels"].numpy()
        self._index = ClassIndex(self._labels)
        self.notes = tuple(state["notes"])
        self._plateau.values = list(state["plateau"])
        self._history = None
        self._position = state["place"]
        for name in _STORED:
            setattr(self, name, state[name])

    def _embedder_state(self) -> dict[str, Tensor]:
        return {
            name: value.detach().cpu()
            for name, value in self._model.embedder.state_dict().items()
        }

    def _note(self, *sentences: str) -> None:
        for sentence in sentences:
            if sentence not in self.notes:
                self.notes = (*self.notes, sentence)
                _log.warning("aligning: %s", sentence)

    def _train(self, indices: np.ndarray, learning_rate: float) -> float:
        """Make an optimiser step, and return the distance before the step."""
        with optimisation.requires_grad(self._parameters, True):
            distance = self.distance_of(indices)
            self._optimizer.zero_grad(set_to_none=True)
            distance.backward()  # type: ignore[no-untyped-call]
            if self._config.clip > 0:
                torch.nn.utils.clip_grad_norm_(self._parameters, self._config.clip)
            optimisation.set_learning_rate(self._optimizer, learning_rate)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return float(distance.detach())

    def _advance(self, distance: float) -> None:
        """Advance the schedule by one epoch.

        After a plateau of the distance, advance it to the next learning rate.
        """
        rate = self._schedule(self._position)
        self._position += 1
        assert self.distance_before is not None
        if self._plateau.add(distance, self.distance_before):
            while not self.done and self._schedule(self._position) == rate:
                self._position += 1
        if self._schedule(self._position) != rate:
            self._plateau.values = []
        self.plateaued = self.done and self.epoch < self._config.epochs

    def _measure(self) -> float:
        with torch.no_grad():
            return float(self.distance_of(self._sample("measure")))

    def _sample(self, purpose: int | str) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self._seed, "align", purpose))
        return self._index.sample(self._config.samples_per_class, generator)

    def _features(self, indices: np.ndarray) -> Tensor:
        """Return the features [n, D] of the samples ``indices``.

        If they do not fit in memory together, they are computed in chunks, which the
        backward pass recomputes.
        """
        self._model.embedder.eval()
        if self._chunk_size is None:
            self._chunk_size = self._choose_chunk_size(indices[:1])
        if len(indices) <= self._chunk_size:
            return self._chunk_features(indices)
        starts = range(self._chunk_size, len(indices), self._chunk_size)
        chunks = np.split(indices, starts)
        return torch.cat(
            [call_recomputed(self._chunk_features, chunk) for chunk in chunks]
        )

    def _choose_chunk_size(self, one_index: np.ndarray) -> int:
        with torch.no_grad():
            sample_bytes = self._model.embed(self._read(one_index)).nbytes
        most_bytes = CHUNK_BYTES.get(self._device.type, CHUNK_BYTES["cuda"])
        return max(1, most_bytes // sample_bytes)

    def _chunk_features(self, indices: np.ndarray) -> Tensor:
        note_progress()
        return self._model.features(self._read(indices))

    def _read(self, indices: np.ndarray) -> Tensor:
        # Indexing by an array copies, so that the memory map itself is never written
        # to.
        x = np.asarray(self._x[indices], dtype=np.float32)
        return torch.from_numpy(x).to(self._device)


NUM_SAMPLES = 512
"""Largest number of samples that a probe uses."""
PENALTIES = tuple(10.0**power for power in range(-4, 3))
"""Penalties of the ridge regression; the one of least error is used.

Features have a mean square of at most 1 / F.
"""


_BLOCK_ROWS = 32
"""Number of targets that are encoded at a time."""


class Probe:
    """Probe that scores the present embedder of ``model`` by ridge regression.

    It uses at most `NUM_SAMPLES` random samples. A call costs one forward pass of these
    samples, and the regression, which takes 0.1 s for 512 samples.
    """

    def __init__(
        self,
        model: CrossModalModel,
        splits: Sequence[Split],
        target: Target,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """Draw the samples, the same for all calls, and read their targets.

        At most one row of each group is drawn.
        """
        self._model = model
        self._precision = Precision("float32", device)
        drawn_indices = _draw_samples(splits, seed)
        drawn = list(zip(splits, drawn_indices, strict=True))
        self._x = np.concatenate([split.x[indices] for split, indices in drawn])
        self._targets_nC = encode_targets(
            [(split.y, indices) for split, indices in drawn], target
        )

    def __call__(self) -> Tensor:
        """Return the error of each sample, [n]; see `ridge_errors`.

        Raises NotFiniteError if a feature is NaN or infinite.
        """
        batches = head_inputs(self._model, self._x, self._precision)
        pooling = self._model.body.pooling
        pooled_batches = [pooled(features_BSF, pooling) for features_BSF in batches]
        features_nF = torch.cat(pooled_batches).cpu().double()
        if not bool(torch.isfinite(features_nF).all()):
            raise NotFiniteError(
                f"the body's features {tuple(features_nF.shape)} of a probe are not"
                " finite"
            )
        return ridge_errors(features_nF, self._targets_nC)


def _draw_samples(splits: Sequence[Split], seed: int) -> list[np.ndarray]:
    """Draw at most `NUM_SAMPLES` rows of all splits together.

    Returns the sorted row indices of each split. At most one row of a group is drawn.
    """
    candidates = []
    for number, split in enumerate(splits):
        group = np.arange(len(split)) if split.group is None else split.group
        _, rows = np.unique(group, return_index=True)
        candidates.append(np.stack([np.full(len(rows), number), rows], axis=1))
    generator = np.random.default_rng(derive_seed(seed, "probe"))
    drawn = generator.permutation(np.concatenate(candidates))[:NUM_SAMPLES]
    split_numbers = drawn[:, 0]
    rows = drawn[:, 1]
    return [np.sort(rows[split_numbers == number]) for number in range(len(splits))]


def encode_targets(parts: Sequence[tuple[Rows, Array]], target: Target) -> Tensor:
    """Return targets as numbers [n, C] float64.

    ``parts`` are the targets ``y`` of each split, and the indices of those to return.
    Classes are one-hot. Fields of more than 4096 numbers are reduced by a random
    sketch, which keeps distances.
    """
    if target.kind == "classes":
        labels = np.concatenate([y[indices] for y, indices in parts])
        _, class_numbers = np.unique(labels, return_inverse=True)
        return functional.one_hot(torch.from_numpy(class_numbers)).double()
    is_wide = target.num_outputs > SKETCH_WIDTH
    encoded = []
    for y, indices in parts:
        # In blocks, because all fields together may exceed the memory.
        for rows in np.array_split(indices, 1 + len(indices) // _BLOCK_ROWS):
            if len(rows) == 0:
                continue
            block = y[rows]
            if is_wide:
                encoded.append(sketch_targets(block, seed=0))
            else:
                encoded.append(block.reshape(len(block), -1))
    return torch.from_numpy(np.concatenate(encoded)).double()


def ridge_errors(features_nF: Tensor, targets_nC: Tensor) -> Tensor:
    """Return the relative squared error [n] of the prediction for each sample.

    A ridge regression on all other samples makes the prediction. Features are
    standardised. All left-out predictions follow from one decomposition; the penalty of
    `PENALTIES` with the lowest mean error is used. Errors are divided by the targets'
    variance: predicting the mean target has error 1.
    """
    from sklearn.linear_model import RidgeCV

    deviation_F = features_nF.std(dim=0, correction=0)
    divisor_F = torch.where(deviation_F > 0, deviation_F, 1.0)
    scaled_nF = features_nF / divisor_F / features_nF.shape[1] ** 0.5
    ridge = RidgeCV(PENALTIES, store_cv_results=True).fit(
        scaled_nF.numpy(), targets_nC.numpy()
    )
    errors_nCP = ridge.cv_results_.reshape(*targets_nC.shape, len(PENALTIES))
    errors_nP = torch.from_numpy(errors_nCP.sum(axis=1))
    best_penalty = errors_nP.mean(dim=0).argmin()
    centred_nC = targets_nC - targets_nC.mean(dim=0)
    variance = centred_nC.square().sum(dim=1).mean()
    if variance > 0:
        return errors_nP[:, best_penalty] / variance
    return errors_nP[:, best_penalty]
