"""What a sweep will cost, told before it starts: device hours, disk, and what is missing.

Letters: T tokens, W width of a body, L its layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from orca_ray.data.packages import is_cached
from orca_ray.data.protocol import HELD_OUT, PAPER
from orca_ray.data.raw import missing
from orca_ray.models.names import list_bodies, modality_of, parse_body_name
from orca_ray.sweep.planning.searches import SearchPlan
from orca_ray.tasks.registry import get_task
from orca_ray.tasks.task import Task

ASSUMED_UTILISATION = 1 / 3
"""Share of the rate of plain matrix products that a training step of a transformer reaches, at a guess; RoBERTa-base
reached 0.21 on a busy CPU core, in bfloat16."""
ASSUMED_DEVICE, ASSUMED_RATE = "an A100 (none is here to be measured)", 312e12 / 4
"""Where there is no GPU: a quarter of what the A100's data sheet says of bfloat16."""
GPU_STEP_SECONDS = 0.02
"""Least time of an optimiser step on a GPU, however few tokens it sees: some thousand kernels are to be launched."""
SWIN_SLOWNESS = 2.0
"""Time of an operation of Swin by that of a plain transformer's, for windows are copied to and fro: 1.3 on a CPU core,
and at a guess more on a GPU, whose memory is slower beside its arithmetic."""
_CALIBRATION_SECONDS = 0.5
_PSEUDO_CLASSES, _USUAL_WIDTH = 10, 768
_SWIN_FORWARD = {"swin-tiny": 9.0e9, "swin_tiny": 9.0e9, "swin-base": 30.8e9, "swin_base": 30.8e9}
"""Operations of a forward pass at 224 pixels, two a multiplication (Liu et al., 2021, arXiv:2103.14030, table 1)."""


@dataclass(frozen=True)
class Rate:
    """How fast a device trains."""

    device: str
    flops: float
    """Operations a second, of a plain transformer."""
    step_seconds: float = 0.0
    """Least time of an optimiser step."""


@dataclass(frozen=True)
class TaskCost:
    """What one task of a sweep costs."""

    task: str
    trials: int
    epochs: int
    """Refine epochs of all trials, none stopped early."""
    gpu_hours: float | None
    """None where the body or the number of samples is not known."""
    cpu_hours: float | None
    """Of this machine, where no node has a GPU."""
    raw_bytes: int
    """Rough size of its raw files; 0: not known."""
    prepared_bytes: int | None
    """Of the arrays that trials read; None where only the data tell."""
    state: str
    """``prepared``, ``fetched``, or ``missing``."""
    command: str | None
    """What brings it a step further."""

    @property
    def disk_bytes(self) -> int:
        """What is still to be written, as far as it is known."""
        to_fetch = self.raw_bytes if self.state == "missing" else 0
        return 0 if self.state == "prepared" else to_fetch + (self.prepared_bytes or 0)


def gpu_rate() -> Rate:
    """Return the rate of this machine's GPU, measured, or the assumed one where there is none."""
    import torch

    if not torch.cuda.is_available():
        return Rate(ASSUMED_DEVICE, ASSUMED_RATE, GPU_STEP_SECONDS)
    return Rate(torch.cuda.get_device_name(), ASSUMED_UTILISATION * _measured_on_gpu(), GPU_STEP_SECONDS)


def cpu_rate() -> Rate:
    """Return the rate of all of this machine's cores that the process may use."""
    import torch

    from orca_ray.training.precision import choose_precision
    from orca_ray.training.throughput import peak_flops

    peak = peak_flops(choose_precision("auto", torch.device("cpu"), _USUAL_WIDTH))
    assert peak is not None  # of a CPU it is measured
    return Rate(f"this machine, {torch.get_num_threads()} threads", ASSUMED_UTILISATION * peak)


def _measured_on_gpu() -> float:
    """Return the rate of products of the shape of a transformer's, in the precision that training takes there."""
    import torch

    from orca_ray.training.precision import choose_precision

    device = torch.device("cuda")
    precision = choose_precision("auto", device, _USUAL_WIDTH)
    dtype = torch.bfloat16 if precision.name == "bfloat16" else torch.float32
    left, right = torch.ones(16384, 768, dtype=dtype, device=device), torch.ones(768, 3072, dtype=dtype, device=device)
    best, begin = 0.0, perf_counter()
    while perf_counter() - begin < _CALIBRATION_SECONDS:
        started = perf_counter()
        torch.mm(left, right)
        torch.cuda.synchronize()
        best = max(best, 2.0 * left.numel() * right.shape[1] / (perf_counter() - started))
    return best


def task_costs(searches: Sequence[SearchPlan], gpu: Rate, cpu: Rate | None = None) -> list[TaskCost]:
    """Return the cost of every task of the planned searches, in their order."""
    by_task: dict[str, list[SearchPlan]] = {}
    for search in searches:
        by_task.setdefault(search.task, []).append(search)
    return [_task_cost(get_task(name), plans, gpu, cpu) for name, plans in by_task.items()]


