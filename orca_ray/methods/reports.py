"""Reports of a trial: progress after each epoch of its stages, and the outcome."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpochProgress:
    """Record of progress after one `TrialTrainer.step`.

    Fields that do not apply to the stage are None.
    """

    stage: str
    """``align``, ``refine`` or another stage of the method; ``probe``: a probe scores
    the embedder, before, during or after aligning; ``done``: the trial has ended.
    """
    epoch: int
    """Number of the epoch in its stage, from 1 to at most ``epochs``.

    For a probe: number of align epochs before it.
    """
    epochs: int
    loss: float | None = None
    """Mean training loss; for a probe of the embedder, the error that the probe
    measured.
    """
    distance: float | None = None
    validation_score: float | None = None
    learning_rate: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Record of the result of a trial so far; after the last stage, the final result.

    Lower scores are better.
    """

    validation_score: float | None = None
    """Validation score of the kept weights: the lowest, in ``best_epoch``, or the last
    (`RefineConfig.keep`).
    """
    test_score: float | None = None
    """Test score of the same weights; None unless the trial is done and may read the
    test split.
    """
    best_epoch: int | None = None
    epochs: int = 0
    """Number of refine epochs that have run."""
    training_loss: float | None = None
    """Mean training loss of the last refine epoch; None without gradients."""
    distance_before: float | None = None
    distance_after: float | None = None
    align_epochs: int = 0
    align_plateaued: bool = False
    """Whether aligning stopped early because the distance no longer decreased."""
    align_reused: bool = False
    """Whether the aligned embedder was loaded from the cache, where another trial had
    stored it.
    """
    align_chosen: int | None = None
    """Align epoch whose embedder a guard chose for refining (0: before aligning); None
    without a guard.
    """
    notes: str | None = None
    """One sentence per fallback, joined by "; ", e.g. that a class was left out or a
    solver did not converge.
    """
    precision: str | None = None
    """Precision in the refine stage: float32, tf32 or bfloat16; None before the first
    epoch of that stage.
    """
    micro_batch: int | None = None
    """Maximum number of samples per forward pass of training in the refine stage."""
    samples_per_second: float | None = None
    """Samples per second of training in the refine stage."""
    tokens_per_second: float | None = None
    """Tokens at the input of the body per second of training in the refine stage."""
    model_flop_utilisation: float | None = None
    """None; earlier versions reported it, and their records and checkpoints have it."""
    num_parameters: int = 0
    """Number of parameters of the model."""
    num_trainable: int = 0
    """Number of parameters that the refine stage trains."""
    align_seconds: float = 0.0
    """Seconds in the stages before refining."""
    refine_seconds: float = 0.0
    """Seconds in refine training."""
    evaluate_seconds: float = 0.0
    """Seconds in evaluation: all validations and the test."""
    peak_memory_mib: float | None = None
    """On CUDA, the maximum memory allocated; on a CPU, the largest resident size of the
    process after any epoch.
    """


def join_notes(notes: str | None, more: Iterable[str]) -> str | None:
    """Return ``notes`` (sentences joined by "; ") with the new ones of ``more``.

    None if there are none.
    """
    present = notes.split("; ") if notes else []
    new = [note for note in more if note not in present]
    return "; ".join([*present, *new]) or None
