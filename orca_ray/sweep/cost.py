"""What a sweep will cost, told before it starts: device hours, disk, and what is missing.

Letters: T tokens, W width of a body, L its layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from orca_ray.data.protocol import PAPER
from orca_ray.data.raw import missing
from orca_ray.models.names import list_bodies, modality_of, parse_body_name
from orca_ray.sweep.study_plan import NodeResources, StudyPlan
from orca_ray.tasks.registry import get_task
from orca_ray.tasks.task import Task

ASSUMED_DEVICE, ASSUMED_RATE = "an A100 (bfloat16, a third of its peak)", 312e12 / 3
"""Operations a second where no device is at hand to be measured."""
CALIBRATED_SHARE = 0.5
"""Share of the rate of plain matrix products that a training step reaches."""
_CALIBRATION_SECONDS = 0.5
_PSEUDO_CLASSES, _USUAL_WIDTH = 10, 768
_SWIN_FORWARD = {"swin-tiny": 9.0e9, "swin_tiny": 9.0e9, "swin-base": 30.8e9, "swin_base": 30.8e9}
"""Operations of a forward pass at 224 pixels, two a multiplication (Liu et al., 2021, arXiv:2103.14030, table 1)."""


@dataclass(frozen=True)
class Rate:
    """How fast training computes."""

    device: str
    flops: float
    """Operations a second."""


@dataclass(frozen=True)
class TaskCost:
    """What one task of a sweep costs."""

    task: str
    trials: int
    epochs: int
    """Refine epochs of all trials, none stopped early."""
    hours: float | None
    """Of one device; None where the body or the number of samples is not known."""
    raw_bytes: int
    """Rough size of its raw files; 0: not known, or inside packages."""
    prepared_bytes: int | None
    """Of the arrays that trials read; None where only the data tell."""
    state: str
    """``prepared``, ``fetched``, or ``missing``."""
    command: str | None
    """What brings it a step further."""


def rate_of(nodes: Sequence[NodeResources]) -> Rate:
    """Return the rate to reckon with: measured on this machine's GPU, or the assumed one where there is none.

    A sweep on nodes without any GPU is reckoned with this machine's CPU, one thread.
    """
    import torch

    if torch.cuda.is_available():
        return Rate(torch.cuda.get_device_name(), CALIBRATED_SHARE * _measured("cuda"))
    if nodes and not any(node.gpus for node in nodes):
        return Rate("one CPU", CALIBRATED_SHARE * _measured("cpu"))
    return Rate(ASSUMED_DEVICE, ASSUMED_RATE)


def _measured(device: str) -> float:
    """Return the rate of products of the shape of a transformer's, in the precision that training takes there."""
    import torch

    cuda = device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    rows = 16384 if cuda else 512
    left, right = torch.ones(rows, 768, dtype=dtype, device=device), torch.ones(768, 3072, dtype=dtype, device=device)
    torch.mm(left, right)
    best, begin = 0.0, perf_counter()
    while perf_counter() - begin < _CALIBRATION_SECONDS:
        started = perf_counter()
        torch.mm(left, right)
        if cuda:
            torch.cuda.synchronize()
        best = max(best, 2.0 * left.numel() * right.shape[1] / (perf_counter() - started))
    return best


def task_costs(studies: Sequence[StudyPlan], rate: Rate) -> list[TaskCost]:
    """Return the cost of every task of the planned studies, in their order."""
    by_task: dict[str, list[StudyPlan]] = {}
    for study in studies:
        by_task.setdefault(study.task, []).append(study)
    return [_task_cost(get_task(name), plans, rate) for name, plans in by_task.items()]


def _task_cost(task: Task, plans: Sequence[StudyPlan], rate: Rate) -> TaskCost:
    protocol = plans[0].spec.protocol
    data = task.prepared(protocol)
    if data is not None:
        task = task.resolved(data)
    state, command = _state(task, prepared=data is not None)
    seconds = [study_seconds(task, plan, rate) for plan in plans]
    return TaskCost(
        task=task.name,
        trials=sum(plan.num_trials for plan in plans),
        epochs=sum(plan.num_trials * int(plan.first["refine.epochs"]) for plan in plans),
        hours=None if None in seconds else sum(each for each in seconds if each is not None) / 3600,
        raw_bytes=sum(file.disk_bytes for file in task.files) + round(sum(p.size_mb * 1e6 for p in task.packages)),
        prepared_bytes=_prepared_bytes(task),
        state=state,
        command=command,
    )


