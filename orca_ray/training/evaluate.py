"""Read the inputs of a split in batches, predict their targets, and score predictions.

The score follows a task's `Objective`: its training loss and its metric.
"""

import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter, functional

from orca_ray.data.rows import RowIndex, Rows, Target, num_bytes, row_slices
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.process import note_progress
from orca_ray.tasks.losses import get_loss
from orca_ray.tasks.metrics import get_metric
from orca_ray.training.numerics import NotFiniteError, Precision, is_out_of_memory
from orca_ray.training.ranks import ALONE, Ranks
from orca_ray.training.sample_cost import allocatable_bytes

_log = logging.getLogger(__name__)
BATCH_SIZE = 64
"""Default batch size of `predict`, whatever the batch size in training, so that scores
do not depend on that.
"""
CACHE_BYTES = 512 * 2**20
"""Maximum bytes of the cached features of one split."""
RESIDENT_FRACTION = 0.25
"""A split is copied to a CUDA device as a whole if it needs at most this share of the
device's free memory.
"""
_PREFETCH = 3
"""Number of batches that are read ahead if a split is streamed."""


@dataclass(frozen=True)
class SplitInputs:
    """Inputs of one split, and the network that processes them."""

    inputs: Rows | Tensor
    """[N, ...]: inputs of the whole model or, if ``network`` is its head, the cached
    inputs of the head.
    """
    network: nn.Module
    precision: Precision

    @cached_property
    def samples(self) -> "Samples":
        """Reader of batches of the inputs; cached, because every validation uses it."""
        return Samples([self.inputs], self.precision.device)

    def slices(self, batch_size: int, rows: slice | None = None) -> list[RowIndex]:
        """Return consecutive slices of at most ``batch_size`` samples.

        They cover ``rows``, or the whole split.
        """
        if rows is None:
            rows = slice(None)
        first, last, _ = rows.indices(len(self.inputs))
        return [
            slice(start, min(start + batch_size, last))
            for start in range(first, last, batch_size)
        ]


def forward(
    network: Callable[[Tensor], Tensor], inputs: Tensor, precision: Precision
) -> Tensor:
    """Return the float32 outputs of ``network``, computed in ``precision``."""
    with precision.autocast():
        output: Tensor = network(inputs)
    return output.float()


def make_feed(
    model: CrossModalModel,
    trained: Iterable[Parameter],
    x: Rows,
    *,
    stochastic: bool,
    precision: Precision,
) -> SplitInputs:
    """Return `SplitInputs` for the inputs ``x`` [N, ...] of a split.

    If all ``trained`` parameters are in the head, the network is the head, and the
    head's inputs are computed once and kept, unless they exceed `CACHE_BYTES` or are
    ``stochastic`` (dropout, augmentation). Else the network is the model.
    """
    in_head = {id(parameter) for parameter in model.head.parameters()}
    if stochastic or any(id(parameter) not in in_head for parameter in trained):
        return SplitInputs(x, model, precision)
    sample = next(head_inputs(model, x[:1], precision))
    if sample.numel() * sample.element_size() * len(x) > CACHE_BYTES:
        return SplitInputs(x, model, precision)
    features = torch.cat(list(head_inputs(model, x, precision)))
    # In the model, too, heads compute in float32.
    return SplitInputs(features, model.head, replace(precision, name="float32"))


def head_inputs(
    model: CrossModalModel, x: Rows, precision: Precision
) -> Iterator[Tensor]:
    """Yield the head's inputs [b, ...] for batches of the model's inputs.

    The model's inputs are ``x`` [N, ...]; the model is in evaluation mode.
    """
    received: list[Tensor] = []
    feed = SplitInputs(x, model, precision)
    handle = model.head.register_forward_pre_hook(
        lambda _, inputs: received.append(inputs[0])
    )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision.active():
            for (inputs,) in feed.samples.batches(feed.slices(BATCH_SIZE)):
                forward(model, inputs, precision)
                yield received.pop()
    finally:
        model.train(was_training)
        handle.remove()


