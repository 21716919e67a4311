"""A network of the shape of CrossModalModel, small enough to train in milliseconds, and data for it."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.data.prepared import Split
from orca_ray.data.target import Target
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training.objective import Objective

CPU = torch.device("cpu")
CLASSES = Target("classes", size=3)
OBJECTIVE = Objective(CLASSES, "cross_entropy", "error")


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Let the system refuse to write more to a file, as a full disk does, in the midst of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class ToyEmbedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv1d(1, 6, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.projection(x).transpose(1, 2))
        return tokens


class ToyBody(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.dropout = nn.Dropout(dropout)
        self.num_calls = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.num_calls += 1
        output: Tensor = self.norm(tokens + self.dropout(torch.relu(self.layer(tokens))))
        return output


class ToyHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features.mean(1))
        return logits


class ToyModel(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedder = ToyEmbedder()
        self.body = ToyBody(dropout)
        self.head = ToyHead()

    def embed(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.embedder(x)
        return tokens

    def features(self, x: Tensor) -> Tensor:
        return self.embed(x).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.embed(x)))
        return logits


def toy_model(dropout: float = 0.0, seed: int = 0) -> CrossModalModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast(CrossModalModel, ToyModel(dropout))


def toy_split(num_samples: int, seed: int = 0) -> Split:
    """Three classes that differ in their mean, with enough noise not to be solved at once."""
    random = np.random.RandomState(seed)
    y = np.arange(num_samples, dtype=np.int64) % 3
    x = random.normal(size=(num_samples, 1, 8)) + 3.0 * np.sin(np.outer(y + 1, np.arange(8)))[:, None]
    return Split(x=x.astype(np.float32), y=y)


@dataclass(frozen=True)
class ScriptedObjective(Objective):
    """Scores come from a list, one a call."""

    scores: list[float] = field(default_factory=list)

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        return self.scores.pop(0)


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
