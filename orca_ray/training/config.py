"""Options of the align and refine stages; a value out of range raises a UserError that names the option."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, get_type_hints

from orca_ray.alignment.registry import distance_names, source_names
from orca_ray.errors import UserError, unknown_name
from orca_ray.training.optimisation import ALIGN_SCHEDULES, DECAYS, OPTIMIZERS

PRECISIONS = ("auto", "float32", "tf32", "bfloat16")


def _must(text: str, holds: Callable[[float], bool], option: str, value: float) -> None:
    if not holds(value):
        raise UserError(f"{option} must be {text}, got {value!r}")


def _one_of(names: Callable[[], Iterable[str]] | Iterable[str], option: str, value: str) -> None:
    allowed = list(names() if callable(names) else names)
    if value not in allowed:
        raise unknown_name(option, value, allowed)


class _Config:
    def __post_init__(self) -> None:
        """Apply the rules in the annotations of the options."""
        section = type(self).__name__.removesuffix("Config").lower()
        for option, annotated in get_type_hints(type(self), include_extras=True).items():
            for rule in annotated.__metadata__:
                rule(f"{section}.{option}", getattr(self, option))


_AT_LEAST_0 = partial(_must, "at least 0 and finite", lambda value: 0 <= value < math.inf)
_AT_LEAST_2 = partial(_must, "at least 2 and finite", lambda value: 2 <= value < math.inf)
_Count = Annotated[int, _AT_LEAST_0]
_Number = Annotated[int, partial(_must, "at least 1 and finite", lambda value: 1 <= value < math.inf)]
_Amount = Annotated[float, _AT_LEAST_0]
_Positive = Annotated[float, partial(_must, "greater than 0 and finite", lambda value: 0 < value < math.inf)]
_Fraction = Annotated[float, partial(_must, "in [0, 1)", lambda value: 0 <= value < 1)]
_Optimizer = Annotated[str, partial(_one_of, OPTIMIZERS)]


@dataclass(frozen=True)
class AlignConfig(_Config):
    """Options of the align stage."""

    distance: Annotated[str, partial(_one_of, distance_names)] = "l2"
    """Name in `orca_ray.alignment.registry`; ``docs/distance-study.md`` justifies the default."""
    epochs: _Count = 10
    """Maximum number of epochs, each one optimiser step on one sample of the training set; 0 skips the stage."""
    learning_rate: _Positive = 0.02
    """Its unit depends on ``steps``; ``schedule`` scales it."""
    steps: Annotated[str, partial(_one_of, ("relative", "absolute"))] = "relative"
    """Unit of the learning rate. ``relative``: the share of a token's RMS by which one Adam step may move it
    (`relative_steps`). ``absolute``: the optimiser's own, as in the reference."""
    schedule: Annotated[str, partial(_one_of, ALIGN_SCHEDULES)] = "step"
    """``step``: times 0.2 after one and two thirds of the epochs; ``reference_step``: times 0.2 after the epochs 20, 40
    and 60, whatever the number of epochs."""
    optimizer: _Optimizer = "adamw"
    weight_decay: _Amount = 0.0
    momentum: _Fraction = 0.9
    """For the optimiser ``sgd``."""
    samples: Annotated[int, _AT_LEAST_2] = 256
    """Training samples per epoch, in equal numbers per class as far as the classes are large enough."""
    samples_per_class: _Count = 0
    """Training samples per class and epoch (all of a smaller class); 0: use ``samples`` in total."""
    tolerance: _Amount = 0.002
    """The distance has reached a plateau when its mean over ``patience`` epochs is lower than that of the ``patience``
    epochs before by at most this share. The learning rate then drops to its next value, or the stage ends."""
    patience: _Count = 6
    """Epochs per mean for ``tolerance``; 0 disables plateau detection. A learning rate used for fewer than twice as
    many epochs is never cut short. On the pocket tasks with OTDD and MMD, 53 of 60 epochs run on average, which loses
    0.7 % of the decrease (2.6 % at most) to sampling noise; a longer patience reduces that."""
    source: Annotated[str, lambda option, value: _one_of(source_names, option, value or "vocabulary")] = ""
    """Name of the source features; empty: the default of the body's modality."""
    source_samples: Annotated[int, _AT_LEAST_2, partial(_must, "at most 1e+06", lambda value: value <= 1e6)] = 512
    """Number of source features."""
    clip: _Amount = 1.0
    """Maximum gradient norm; 0 disables clipping."""


@dataclass(frozen=True)
class RefineConfig(_Config):
    """Options of the refine stage."""

    epochs: _Number = 20
    learning_rate: _Positive = 3e-4
    """Base learning rate, reached after warm-up."""
    optimizer: _Optimizer = "adamw"
    weight_decay: _Amount = 0.01
    batch_size: _Number = 32
    accumulation: _Number = 1
    """An optimiser step uses ``batch_size * accumulation`` samples; the micro-batch size follows from `memory_mib`."""
    last_step: Annotated[str, partial(_one_of, ("keep", "drop"))] = "keep"
    """Batches at the end of an epoch that do not fill an optimiser step: ``keep`` makes a smaller step of them,
    ``drop`` skips them, as the reference does, unless they are the only ones."""
    schedule: Annotated[str, partial(_one_of, DECAYS)] = "warmup_linear"
    warmup_epochs: _Amount = 1.0
    decay_epochs: _Amount = 0.0
    """Epoch at which the schedule ends, possibly after the last one; 0: at ``epochs``."""
    clip: _Amount = 1.0
    """Maximum gradient norm of an optimiser step; 0 disables clipping."""
    dropout: _Fraction = 0.0
    stochastic_depth: Annotated[str, partial(_one_of, ("off", "body"))] = "off"
    """``body`` skips attention at the pretrained body's own rates. Swin's increase to 0.1; transformers until late
    2024, and so most likely the reference, used 0.1 in every layer (huggingface/transformers#34291)."""
    momentum: _Fraction = 0.9
    """For the optimiser ``sgd``."""
    body_learning_rate_scale: _Amount = 1.0
    """Factor on the learning rate of the body's parameters."""
    precision: Annotated[str, partial(_one_of, PRECISIONS)] = "auto"
    """Precision of the body's matrix products; `choose_precision` documents ``auto``."""
    memory_mib: _Count = 0
    """MiB for the activations of one forward pass; 0: 1024 on a CPU, an eighth of a CUDA device's memory."""
    gradient_checkpointing: Annotated[str, partial(_one_of, ("off", "on"))] = "off"
    """``on`` stores only the input of each layer for the backward pass and recomputes the rest: equal scores, less
    memory, up to a third more time."""
    compile: Annotated[str, partial(_one_of, ("auto", "on", "off"))] = "auto"
    """``on``: use `torch.compile` for training; ``auto``: on CUDA if enough steps follow to amortise it."""
