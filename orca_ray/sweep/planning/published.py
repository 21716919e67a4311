"""The tuned configurations that ORCA's authors published, one per task, under orca-ray's hyper-parameter names.

``reference_hyperparameters.csv`` holds the values of the configuration files of github.com/sjunhongshen/ORCA (commit
19b8c1c), one data set per row. In a sweep file with ``published: true``, they are the first trial of a search.
"""

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from orca_ray.models.modality import get_modality, modality_of
from orca_ray.sweep.planning.space import Scalar
from orca_ray.tasks.registry import get_task

_SOURCE_SAMPLES = 5000
_MAX_TOKENS = {"PDE-Burgers": 512}
"""Largest number of tokens, where the reference's code does not use the configured one. For Burgers' equation 128
tokens are configured for 256 points, i.e. patches of two; the code reads 1024 points, which makes 512 patches."""
_ALIGN_FACTOR, _ALIGN_FACTOR_UP_TO = 10.0, 1e-3


def published_settings(task: str, *, paper_body: str | None = None) -> dict[str, Scalar]:
    """Return a task's published configuration as hyper-parameters; empty if the reference has none for the task.

    Under the protocol ``paper``, pass the name of the body as ``paper_body``: the result then contains
    ``align.source``, the paper's source for the body's modality (CoNLL-2003 or CIFAR-10), which must be downloaded.
    Otherwise pass None: without ``align.source``, alignment uses the default source of the body's modality.

    Refine stage: the reference sums the gradients of the micro-batches of a step; orca-ray averages them. SGD's
    learning rate is therefore multiplied by the number of micro-batches, and the weight decay of SGD and Adam divided
    by it. As in the reference, micro-batches at the end of an epoch that do not fill a step are dropped.

    Align stage: the samples per class are the smallest multiple of the batch size above the reference's
    ``maxsamples``. The optimiser is that of the refine stage. The learning rate is ten times the published one if the
    latter is at most 1e-3, else equal to it; it is multiplied by 0.2 after epochs 20, 40 and 60.

    ``docs/decisions/0008-published-configurations.md`` lists the remaining differences.
    """
    row = reference_row(task)
    if row is None:
        return {}
    settings = _settings(task, row)
    if paper_body is not None:
        settings["align.source"] = modality_of(paper_body, get_task(task).kind).paper_source
    return settings


def reference_row(task: str) -> Mapping[str, str] | None:
    """Return a task's row of ``reference_hyperparameters.csv``, column names and text unchanged; None without a row."""
    return _rows().get(task.replace("pdebench_generated/", "pdebench/"))


@cache
def _rows() -> Mapping[str, Mapping[str, str]]:
    text = (files("orca_ray.sweep.planning") / "reference_hyperparameters.csv").read_text(encoding="utf-8")
    return {row["task"]: row for row in csv.DictReader(text.splitlines())}


def _settings(task: str, row: Mapping[str, str]) -> dict[str, Scalar]:
    optimizer, rate, decay = row["optimizer"].lower(), float(row["lr"]), float(row["weight_decay"])
    batch, accumulation = int(row["batch_size"]), int(row["accum"])
    summed = accumulation if optimizer == "sgd" else 1
    l2 = accumulation if optimizer in ("sgd", "adam") else 1
    max_tokens = _MAX_TOKENS.get(row["dataset"], int(row["target_seq_len"]))
    embedder = get_modality(get_task(task).kind).paper_embedder(max_tokens)
    return {
        **{f"embedder.{name}": value for name, value in embedder.items()},
        "align.distance": "otdd_reference",
        "align.epochs": int(row["align_epochs"]),
        "align.steps": "absolute",
        "align.schedule": "reference_step",
        "align.optimizer": optimizer,
        "align.learning_rate": rate * (_ALIGN_FACTOR if rate <= _ALIGN_FACTOR_UP_TO else 1.0),
        "align.weight_decay": decay,
        "align.momentum": float(row["momentum"]),
        "align.samples_per_class": (int(row["align_maxsamples"]) // batch + 1) * batch,
        "align.source_samples": _SOURCE_SAMPLES,
        "align.patience": 0,
        "align.clip": 0.0,
        "refine.epochs": int(row["refine_epochs"]),
        "refine.optimizer": optimizer,
        "refine.learning_rate": rate * summed,
        "refine.weight_decay": decay / l2,
        "refine.momentum": float(row["momentum"]),
        "refine.batch_size": batch,
        "refine.accumulation": accumulation,
        "refine.last_step": "drop" if accumulation > 1 else "keep",
        "refine.schedule": "warmup_linear",
        "refine.warmup_epochs": float(row["warmup_epochs"]),
        "refine.decay_epochs": float(row["decay_epochs"]),
        "refine.clip": max(0.0, float(row["clip"])),
        "refine.dropout": float(row["dropout"]),
        "refine.stochastic_depth": "body",
    }
