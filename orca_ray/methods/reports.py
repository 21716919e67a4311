"""Reports of an adaptation: progress after each epoch, and the outcome."""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["align", "refine", "done"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a trial after one `Adaptation.step`."""

    stage: Stage
    epoch: int
    """Epoch of the stage, from 1."""
    epochs: int
    loss: float | None = None
    distance: float | None = None
    validation_score: float | None = None
    learning_rate: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of an adaptation, intermediate or final; scores are lower is better."""

    validation_score: float | None = None
    """Best validation score, that of ``best_epoch``."""
    test_score: float | None = None
    """Test score of the best epoch's weights; None unless the trial may read test and is done."""
    best_epoch: int | None = None
    epochs: int = 0
    """Refine epochs run."""
    distance_before: float | None = None
    distance_after: float | None = None
    align_epochs: int = 0
    align_plateaued: bool = False
    """Whether aligning stopped early because the distance no longer decreased."""
    align_reused: bool = False
    """Whether the aligned embedder was replayed from another trial's alignment."""
    notes: str | None = None
    """Fallbacks taken, one sentence each, joined by "; ": a class left out, a solver stopped before its tolerance."""
    precision: str | None = None
    """Precision of the refine stage: float32, tf32 or bfloat16; None before its first epoch."""
    micro_batch: int | None = None
    """Samples per forward pass in the refine stage."""
    samples_per_second: float | None = None
    tokens_per_second: float | None = None
    """Training rates over all refine epochs, in samples and in their tokens at the input of the body."""
    model_flop_utilisation: float | None = None
    """Operations of the model per second relative to the device's peak; None if the peak is unknown."""
    num_parameters: int = 0
    num_trainable: int = 0
    """Number of parameters that the refine stage trains."""
    align_seconds: float = 0.0
    refine_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    """Durations of training alone, and of all validations and of test."""
    peak_memory_mib: float | None = None
    """CUDA: maximum memory allocated; CPU: largest resident size of the process at the end of an epoch."""
