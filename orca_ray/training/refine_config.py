"""Options of the refine stage."""

from dataclasses import dataclass

from orca_ray.training import checks
from orca_ray.training.compiling import COMPILE_MODES
from orca_ray.training.optimisation import optimizer_names, schedule_names
from orca_ray.training.precision import PRECISIONS


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
    """An optimiser step sees ``batch_size * accumulation`` samples; only the product matters, for the loop itself
    chooses how many go through one forward pass (`memory_mib`)."""
    last_step: str = "keep"
    """What becomes of the batches at the end of an epoch that do not fill a step: ``keep``, a smaller step of their
    own; ``drop``, none, as in the reference, unless there is no other."""
    schedule: str = "warmup_linear"
    warmup_epochs: float = 1.0
    decay_epochs: float = 0.0
    """Epoch at which the schedule ends, which may lie past ``epochs``; 0: at ``epochs``."""
    clip: float = 1.0
    """Largest gradient norm of an optimiser step; 0 turns clipping off."""
    dropout: float = 0.0
    stochastic_depth: str = "off"
    """``body``: attention is skipped at the rates that the body came with. Swin's rise to 0.1; transformers up to late
    2024, and so most likely the reference, took 0.1 in every layer (huggingface/transformers#34291)."""
    momentum: float = 0.9
    """Of optimiser ``sgd``."""
    body_learning_rate_scale: float = 1.0
    """Factor on the learning rate of the body's parameters."""
    precision: str = "auto"
    """Of the body's matrix products: ``auto`` (the device's, see `orca_ray.training.precision`), ``float32``, ``tf32``
    or ``bfloat16``."""
    memory_mib: int = 0
    """MiB that the activations of one forward pass may take; 0: 1024 on CPU, an eighth of the memory of a CUDA
    device."""
    gradient_checkpointing: str = "off"
    """``on``: keep only each layer's input for the backward pass and compute the rest again; same scores, less memory,
    up to a third more time."""
    compile: str = "auto"
    """``on``: `torch.compile` the training pass; ``auto``: on CUDA where enough steps lie ahead."""

    def __post_init__(self) -> None:
        checks.at_least("refine.epochs", self.epochs, 1)
        checks.one_of("refine.last_step", self.last_step, ("keep", "drop"))
        checks.above("refine.learning_rate", self.learning_rate, 0.0)
        checks.one_of("refine.optimizer", self.optimizer, optimizer_names())
        checks.at_least("refine.weight_decay", self.weight_decay, 0.0)
        checks.at_least("refine.batch_size", self.batch_size, 1)
        checks.at_least("refine.accumulation", self.accumulation, 1)
        checks.one_of("refine.schedule", self.schedule, schedule_names())
        checks.at_least("refine.warmup_epochs", self.warmup_epochs, 0.0)
        checks.at_least("refine.decay_epochs", self.decay_epochs, 0.0)
        checks.at_least("refine.clip", self.clip, 0.0)
        checks.fraction("refine.dropout", self.dropout)
        checks.one_of("refine.stochastic_depth", self.stochastic_depth, ("off", "body"))
        checks.fraction("refine.momentum", self.momentum)
        checks.at_least("refine.body_learning_rate_scale", self.body_learning_rate_scale, 0.0)
        checks.one_of("refine.precision", self.precision, PRECISIONS)
        checks.at_least("refine.memory_mib", self.memory_mib, 0)
        checks.one_of("refine.gradient_checkpointing", self.gradient_checkpointing, ("off", "on"))
        checks.one_of("refine.compile", self.compile, COMPILE_MODES)