def _task_cost(task: Task, plans: Sequence[SearchPlan], gpu: Rate, cpu: Rate | None) -> TaskCost:
    protocol = plans[0].spec.protocol
    data = task.prepared(protocol)
    if data is not None:
        task = task.resolved(data)
    state, command = ("prepared", None) if data is not None else _state(task, protocol)
    return TaskCost(
        task=task.name,
        trials=sum(plan.num_trials for plan in plans),
        epochs=sum(plan.num_trials * int(plan.first["refine.epochs"]) for plan in plans),
        gpu_hours=_hours(task, plans, gpu),
        cpu_hours=None if cpu is None else _hours(task, plans, cpu),
        raw_bytes=sum(file.disk_bytes for file in task.files) + round(sum(p.size_mb * 1e6 for p in task.packages)),
        prepared_bytes=_prepared_bytes(task),
        state=state,
        command=command,
    )


def _state(task: Task, protocol: str) -> tuple[str, str]:
    """Return how far the data of a task that is not prepared are, and the command that brings them further."""
    absent = missing(task.files, task.raw_directory)
    if any(not (file.urls or file.made_by) for file in absent):
        return "missing", f"orca-sweep data prepare {task.name} --raw DIR"
    if absent or not all(is_cached(package) for package in task.packages):
        made_by = next((file.made_by for file in absent if file.made_by), None)
        return "missing", made_by or f"orca-sweep data fetch {task.name}"
    option = f" --protocol {protocol}" if task.paper_splits and protocol != HELD_OUT else ""
    return "fetched", f"orca-sweep data prepare {task.name}{option}"


def _prepared_bytes(task: Task) -> int | None:
    if task.input_shape is None or task.num_samples is None:
        return None
    outputs = 2 if task.target.kind == "classes" else task.target.num_outputs
    inputs = task.input_bytes or 4 * math.prod(task.input_shape)
    return sum(task.num_samples) * (inputs + 4 * outputs)


def _hours(task: Task, plans: Sequence[SearchPlan], rate: Rate) -> float | None:
    seconds = [search_seconds(task, plan, rate) for plan in plans]
    return None if None in seconds else sum(each for each in seconds if each is not None) / 3600


def search_seconds(task: Task, plan: SearchPlan, rate: Rate) -> float | None:
    """Return the seconds that all trials of one (task, method) take on one device; None where that is not known.

    A training step costs three forward passes, a validation one. An align epoch costs what its distance does, about
    that of `otdd_reference`; embedding is small beside it and left out.
    """
    operations = None if task.num_samples is None else forward_flops(plan.body, tokens(task, plan))
    if operations is None or task.num_samples is None:
        return None
    forward = operations * (SWIN_SLOWNESS if _swin_forward(plan.body) else 1.0) / rate.flops
    train, validation, test = task.num_samples
    if plan.spec.protocol == PAPER:  # trains on both, and selects on test
        train, validation = train + validation, test
    steps = math.ceil(train / (int(plan.first["refine.batch_size"]) * int(plan.first["refine.accumulation"])))
    epoch = max(3 * train * forward, steps * rate.step_seconds) + validation * forward
    per_trial = int(plan.first["refine.epochs"]) * epoch + align_flops(task, plan, train) / rate.flops
    return plan.num_trials * per_trial + len(plan.confirm_seeds) * test * forward


def align_flops(task: Task, plan: SearchPlan, train: int) -> float:
    """Return the operations of one trial's distances: 24 passes over the n N costs and 4 n N D products an epoch."""
    if "align.epochs" not in plan.first:
        return 0.0
    classes = task.target.size if task.target.kind == "classes" else _PSEUDO_CLASSES
    per_class = int(plan.first["align.samples_per_class"])
    drawn = min(train, per_class * classes if per_class else int(plan.first["align.samples"]))
    width = next((info.width for info in list_bodies() if info.name == parse_body_name(plan.body)[0]), _USUAL_WIDTH)
    per_epoch = (24 + 4 * width) * drawn * int(plan.first["align.source_samples"])
    return float(int(plan.first["align.epochs"]) * per_epoch)


def tokens(task: Task, plan: SearchPlan) -> float:
    """Return how many tokens of one sample the body sees, patches of 16 pixels for image bodies."""
    if modality_of(plan.body, task.kind) == "image":
        patch = 14 if plan.body.startswith(("vit-s14", "facebook/dinov2")) else 16
        return (float(plan.first["embedder.image_size"]) / patch) ** 2
    most = int(plan.first["embedder.sequence_length"])
    length = most if task.input_shape is None else math.prod(task.input_shape[1:])
    if plan.first["embedder.patching"] == "divide" and task.kind == "sequence":
        return next(length // patch for patch in range(1, length + 1) if not length % patch and length // patch <= most)
    return min(most, length)


def forward_flops(body: str, num_tokens: float) -> float | None:
    """Return the operations of one sample's forward pass; None for a body whose size is not known here.

    A transformer layer takes 24 T W² + 4 T² W, two operations a multiplication (Kaplan et al., 2020, arXiv:2001.08361,
    with attention); Swin bodies are counted from their paper, in proportion to the pixels.
    """
    if swin := _swin_forward(body):
        return swin * num_tokens / (224 / 16) ** 2
    base, layers = parse_body_name(body)
    info = next((info for info in list_bodies() if info.name == base), None)
    if info is None:
        return None
    depth = layers or info.layers
    return depth * (24 * num_tokens * info.width**2 + 4 * num_tokens**2 * info.width)


def _swin_forward(body: str) -> float | None:
    return next((operations for name, operations in _SWIN_FORWARD.items() if name in body), None)
