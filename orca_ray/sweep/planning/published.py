"""The reference's tuned configuration of each task, in our names: what its search tries first.

Read off the configuration files of github.com/sjunhongshen/ORCA (commit 19b8c1c), kept as facts in
``reference_hyperparameters.csv``; a row is a data set.
"""

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from orca_ray.models.names import modality_of
from orca_ray.sweep.planning.space import Scalar
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
_MOST_TOKENS = {"PDE-Burgers": 512}
"""Where the reference cuts otherwise than it says: for Burgers' 1024 points it declares 256, of which 128 tokens are to
be made, and so cuts them into patches of two."""
_SOURCES = {"sequence": "conll2003", "image": "cifar10"}
_ALIGN_FACTOR, _ALIGN_FACTOR_UP_TO = 10.0, 1e-3


def dataset_of(task: str) -> str | None:
    """Return what the reference calls a task, or None where it has no configuration for it."""
    benchmark, _, name = task.partition("/")
    dataset = f"OPENML{name}" if benchmark == "openml" else _NAMES.get(benchmark, {}).get(name)
    return dataset if dataset in _rows() else None


def published_settings(task: str, *, paper_body: str | None = None) -> dict[str, Scalar]:
    """Return the settings of a task's published configuration; none where there is none.

    ``paper_body``, the body under the protocol ``paper``, adds the paper's alignment source for it, CoNLL-2003 or
    CIFAR-10, which must be fetched from the web; otherwise the source is the default of the body.

    The reference adds the gradients of the passes of a step where we average them, so SGD's rate is multiplied and L2
    decay divided by their number; passes that do not fill a step at the end of an epoch are dropped. Its align stage
    takes the first multiple of the batch above ``maxsamples`` of each class, and steps with the optimiser of refining,
    at ten times its rate up to 1e-3, a fifth after the epochs 20, 40 and 60. What differs all the same is listed in
    ``docs/decisions/0008-published-configurations.md``.
    """
    dataset = dataset_of(task)
    if dataset is None:
        return {}
    source = {} if paper_body is None else {"align.source": _SOURCES[modality_of(paper_body, get_task(task).kind)]}
    return _settings(task, _rows()[dataset]) | source


@cache
def _rows() -> Mapping[str, Mapping[str, str]]:
    text = (files("orca_ray.sweep.planning") / "reference_hyperparameters.csv").read_text(encoding="utf-8")
    return {row["dataset"]: row for row in csv.DictReader(text.splitlines())}


def _settings(task: str, row: Mapping[str, str]) -> dict[str, Scalar]:
    optimizer, rate, decay = row["optimizer"].lower(), float(row["lr"]), float(row["weight_decay"])
    batch, accumulation = int(row["batch_size"]), int(row["accum"])
    summed = accumulation if optimizer == "sgd" else 1
    l2 = accumulation if optimizer in ("sgd", "adam") else 1
    return {
        **_embedder(task, row),
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


def _embedder(task: str, row: Mapping[str, str]) -> dict[str, Scalar]:
    if get_task(task).kind == "image":
        return {"embedder.image_size": _IMAGE_SIZE}
    most_tokens = _MOST_TOKENS.get(row["dataset"], int(row["target_seq_len"]))
    return {"embedder.sequence_length": most_tokens, "embedder.patching": "divide"}
