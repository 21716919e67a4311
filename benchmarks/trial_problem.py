"""Problems for both the reference and us: raw files, body, source features and
settings, generated from seeds.

A problem is a folder in the reference's layout: ``roberta-base/``,
``datasets/text_xs_32.npy`` and ``text_ys_32.npy`` (source features), and
``datasets/challenge2017.pkl`` (ECG recordings) or ``task.npz`` (one of our tasks).
Shapes: N windows or samples, L their length.
"""

import json
import math
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WIDTH = 768
"""Width of the source features and the body; the reference accepts no other for
sequences.
"""
WINDOW = 1000
STRIDE = 500
CLASSES = "NAO~"
_STRIDES = dict(
    zip(CLASSES, (STRIDE, STRIDE // 6, STRIDE // 2, STRIDE // 20), strict=True)
)
"""Strides of the windows by class: the rarer classes of the original recordings are cut
more densely.
"""


@dataclass(frozen=True)
class Setting:
    """Settings of one trial, for both sides."""

    align_epochs: int
    refine_epochs: int
    batch_size: int = 4
    accumulation: int = 16
    most_tokens: int = 64
    samples_per_class: int = 128
    optimizer: str = "SGD"
    learning_rate: float = 1e-6
    weight_decay: float = 0.1
    momentum: float = 0.99
    warmup_epochs: int = 5
    decay_epochs: int = 200
    source_samples: int = 5000

    def reference_config(self, dataset: str, seed: int) -> dict[str, Any]:
        """Return the reference's configuration, the content of its YAML files."""
        rates = {
            "lr": self.learning_rate,
            "weight_decay": self.weight_decay,
            "momentum": self.momentum,
        }
        decays = {
            "sched": [20, 40, 60],
            "base": 0.2,
            "warmup_epochs": 10,
            "decay_epochs": 100,
        }
        schedule = {
            **decays,
            "warmup_epochs": self.warmup_epochs,
            "decay_epochs": self.decay_epochs,
        }
        values = {
            "dataset": dataset,
            "embedder_dataset": "text",
            "objective": "otdd-exact",
            "weight": "roberta",
            "maxsamples": self.samples_per_class,
            "experiment_id": 0,
            "seed": seed,
            "epochs": self.refine_epochs,
            "embedder_epochs": self.align_epochs,
            "predictor_epochs": 0,
            "finetune_method": "all",
            "drop_out": 0,
            "target_seq_len": self.most_tokens,
            "batch_size": self.batch_size,
            "eval_batch_size": 10**6,
            "accum": self.accumulation,
            "clip": -1,
            "validation_freq": 1,
            "num_workers": 4,
            "reproducibility": False,
            "valid_split": False,
            "optimizer": {
                "name": self.optimizer,
                "params": {**rates, "betas": [0.9, 0.98]},
            },
            "scheduler": {"name": "WarmupLR", "params": schedule},
            "no_warmup_scheduler": {"name": "StepLR", "params": decays},
        }
        return {"hyperparameters": values}

    def our_hyperparameters(
        self, length: int, distance: str
    ) -> dict[str, float | int | str]:
        """Return our hyper-parameters for the same work on inputs [C, ``length``].

        The reference sums the gradients of a step's batches where we average them, so
        that its SGD learns ``accumulation`` times as fast as its rate says; Adam does
        not depend on the scale of the gradient. Its align stage has no counterpart to
        our relative learning rate, which keeps its default. Plateau detection is off.
        """
        factor = self.accumulation if self.optimizer == "SGD" else 1
        return {
            "embedder.sequence_length": reference_tokens(length, self.most_tokens),
            "align.distance": distance,
            "align.epochs": self.align_epochs,
            "align.patience": 0,
            "align.samples_per_class": self.drawn_per_class,
            "align.source": "text",
            "align.source_samples": self.source_samples,
            "refine.epochs": self.refine_epochs,
            "refine.optimizer": self.optimizer.lower(),
            "refine.learning_rate": self.learning_rate * factor,
            "refine.weight_decay": self.weight_decay / factor,
            "refine.momentum": self.momentum,
            "refine.batch_size": self.batch_size,
            "refine.accumulation": self.accumulation,
            "refine.warmup_epochs": float(self.warmup_epochs),
            "refine.decay_epochs": float(self.decay_epochs),
            "refine.clip": 0.0,
            "refine.dropout": 0.0,
        }

    @property
    def drawn_per_class(self) -> int:
        """Samples of one class in one align epoch: the first multiple of the batch
        above `samples_per_class`.
        """
        return (self.samples_per_class // self.batch_size + 1) * self.batch_size

    def key(self) -> dict[str, Any]:
        """Return the settings that comparable runs must share."""
        return asdict(self)


def reference_tokens(length: int, most: int) -> int:
    """Return the number of tokens of a series in the reference, whose patches must
    divide it (ours may be padded).
    """
    patch = next(
        side
        for side in range(1, length + 1)
        if length % side == 0 and length // side <= most
    )
    return length // patch


def write_body(folder: Path) -> None:
    """Write a RoBERTa body of two layers with random weights and the published width,
    vocabulary and norms' epsilon.
    """
    import torch
    from transformers import RobertaConfig, RobertaModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = RobertaConfig(
        vocab_size=50265,
        num_hidden_layers=2,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RobertaModel(config)
    # Zero in the published weights, as RoBERTa has no segments. The reference leaves it
    # out of its embedder.
    torch.nn.init.zeros_(model.embeddings.token_type_embeddings.weight)
    model.save_pretrained(folder)


def write_source(folder: Path, num_samples: int) -> None:
    """Write labelled source features [N, 1, `WIDTH`] of 7 classes: class means, strong
    directions and noise.

    The root mean square distance between two samples is 8. They have one token per
    sample; the published files have 32, which the reference averages.
    """
    random = np.random.default_rng(0)
    num_classes = 7
    rank = 32
    y = random.integers(num_classes, size=num_samples)
    spectrum = 1 / np.sqrt(1 + np.arange(rank))
    x = random.normal(size=(num_classes, WIDTH))[y]
    x += (random.normal(size=(num_samples, rank)) * spectrum) @ random.normal(
        size=(rank, WIDTH)
    )
    x += 0.3 * random.normal(size=(num_samples, WIDTH))
    x *= 8 / np.sqrt(2 * np.square(x - x.mean(axis=0)).sum(axis=1).mean())
    np.save(folder / "text_xs_32.npy", x[:, None].astype(np.float32))
    np.save(folder / "text_ys_32.npy", y)


def write_recordings(
    path: Path, *, train: int, test: int, windows: tuple[int, int]
) -> None:
    """Write made-up ECG recordings of four classes as the pickle that the reference
    reads.

    ``train`` recordings are cut into ``windows[0]`` windows each, ``test`` ones into
    ``windows[1]``.
    """
    random = np.random.default_rng(0)
    in_train = set(_split(train + test)[0].tolist())
    labels = [CLASSES[i % len(CLASSES)] for i in range(train + test)]
    data = np.empty(len(labels), dtype=object)
    for i, label in enumerate(labels):
        num_windows = windows[0] if i in in_train else windows[1]
        data[i] = _recording(
            label, WINDOW + _STRIDES[label] * (num_windows - 1) + 1, random
        )
    with path.open("wb") as file:
        pickle.dump({"data": data, "label": np.array(labels)}, file)


def _recording(label: str, length: int, random: np.random.Generator) -> Array:
    """Return a trace [length] of a class.

    N is regular, A irregular without P waves, O wide and slow, ~ mostly noise.
    """
    time = np.arange(length)
    trace = np.zeros(length)
    beat = random.uniform(0, 200)
    while beat < length + 100:
        width = random.normal(7.0, 1.0)
        if label == "O":
            width += 5.0
        trace += np.exp(-0.5 * ((time - beat) / max(width, 3.0)) ** 2)
        trace += 0.25 * np.exp(-0.5 * ((time - beat - 75) / 22) ** 2)
        if label != "A":
            trace += 0.15 * np.exp(-0.5 * ((time - beat + 45) / 10) ** 2)
        if label == "A":
            beat += random.uniform(130, 330)
        elif label == "O":
            beat += random.normal(230, 6) + 40
        else:
            beat += random.normal(230, 6)
    # Drawn for each label, so that noise does not depend on it.
    phase = random.uniform(0, 6)
    if label == "A":
        trace += 0.06 * np.sin(2 * np.pi * time / 45 + phase)
    noise = 0.6 if label == "~" else 0.12
    return trace + random.normal(scale=noise, size=length)


def read_windows(path: Path) -> dict[str, Array]:
    """Cut the recordings into train and test windows, x [N, 1, 1000] float32 and y [N],
    like the reference's ECG task.

    Each recording is standardised; a tenth of them, chosen by scikit-learn with seed 0,
    is the test split; windows of 1000 are cut at a stride that depends on the class,
    without a window that ends with the recording.
    """
    with path.open("rb") as file:
        raw = _ArraysOnly(file).load()
    named: dict[str, Array] = {}
    for part, indices in zip(("train", "test"), _split(len(raw["label"])), strict=True):
        x: list[Array] = []
        y: list[int] = []
        for i in indices:
            trace = (raw["data"][i] - raw["data"][i].mean()) / raw["data"][i].std()
            starts = range(0, len(trace) - WINDOW, _STRIDES[raw["label"][i]])
            x += [trace[start : start + WINDOW] for start in starts]
            y += [CLASSES.index(raw["label"][i])] * len(starts)
        named |= {
            f"{part}_x": np.stack(x)[:, None].astype(np.float32),
            f"{part}_y": np.array(y),
        }
    return named


def _split(num_recordings: int) -> Sequence[Array]:
    from sklearn.model_selection import train_test_split

    parts: list[Array] = train_test_split(
        np.arange(num_recordings), test_size=0.1, random_state=0
    )
    return parts


class _ArraysOnly(pickle.Unpickler):
    """Unpickler of plain containers and NumPy arrays; it refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a global that arrays consist of."""
        allowed = {"_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype"}
        if module.split(".")[0] == "numpy" and name in allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def write_task(folder: Path, name: str, *, train: int = 300, test: int = 100) -> int:
    """Write the first samples of one of our tasks as ``task.npz``, flattened to series;
    return their length L.
    """
    from orca_ray.tasks.registry import get_task

    task = get_task(name)
    data = task.prepare()
    dense = task.target.kind == "dense"
    arrays: dict[str, Any] = {}
    for part, split, most in (("train", data.train, train), ("test", data.test, test)):
        x = np.asarray(split.x)[:most]
        y = np.asarray(split.y)[:most]
        arrays |= {
            f"{part}_x": x.reshape(*x.shape[:2], -1),
            f"{part}_y": y.reshape(len(y), 1, -1) if dense else y,
        }
    outputs: Any = [1, math.prod(task.target.shape)] if dense else task.target.size
    np.savez(
        folder / "task.npz",
        info=json.dumps({"outputs": outputs, "loss": task.loss}),
        **arrays,
    )
    return int(arrays["train_x"].shape[-1])


def same_rows(first: dict[str, Array], second: dict[str, Array]) -> bool:
    """Return whether two sets of arrays hold the same (x, y) pairs, in any order."""
    return all(_rows(first, part) == _rows(second, part) for part in ("train", "test"))


def _rows(arrays: dict[str, Array], part: str) -> list[tuple[bytes, int]]:
    pairs = zip(arrays[f"{part}_x"], arrays[f"{part}_y"], strict=True)
    return sorted((np.ascontiguousarray(x).tobytes(), int(y)) for x, y in pairs)