def _state(task: Task, *, prepared: bool) -> tuple[str, str | None]:
    if prepared:
        return "prepared", None
    if absent := missing(task.files, task.raw_directory):
        made_by = next((file.made_by for file in absent if file.made_by), None)
        return "missing", made_by or f"orca-sweep data fetch {task.name}"
    return "fetched", f"orca-sweep data prepare {task.name}"


def _prepared_bytes(task: Task) -> int | None:
    if task.input_shape is None or task.num_samples is None:
        return None
    outputs = 2 if task.target.kind == "classes" else task.target.num_outputs
    inputs = task.input_bytes or 4 * math.prod(task.input_shape)
    return sum(task.num_samples) * (inputs + 4 * outputs)


def study_seconds(task: Task, plan: StudyPlan, rate: Rate) -> float | None:
    """Return the seconds that all trials of one (task, method) take on one device; None where that is not known.

    A training step costs three forward passes, a validation one. An align epoch costs what its distance does, about
    that of `otdd_reference`; embedding is small beside it and left out.
    """
    if task.num_samples is None:
        return None
    forward = forward_flops(plan.body, tokens(task, plan))
    if forward is None:
        return None
    train, validation, test = task.num_samples
    if plan.spec.protocol == PAPER:  # trains on both, and selects on test
        train, validation = train + validation, test
    epochs = int(plan.first["refine.epochs"])
    per_trial = epochs * (3 * train + validation) * forward + align_flops(task, plan, train)
    tests = len(plan.confirm_seeds) * test * forward
    return (plan.num_trials * per_trial + tests) / rate.flops


def align_flops(task: Task, plan: StudyPlan, train: int) -> float:
    """Return the operations of one trial's distances: 24 passes over the n N costs and 4 n N D products an epoch."""
    if "align.epochs" not in plan.first:
        return 0.0
    classes = task.target.size if task.target.kind == "classes" else _PSEUDO_CLASSES
    per_class = int(plan.first["align.samples_per_class"])
    drawn = min(train, per_class * classes if per_class else int(plan.first["align.samples"]))
    width = next((info.width for info in list_bodies() if info.name == parse_body_name(plan.body)[0]), _USUAL_WIDTH)
    per_epoch = (24 + 4 * width) * drawn * int(plan.first["align.source_samples"])
    return float(int(plan.first["align.epochs"]) * per_epoch)


def tokens(task: Task, plan: StudyPlan) -> float:
    """Return how many tokens of one sample the body sees, patches of 16 pixels for image bodies."""
    if modality_of(plan.body, task.kind) == "image":
        patch = 14 if plan.body.startswith(("vit-s14", "facebook/dinov2")) else 16
        return (float(plan.first["embedder.image_size"]) / patch) ** 2
    length = math.inf if task.input_shape is None else math.prod(task.input_shape[1:])
    return min(float(plan.first["embedder.sequence_length"]), length)


def forward_flops(body: str, num_tokens: float) -> float | None:
    """Return the operations of one sample's forward pass; None for a body whose size is not known here.

    A transformer layer takes 24 T W² + 4 T² W, two operations a multiplication (Kaplan et al., 2020, arXiv:2001.08361,
    with attention); Swin bodies are counted from their paper, in proportion to the pixels.
    """
    base, layers = parse_body_name(body)
    for name, operations in _SWIN_FORWARD.items():
        if name in base:
            return operations * num_tokens / (224 / 16) ** 2
    info = next((info for info in list_bodies() if info.name == base), None)
    if info is None:
        return None
    depth = layers or info.layers
    return depth * (24 * num_tokens * info.width**2 + 4 * num_tokens**2 * info.width)
