"""The cache of finished align stages, which a trial replays.

Replaying a stage saves computing it again. The name of a cached alignment is a hash of
everything that determines the result (`alignment_key`), so a file is never out of date.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.tensor_cache import digest, environment, load, save
from orca_ray.data import cache
from orca_ray.data.prepared import Split
from orca_ray.data.rows import num_bytes

_log = logging.getLogger(__name__)


_FORMAT = 5
"""Version to increase when equal options make the align loop compute other
embedders.
"""
_SUFFIX = ".aligned"
"""Suffix of the files of the cache."""
_SAMPLED_BYTES = 16 * 2**20
"""Largest number of bytes of an array of training data that are hashed."""


@dataclass(frozen=True)
class AlignEpoch:
    """Report of one align epoch."""

    epoch: int
    """Number of the epoch, from 1."""
    distance: float
    """Distance of the epoch's random subset before the optimiser step."""
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class ProbePoint:
    """Result of one probe of the embedder during the align stage."""

    epoch: int
    """Number of align epochs that had run; 0: the embedder before aligning."""
    error: float
    """Mean of `align.ridge_errors`; lower is better, and predicting the mean target has
    error 1.
    """


@dataclass(frozen=True)
class Alignment:
    """The result of a whole align stage."""

    embedder: Mapping[str, Tensor]
    """State dict of the aligned embedder, on the CPU."""
    epochs: tuple[AlignEpoch, ...]
    distance_before: float
    distance_after: float
    plateaued: bool
    notes: tuple[str, ...]
    probes: tuple[ProbePoint, ...] = ()
    """Results of the guard's probes of the embedder, in order; empty without a guard.
    """
    chosen_epoch: int | None = None
    """Align epoch that the guard chose, after which ``embedder`` was saved; None
    without a guard: the last epoch.
    """

    def to_state(self) -> dict[str, Any]:
        """Return the fields as a dict that `from_state` reads.

        The name "chosen" is that of files of earlier versions.
        """
        values = asdict(self)
        values["chosen"] = values.pop("chosen_epoch")
        return values

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Alignment":
        """Return the alignment in a dict that `to_state` returned."""
        stored = dict(state)
        values = {
            "chosen_epoch": stored.pop("chosen", None),
            **stored,
            "epochs": tuple(AlignEpoch(**epoch) for epoch in state["epochs"]),
            "probes": tuple(ProbePoint(**point) for point in state["probes"]),
            "notes": tuple(state["notes"]),
        }
        return cls(**values)


class AlignReplay:
    """Substitute for an `AlignLoop` that replays a stored alignment.

    It reports the epochs and probes of the alignment; the first `step` loads the
    weights.
    """

    def __init__(
        self, embedder: nn.Module, alignment: Alignment, position: int = 0
    ) -> None:
        """Replay the reports of ``alignment``, without the first ``position``.

        The first report loads the aligned weights. So if ``position`` is not 0,
        ``embedder`` must already have these weights.
        """
        self._embedder = embedder
        self._alignment = alignment
        self._position = position
        reports: list[AlignEpoch | ProbePoint] = [*alignment.epochs, *alignment.probes]
        # A probe follows the epoch of its number.
        self._reports = sorted(reports, key=lambda report: report.epoch)
        self.notes = alignment.notes
        self.distance_before = alignment.distance_before
        self._update_attributes()

    def _update_attributes(self) -> None:
        """Set the public attributes to their values after `_position` reports."""
        self.done = self._position >= len(self._reports)
        """Whether all reports were replayed; until then, attributes have the values of
        a loop that still runs.
        """
        replayed = self._reports[: self._position]
        self.epoch = max((report.epoch for report in replayed), default=0)
        """Number of epochs that have been replayed."""
        self.plateaued = self.done and self._alignment.plateaued
        self.distance_after = self._alignment.distance_after if self.done else None
        self.chosen_epoch = self._alignment.chosen_epoch if self.done else None
        """`Alignment.chosen_epoch`; None until `done`."""

    def step(self) -> AlignEpoch | ProbePoint:
        """Return the next stored report.

        The ``seconds`` of an epoch are those of the replay.
        """
        started = time.perf_counter()
        if self._position == 0:
            self._embedder.load_state_dict(self._alignment.embedder)
            self._embedder.eval()  # as after aligning
        stored = self._reports[self._position]
        self._position += 1
        self._update_attributes()
        if isinstance(stored, ProbePoint):
            return stored
        return replace(stored, seconds=time.perf_counter() - started)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole alignment, which the cache may lose, and the position."""
        return {"replay": self._alignment.to_state(), "position": self._position}


class AlignedCache:
    """Size-limited directory of alignments, safe for concurrent processes.

    Damaged files are logged and ignored.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Use ``directory``, which is created on first use.

        The default is ``aligned`` in the cache directory.
        """
        if directory is None:
            directory = cache.home() / "aligned"
        self._directory = directory

    def load(self, key: str, embedder: nn.Module) -> Alignment | None:
        """Return the alignment stored under ``key``.

        None if there is none or it does not fit ``embedder``.
        """
        path = self._directory / f"{key}{_SUFFIX}"
        state = load(path)
        if state is None:
            return None
        try:
            alignment = Alignment.from_state(state["alignment"])
            shapes = _shapes(alignment.embedder)
            has_shapes = shapes == _shapes(embedder.state_dict())
            fits = state["format"] == _FORMAT and has_shapes
        except (KeyError, TypeError, AttributeError) as error:
            _log.debug("%s: %s", path, error)
            fits = False
        if not fits or not alignment.epochs:
            _log.warning(
                "%s is not the alignment that its name says; aligning again", path
            )
            return None
        # Marks the file as used; another process may have removed it by now.
        with contextlib.suppress(OSError):
            os.utime(path)
        return alignment

    def store(self, key: str, alignment: Alignment) -> None:
        """Store an alignment under ``key``, and prune the cache to its limits.

        A failed write is only logged.
        """
        path = self._directory / f"{key}{_SUFFIX}"
        try:
            save(path, {"format": _FORMAT, "alignment": alignment.to_state()})
            cache.prune(self._directory, _SUFFIX)
        except OSError as error:
            _log.warning(
                "the alignment cannot be stored for other trials: %s: %s", path, error
            )


def alignment_key(
    model: nn.Module,
    source: SourceFeatures,
    train: Split,
    device: torch.device,
    settings: Mapping[str, Any],
) -> str:
    """Return a hash of 32 hex digits of everything that determines an alignment.

    Alignments that may differ, even in one bit, have different keys. The hash covers
    the arguments and the software and hardware (`environment`). ``model`` is the module
    whose initial weights determine the alignment: the embedder, or the whole model if a
    guard probes its features. ``settings`` contains everything else that determines the
    alignment, including a fingerprint of the task's data. Of each array of ``train``
    (inputs, targets), at most 16 MiB of evenly spaced rows are hashed.
    """
    hashed = {"format": _FORMAT, "circumstances": environment(device), **settings}
    tensors: dict[str, Any] = {
        "source x": source.x,
        "source y": source.y,
        **model.state_dict(),
    }
    for name, array in (("train x", train.x), ("train y", train.y)):
        most_rows = _SAMPLED_BYTES * len(array) // max(1, num_bytes(array))
        num_rows = min(len(array), max(1, most_rows))
        rows = np.linspace(0, len(array) - 1, num_rows).astype(np.int64)
        tensors[f"{name} of {len(array)}"] = np.ascontiguousarray(array[rows])
    return digest(tensors, json.dumps(hashed, sort_keys=True))[:32]


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}
