"""Inputs of a split in batches on the device, predictions and their score, and training
loss and metric of a task.
"""

import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

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
    """Record of the inputs of one split and the network that processes them."""

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
        """Return consecutive slices of at most ``batch_size`` samples that cover
        ``rows``, or the whole split.
        """
        first, last, _ = (rows or slice(None)).indices(len(self.inputs))
        return [
            slice(start, min(start + batch_size, last))
            for start in range(first, last, batch_size)
        ]


def forward(
    network: Callable[[Tensor], Tensor], inputs: Tensor, precision: Precision
) -> Tensor:
    """Return the float32 outputs of ``network`` for a batch, computed in ``precision``."""
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
    head = {id(parameter) for parameter in model.head.parameters()}
    if stochastic or any(id(parameter) not in head for parameter in trained):
        return SplitInputs(x, model, precision)
    sample = next(head_inputs(model, x[:1], precision))
    if sample.numel() * sample.element_size() * len(x) > CACHE_BYTES:
        return SplitInputs(x, model, precision)
    features = torch.cat(list(head_inputs(model, x, precision)))
    return SplitInputs(
        features, model.head, replace(precision, name="float32")
    )  # as heads compute in the model


def head_inputs(
    model: CrossModalModel, x: Rows, precision: Precision
) -> Iterator[Tensor]:
    """Yield the head's inputs [b, ...] for batches of the model's inputs ``x`` [N,
    ...], in evaluation mode.
    """
    seen: list[Tensor] = []
    feed = SplitInputs(x, model, precision)
    handle = model.head.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision.active():
            for (inputs,) in feed.samples.batches(feed.slices(BATCH_SIZE)):
                forward(model, inputs, precision)
                yield seen.pop()
    finally:
        model.train(was_training)
        handle.remove()


class Samples:
    """Reader of batches of arrays, which are on the device or, if ``streamed``, read by
    a thread during computation.
    """

    def __init__(
        self,
        arrays: Sequence[Rows | Tensor],
        device: torch.device,
        *,
        streamed: bool | None = None,
    ) -> None:
        """Read ``arrays`` [N, ...]; by default streamed if they exceed
        `RESIDENT_FRACTION` of a GPU's free memory.
        """
        if streamed is None:
            needed = sum(
                array.nbytes if isinstance(array, Tensor) else num_bytes(array)
                for array in arrays
            )
            streamed = (
                device.type == "cuda"
                and needed > RESIDENT_FRACTION * _free_bytes(device)
            )
        self.streamed = streamed
        self._device = device
        self._rows = [
            _load(array, torch.device("cpu") if streamed else device)
            for array in arrays
        ]

    def batches(self, selections: Sequence[RowIndex]) -> Iterator[tuple[Tensor, ...]]:
        """Yield, for each selection, a batch: the selected rows of every array, on the
        device, to be read only.

        The thread that reads streamed batches ends when the iteration ends or is
        closed.
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
        note_progress()
        rows = tuple(_select(array, selection) for array in self._rows)
        pinned = self.streamed and self._device.type == "cuda"
        return tuple(row.pin_memory() for row in rows) if pinned else rows


def _load(rows: Rows | Tensor, device: torch.device) -> Rows | Tensor:
    """Return ``rows`` as one tensor on ``device``; on a CPU, `Rows` that are not an
    array are returned unchanged.
    """
    if isinstance(rows, np.ndarray):
        with (
            warnings.catch_warnings()
        ):  # training never writes to a read-only memory map
            warnings.filterwarnings(
                "ignore", message="The given NumPy array is not writable"
            )
            rows = torch.from_numpy(np.asarray(rows))
    if isinstance(rows, Tensor):
        return rows.to(device)
    return rows if device.type == "cpu" else to_tensor(rows, device)


def _select(rows: Rows | Tensor, selection: RowIndex) -> Tensor:
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
    tensor = torch.empty(
        rows.shape, dtype=torch.from_numpy(np.empty(0, rows.dtype)).dtype, device=device
    )
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
        """Return the function that maps outputs [B, *output_shape] on ``device`` to
        predictions of the same shape.
        """
        if (
            self.y_mean is None
            or self.y_std is None
            or self.target.kind in ("classes", "labels")
        ):
            return lambda output: output
        mean = torch.tensor(np.asarray(self.y_mean), dtype=torch.float32, device=device)
        std = torch.tensor(np.asarray(self.y_std), dtype=torch.float32, device=device)
        return lambda output: output * std + mean

    def training_loss(
        self, train_y: Rows, device: torch.device, label_smoothing: float = 0.0
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a function that maps outputs [B, *output_shape] and targets [B, ...]
        on ``device`` to their mean loss.

        Some losses compute class weights from the training targets ``train_y`` [N,
        ...]; UserError if that fails. ``label_smoothing``: share of the loss of a class
        target that all classes have equally.
        """
        decode = self.decoder(device)
        loss = get_loss(self.loss).make(train_y, self.target, device)
        if not label_smoothing or self.target.kind != "classes":
            return lambda outputs, targets: loss(decode(outputs), targets)

        def smoothed(logits_BK: Tensor, y_B: Tensor) -> Tensor:
            return torch.lerp(
                loss(logits_BK, y_B),
                -functional.log_softmax(logits_BK, dim=1).mean(),
                label_smoothing,
            )

        return smoothed

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        """Return the metric (lower is better) of the ``predictions`` and ``targets`` of
        a whole split.
        """
        return float(get_metric(self.metric).compute(predictions, targets))


