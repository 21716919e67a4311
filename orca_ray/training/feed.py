"""Feeds: batches of a split on the device, and the network that processes them."""

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
from torch.nn import Parameter

from orca_ray.data.rows import RowIndex, Rows, num_bytes, row_slices
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training.precision import Precision

_CACHE_BATCH = 64
CACHE_BYTES = 512 * 2**20
"""Maximum size of the feature cache of one split."""
RESIDENT_FRACTION = 0.25
"""Maximum share of a CUDA device's free memory for one resident split."""
_PREFETCH = 3
"""Number of batches that are prefetched when they are streamed."""


@dataclass(frozen=True)
class Feed:
    """Inputs of one split and the network that processes them."""

    inputs: Rows | Tensor
    """[N, ...]: raw inputs for the whole model, or cached features for its head."""
    network: nn.Module
    precision: Precision

    def samples(self, y: Rows | None = None) -> "Samples":
        """Return the rows of the inputs, with those of the targets ``y`` [N, ...] if given."""
        return self._inputs_only if y is None else make_samples([self.inputs, y], self.precision.device)

    @cached_property
    def _inputs_only(self) -> "Samples":  # cached, because every validation uses them
        return make_samples([self.inputs], self.precision.device)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the float32 model outputs [b, *output_shape], differentiable in the trained parameters."""
        return forward(self.network, inputs, self.precision)

    def slices(self, batch_size: int) -> list[RowIndex]:
        """Return slices of at most ``batch_size`` that cover all samples in order."""
        starts = range(0, len(self.inputs), batch_size)
        return [slice(start, min(start + batch_size, len(self.inputs))) for start in starts]


def forward(network: Callable[[Tensor], Tensor], inputs: Tensor, precision: Precision) -> Tensor:
    """Return the float32 outputs of ``network`` for a batch, computed in ``precision``."""
    with precision.autocast():
        output: Tensor = network(inputs)
    return output.float()


def make_feed(
    model: CrossModalModel, trained: Iterable[Parameter], x: Rows, *, stochastic: bool, precision: Precision
) -> Feed:
    """Return a feed for the inputs ``x`` [N, ...]: cached features if only the head trains, else the whole model.

    Features are not cached if they exceed `CACHE_BYTES`, or if dropout or an augmentation makes them ``stochastic``.
    """
    head = {id(parameter) for parameter in model.head.parameters()}
    if stochastic or any(id(parameter) not in head for parameter in trained):
        return Feed(x, model, precision)
    sample = next(_head_inputs(model, x[:1], precision))
    if sample.numel() * sample.element_size() * len(x) > CACHE_BYTES:
        return Feed(x, model, precision)
    features = torch.cat(list(_head_inputs(model, x, precision)))
    return Feed(features, model.head, replace(precision, name="float32"))  # as heads compute inside the model


def _head_inputs(model: CrossModalModel, x: Rows, precision: Precision) -> Iterator[Tensor]:
    """Yield the inputs [b, ...] of the head in evaluation mode, intercepted by a hook on the head."""
    seen: list[Tensor] = []
    feed = Feed(x, model, precision)
    handle = model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision.active():
            for (inputs,) in feed.samples().batches(feed.slices(_CACHE_BATCH)):
                feed.outputs(inputs)
                yield seen.pop()
    finally:
        model.train(was_training)
        handle.remove()


class Samples:
    """Arrays of equal length, resident on the device, or streamed: a thread reads rows while the device computes."""

    def __init__(self, arrays: Sequence[Rows | Tensor], device: torch.device, *, streamed: bool = False) -> None:
        self.streamed, self._device = streamed, device
        self._rows = [_load(array, torch.device("cpu") if streamed else device) for array in arrays]

    def batches(self, selections: Sequence[RowIndex]) -> Iterator[tuple[Tensor, ...]]:
        """Yield the selected rows of every array on the device, one batch per selection; they are read-only.

        A thread that streams ends when the iteration ends or is closed.
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
        rows = tuple(_select(array, selection) for array in self._rows)
        pinned = self.streamed and self._device.type == "cuda"
        return tuple(row.pin_memory() for row in rows) if pinned else rows


def _load(rows: Rows | Tensor, device: torch.device) -> Rows | Tensor:
    """Return rows as one tensor on ``device``; on a CPU, composite rows stay as they are, assembled when read."""
    if isinstance(rows, np.ndarray):
        with warnings.catch_warnings():  # training never writes to a read-only memory map
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
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


def make_samples(arrays: Sequence[Rows | Tensor], device: torch.device) -> Samples:
    """Return the rows of ``arrays`` [N, ...]: streamed to CUDA if they exceed `RESIDENT_FRACTION`, else resident."""
    needed = sum(array.nbytes if isinstance(array, Tensor) else num_bytes(array) for array in arrays)
    too_large = device.type == "cuda" and needed > RESIDENT_FRACTION * torch.cuda.mem_get_info(device)[0]
    return Samples(arrays, device, streamed=too_large)


def to_tensor(rows: Rows, device: torch.device) -> Tensor:
    """Return composite rows as one tensor on ``device``, transferred in blocks."""
    tensor = torch.empty(rows.shape, dtype=torch.from_numpy(np.empty(0, rows.dtype)).dtype, device=device)
    for block in row_slices(rows):
        tensor[block] = torch.from_numpy(rows[block])
    return tensor
