"""A network, small enough to train in milliseconds, and data for it."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.data.prepared import Split
from orca_ray.data.rows import Array, RowIndex, Rows, Target
from orca_ray.models.body import Body, seeded
from orca_ray.models.crossmodal import CrossModalModel, PooledHead, build_model
from orca_ray.models.embedder import Embedder
from orca_ray.models.modality import EmbedderConfig
from orca_ray.tasks.augmentations import Augmentation
from orca_ray.training.config import RefineConfig
from orca_ray.training.evaluate import (
    BATCH_SIZE,
    Objective,
    SplitInputs,
    predict,
    score,
)
from orca_ray.training.numerics import Precision
from orca_ray.training.refine import RefineLoop

CPU = torch.device("cpu")
EXACT = Precision("float32", CPU)
CLASSES = Target("classes", size=3)
OBJECTIVE = Objective(CLASSES, "cross_entropy", "error")
SHAPE = (1, 32)
"""Shape of the inputs of `real_model`."""


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Let the system refuse to write more to a file, as a full disk does.

    The write fails in the midst of the file.
    """
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard_limit))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft_limit, hard_limit))


class ToyEmbedder(Embedder):
    layout = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv1d(1, 6, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.projection(x).transpose(1, 2))
        return tokens


class ToyBody(Body):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(6)
        self.num_calls = 0

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        self.num_calls += 1
        output: Tensor = self.norm(tokens_BTD + self.layer(tokens_BTD))
        return output


def toy_model(dropout: float = 0.0, seed: int = 0) -> CrossModalModel:
    with seeded(seed):
        return CrossModalModel(ToyEmbedder(), ToyBody(dropout), PooledHead(6, CLASSES))


def toy_split(num_samples: int, seed: int = 0) -> Split:
    """Return samples of three classes that differ in their mean.

    There is enough noise that they are not told apart at once.
    """
    random = np.random.RandomState(seed)
    y = np.arange(num_samples, dtype=np.int64) % 3
    noise = random.normal(size=(num_samples, 1, 8))
    means = 3.0 * np.sin(np.outer(y + 1, np.arange(8)))[:, None]
    return Split(x=(noise + means).astype(np.float32), y=y)


class Recording:
    """Rows that record which of them are read: one list of indices for each time."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.shape = rows.shape
        self.dtype = rows.dtype
        self.read: list[list[int]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: RowIndex) -> Array:
        self.read.append(np.arange(len(self))[part].tolist())
        return self._rows[part]


@dataclass(frozen=True)
class ScriptedObjective(Objective):
    """Objective whose scores come from a list, one a call."""

    scores: list[float] = field(default_factory=list)

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        return self.scores.pop(0)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether two sets of weights are equal bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def real_model(body: str, dropout: float = 0.0) -> CrossModalModel:
    config = EmbedderConfig(sequence_length=8)
    return build_model(
        input_shape=SHAPE,
        target=CLASSES,
        body=body,
        pretrained=True,
        config=config,
        dropout=dropout,
        seed=0,
    )


def real_split(num_samples: int) -> Split:
    random = np.random.RandomState(0)
    return Split(
        random.normal(size=(num_samples, *SHAPE)).astype(np.float32),
        np.arange(num_samples) % 3,
    )


def make_refine(
    model: CrossModalModel,
    config: RefineConfig,
    train: Split | None = None,
    validation: Split | None = None,
    *,
    seed: int = 0,
    objective: Objective = OBJECTIVE,
    head_only: bool = False,
    augmentation: Augmentation | None = None,
    on_step: Callable[[], None] | None = None,
    by_log_loss: bool = False,
) -> RefineLoop:
    parameters = model.head.parameters() if head_only else model.parameters()
    return RefineLoop(
        model,
        parameters,
        toy_split(75) if train is None else train,
        toy_split(100, 1) if validation is None else validation,
        objective,
        config,
        seed=seed,
        device=CPU,
        augmentation=augmentation,
        on_step=on_step,
        by_log_loss=by_log_loss,
    )


def predictions_of(
    model: nn.Module,
    x: Rows,
    objective: Objective = OBJECTIVE,
    batch_size: int = BATCH_SIZE,
    precision: Precision = EXACT,
) -> np.ndarray:
    predictions, _ = predict(SplitInputs(x, model, precision), objective, batch_size)
    return predictions


def evaluate(
    model: nn.Module, x: Rows, y: np.ndarray, objective: Objective = OBJECTIVE
) -> float:
    """Return the score of a model over a whole split, independently of a loop."""
    return score(predictions_of(model, x, objective), y, objective)


@contextmanager
def limited_memory(
    model: CrossModalModel, most: int, error: Exception | None = None, *, training: bool
) -> Iterator[list[int]]:
    """Raise ``error`` for batches of more than ``most`` samples; yield their sizes.

    The limit holds in training or in evaluation.
    """
    sizes: list[int] = []

    def allocate(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        if model.training == training:
            sizes.append(len(x))
            if len(x) > most:
                raise error or torch.OutOfMemoryError("CUDA out of memory")

    handle = model.embedder.register_forward_pre_hook(allocate)
    try:
        yield sizes
    finally:
        handle.remove()
