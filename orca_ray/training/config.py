"""Options of training data and of the align and refine stages.

A value out of range raises a UserError. `Config` and the annotations also serve the
options of single methods (`Recipe.options`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from orca_ray.alignment.registry import distance_names, source_names
from orca_ray.errors import UserError
from orca_ray.options import (
    Amount,
    Config,
    Count,
    Fraction,
    Number,
    Positive,
    Share,
    at_least_2,
    must,
    one_of,
)

__all__ = [
    "PRECISIONS",
    "AlignConfig",
    "Amount",
    "Config",
    "Count",
    "DataConfig",
    "Fraction",
    "Number",
    "Positive",
    "RefineConfig",
    "Share",
    "at_least_2",
    "must",
    "one_of",
]

PRECISIONS = ("auto", "fast", "float32", "tf32", "bfloat16")
"""Values of ``refine.precision``; see `choose_precision`."""
OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}
"""Name of the class in `torch.optim`, by option value."""
Schedule = Callable[[int], float]
"""Function of the number of an optimiser step (from 0) that returns a factor on the
base learning rate.
"""
DECAYS: dict[str, Callable[[float], float]] = {
    "warmup_linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "constant": lambda progress: 1.0,
}
"""Decays by name.

Each maps the progress of the decay, from 0 to 1, to a factor on the learning rate.
"""


def _make_step(epochs: int) -> Schedule:
    return lambda epoch: 1.0 if 3 * epoch < 2 * epochs else 0.1


def _make_reference_step(epochs: int) -> Schedule:
    """Return the schedule of ORCA's code, which does not depend on ``epochs``."""

    def factor(epoch: int) -> float:
        num_decreases = sum(epoch > last for last in (20, 40, 60))
        return float(0.2**num_decreases)

    return factor


ALIGN_SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "step": _make_step,
    "reference_step": _make_reference_step,
}
"""Makers of the align stage's schedules by name; each is called with the number of
epochs.
"""
Optimizer = Annotated[str, partial(one_of, OPTIMIZERS)]


@dataclass(frozen=True)
class DataConfig(Config):
    """Options of the data that a trial trains on."""

    fraction: Share = 1.0
    """Share of the training samples that all stages use, drawn with the trial's seed
    (see `orca_ray.data.prepared.with_train_fraction`). Validation and test stay whole.
    Prepared data keep the normalisation and ``y_mean``, ``y_std`` that were computed
    from the whole training split.
    """
    chooses: Annotated[str, partial(one_of, ("metric", "log_loss"))] = "metric"
    """Quantity on validation data that chooses the epoch: the task's metric or, for
    classes and labels, the log loss. As the log loss has fewer ties, the choice makes
    the metric of the chosen epoch less optimistic.
    """
    fold: Annotated[
        int,
        partial(must, "at least -2 and finite", lambda value: -2 <= value < math.inf),
    ] = 0
    """Part of own data that validates. 0: the prepared validation split. 1 and above:
    this fold of train and validation together; the trial trains on the other folds, or
    on what is earlier and of other groups, if the data are divided so. -1: the trial
    trains on all samples, those of test included. -2: the trial trains on all samples
    but those of test.
    """


