"""What an adaptation reports: after every epoch, and in the end."""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["align", "refine", "done"]


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one `Adaptation.step` did."""

    stage: Stage
    epoch: int
    """Epoch of the stage, from 1."""
    epochs: int
    """Epochs of the stage."""
    loss: float | None = None
    distance: float | None = None
    validation_score: float | None = None
    learning_rate: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an adaptation has come to, so far or in the end; scores are lower is better."""

    validation_score: float | None = None
    """Best validation score; that of ``best_epoch``."""
    test_score: float | None = None
    """Of the best epoch's weights; None unless the trial may read test and is done."""
    best_epoch: int | None = None
    epochs: int = 0
    """Refine epochs run."""
    distance_before: float | None = None
    distance_after: float | None = None
    align_epochs: int = 0
    """Align epochs run, or taken over from a trial with the same alignment."""
    align_plateaued: bool = False
    """Whether aligning was shorter than its epochs, for the distance no longer fell."""
    align_reused: bool = False
    """Whether the aligned embedder came from another trial's alignment."""
    notes: str | None = None
    """Fallbacks taken, one sentence each, joined by "; ": a class left out, a solver stopped before its tolerance."""
    precision: str | None = None
    """Of the forward pass in refining: float32, tf32 or bfloat16; None before the first refine epoch."""
    micro_batch: int | None = None
    """Samples of one forward pass in refining."""
    samples_per_second: float | None = None
    """Training samples through forward and backward pass, over all refine epochs."""
    tokens_per_second: float | None = None
    """Samples a second times the tokens of one at the body's entrance."""
    model_flop_utilisation: float | None = None
    """Share of the device's peak rate that the model's own operations make up; None where the peak is unknown."""
    num_parameters: int = 0
    num_trainable: int = 0
    """Numbers that refining trains."""
    align_seconds: float = 0.0
    refine_seconds: float = 0.0
    """Training only."""
    evaluate_seconds: float = 0.0
    """Validation of every epoch, and test."""
    peak_memory_mib: float | None = None
    """CUDA: most memory allocated; CPU: largest resident size of the process seen at the end of an epoch."""
