"""Base of the kinds of artefacts.

Artefacts are small pictures of what a trained model does, kept in the results store.
Shape letters: N test samples, n samples of a picture, D features, H rows and W columns
of pixels.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from orca_ray.data.rows import Array, Rows
from orca_ray.discovery import declared, modules, with_plug_ins
from orca_ray.results.artefacts import Artefact, Picture
from orca_ray.tasks.task import Task

_MOST_CHARACTERS = 200
"""Largest number of characters of an error in a note."""


@dataclass(frozen=True)
class Evidence:
    """Base of records from which artefacts are computed.

    `ArtefactKind.needs` names a subclass.
    """

    task: Task
    """The task of the trial, resolved."""


@dataclass(frozen=True)
class Evaluated(Evidence):
    """Results on the test split.

    Predictions for several parts of a sample are averaged.
    """

    predictions: Array
    """[N, *output_shape]: logits, or values in the units of the targets."""
    y: Array
    """[N, ...] targets."""
    rows: Array
    """[N]: the row of ``inputs`` that belongs to each sample; the first row if a sample
    has several.
    """
    inputs: Rows

    def input(self, sample: int) -> Array:
        """Return the input of one sample, [C, L] or [C, H, W]."""
        return np.asarray(self.inputs[self.rows[[sample]]][0])


@dataclass(frozen=True)
class Aligned(Evidence):
    """Features of source samples, and of training samples before and after aligning."""

    source: Array
    """[m, D] features of source samples."""
    source_classes: Array
    """[m] class ids of the source samples."""
    before: Array
    """[n, D] features of training samples before aligning."""
    after: Array
    """[n, D] features of the same training samples after aligning."""
    classes: Array | None
    """[n] class ids of the training samples; None if the task has no classes."""


@dataclass(frozen=True, kw_only=True)
class ArtefactKind:
    """Definition of a kind of artefact.

    A module in `orca_ray.training.artefacts` declares it as ``ARTEFACT``.
    """

    name: str
    needs: type[Evidence]
    """Class of the argument of ``compute``, `Evaluated` or `Aligned`; called as soon as
    the argument exists.
    """
    applies: Callable[[Task], bool]
    """Returns whether a task, by its target, loss and domain, has artefacts of this
    kind.
    """
    compute: Callable[[Any], Iterable[tuple[str, Picture]]]
    """Returns pictures with names that are unique in this kind.

    Equal evidence must give equal pictures.
    """


@functools.cache
def all_artefacts() -> Mapping[str, ArtefactKind]:
    """Return all kinds of artefacts by name, those of plug-ins last.

    Raises ValueError if two of orca-ray share a name.
    """
    from orca_ray.training import artefacts

    return with_plug_ins(
        "artefact", ArtefactKind, declared(ArtefactKind, "ARTEFACT", modules(artefacts))
    )


def compute_artefacts(evidence: Evidence) -> tuple[list[Artefact], list[str]]:
    """Return the artefacts of all kinds that ``evidence`` allows.

    The second result is a sentence for each failure.
    """
    artefacts: list[Artefact] = []
    notes: list[str] = []
    for kind in all_artefacts().values():
        if not isinstance(evidence, kind.needs) or not kind.applies(evidence.task):
            continue
        try:
            artefacts += [
                Artefact(kind.name, name, picture.to_json())
                for name, picture in kind.compute(evidence)
            ]
        except Exception as error:  # a picture must not cost a trial that runs well
            notes.append(failure_note(kind.name, error))
    return artefacts, notes


def failure_note(name: str, error: Exception) -> str:
    """Return a note that ``error`` prevented the artefact ``name``.

    The note is for the trial's record.
    """
    first_line = f"{type(error).__name__}: {error}".split("\n")[0]
    reason = first_line.replace("; ", ", ")[:_MOST_CHARACTERS]
    return f"no artefact {name}: {reason}"


def spaced_indices(num_samples: int, most: int) -> Array:
    """Return at most ``most`` evenly spaced indices of samples, [n] int64."""
    return np.linspace(0, num_samples - 1, min(num_samples, most)).astype(np.int64)


def shrink(values: Array, most: int) -> Array:
    """Return ``values`` with axes shortened to at most ``most`` by means of blocks.

    The first two axes (or the only axis) are shortened.
    """
    axes = range(min(values.ndim, 2))
    side = math.ceil(max(values.shape[axis] for axis in axes) / most)
    sums = np.asarray(values, dtype=np.float64)
    counts = np.ones(values.shape)
    for axis in axes:
        starts = np.arange(0, values.shape[axis], side)
        sums = np.add.reduceat(sums, starts, axis)
        counts = np.add.reduceat(counts, starts, axis)
    return sums / counts
