"""The cost model of sweeps: device hours, disk space, relative costs of trials."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from time import process_time

import torch
from torch import nn

from orca_ray.data.packages import is_cached
from orca_ray.data.prepared import HELD_OUT, PAPER
from orca_ray.data.raw import missing
from orca_ray.data.rows import PAPER_BODIES
from orca_ray.errors import counted
from orca_ray.models.modality import EmbedderConfig
from orca_ray.models.names import listed_body, parse_body_name
from orca_ray.sweep.plan.searches import SearchPlan, num_epochs
from orca_ray.sweep.plan.spec import num_training_samples
from orca_ray.tasks.task import Task
from orca_ray.training.numerics import choose_precision
from orca_ray.training.sample_cost import core_peak, cpu_peak, product_rate

ASSUMED_UTILISATION = 1 / 3
"""Assumed speed of a training step relative to plain matrix products.

Both speeds are operations per second. It holds for GPUs, and on a CPU for networks
whose layers are not measured.
"""
ASSUMED_DEVICE = "an A100 (none is here to be measured)"
"""Device of the estimates where no GPU can be measured."""
ASSUMED_RATE = 312e12 / 4
"""Operations per second of `ASSUMED_DEVICE`: a quarter of the data sheet's peak."""
GPU_STEP_SECONDS = 0.02
"""Assumed minimum seconds of an optimiser step on a GPU.

Launching the thousands of kernels of a step takes this long.
"""
MAX_TIMED_TOKENS = 2048
"""Maximum number of tokens in a step that is timed; of larger ones, a part is."""
CORE_STEP_SECONDS = 0.006
"""Least CPU seconds of an optimiser step of a network: that of a small `cnn`."""
CORE_TRIAL_SECONDS = 0.5
"""CPU seconds of a trial beside training: reading data and body, storing results."""
SWIN_SLOWNESS = 2.0
"""Time per operation of Swin relative to a plain transformer; Swin also copies windows.

Measured on a CPU core: 1.3. For GPUs, whose memory is slower relative to their
arithmetic, 2 is assumed.
"""
_PSEUDO_CLASSES = 10
"""Number of pseudo-classes for targets without classes, as in the paper."""
_USUAL_WIDTH = 768
"""Feature width that is assumed for a body that is not listed."""
_SWIN_FORWARD = {
    "swin-tiny": 9.0e9,
    "swin_tiny": 9.0e9,
    "swin-base": 30.8e9,
    "swin_base": 30.8e9,
}
"""Operations of a forward pass on 224 x 224 pixels, by part of the body's name.

Twice the multiply-adds in table 1 of arXiv:2103.14030.
"""


@dataclass(frozen=True)
class BodyLayers:
    """The equal layers of a plain transformer in a trial."""

    count: int
    width: int
    tokens: int
    """Number of tokens of a sample."""
    samples: int
    """Number of samples of an optimiser step."""
    precision: str
    """``float32`` or ``bfloat16``."""


@dataclass(frozen=True)
class Rate:
    """Training speed of a device, measured or assumed."""

    device: str
    flops: float
    """Floating-point operations per second when a plain transformer is trained."""
    step_seconds: float = 0.0
    """Minimum seconds of an optimiser step."""
    trial_seconds: float = 0.0
    """Seconds of a trial beside its stages."""

    def forward_seconds(self, operations: float, layers: BodyLayers | None) -> float:
        """Return the seconds of a forward pass on one sample.

        It takes ``operations``. ``layers`` are those of the body, None for a network
        that is no plain transformer.
        """
        del layers
        return operations / self.flops


