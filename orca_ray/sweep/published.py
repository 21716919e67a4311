"""The reference's tuned configuration of each task, in our names: what its search tries first.

Read off the configuration files of github.com/sjunhongshen/ORCA (commit 19b8c1c), kept as facts in
``reference_hyperparameters.csv``; a row is a data set.
"""

import csv
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from orca_ray.sweep.space import Scalar
from orca_ray.tasks.registry import get_task

_NAMES = {
    "nasbench360": {
        "cifar100": "CIFAR100", "cosmic": "COSMIC", "darcy_flow": "DARCY-FLOW-5", "deepsea": "DEEPSEA", "ecg": "ECG",
        "fsd50k": "FSD", "ninapro": "NINAPRO", "psicov": "PSICOV", "satellite": "SATELLITE", "spherical": "SPHERICAL",
    },
    "pdebench": {
        "advection": "PDE-ADV", "burgers": "PDE-Burgers", "cfd_1d": "PDE-1DCFD", "cfd_2d": "PDE-2DCFD",
        "darcy": "PDE-Darcy", "diffusion_reaction_1d": "PDE-RD", "diffusion_reaction_2d": "PDE-RD2D",
        "diffusion_sorption": "PDE-DS", "shallow_water": "PDE-SW",
    },
    "drug": {"ctrp": "DRUG-CTRP", "gdsc": "DRUG-GDSC"},
    "domainnet": {"sketch": "DOMAINNET"},
}  # fmt: skip
_NAMES["pdebench_generated"] = _NAMES["pdebench"]

_IMAGE_SIZE = 224
_SOURCE_SAMPLES = 5000
_SOURCES = {"sequence": "conll2003", "image": "cifar10"}
_ALIGN_FACTOR, _ALIGN_FACTOR_UP_TO = 10.0, 1e-3


def dataset_of(task: str) -> str | None:
    """Return what the reference calls a task, or None where it has no configuration for it."""
    benchmark, _, name = task.partition("/")
    dataset = f"OPENML{name}" if benchmark == "openml" else _NAMES.get(benchmark, {}).get(name)
    return dataset if dataset in _rows() else None


def published_settings(task: str, *, paper: bool = False) -> dict[str, Scalar]:
    """Return the settings of a task's published configuration; none where there is none.

    ``paper`` adds the paper's alignment sources, CoNLL-2003 and CIFAR-10, which must be fetched from the web; otherwise
    the source is the default of the body.

    What differs in form and is equal in effect: the reference adds the gradients of the passes of a step where we
    average them, so SGD's rate is multiplied and L2 decay divided by their number; its align stage takes the first
    multiple of the batch above ``maxsamples`` of each class; series are cut into patches that divide them. Its align
    stage steps with the optimiser of refining, at ten times its rate up to 1e-3, and at the epochs 20, 40 and 60 a
    fifth.
    """
    dataset = dataset_of(task)
    if dataset is None:
        return {}
    return _settings(task, _rows()[dataset]) | ({"align.source": _SOURCES[get_task(task).kind]} if paper else {})


@cache
def _rows() -> Mapping[str, Mapping[str, str]]:
    text = (files("orca_ray.sweep") / "reference_hyperparameters.csv").read_text(encoding="utf-8")
    return {row["dataset"]: row for row in csv.DictReader(text.splitlines())}


def _settings(task: str, row: Mapping[str, str]) -> dict[str, Scalar]:
    optimizer, rate, decay = row["optimizer"].lower(), float(row["lr"]), float(row["weight_decay"])
    batch, accumulation = int(row["batch_size"]), int(row["accum"])
    summed = accumulation if optimizer == "sgd" else 1
    l2 = accumulation if optimizer in ("sgd", "adam") else 1
    return {
        **_embedder(task, int(row["target_seq_len"])),
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
        "refine.schedule": "warmup_linear",
        "refine.warmup_epochs": float(row["warmup_epochs"]),
        "refine.decay_epochs": float(row["decay_epochs"]),
        "refine.clip": max(0.0, float(row["clip"])),
        "refine.dropout": float(row["dropout"]),
    }


def _embedder(task: str, most_tokens: int) -> dict[str, Scalar]:
    declared = get_task(task)
    if declared.kind == "image":
        return {"embedder.image_size": _IMAGE_SIZE}
    length = None if declared.input_shape is None else declared.input_shape[-1]
    return {"embedder.sequence_length": most_tokens if length is None else _dividing_tokens(length, most_tokens)}


def _dividing_tokens(length: int, most_tokens: int) -> int:
    """Return into how many tokens the reference cuts a series: the smallest patch that divides it decides."""
    least = math.ceil(length / most_tokens)
    return length // next(patch for patch in range(least, length + 1) if length % patch == 0)
