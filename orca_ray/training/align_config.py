"""Options of the align stage, and what one of its epochs reports."""

from dataclasses import dataclass

from orca_ray.alignment.registry import distance_names, source_names
from orca_ray.training import checks
from orca_ray.training.optimisation import align_schedule_names, optimizer_names


@dataclass(frozen=True)
class AlignConfig:
    """Options of the align stage."""

    distance: str = "l2"
    """Name of a distance (`orca_ray.alignment.registry`); the default is chosen by ``docs/distance-study.md``."""
    epochs: int = 10
    """Most epochs, each one optimiser step on one draw; 0 skips the stage."""
    learning_rate: float = 0.02
    """By ``steps`` and ``schedule``."""
    steps: str = "relative"
    """What the learning rate counts: ``relative``, the share of a token's RMS by which one Adam step may move it
    (`relative_steps`); ``absolute``, the optimiser's own, as in the reference."""
    schedule: str = "step"
    """``step``: the rate times 0.2 after one and two thirds of the epochs; ``reference_step``: after the epochs 20, 40
    and 60, however many there are."""
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    momentum: float = 0.9
    """Of optimiser ``sgd``."""
    samples: int = 256
    """Training samples of one draw, shared equally by the classes as far as they have enough."""
    samples_per_class: int = 0
    """Training samples of every class in one draw, all of a class that has fewer, instead of ``samples`` in total;
    0: as ``samples`` says."""
    tolerance: float = 0.002
    """A curve whose mean over ``patience`` epochs is lower than over as many before by no more than this share is flat:
    the learning rate drops at once to its next step, and the stage ends if there is none."""
    patience: int = 6
    """Epochs over which ``tolerance`` is judged; 0 runs all epochs. A learning rate (each has a third of ``epochs``) of
    less than twice as many epochs is never cut short. Chosen on the pocket tasks with OTDD and MMD, 60 epochs and one
    seed: 53 epochs are run on average, giving up 0.7 % of the fall (2.6 % at most). What is given up early comes from
    the draws' noise, so it is patience that guards against it, not a smaller tolerance."""
    source: str = ""
    """Source features to align to; empty: the default of the body's modality."""
    source_samples: int = 512
    """Source features to align to, in number."""
    clip: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""

    def __post_init__(self) -> None:
        checks.one_of("align.distance", self.distance, distance_names())
        checks.one_of("align.source", self.source or "vocabulary", source_names())
        checks.one_of("align.optimizer", self.optimizer, optimizer_names())
        checks.one_of("align.steps", self.steps, ("relative", "absolute"))
        checks.one_of("align.schedule", self.schedule, align_schedule_names())
        checks.fraction("align.momentum", self.momentum)
        checks.at_least("align.epochs", self.epochs, 0)
        checks.above("align.learning_rate", self.learning_rate, 0.0)
        checks.at_least("align.weight_decay", self.weight_decay, 0.0)
        checks.at_least("align.samples", self.samples, 2)
        checks.at_least("align.samples_per_class", self.samples_per_class, 0)
        checks.at_least("align.tolerance", self.tolerance, 0.0)
        checks.at_least("align.patience", self.patience, 0)
        checks.at_least("align.source_samples", self.source_samples, 2)
        checks.at_most("align.source_samples", self.source_samples, 1e6)
        checks.at_least("align.clip", self.clip, 0.0)


@dataclass(frozen=True)
class AlignEpoch:
    """What one epoch of aligning did."""

    epoch: int
    """Counted from 1."""
    distance: float
    """Distance of the epoch's draw before the epoch's step."""
    learning_rate: float
    seconds: float