class Samples:
    """Reader of batches of arrays.

    The arrays are on the device or, if ``streamed``, read by a thread during
    computation.
    """

    def __init__(
        self,
        arrays: Sequence[Rows | Tensor],
        device: torch.device,
        *,
        streamed: bool | None = None,
    ) -> None:
        """Read ``arrays`` [N, ...].

        By default, they are streamed if they exceed `RESIDENT_FRACTION` of a GPU's free
        memory.
        """
        if streamed is None:
            streamed = _exceeds_device(arrays, device)
        self.streamed = streamed
        self._device = device
        resident_device = torch.device("cpu") if streamed else device
        self._rows = [_load(array, resident_device) for array in arrays]

    def batches(self, selections: Sequence[RowIndex]) -> Iterator[tuple[Tensor, ...]]:
        """Yield, for each selection, the selected rows of every array.

        They are on the device, to be read only. The thread that reads streamed batches
        ends when the iteration ends or is closed.
        """
        if not self.streamed:
            yield from map(self._read, selections)
            return
        with ThreadPoolExecutor(1) as pool:
            reads = (pool.submit(self._read, selection) for selection in selections)
            pending = deque(islice(reads, _PREFETCH))
            while pending:
                rows = pending.popleft().result()
                pending.extend(islice(reads, 1))
                yield tuple(row.to(self._device, non_blocking=True) for row in rows)

    def _read(self, selection: RowIndex) -> tuple[Tensor, ...]:
        """Return the rows of ``selection`` of each array."""
        note_progress()
        rows = tuple(_select(array, selection) for array in self._rows)
        if self.streamed and self._device.type == "cuda":
            return tuple(row.pin_memory() for row in rows)
        return rows


def _exceeds_device(arrays: Sequence[Rows | Tensor], device: torch.device) -> bool:
    """Return whether arrays take too much of a GPU's memory to stay there."""
    if device.type != "cuda":
        return False
    needed_bytes = sum(
        array.nbytes if isinstance(array, Tensor) else num_bytes(array)
        for array in arrays
    )
    return needed_bytes > RESIDENT_FRACTION * _free_bytes(device)


def _load(rows: Rows | Tensor, device: torch.device) -> Rows | Tensor:
    """Return ``rows`` as one tensor on ``device``.

    On a CPU, `Rows` that are not an array are returned unchanged.
    """
    if isinstance(rows, np.ndarray):
        # Training never writes to a read-only memory map.
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="The given NumPy array is not writable"
            )
            rows = torch.from_numpy(np.asarray(rows))
    if isinstance(rows, Tensor):
        return rows.to(device)
    return rows if device.type == "cpu" else to_tensor(rows, device)


def _select(rows: Rows | Tensor, selection: RowIndex) -> Tensor:
    """Return the rows of ``selection`` as a tensor."""
    if not isinstance(rows, Tensor):
        return torch.from_numpy(rows[selection])
    if isinstance(selection, slice):
        return rows[selection]
    return rows[torch.from_numpy(selection).to(rows.device, non_blocking=True)]


def _free_bytes(device: torch.device) -> float:
    """Return the memory of a GPU that is free and that this trial may allocate."""
    free, total = torch.cuda.mem_get_info(device)
    return min(free, allocatable_bytes(total) - torch.cuda.memory_allocated(device))


def to_tensor(rows: Rows, device: torch.device) -> Tensor:
    """Return ``rows`` as one tensor on ``device``, copied block by block."""
    dtype = torch.from_numpy(np.empty(0, rows.dtype)).dtype
    tensor = torch.empty(rows.shape, dtype=dtype, device=device)
    for block in row_slices(rows):
        tensor[block] = torch.from_numpy(rows[block])
    return tensor


@dataclass(frozen=True)
class Objective:
    """Loss and metric of a task, and how to decode model outputs.

    In scalar and dense tasks, loss and metric compare decoded outputs ``output * y_std
    + y_mean`` with the targets.
    """

    target: Target
    loss: str
    """Name in `orca_ray.tasks.losses`."""
    metric: str
    """Name in `orca_ray.tasks.metrics`; lower is better."""
    y_mean: np.ndarray | None = None
    """Mean of the training targets, broadcastable to ``target.output_shape``; None:
    outputs are not standardised.
    """
    y_std: np.ndarray | None = None
    """Standard deviation of the training targets, of the same shape as ``y_mean``."""

    def decoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the function that maps outputs on ``device`` to predictions.

        Both are [B, *output_shape].
        """
        has_logits = self.target.kind in ("classes", "labels")
        if has_logits or self.y_mean is None or self.y_std is None:
            return lambda output: output
        mean = torch.tensor(np.asarray(self.y_mean), dtype=torch.float32, device=device)
        std = torch.tensor(np.asarray(self.y_std), dtype=torch.float32, device=device)
        return lambda output: output * std + mean

    def training_loss(
        self, train_y: Rows, device: torch.device, label_smoothing: float = 0.0
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a function that maps outputs and targets to their mean loss.

        Outputs are [B, *output_shape], targets [B, ...], both on ``device``. Some
        losses compute class weights from the training targets ``train_y`` [N, ...];
        UserError if that fails. ``label_smoothing``: share of the loss of a class
        target that all classes have equally.
        """
        decode = self.decoder(device)
        loss = get_loss(self.loss).make(train_y, self.target, device)
        if not label_smoothing or self.target.kind != "classes":
            return lambda outputs, targets: loss(decode(outputs), targets)

        def smoothed(logits_BK: Tensor, y_B: Tensor) -> Tensor:
            uniform_loss = -functional.log_softmax(logits_BK, dim=1).mean()
            return torch.lerp(loss(logits_BK, y_B), uniform_loss, label_smoothing)

        return smoothed

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        """Return the metric (lower is better) of a whole split."""
        return float(get_metric(self.metric).compute(predictions, targets))


