"""Conformal intervals of numbers, and conformal sets of classes.

The file ``conformal.safetensors`` of a model folder has scores of samples that the
predicting models have not seen: how far each prediction is from its target. A new
sample's score is at most the k-th smallest of N such scores with probability k / (N +
1), if all samples are exchangeable (Vovk, Gammerman and Shafer, 2005, "Algorithmic
Learning in a Random World").

The score of a number is the absolute residual. That of a class is one minus its
probability, so that a set has all classes above one threshold: of all sets that hold
the class as often, these have the fewest classes on average (Sadinle, Lei and
Wasserman, 2019, "Least ambiguous set-valued classifiers with bounded error levels").

Letters of shapes: N samples, R stored ranks, K classes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from orca_ray.data import cache
from orca_ray.data.rows import Array
from orca_ray.data.tensor_file import save_tensors
from orca_ray.errors import UserError, shorten
from orca_ray.methods.model_config import ADVICE, TaskSummary

MOST_RANKS = 1000
"""Largest number of scores that are stored for one output."""
LEAST_RANKS = 20
"""Least number of stored scores: with fewer, intervals would be much too wide."""
MOST_VALUES = 2**20
"""Largest number of scores in a file: 4 MiB."""
MOST_BYTES = 4 * MOST_VALUES + 2**16
"""Largest size of a file, with its ranks and its header."""


@dataclass(frozen=True)
class Conformal:
    """Some of the sorted scores of N samples, by rank."""

    num_samples: int
    ranks: Array
    """Ranks from 1 to N, increasing, int64 [R]; the last one is N."""
    scores: Array
    """The scores of these ranks, float32 [R, *shape].

    ``shape`` is () for numbers and classes, and that of a field for fields, whose
    values are sorted each for itself.
    """

    def __post_init__(self) -> None:
        """Raise ValueError unless ranks and scores are as described."""
        ranks = self.ranks
        if ranks.dtype != np.int64 or ranks.ndim != 1 or not len(ranks):
            raise ValueError("the ranks must be integers [R]")
        if ranks[0] < 1 or ranks[-1] != self.num_samples or (np.diff(ranks) < 1).any():
            raise ValueError(f"the ranks must increase from 1 to {self.num_samples}")
        if self.scores.dtype != np.float32 or len(self.scores) != len(ranks):
            raise ValueError("there must be a float32 score for each rank")
        is_sorted = (np.diff(self.scores, axis=0) >= 0).all()
        if not np.isfinite(self.scores).all() or not is_sorted:
            raise ValueError("the scores must be finite and sorted")
        if (self.scores[0] < 0).any():
            raise ValueError("the scores must not be negative")

    @classmethod
    def of(cls, scores: Array) -> "Conformal | None":
        """Return the record of the scores [N, *shape] of N samples.

        If not all scores may be stored, every so many ranks are, and a level between
        two ranks takes the higher one. None: there are no samples, or a field has too
        many values (more than `MOST_VALUES` / `LEAST_RANKS`).
        """
        num_samples = len(scores)
        most_ranks = min(MOST_RANKS, MOST_VALUES // max(1, scores[:1].size))
        if not num_samples or most_ranks < min(num_samples, LEAST_RANKS):
            return None
        num_ranks = min(num_samples, most_ranks)
        places = np.linspace(1, num_samples, num_ranks)
        ranks = np.ceil(places - 1e-9).astype(np.int64)
        ordered = np.sort(scores, axis=0)[ranks - 1].astype(np.float32)
        # Rounding to float32 may lower a score, and the interval must not shrink.
        return cls(num_samples, ranks, np.nextafter(ordered, np.float32(np.inf)))

    def quantile(self, level: float) -> Array:
        """Return the scores [*shape] that a new sample does not exceed.

        The probability is ``level``. Raises UserError for a level that is not between 0
        and 1, or that needs more samples.
        """
        check_level(level)
        # The sum of floats is rounded, so that e.g. 10 * 0.9 is not above 9.
        rank = math.ceil(round((self.num_samples + 1) * level, 9))
        if rank > self.num_samples:
            highest = self.num_samples / (self.num_samples + 1)
            raise UserError(
                f"--interval {level:g}: the model was calibrated on"
                f" {self.num_samples} samples, which allow at most"
                f" {math.floor(1000 * highest) / 1000:g}; adapt with more samples"
            )
        place = int(np.searchsorted(self.ranks, rank))
        return np.asarray(self.scores[place])

    def save(self, path: Path) -> None:
        """Write the record to a safetensors file."""
        import torch

        num_samples = np.array([self.num_samples], np.int64)
        arrays = {
            "num_samples": num_samples,
            "ranks": self.ranks,
            "scores": self.scores,
        }
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        save_tensors(path, tensors)

    @classmethod
    def read(cls, path: Path, task: TaskSummary) -> Self:
        """Return the record in a file of a model folder.

        ``task`` is that of the model. Raises UserError if the file is too large,
        damaged, or does not fit the task.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        content = cache.read_bytes(path, MOST_BYTES)
        try:
            arrays = load(content)
            num_samples = int(arrays["num_samples"].reshape(1)[0])
            record = cls(num_samples, arrays["ranks"], arrays["scores"])
            _check_task(record, task)
        except (
            SafetensorError,
            LookupError,
            ArithmeticError,
            ValueError,
            TypeError,
        ) as error:
            raise UserError(f"{path}: {shorten(error)}; {ADVICE}") from error
        return record


def _check_task(record: Conformal, task: TaskSummary) -> None:
    """Raise ValueError unless the scores are those of the task's outputs."""
    shape = task.target.output_shape
    if task.target.kind == "classes":
        shape = ()
    if record.scores.shape[1:] != shape:
        raise ValueError(
            f"the scores have shape {record.scores.shape[1:]}, those of the task"
            f" {shape}"
        )


def check_level(level: float) -> None:
    """Raise UserError unless ``level`` is above 0 and below 1."""
    if not 0 < level < 1:
        raise UserError(
            f"--interval {level:g}: give a level above 0 and below 1, e.g. 0.9"
        )


def sets_of(probabilities: Array, largest_score: float) -> Array:
    """Return the classes whose score is at most ``largest_score``, bool [N, K].

    The most probable class of each sample is always one of them.

    Args:
        probabilities: probabilities [N, K].
        largest_score: result of `Conformal.quantile`.
    """
    is_in_set: Array = probabilities >= 1 - largest_score
    is_in_set[np.arange(len(is_in_set)), probabilities.argmax(axis=1)] = True
    return is_in_set
