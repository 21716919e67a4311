"""Tasks and bodies small enough for a whole trial to take a fraction of a second."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orca_ray.data import cache
from orca_ray.data.prepared import PreparedData, Split, SplitName
from orca_ray.data.rows import Target
from orca_ray.methods.recipe import Scalar
from orca_ray.methods.reports import Outcome, Progress
from orca_ray.methods.stages.adaptation import Adaptation
from orca_ray.results.record import Record
from orca_ray.tasks.task import Task
from orca_ray.training.ranks import ALONE, Ranks
from tests.models.tiny import save_tokenizer

QUICK: dict[str, Scalar] = {
    "embedder.sequence_length": 8,
    "embedder.image_size": 16,
    "align.epochs": 3,
    "align.samples_per_class": 8,
    "align.source_samples": 40,
    "refine.epochs": 3,
    "refine.batch_size": 16,
    "refine.learning_rate": 1e-2,
    "refine.dropout": 0.1,
}


class NoTest(dict[SplitName, Split]):
    """Splits of which test must not be touched."""

    def __getitem__(self, name: SplitName) -> Split:
        assert name != "test", "the test split was read"
        return super().__getitem__(name)


def make_home(directory: Path) -> Path:
    """Make an empty cache directory that shares fetched packages and bodies with the user's."""
    for shared in (cache.subdirectory("packages"), cache.subdirectory("bodies")):
        shared.mkdir(parents=True, exist_ok=True)
        (directory / shared.name).symlink_to(shared, target_is_directory=True)
    return directory


def save_bert(directory: Path) -> str:
    """Save a random two-layer BERT; return its name as a body."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(1234)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=120,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(directory)
    save_tokenizer(directory)
    return str(directory)


def save_vit(directory: Path) -> str:
    """Save a random two-layer ViT with 8-pixel patches; return its name as a body."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(1234)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(directory)
    return str(directory)


def make_task(target: Target, input_shape: tuple[int, ...] = (2, 16)) -> Task:
    loss, metric = {
        "classes": ("cross_entropy", "error"),
        "labels": ("bce", "one_minus_auroc"),
        "scalar": ("mse", "rmse"),
        "dense": ("relative_l2", "relative_l2"),
    }[target.kind]
    return Task(
        name=f"tiny/{target.kind}",
        title="",
        modality="",
        input_shape=input_shape,
        target=target,
        loss=loss,
        metric=metric,
        body="minilm-l6",
        num_samples=(50, 40, 45),
        licence="",
        citation="",
        reference="",
        build=lambda _: {},
    )


CLASSES = Target("classes", size=3)
every_target = pytest.mark.parametrize(
    ("target", "input_shape"),
    [
        (Target("labels", size=3), (2, 16)),
        (Target("scalar"), (1, 30)),
        (Target("dense", shape=(16,)), (1, 16)),
        (Target("dense", shape=(8, 8)), (1, 8, 8)),
    ],
    ids=["labels", "scalar", "dense-1d", "dense-2d"],
)
"""Runs a test with each kind of target other than classes."""
TASK = make_task(CLASSES)


def make_data(task: Task, *, readable_test: bool = True) -> PreparedData:
    """Draw learnable data: a class sets a frequency, other targets are functions of the input."""
    assert task.num_samples is not None
    assert task.input_shape is not None
    splits: dict[SplitName, Split] = {}
    names: tuple[SplitName, ...] = ("train", "validation", "test")
    for number, (name, size) in enumerate(zip(names, task.num_samples, strict=True)):
        random = np.random.RandomState(number)
        hidden = np.arange(size) % 3
        x = 0.5 * random.normal(size=(size, *task.input_shape))
        x += np.sin((hidden[:, None] + 1) * np.linspace(0, 3, task.input_shape[-1])).reshape(
            size, *[1] * (len(task.input_shape) - 1), -1
        )
        splits[name] = Split(x.astype(np.float32), _target(task.target, hidden, x))
    scaled = task.target.kind in ("scalar", "dense")
    mean, std = (np.float32(splits["train"].y.mean()), np.float32(splits["train"].y.std())) if scaled else (None, None)
    return PreparedData(
        name=task.name,
        fingerprint="0" * 16,
        splits=splits if readable_test else NoTest(splits),
        y_mean=None if mean is None else np.asarray(mean),
        y_std=None if std is None else np.asarray(std),
        directory=Path("unused"),
    )


def _target(target: Target, hidden: np.ndarray, x: np.ndarray) -> np.ndarray:
    if target.kind == "classes":
        return hidden.astype(np.int64)
    if target.kind == "labels":
        return np.stack([hidden == label for label in range(target.size)], axis=1).astype(np.float32)
    if target.kind == "scalar":
        scalar: np.ndarray = (5 + hidden + x.mean(axis=tuple(range(1, x.ndim)))).astype(np.float32)
        return scalar
    return (3 + x.reshape(len(x), -1)[:, : target.num_outputs].reshape(len(x), *target.shape)).astype(np.float32)


def start(
    body: str,
    method: str = "orca",
    *,
    task: Task = TASK,
    data: PreparedData | None = None,
    hyperparameters: Mapping[str, Scalar] = QUICK,
    seed: int = 0,
    test: bool = True,
    aligned: Path | None = None,
    threads: int = 1,
    device: str = "cpu",
    deterministic: bool = False,
    standardise: bool = True,
    ranks: Ranks = ALONE,
) -> Adaptation:
    """Start a trial; it shares its alignment only through a directory ``aligned``."""
    return Adaptation(
        task,
        data or make_data(task),
        method,
        body,
        hyperparameters,
        seed,
        test=test,
        device=device,
        threads=threads,
        deterministic=deterministic,
        reuse_aligned=aligned is not None,
        aligned=aligned,
        standardise=standardise,
        ranks=ranks,
    )


def run(adaptation: Adaptation) -> list[dict[str, Any]]:
    """Run to the end; return the progress after every step, without durations."""
    reports = []
    while not adaptation.done:
        reports.append(reported(adaptation.step()))
    return reports


def reported(progress: Progress) -> dict[str, Any]:
    values = asdict(progress)
    del values["seconds"]
    return values


def scores(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome without times, memory and speed, which differ from run to run."""
    return {name: value for name, value in asdict(outcome).items() if name not in Record.CIRCUMSTANCES}


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Return the names of weights that are not bit-equal."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}
