"""Alignments that trials share: kept in files by content, and replayed instead of run again.

A file is named after everything that decides an alignment (`alignment_key`), so it is never out of date. It appears at
once and whole; two trials that align alike at the same time both compute, and write the same. Nodes share alignments
when the cache directory is on a file system that they share.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.alignment.environment import environment
from orca_ray.alignment.features import SourceFeatures
from orca_ray.data import cache
from orca_ray.data.prepared import Split
from orca_ray.data.rows import Rows, num_bytes
from orca_ray.training import checkpoint
from orca_ray.training.align_config import AlignEpoch

MOST_FILES = 256
MOST_BYTES = 2 * 10**9
"""The oldest files are removed beyond either."""

_FORMAT = 2  # raise it when the align loop gives other embedders for equal options
_SUFFIX = ".aligned"
_SAMPLED_BYTES = 16 * 2**20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alignment:
    """What a whole align stage came to."""

    embedder: Mapping[str, Tensor]
    """The aligned embedder's state, on the CPU."""
    epochs: tuple[AlignEpoch, ...]
    distance_before: float
    distance_after: float
    plateaued: bool
    notes: tuple[str, ...]

    def to_state(self) -> dict[str, Any]:
        """Return plain containers, as checkpoints hold them."""
        return {
            "embedder": dict(self.embedder),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "distance_before": self.distance_before,
            "distance_after": self.distance_after,
            "plateaued": self.plateaued,
            "notes": list(self.notes),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Alignment":
        """Rebuild an alignment from `to_state`."""
        epochs = tuple(AlignEpoch(**epoch) for epoch in state["epochs"])
        return cls(**{**state, "epochs": epochs, "notes": tuple(state["notes"])})


class AlignReplay:
    """Takes an alignment over instead of running it, with the interface of `AlignLoop`.

    The embedder is the aligned one from the first step on; every step then tells one epoch as it was, but for its time.
    """

    def __init__(self, embedder: nn.Module, alignment: Alignment, epoch: int = 0) -> None:
        """Replay from after ``epoch`` epochs; by then ``embedder`` must be the aligned one."""
        self._embedder = embedder
        self._alignment = alignment
        self.epoch = epoch
        self.notes = alignment.notes
        self.distance_before: float | None = alignment.distance_before

    @property
    def done(self) -> bool:
        """Whether all epochs have been told."""
        return self.epoch >= len(self._alignment.epochs)

    @property
    def plateaued(self) -> bool:
        """Whether a plateau made the stage shorter than its epochs."""
        return self.done and self._alignment.plateaued

    @property
    def distance_after(self) -> float | None:
        """Distance of a fixed draw after the last epoch."""
        return self._alignment.distance_after if self.done else None

    def step(self) -> AlignEpoch:
        """Tell the next epoch."""
        started = time.perf_counter()
        if self.epoch == 0:
            self._embedder.load_state_dict(self._alignment.embedder)
            self._embedder.eval()  # as aligning leaves it
        told = self._alignment.epochs[self.epoch]
        self.epoch += 1
        return AlignEpoch(told.epoch, told.distance, told.learning_rate, time.perf_counter() - started)

    def state_dict(self) -> dict[str, Any]:
        """Return what `from_state` takes; the alignment is part of it, for its file may be gone by then."""
        return {"replay": self._alignment.to_state(), "epoch": self.epoch}

    @classmethod
    def from_state(cls, embedder: nn.Module, state: Mapping[str, Any]) -> "AlignReplay | None":
        """Continue a replay; None where ``state`` is not of one."""
        if "replay" not in state:
            return None
        return cls(embedder, Alignment.from_state(state["replay"]), state["epoch"])


class AlignedCache:
    """A directory of alignments, bounded in number and size; safe against concurrent processes.

    It never fails a trial: a damaged file is told in the log and computed again, and a full or read-only disk only
    means that nothing is kept.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Use ``directory``, made on first use; by default ``aligned`` in the cache directory."""
        self._directory = directory or cache.home() / "aligned"

    def load(self, key: str, embedder: nn.Module) -> Alignment | None:
        """Return the alignment kept under ``key`` if it fits ``embedder``."""
        path = self._path(key)
        state = checkpoint.load(path)
        if state is None:
            return None
        try:
            alignment = Alignment.from_state(state["alignment"])
            fits = state["format"] == _FORMAT and _shapes(alignment.embedder) == _shapes(embedder.state_dict())
        except (KeyError, TypeError, AttributeError) as error:
            _log.debug("%s: %s", path, error)
            fits = False
        if not fits or not alignment.epochs:
            _log.warning("%s does not hold the alignment it is named after; aligning again", path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the oldest is the one not used for longest; another process may have removed it by now
        return alignment

    def store(self, key: str, alignment: Alignment) -> None:
        """Keep an alignment under ``key``, and remove the oldest ones beyond the bounds."""
        path = self._path(key)
        try:
            checkpoint.save(path, {"format": _FORMAT, "alignment": alignment.to_state()})
            cache.prune(self._directory, _SUFFIX, MOST_FILES, MOST_BYTES)
        except OSError as error:
            _log.warning("the alignment is not kept for other trials: %s: %s", path, error)

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}{_SUFFIX}"


def alignment_key(
    embedder: nn.Module, source: SourceFeatures, train: Split, device: torch.device, settings: Mapping[str, Any]
) -> str:
    """Return 32 hex digits that differ wherever the alignment may differ in a single bit.

    They cover the embedder before aligning (and so the body's stem and the seed of its initialisation), the source
    features, which samples are trained on, the `environment` (kind of machine, versions of libraries, threads,
    determinism), and ``settings``.

    Args:
        embedder: the embedder, before its first step.
        source: what is aligned to.
        train: the training split. Of its arrays 16 MiB each are read, in evenly spaced rows: enough to tell splits of
            one data set apart, whose contents the caller's ``settings`` tell by fingerprint.
        device: where the alignment is computed.
        settings: everything else that decides it; plain values.
    """
    known = {"format": _FORMAT, "circumstances": environment(device), **settings}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    tensors = {"source x": source.x, "source y": source.y, **embedder.state_dict()}
    for name, tensor in tensors.items():
        _update(digest, name, tensor.detach().cpu().contiguous().numpy())
    arrays: tuple[tuple[str, Rows], ...] = ("train x", train.x), ("train y", train.y)
    for name, array in arrays:
        num_rows = min(len(array), max(1, _SAMPLED_BYTES * len(array) // max(1, num_bytes(array))))
        rows = np.linspace(0, len(array) - 1, num_rows).astype(np.int64)
        _update(digest, f"{name} of {len(array)}", np.ascontiguousarray(array[rows]))
    return digest.hexdigest()[:32]


def _update(digest: Any, name: str, array: np.ndarray) -> None:
    digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}