def predict(
    feed: SplitInputs,
    objective: Objective,
    batch_size: int = BATCH_SIZE,
    ranks: Ranks = ALONE,
) -> tuple[np.ndarray, int]:
    """Return decoded float32 predictions [N, *output_shape] for the inputs of ``feed``,
    and the batch size used.

    The batch size used is ``batch_size``, halved until a batch fits in memory. Each of
    several ranks predicts a part of the samples, and all ranks get the predictions of
    all. Raises NotFiniteError if a prediction is NaN or infinite.
    """
    count = len(feed.inputs)
    own = ranks.share(count)
    while (predicted := _predict_if_it_fits(feed, objective, batch_size, own)) is None:
        _log.warning(
            "%d samples did not fit the device's memory in evaluation: halved",
            batch_size,
        )
        batch_size //= 2
    predictions = ranks.joined(predicted, count)
    if not np.isfinite(predictions).all():
        bad = int((~np.isfinite(predictions)).sum())
        raise NotFiniteError(f"{bad} of {predictions.size} predictions are not finite")
    return predictions, batch_size


def _predict_if_it_fits(
    feed: SplitInputs, objective: Objective, batch_size: int, rows: slice
) -> np.ndarray | None:
    """Return predictions for ``rows``, or None if memory runs out: returning releases
    the exception's tensors.
    """
    try:
        decode = objective.decoder(feed.precision.device)
        with torch.no_grad(), feed.precision.active():
            samples = feed.samples.batches(feed.slices(batch_size, rows))
            parts = [
                decode(forward(feed.network, inputs, feed.precision))
                for (inputs,) in samples
            ]
            return (
                torch.cat(parts).cpu().numpy()
                if parts
                else np.empty((0, *objective.target.output_shape), "f4")
            )
    except Exception as error:
        if batch_size == 1 or not is_out_of_memory(error):
            raise
    return None


def of_samples(
    predictions: np.ndarray, y: np.ndarray, group: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three arrays with an entry for each sample of a split: predictions,
    targets, indices of first rows.

    Rows with equal ids in ``group`` [N] are one sample, with the mean of their
    predictions and the first row's target. Without ``group``, each row is a sample.
    """
    y = np.asarray(y)
    if group is None:
        return predictions, y, np.arange(len(y))
    _, firsts, members = np.unique(group, return_index=True, return_inverse=True)
    sums = np.zeros((len(firsts), *predictions.shape[1:]))
    np.add.at(sums, members, predictions)
    counts = np.bincount(members).reshape(-1, *[1] * (predictions.ndim - 1))
    return sums / counts, y[firsts], firsts


def log_loss(
    predictions: np.ndarray,
    y: np.ndarray,
    objective: Objective,
    group: np.ndarray | None = None,
) -> float:
    """Return the mean log loss of a whole split, whose targets are classes or labels;
    see `score`.
    """
    predictions, y, _ = of_samples(predictions, y, group)
    logits = torch.from_numpy(np.asarray(predictions, np.float64))
    targets = torch.from_numpy(np.array(y))
    if objective.target.kind == "classes":
        return float(functional.cross_entropy(logits, targets.long()))
    return float(functional.binary_cross_entropy_with_logits(logits, targets.double()))


def score(
    predictions: np.ndarray,
    y: np.ndarray,
    objective: Objective,
    group: np.ndarray | None = None,
) -> float:
    """Return the metric of a whole split, after rows of equal ``group`` are joined by
    `of_samples`; lower is better.

    Raises NotFiniteError if the metric is NaN or infinite.
    """
    predictions, y, _ = of_samples(predictions, y, group)
    value = objective.score(predictions, y)
    if not np.isfinite(value):
        raise NotFiniteError(f"the score ({objective.metric}) is {value}")
    return value