@dataclass(frozen=True)
class AlignConfig(Config):
    """Options of the align stage."""

    distance: Annotated[str, partial(one_of, distance_names)] = "l2"
    """Name of the distance to minimise."""
    epochs: Count = 60
    """Maximum number of epochs, each one optimiser step on a random sample of the
    training set; 0 skips the stage.
    """
    learning_rate: Amount = 0.0
    """Initial learning rate, which ``schedule`` decreases; ``steps`` defines its unit.
    0: the distance's own (`Distance.learning_rate`), which is relative.
    """
    steps: Annotated[str, partial(one_of, ("relative", "absolute"))] = "relative"
    """Unit of the learning rate. ``relative``: the change of a token in one Adam step,
    relative to the token's RMS (`relative_steps`). ``absolute``: the learning rate of
    the optimiser, as in the ORCA reference implementation.
    """
    schedule: Annotated[str, partial(one_of, ALIGN_SCHEDULES)] = "step"
    """``step`` multiplies the learning rate by 0.1 after two thirds of the epochs, or
    earlier on a plateau of the distance (see ``tolerance``); ``reference_step`` by 0.2
    after epochs 20, 40 and 60, whatever the number of epochs.
    """
    optimizer: Optimizer = "adamw"
    weight_decay: Amount = 0.0
    momentum: Fraction = 0.9
    """Momentum of the optimiser ``sgd``; others do not use it."""
    samples_per_class: Number = 128
    """Number of training samples of each class in an epoch; all samples of a smaller
    class.
    """
    tolerance: Amount = 0.01
    """The distance has reached a plateau if its mean over the last ``patience`` epochs
    is lower than over the ``patience`` epochs before those by at most this share of the
    distance before aligning. The schedule then skips to its next learning rate, or the
    stage ends.
    """
    patience: Count = 4
    """Number of epochs in a mean (see ``tolerance``); 0 disables plateau detection,
    which needs twice as many epochs at one learning rate. On the pocket tasks, 34 of 60
    epochs run on average (docs/decisions/0011-align-to-plateau.md).
    """
    source: Annotated[
        str, lambda option, value: one_of(source_names, option, value or "prose")
    ] = ""
    """Name of the alignment source; empty: the paper's source, ``conll2003`` for
    sequence bodies and ``cifar10`` for image bodies, if it is on this machine (a sweep
    tries to fetch it), else ``prose`` or ``photographs``.
    """
    source_samples: Annotated[
        int, at_least_2, partial(must, "at most 1e+06", lambda value: value <= 1e6)
    ] = 512
    """Number of source samples."""
    clip: Amount = 1.0
    """Maximum gradient norm; 0 disables clipping."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps == "absolute" and self.learning_rate == 0:
            raise UserError(
                "align.learning_rate must be greater than 0 for align.steps absolute,"
                " got 0"
            )


@dataclass(frozen=True)
class RefineConfig(Config):
    """Options of the refine stage."""

    epochs: Number = 20
    start: Annotated[
        str,
        partial(must, "the key of a trial", lambda value: not value or value.isalnum()),
    ] = ""
    """Key of the trial whose model, in the same results store, gives the initial
    weights; empty: none.
    """
    learning_rate: Positive = 3e-4
    """Learning rate after warm-up; ``schedule`` then decreases it."""
    optimizer: Optimizer = "adamw"
    weight_decay: Amount = 0.01
    batch_size: Number = 32
    accumulation: Number = 1
    """Batches per optimiser step, which uses ``batch_size * accumulation`` samples; see
    also `memory_mib`.
    """
    last_step: Annotated[str, partial(one_of, ("keep", "drop"))] = "keep"
    """What to do with the last batches of an epoch if there are fewer than
    ``accumulation``: ``keep`` uses them for a smaller step; ``drop`` skips them, as the
    ORCA reference does, unless they are the only ones.
    """
    schedule: Annotated[str, partial(one_of, DECAYS)] = "warmup_linear"
    warmup_epochs: Amount = 1.0
    decay_epochs: Amount = 0.0
    """Epoch at which the decay of the learning rate ends, which may exceed ``epochs``;
    0: ``epochs``.
    """
    clip: Amount = 1.0
    """Maximum gradient norm of an optimiser step; 0 disables clipping."""
    dropout: Fraction = 0.0
    label_smoothing: Fraction = 0.0
    """Share of the loss of a class target that all classes have equally (Szegedy et
    al., 2016, arXiv:1512.00567).
    """
    keep: Annotated[str, partial(one_of, ("best", "last"))] = "best"
    """Epoch whose weights are kept: the best on validation data (see
    `DataConfig.chooses`), or the last. With few validation samples, the best epoch is
    often best by chance, at a high learning rate before the end.
    """
    shift: Fraction = 0.0
    """Largest share of each side by which training images are shifted at random in
    every epoch, instead of the task's own augmentation; 0: none. Only images with
    classes or labels are shifted, and no spectrograms.
    """
    stochastic_depth: Annotated[str, partial(one_of, ("off", "body"))] = "off"
    """``body``: skip parts of layers (in Swin: attention) at random, with the rates of
    the pretrained body. Swin's rise with depth to 0.1; Hugging Face until late 2024,
    and so probably ORCA, used 0.1 everywhere (huggingface/transformers#34291).
    """
    momentum: Fraction = 0.9
    """Momentum of the optimiser ``sgd``; others do not use it."""
    body_learning_rate_scale: Amount = 1.0
    """Factor on the learning rate of the body's parameters."""
    precision: Annotated[str, partial(one_of, PRECISIONS)] = "auto"
    """Precision of the matrix products in the body; see `choose_precision` for ``auto``
    and ``fast``.
    """
    memory_mib: Count = 0
    """MiB for the activations of one micro-batch; 0: 1024 on a CPU, an eighth of the
    trial's share of GPU memory.
    """
    gradient_checkpointing: Annotated[str, partial(one_of, ("off", "on"))] = "off"
    """``on``: store only the input of each layer of the body for the backward pass and
    recompute the rest. Scores are equal; training needs less memory and up to a third
    more time.
    """
    compile: Annotated[str, partial(one_of, ("auto", "on", "off"))] = "auto"
    """``on``: train with `torch.compile`; ``auto``: only on CUDA, if enough
    micro-batches follow to save time.
    """
