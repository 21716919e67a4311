"""Options of the align and refine stages; a value out of range raises a UserError that names the option."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orca_ray.alignment.registry import distance_names, source_names
from orca_ray.errors import UserError, unknown_name
from orca_ray.training.optimisation import align_schedule_names, optimizer_names, schedule_names

PRECISIONS = ("auto", "float32", "tf32", "bfloat16")


@dataclass(frozen=True)
class AlignConfig:
    """Options of the align stage."""

    distance: str = "l2"
    """Name in `orca_ray.alignment.registry`; ``docs/distance-study.md`` justifies the default."""
    epochs: int = 10
    """Maximum number of epochs, each one optimiser step on one sample of the training set; 0 skips the stage."""
    learning_rate: float = 0.02
    """Its unit depends on ``steps``; ``schedule`` scales it."""
    steps: str = "relative"
    """Unit of the learning rate. ``relative``: the share of a token's RMS by which one Adam step may move it
    (`relative_steps`). ``absolute``: the optimiser's own, as in the reference."""
    schedule: str = "step"
    """``step``: times 0.2 after one and two thirds of the epochs; ``reference_step``: times 0.2 after the epochs 20, 40
    and 60, whatever the number of epochs."""
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    momentum: float = 0.9
    """For the optimiser ``sgd``."""
    samples: int = 256
    """Training samples per epoch, in equal numbers per class as far as the classes are large enough."""
    samples_per_class: int = 0
    """Training samples per class and epoch (all of a smaller class), instead of ``samples`` in total; 0: use
    ``samples``."""
    tolerance: float = 0.002
    """The distance has reached a plateau when its mean over ``patience`` epochs is lower than that of the ``patience``
    epochs before by at most this share. The learning rate then drops to its next value, or the stage ends."""
    patience: int = 6
    """Epochs per mean for ``tolerance``; 0 disables plateau detection. A learning rate used for fewer than twice as
    many epochs is never cut short. On the pocket tasks with OTDD and MMD, 53 of 60 epochs run on average, which loses
    0.7 % of the decrease (2.6 % at most) to sampling noise; a longer patience reduces that."""
    source: str = ""
    """Name of the source features; empty: the default of the body's modality."""
    source_samples: int = 512
    """Number of source features."""
    clip: float = 1.0
    """Maximum gradient norm; 0 disables clipping."""

    def __post_init__(self) -> None:
        _one_of("align.distance", self.distance, distance_names())
        _one_of("align.source", self.source or "vocabulary", source_names())
        _one_of("align.optimizer", self.optimizer, optimizer_names())
        _one_of("align.steps", self.steps, ("relative", "absolute"))
        _one_of("align.schedule", self.schedule, align_schedule_names())
        _fraction("align.momentum", self.momentum)
        _at_least("align.epochs", self.epochs, 0)
        _positive("align.learning_rate", self.learning_rate)
        _at_least("align.weight_decay", self.weight_decay, 0.0)
        _at_least("align.samples", self.samples, 2)
        _at_least("align.samples_per_class", self.samples_per_class, 0)
        _at_least("align.tolerance", self.tolerance, 0.0)
        _at_least("align.patience", self.patience, 0)
        _at_least("align.source_samples", self.source_samples, 2)
        if self.source_samples > 1e6:
            raise UserError(f"align.source_samples must be at most {1e6:g}, got {self.source_samples!r}")
        _at_least("align.clip", self.clip, 0.0)


@dataclass(frozen=True)
class RefineConfig:
    """Options of the refine stage."""

    epochs: int = 20
    learning_rate: float = 3e-4
    """Base learning rate, reached after warm-up."""
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    batch_size: int = 32
    accumulation: int = 1
    """An optimiser step uses ``batch_size * accumulation`` samples. Only the product matters: the micro-batch size
    follows from the memory (`memory_mib`)."""
    last_step: str = "keep"
    """Batches at the end of an epoch that do not fill an optimiser step: ``keep`` makes a smaller step of them,
    ``drop`` skips them, as the reference does, unless they are the only ones."""
    schedule: str = "warmup_linear"
    warmup_epochs: float = 1.0
    decay_epochs: float = 0.0
    """Epoch at which the schedule ends, possibly after the last one; 0: at ``epochs``."""
    clip: float = 1.0
    """Maximum gradient norm of an optimiser step; 0 disables clipping."""
    dropout: float = 0.0
    stochastic_depth: str = "off"
    """``body`` skips attention at the pretrained body's own rates. Swin's increase to 0.1; transformers until late
    2024, and so most likely the reference, used 0.1 in every layer (huggingface/transformers#34291)."""
    momentum: float = 0.9
    """For the optimiser ``sgd``."""
    body_learning_rate_scale: float = 1.0
    """Factor on the learning rate of the body's parameters."""
    precision: str = "auto"
    """Precision of the body's matrix products: ``auto`` (chosen by `orca_ray.training.precision`), ``float32``,
    ``tf32`` or ``bfloat16``."""
    memory_mib: int = 0
    """MiB for the activations of one forward pass; 0: 1024 on a CPU, an eighth of a CUDA device's memory."""
    gradient_checkpointing: str = "off"
    """``on`` stores only the input of each layer for the backward pass and recomputes the rest: equal scores, less
    memory, up to a third more time."""
    compile: str = "auto"
    """``on``: use `torch.compile` for training; ``auto``: on CUDA if enough steps follow to amortise it."""

    def __post_init__(self) -> None:
        _at_least("refine.epochs", self.epochs, 1)
        _one_of("refine.last_step", self.last_step, ("keep", "drop"))
        _positive("refine.learning_rate", self.learning_rate)
        _one_of("refine.optimizer", self.optimizer, optimizer_names())
        _at_least("refine.weight_decay", self.weight_decay, 0.0)
        _at_least("refine.batch_size", self.batch_size, 1)
        _at_least("refine.accumulation", self.accumulation, 1)
        _one_of("refine.schedule", self.schedule, schedule_names())
        _at_least("refine.warmup_epochs", self.warmup_epochs, 0.0)
        _at_least("refine.decay_epochs", self.decay_epochs, 0.0)
        _at_least("refine.clip", self.clip, 0.0)
        _fraction("refine.dropout", self.dropout)
        _one_of("refine.stochastic_depth", self.stochastic_depth, ("off", "body"))
        _fraction("refine.momentum", self.momentum)
        _at_least("refine.body_learning_rate_scale", self.body_learning_rate_scale, 0.0)
        _one_of("refine.precision", self.precision, PRECISIONS)
        _at_least("refine.memory_mib", self.memory_mib, 0)
        _one_of("refine.gradient_checkpointing", self.gradient_checkpointing, ("off", "on"))
        _one_of("refine.compile", self.compile, ("auto", "on", "off"))


def _at_least(option: str, value: float, minimum: float) -> None:
    if not minimum <= value < math.inf:
        raise UserError(f"{option} must be at least {minimum:g} and finite, got {value!r}")


def _positive(option: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise UserError(f"{option} must be greater than 0 and finite, got {value!r}")


def _fraction(option: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise UserError(f"{option} must be in [0, 1), got {value!r}")


def _one_of(option: str, value: str, allowed: Iterable[str]) -> None:
    names = list(allowed)
    if value not in names:
        raise unknown_name(option, value, names)
