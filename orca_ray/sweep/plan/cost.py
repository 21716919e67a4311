"""The cost model of sweeps: estimates of device hours and disk space for plans, and of
the relative cost of trials.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from orca_ray.data.packages import is_cached
from orca_ray.data.prepared import HELD_OUT, PAPER
from orca_ray.data.raw import missing
from orca_ray.data.rows import PAPER_BODIES
from orca_ray.methods.registry import get_method
from orca_ray.models.modality import EmbedderConfig, modality_of
from orca_ray.models.names import listed_body, parse_body_name
from orca_ray.sweep.plan.searches import SearchPlan, num_epochs
from orca_ray.tasks.registry import get_task
from orca_ray.tasks.task import Task
from orca_ray.training.numerics import choose_precision
from orca_ray.training.sample_cost import cpu_peak, product_rate

ASSUMED_UTILISATION = 1 / 3
"""Assumed ratio of operations per second in a transformer's training step to those in
plain matrix products. RoBERTa-base reached 0.21 in bfloat16 on a busy CPU core.
"""
ASSUMED_DEVICE = "an A100 (none is here to be measured)"
ASSUMED_RATE = 312e12 / 4
"""Device and operations per second where no GPU can be measured: a quarter of an A100's
bfloat16 peak (data sheet).
"""
GPU_STEP_SECONDS = 0.02
"""Assumed minimum time of an optimiser step on a GPU: launching its thousands of
kernels takes this long.
"""
SWIN_SLOWNESS = 2.0
"""Time per operation of Swin relative to a plain transformer; Swin also copies windows.
Measured on a CPU core: 1.3. For GPUs, whose memory is slower relative to their
arithmetic, 2 is assumed.
"""
_PSEUDO_CLASSES = 10
_USUAL_WIDTH = 768
_SWIN_FORWARD = {
    "swin-tiny": 9.0e9,
    "swin_tiny": 9.0e9,
    "swin-base": 30.8e9,
    "swin_base": 30.8e9,
}
"""Operations of a forward pass on 224 x 224 pixels: twice the multiply-adds in table 1
of arXiv:2103.14030.
"""


@dataclass(frozen=True)
class Rate:
    """Training speed of a device, measured or assumed."""

    device: str
    flops: float
    """Floating-point operations per second when a plain transformer is trained."""
    step_seconds: float = 0.0
    """Minimum seconds of an optimiser step."""


@dataclass(frozen=True)
class TaskCost:
    """Estimated cost of one task of a sweep, over all its methods."""

    task: str
    trials: int
    epochs: int
    """Total refine epochs of all trials, if none is stopped early."""
    gpu_hours: float | None
    """Hours on one GPU; None if the size of a body or the number of samples is unknown.
    """
    cpu_hours: float | None
    """Hours on this machine's CPU cores; None if a node has a GPU, or for the reasons
    of ``gpu_hours``.
    """
    raw_bytes: int
    """Approximate size of the raw files; files of unknown size count as 0."""
    prepared_bytes: int | None
    """Size of the prepared arrays that trials read; None if it is unknown because the
    data are not prepared.
    """
    state: str
    """State of the data: ``missing``, ``fetched`` (raw files only) or ``prepared``."""
    command: str | None
    """Shell command that fetches missing data, or prepares fetched data; None for
    prepared data.
    """

    @property
    def disk_bytes(self) -> int:
        """Bytes that fetching and preparing will still write; unknown sizes count as 0."""
        to_fetch = self.raw_bytes if self.state == "missing" else 0
        return 0 if self.state == "prepared" else to_fetch + (self.prepared_bytes or 0)


def gpu_rate() -> Rate:
    """Measure and return the training speed of this machine's GPU; without one, return
    that of `ASSUMED_DEVICE`.
    """
    if not torch.cuda.is_available():
        return Rate(ASSUMED_DEVICE, ASSUMED_RATE, GPU_STEP_SECONDS)
    precision = choose_precision("auto", torch.device("cuda"), _USUAL_WIDTH)
    dtype = torch.bfloat16 if precision.name == "bfloat16" else torch.float32
    rate = product_rate(
        torch.ones(16384, 768, dtype=dtype, device="cuda"), 3072, seconds=0.5
    )
    return Rate(
        torch.cuda.get_device_name(), ASSUMED_UTILISATION * rate, GPU_STEP_SECONDS
    )


def cpu_rate() -> Rate:
    """Measure and return the training speed of the CPU cores that this process may use."""
    precision = choose_precision("auto", torch.device("cpu"), _USUAL_WIDTH)
    threads = torch.get_num_threads()
    peak = cpu_peak(threads, precision.name == "bfloat16")
    return Rate(f"this machine, {threads} threads", ASSUMED_UTILISATION * peak)


def task_costs(
    searches: Sequence[SearchPlan], gpu: Rate, cpu: Rate | None = None
) -> list[TaskCost]:
    """Return the cost of each task in ``searches`` on the device ``gpu`` and, unless
    ``cpu`` is None, on ``cpu``.
    """
    by_task: dict[str, list[SearchPlan]] = {}
    for search in searches:
        by_task.setdefault(search.task, []).append(search)
    return [
        _task_cost(get_task(name), plans, gpu, cpu) for name, plans in by_task.items()
    ]


def trial_seconds(searches: Sequence[SearchPlan]) -> dict[tuple[str, str], float]:
    """Return the relative cost of one trial by (task, method): its estimated seconds on
    `ASSUMED_DEVICE`.

    Only ratios matter, because the real device differs. A body of unknown size is
    replaced by the paper's body of the same modality. A task is left out if its data
    are not prepared and it does not declare its number of samples.
    """
    seconds = {}
    for search in searches:
        declared = get_task(search.task)
        data = declared.prepared(search.spec.protocol)
        task = declared if data is None else declared.resolved(data)
        if forward_flops(search.body, 1) is None:
            search = replace(
                search, body=PAPER_BODIES[modality_of(search.body, task.modality).name]
            )
        rate = Rate(
            "", ASSUMED_RATE, GPU_STEP_SECONDS if search.resources.gpus else 0.0
        )
        if (total := search_seconds(task, search, rate)) is not None:
            seconds[search.task, search.method] = total / search.num_trials
    return seconds


def seconds_here(searches: Sequence[SearchPlan]) -> dict[tuple[str, str], float]:
    """Return the estimated seconds of one trial by (task, method), on a CPU like this
    or on `ASSUMED_DEVICE`.
    """
    resources = searches[0].resources
    if resources.gpus:
        return trial_seconds(searches)
    slower = (
        ASSUMED_RATE
        * torch.get_num_threads()
        / (cpu_rate().flops * max(1.0, resources.cpus))
    )
    return {name: slower * each for name, each in trial_seconds(searches).items()}


def _task_cost(
    task: Task, plans: Sequence[SearchPlan], gpu: Rate, cpu: Rate | None
) -> TaskCost:
    protocol = plans[0].spec.protocol
    data = task.prepared(protocol)
    if data is not None:
        task = task.resolved(data)
    state, command = ("prepared", None) if data is not None else _state(task, protocol)
    return TaskCost(
        task=task.name,
        trials=sum(plan.num_trials for plan in plans),
        epochs=sum(
            each.num_trials * num_epochs(each.first)
            for plan in plans
            for each in _by_cell(plan)
        ),
        gpu_hours=_hours(task, plans, gpu),
        cpu_hours=None if cpu is None else _hours(task, plans, cpu),
        raw_bytes=sum(file.disk_bytes for file in task.files)
        + round(sum(p.size_mb * 1e6 for p in task.packages)),
        prepared_bytes=_prepared_bytes(task),
        state=state,
        command=command,
    )


def _state(task: Task, protocol: str) -> tuple[str, str]:
    """Return ``missing`` or ``fetched`` for a task that is not prepared, and the
    command for the next step.
    """
    absent = missing(task.files, task.raw_directory)
    if any(not (file.urls or file.made_by) for file in absent):
        return "missing", f"orca-sweep data prepare {task.name} --raw DIR"
    if absent or not all(is_cached(package) for package in task.packages):
        made_by = next((file.made_by for file in absent if file.made_by), None)
        return "missing", made_by or f"orca-sweep data fetch {task.name}"
    option = (
        f" --protocol {protocol}" if task.paper_splits and protocol != HELD_OUT else ""
    )
    return "fetched", f"orca-sweep data prepare {task.name}{option}"


def _prepared_bytes(task: Task) -> int | None:
    if task.input_shape is None or task.num_samples is None:
        return None
    outputs = 2 if task.target.kind == "classes" else task.target.num_outputs
    inputs = task.input_bytes or 4 * math.prod(task.input_shape)
    return sum(task.num_samples) * (inputs + 4 * outputs)


def _hours(task: Task, plans: Sequence[SearchPlan], rate: Rate) -> float | None:
    seconds = _sum(search_seconds(task, plan, rate) for plan in plans)
    return None if seconds is None else seconds / 3600


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(each for each in known if each is not None)


def _by_cell(plan: SearchPlan) -> list[SearchPlan]:
    """Return a plan for each cell of a grid; without a grid, ``plan`` alone."""
    return [replace(plan, first=each, cells=()) for each in plan.configurations]


def search_seconds(task: Task, plan: SearchPlan, rate: Rate) -> float | None:
    """Return the estimated seconds of all trials of ``plan``, one after another, on a
    device with speed ``rate``.

    None if the size of the network or the number of samples is unknown. Training costs
    three forward passes per sample, validation one. An align epoch costs as much as
    computing the distance ``otdd_reference`` (see `align_flops`), whichever distance
    the trial uses; the cost of embedding its samples is ignored. A refine epoch of a
    method costs `Recipe.relative_cost` refine epochs of ``nft``; its other stages
    together cost `Recipe.other_epochs` such epochs.
    """
    if plan.cells:
        return _sum(search_seconds(task, each, rate) for each in _by_cell(plan))
    operations = _operations(task, plan)
    if operations is None or task.num_samples is None:
        return None
    forward = operations / rate.flops
    train, validation, test = task.num_samples
    if (
        plan.spec.protocol == PAPER
    ):  # trials train on train and validation, and select epochs on test
        train = train + validation
        validation = test
    train = math.ceil(train * float(plan.first["data.fraction"]))
    batch, accumulation = (
        int(plan.first.get(f"refine.{name}", train))
        for name in ("batch_size", "accumulation")
    )
    steps = math.ceil(
        train / (batch * accumulation)
    )  # without these options, there are no optimiser steps
    epoch = max(3 * train * forward, steps * rate.step_seconds) + validation * forward
    recipe = get_method(plan.method)
    num = recipe.relative_cost * num_epochs(plan.first) + recipe.other_epochs(
        plan.first, train
    )
    per_trial = num * epoch + align_flops(task, plan, train) / rate.flops
    return plan.num_trials * per_trial + len(plan.confirm_seeds) * test * forward


def _operations(task: Task, plan: SearchPlan) -> float | None:
    """Return the operations of a plain transformer that take as long as a forward pass
    on one sample.
    """
    if own := get_method(plan.method).operations:
        return own(task, plan.first)
    operations = forward_flops(plan.body, tokens(task, plan))
    return (
        operations
        if operations is None
        else operations * (SWIN_SLOWNESS if _swin_forward(plan.body) else 1.0)
    )


def align_flops(task: Task, plan: SearchPlan, train: int) -> float:
    """Return the operations that one trial spends on distances in its align epochs,
    given ``train`` training samples.

    For n target samples, N source samples and features of width W, an epoch takes 24
    passes over the n x N cost matrix and 4 n N W operations of matrix products.
    """
    if "align" not in get_method(plan.method).stage_names:
        return 0.0
    classes = task.target.size if task.target.kind == "classes" else _PSEUDO_CLASSES
    sampled = min(train, int(plan.first["align.samples_per_class"]) * classes)
    width = _USUAL_WIDTH if (info := listed_body(plan.body)) is None else info.width
    per_epoch = (24 + 4 * width) * sampled * int(plan.first["align.source_samples"])
    return float(int(plan.first["align.epochs"]) * per_epoch)


def tokens(task: Task, plan: SearchPlan) -> float:
    """Return the number of tokens that the embedder makes of one sample, i.e. the
    sequence length in the body.
    """
    prefix = "embedder."
    fields = {
        name.removeprefix(prefix): value
        for name, value in plan.first.items()
        if name.startswith(prefix)
    }
    config = EmbedderConfig(**fields)  # type: ignore[arg-type]  # a resolved configuration has the right types
    patch_size = (
        {}
        if (info := listed_body(plan.body)) is None
        else {"patch_size": info.patch_size}
    )
    return modality_of(plan.body, task.modality).num_tokens(
        task.input_shape, config, **patch_size
    )


def forward_flops(body: str, num_tokens: float) -> float | None:
    """Return the operations of a forward pass on one sample of ``num_tokens`` tokens;
    None for a body of unknown size.

    A transformer layer of width W takes 24 T W² + 4 T² W operations for T tokens, two
    per multiply-add (Kaplan et al., 2020, arXiv:2001.08361, including attention). Swin
    takes `_SWIN_FORWARD`, scaled by the number of pixels.
    """
    if swin := _swin_forward(body):
        return swin * num_tokens / (224 / 16) ** 2
    info = listed_body(body)
    if info is None:
        return None
    depth = parse_body_name(body)[1] or info.layers
    return depth * (24 * num_tokens * info.width**2 + 4 * num_tokens**2 * info.width)


def _swin_forward(body: str) -> float | None:
    return next(
        (operations for name, operations in _SWIN_FORWARD.items() if name in body), None
    )