def predict(
    feed: SplitInputs,
    objective: Objective,
    batch_size: int = BATCH_SIZE,
    ranks: Ranks = ALONE,
) -> tuple[np.ndarray, int]:
    """Return decoded predictions [N, *output_shape], and the batch size used.

    The predictions, float32, are for the inputs of ``feed``. The batch size used is
    ``batch_size``, halved until a batch fits in memory. Each of several ranks predicts
    a part of the samples, and all ranks get the predictions of all. Raises
    NotFiniteError if a prediction is NaN or infinite.
    """
    count = len(feed.inputs)
    rows = ranks.share(count)
    predicted = _predict_if_it_fits(feed, objective, batch_size, rows)
    while predicted is None:
        _log.warning(
            "%d samples did not fit the device's memory in evaluation: halved",
            batch_size,
        )
        batch_size //= 2
        predicted = _predict_if_it_fits(feed, objective, batch_size, rows)
    predictions = ranks.join_rows(predicted, count)
    if not np.isfinite(predictions).all():
        num_bad = int((~np.isfinite(predictions)).sum())
        raise NotFiniteError(
            f"{num_bad} of {predictions.size} predictions are not finite"
        )
    return predictions, batch_size


def _predict_if_it_fits(
    feed: SplitInputs, objective: Objective, batch_size: int, rows: slice
) -> np.ndarray | None:
    """Return predictions for ``rows``, or None if memory runs out.

    Returning releases the tensors that the exception holds.
    """
    try:
        decode = objective.decoder(feed.precision.device)
        with torch.no_grad(), feed.precision.active():
            samples = feed.samples.batches(feed.slices(batch_size, rows))
            parts = [
                decode(forward(feed.network, inputs, feed.precision))
                for (inputs,) in samples
            ]
            if not parts:
                return np.empty((0, *objective.target.output_shape), "f4")
            return torch.cat(parts).cpu().numpy()
    except Exception as error:
        if batch_size == 1 or not is_out_of_memory(error):
            raise
    return None


class SampleResults(NamedTuple):
    """Predictions and targets with an entry for each sample of a split."""

    predictions: np.ndarray
    y: np.ndarray
    first_rows: np.ndarray
    """Index of the first row of each sample."""


def join_sample_rows(
    predictions: np.ndarray, y: np.ndarray, group: np.ndarray | None = None
) -> SampleResults:
    """Join the rows of a split that belong to one sample.

    Rows with equal ids in ``group`` [N] are one sample, with the mean of their
    predictions and the first row's target. Without ``group``, each row is a sample.
    """
    y = np.asarray(y)
    if group is None:
        return SampleResults(predictions, y, np.arange(len(y)))
    _, first_rows, members = np.unique(group, return_index=True, return_inverse=True)
    sums = np.zeros((len(first_rows), *predictions.shape[1:]))
    np.add.at(sums, members, predictions)
    other_axes = [1] * (predictions.ndim - 1)
    counts = np.bincount(members).reshape(-1, *other_axes)
    return SampleResults(sums / counts, y[first_rows], first_rows)


def log_loss(
    predictions: np.ndarray,
    y: np.ndarray,
    objective: Objective,
    group: np.ndarray | None = None,
) -> float:
    """Return the mean log loss of a whole split; see `score`.

    Its targets are classes or labels.
    """
    samples = join_sample_rows(predictions, y, group)
    logits = torch.from_numpy(np.asarray(samples.predictions, np.float64))
    targets = torch.from_numpy(np.array(samples.y))
    if objective.target.kind == "classes":
        return float(functional.cross_entropy(logits, targets.long()))
    return float(functional.binary_cross_entropy_with_logits(logits, targets.double()))


def score(
    predictions: np.ndarray,
    y: np.ndarray,
    objective: Objective,
    group: np.ndarray | None = None,
) -> float:
    """Return the metric of a whole split; lower is better.

    Rows of equal ``group`` are joined by `join_sample_rows` before. Raises
    NotFiniteError if the metric is NaN or infinite.
    """
    samples = join_sample_rows(predictions, y, group)
    value = objective.score(samples.predictions, samples.y)
    if not np.isfinite(value):
        raise NotFiniteError(f"the score ({objective.metric}) is {value}")
    return value