@dataclass(frozen=True)
class CoreRate(Rate):
    """Training speed of one core of this machine's CPU.

    A training step of one layer of a body is timed, since its speed relative to matrix
    products differs: 0.2 to 0.7 for bodies of width 384 and 768, by precision, numbers
    of tokens and samples.
    """

    def forward_seconds(self, operations: float, layers: BodyLayers | None) -> float:
        """Return the seconds of a forward pass: a third of a training step."""
        if layers is None:
            return super().forward_seconds(operations, None)
        samples = min(layers.samples, max(1, MAX_TIMED_TOKENS // layers.tokens))
        step_seconds = layer_seconds(
            layers.width, samples, layers.tokens, layers.precision
        )
        return layers.count * step_seconds / samples / 3


@dataclass(frozen=True)
class TaskCost:
    """Estimated cost of one task of a sweep, over all its methods."""

    task: str
    trials: int
    epochs: int
    """Total refine epochs of all trials, if none is stopped early."""
    gpu_hours: float | None
    """Hours on one GPU.

    None if the size of a body or the number of samples is unknown.
    """
    cpu_hours: float | None
    """Hours on one core of this machine's CPU.

    None if a node has a GPU, or if ``gpu_hours`` is None.
    """
    raw_bytes: int
    """Approximate size of the raw files; files of unknown size count as 0."""
    prepared_bytes: int | None
    """Size of the prepared arrays that trials read; None if it is unknown."""
    state: str
    """State of the data: ``missing``, ``fetched`` (raw files only) or ``prepared``."""
    command: str | None
    """Shell command that fetches missing data, or prepares fetched data.

    None for prepared data.
    """

    @property
    def disk_bytes(self) -> int:
        """Bytes that fetching and preparing will write; unknown sizes count as 0."""
        if self.state == "prepared":
            return 0
        to_fetch = self.raw_bytes if self.state == "missing" else 0
        return to_fetch + (self.prepared_bytes or 0)


def gpu_rate() -> Rate:
    """Measure and return the training speed of this machine's GPU.

    Without a GPU, return the speed of `ASSUMED_DEVICE`.
    """
    if not torch.cuda.is_available():
        return Rate(ASSUMED_DEVICE, ASSUMED_RATE, GPU_STEP_SECONDS)
    precision = choose_precision("auto", torch.device("cuda"), _USUAL_WIDTH)
    dtype = torch.bfloat16 if precision.name == "bfloat16" else torch.float32
    # The first linear layer of a transformer's MLP, for 16384 tokens of width 768.
    features = torch.ones(16384, 768, dtype=dtype, device="cuda")
    rate = product_rate(features, 3072, seconds=0.5)
    return Rate(
        torch.cuda.get_device_name(), ASSUMED_UTILISATION * rate, GPU_STEP_SECONDS
    )


def cpu_rate() -> Rate:
    """Measure the training speed of the CPU cores that this process may use."""
    precision = choose_precision("auto", torch.device("cpu"), _USUAL_WIDTH)
    threads = torch.get_num_threads()
    peak = cpu_peak(threads, precision.name == "bfloat16")
    return Rate(
        f"this machine, {counted(threads, 'thread')}", ASSUMED_UTILISATION * peak
    )


def core_rate() -> CoreRate:
    """Measure the training speed of one of this machine's CPU cores."""
    return CoreRate(
        "one core of this machine",
        ASSUMED_UTILISATION * core_peak(),
        step_seconds=CORE_STEP_SECONDS,
        trial_seconds=CORE_TRIAL_SECONDS,
    )


@cache
def layer_seconds(width: int, samples: int, tokens: int, precision: str) -> float:
    """Return the CPU seconds of a training step of one transformer layer.

    The layer of ``width`` features has heads of 64 features. A step has one batch of
    ``samples`` of ``tokens`` tokens. The time is that of the process, on one thread, so
    that other processes do not count.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return min(_step_times(width, samples, tokens, precision))
    finally:
        torch.set_num_threads(threads)


def _step_times(
    width: int, samples: int, tokens: int, precision: str
) -> Iterator[float]:
    """Yield the CPU seconds of some training steps of one layer."""
    with torch.random.fork_rng(devices=[]):
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 64), 4 * width, dropout=0.0, batch_first=True
        )
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    features = torch.ones(samples, tokens, width, requires_grad=True)
    is_cast = precision == "bfloat16"
    for _ in range(3):  # the first is the slowest
        start = process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_cast):
            loss = layer(features).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield process_time() - start


def task_costs(
    searches: Sequence[SearchPlan], gpu: Rate, cpu: Rate | None = None
) -> list[TaskCost]:
    """Return the cost of each task in ``searches``.

    ``gpu`` and ``cpu`` are the devices for GPU and CPU hours; None: no CPU hours.
    """
    by_task: dict[str, list[SearchPlan]] = {}
    for search in searches:
        by_task.setdefault(search.task, []).append(search)
    return [_task_cost(plans, gpu, cpu) for plans in by_task.values()]


def trial_seconds(searches: Sequence[SearchPlan]) -> dict[tuple[str, str], float]:
    """Return the relative cost of one trial by (task, method).

    The cost is the estimated time in seconds on `ASSUMED_DEVICE`. Only ratios are
    meaningful, because trials run on another device. A body of unknown size is replaced
    by the paper's body of the same modality. A task is left out if its data are not
    prepared and it does not declare its number of samples.
    """
    seconds = {}
    for search in searches:
        task = search.declaration
        data = search.data
        if data is not None:
            task = task.resolved(data)
        if forward_flops(search.body, 1) is None:
            search = replace(search, body=PAPER_BODIES[search.modality.name])
        step_seconds = GPU_STEP_SECONDS if search.resources.gpus else 0.0
        rate = Rate("", ASSUMED_RATE, step_seconds)
        total = search_seconds(task, search, rate)
        if total is not None:
            seconds[search.task, search.method] = total / search.num_trials
    return seconds


def seconds_here(searches: Sequence[SearchPlan]) -> dict[tuple[str, str], float]:
    """Return the estimated seconds of one trial by (task, method).

    The estimates are for this machine's CPU or, if trials get GPUs, for
    `ASSUMED_DEVICE`.
    """
    resources = searches[0].resources
    if resources.gpus:
        return trial_seconds(searches)
    slowdown = (
        ASSUMED_RATE
        * torch.get_num_threads()
        / (cpu_rate().flops * max(1.0, resources.cpus))
    )
    return {
        pair: slowdown * seconds for pair, seconds in trial_seconds(searches).items()
    }


def _task_cost(plans: Sequence[SearchPlan], gpu: Rate, cpu: Rate | None) -> TaskCost:
    """Return the cost of a task; ``plans`` are its searches."""
    task = plans[0].declaration
    data = plans[0].data
    if data is None:
        state, command = _state(task, plans[0].spec.protocol)
    else:
        state = "prepared"
        command = None
        task = task.resolved(data)
    epochs = [
        plan.num_trials * num_epochs(plan.first)
        for search in plans
        for plan in _by_cell(search)
    ]
    package_bytes = sum(package.size_mb * 1e6 for package in task.packages)
    return TaskCost(
        task=task.name,
        trials=sum(plan.num_trials for plan in plans),
        epochs=sum(epochs),
        gpu_hours=_hours(task, plans, gpu),
        cpu_hours=None if cpu is None else _hours(task, plans, cpu),
        raw_bytes=sum(file.disk_bytes for file in task.files) + round(package_bytes),
        prepared_bytes=_prepared_bytes(task),
        state=state,
        command=command,
    )


def _state(task: Task, protocol: str) -> tuple[str, str]:
    """Return the state of a task that is not prepared, and the next command.

    The state is ``missing`` or ``fetched``.
    """
    absent = missing(task.files, task.raw_directory)
    if any(not (file.urls or file.made_by) for file in absent):
        return "missing", f"orca-sweep data prepare {task.name} --raw DIR"
    if absent or not all(map(is_cached, task.packages)):
        made_by = next((file.made_by for file in absent if file.made_by), None)
        return "missing", made_by or f"orca-sweep data fetch {task.name}"
    option = ""
    if task.paper_splits and protocol != HELD_OUT:
        option = f" --protocol {protocol}"
    return "fetched", f"orca-sweep data prepare {task.name}{option}"


def _prepared_bytes(task: Task) -> int | None:
    """Return the size of a task's prepared data; None if shape or number is unknown."""
    if task.input_shape is None or task.num_samples is None:
        return None
    # A class id has 8 bytes, as many as two numbers in float32.
    outputs = 2 if task.target.kind == "classes" else task.target.num_outputs
    inputs = task.input_bytes or 4 * math.prod(task.input_shape)
    return sum(task.num_samples) * (inputs + 4 * outputs)


def _hours(task: Task, plans: Sequence[SearchPlan], rate: Rate) -> float | None:
    seconds = _sum(search_seconds(task, plan, rate) for plan in plans)
    return None if seconds is None else seconds / 3600


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum of ``values``; None if one of them is None."""
    numbers = []
    for value in values:
        if value is None:
            return None
        numbers.append(value)
    return sum(numbers)


def _by_cell(plan: SearchPlan) -> list[SearchPlan]:
    """Return a plan for each cell of a grid; without a grid, ``plan`` alone."""
    return [replace(plan, first=values, cells=()) for values in plan.configurations]


def search_seconds(task: Task, plan: SearchPlan, rate: Rate) -> float | None:
    """Return the estimated seconds of all trials of ``plan``, one after another.

    None if the size of the network or the number of samples is unknown. Training costs
    three forward passes per sample, validation one. An align epoch costs as much as
    computing the distance ``otdd_reference`` (see `align_flops`), whichever distance
    the trial uses; the cost of embedding its samples is ignored. A refine epoch of a
    method costs `Recipe.relative_cost` refine epochs of ``nft``; its other stages
    together cost `Recipe.other_epochs` such epochs.
    """
    if plan.cells:
        return _sum(search_seconds(task, cell, rate) for cell in _by_cell(plan))
    operations = _operations(task, plan)
    if operations is None or task.num_samples is None:
        return None
    forward_seconds = rate.forward_seconds(operations, _layers(task, plan))
    protocol = plan.spec.protocol
    train = num_training_samples(task, protocol, float(plan.first["data.fraction"]))
    assert train is not None
    _, validation, test = task.num_samples
    if protocol == PAPER:  # selects epochs on test
        validation = test
    # Without these options, there are no optimiser steps.
    batch = int(plan.first.get("refine.batch_size", train))
    accumulation = int(plan.first.get("refine.accumulation", train))
    steps = math.ceil(train / (batch * accumulation))
    # A backward pass costs as much as two forward passes.
    training_seconds = max(3 * train * forward_seconds, steps * rate.step_seconds)
    epoch_seconds = training_seconds + validation * forward_seconds
    recipe = plan.recipe
    refine_epochs = recipe.relative_cost * num_epochs(plan.first)
    epochs = refine_epochs + recipe.other_epochs(plan.first, train)
    align_seconds = align_flops(task, plan, train) / rate.flops
    test_seconds = len(plan.confirm_seeds) * test * forward_seconds
    trial_seconds = rate.trial_seconds + epochs * epoch_seconds + align_seconds
    return plan.num_trials * trial_seconds + test_seconds


def _operations(task: Task, plan: SearchPlan) -> float | None:
    """Return the operations of a forward pass on one sample; None if unknown.

    For other networks than plain transformers, it is the number of operations of a
    plain transformer that takes as long.
    """
    own_operations = plan.recipe.operations
    if own_operations is not None:
        return own_operations(task, plan.first)
    operations = forward_flops(plan.body, tokens(task, plan))
    if operations is not None and _swin_forward(plan.body) is not None:
        return SWIN_SLOWNESS * operations
    return operations


def _layers(task: Task, plan: SearchPlan) -> BodyLayers | None:
    """Return the layers of a plan's body; None if its network is no transformer."""
    info = plan.body_info
    has_own_network = plan.recipe.operations is not None
    if has_own_network or info is None or _swin_forward(plan.body) is not None:
        return None
    _, layers = parse_body_name(plan.body)
    precision = choose_precision(
        str(plan.first.get("refine.precision", "float32")),
        torch.device("cpu"),
        info.width,
    )
    name = "float32" if plan.spec.deterministic else precision.name
    return BodyLayers(
        count=layers or info.layers,
        width=info.width,
        tokens=math.ceil(tokens(task, plan)),
        samples=int(plan.first.get("refine.batch_size", 1)),
        precision=name,
    )


def align_flops(task: Task, plan: SearchPlan, train: int) -> float:
    """Return the operations that one trial spends on distances in its align epochs.

    ``train`` is the number of training samples. For n target samples, N source samples
    and features of width W, an epoch takes 24 passes over the n x N cost matrix and
    4 n N W operations of matrix products.
    """
    if "align" not in plan.recipe.stage_names:
        return 0.0
    classes = task.target.size if task.target.kind == "classes" else _PSEUDO_CLASSES
    samples = min(train, int(plan.first["align.samples_per_class"]) * classes)
    info = plan.body_info
    width = _USUAL_WIDTH if info is None else info.width
    source_samples = int(plan.first["align.source_samples"])
    operations_per_epoch = (24 + 4 * width) * samples * source_samples
    return float(int(plan.first["align.epochs"]) * operations_per_epoch)


def tokens(task: Task, plan: SearchPlan) -> float:
    """Return the number of tokens of one sample, which the body's embedder makes.

    It is the length of the sequences in the body.
    """
    prefix = "embedder."
    fields = {
        name.removeprefix(prefix): value
        for name, value in plan.first.items()
        if name.startswith(prefix)
    }
    config = EmbedderConfig(**fields)  # type: ignore[arg-type]  # a resolved configuration has the right types
    info = plan.body_info
    options = {} if info is None else {"patch_size": info.patch_size}
    return plan.modality.num_tokens(task.input_shape, config, **options)


def forward_flops(body: str, num_tokens: float) -> float | None:
    """Return the operations of a forward pass on one sample of ``num_tokens`` tokens.

    None for a body of unknown size. A transformer layer of width W takes
    24 T W² + 4 T² W operations for T tokens, two per multiply-add (Kaplan et al., 2020,
    arXiv:2001.08361, including attention). Swin takes `_SWIN_FORWARD`, scaled by the
    number of pixels.
    """
    swin_operations = _swin_forward(body)
    if swin_operations is not None:
        # `_SWIN_FORWARD` holds for images of 224 pixels, 14 x 14 tokens of 16 pixels.
        return swin_operations * num_tokens / (224 / 16) ** 2
    info = listed_body(body)
    if info is None:
        return None
    _, layers = parse_body_name(body)
    depth = layers or info.layers
    return depth * (24 * num_tokens * info.width**2 + 4 * num_tokens**2 * info.width)


def _swin_forward(body: str) -> float | None:
    for name, operations in _SWIN_FORWARD.items():
        if name in body:
            return operations
    return None
