"""Rows of a split on the device: resident where they fit, else copied ahead of use."""

import queue
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from orca_ray.data.rows import Part, Rows, num_bytes, row_slices

__all__ = ["Part", "Samples", "make_samples"]

RESIDENT_FRACTION = 0.25
"""Share of a device's free memory that one split may take to be resident."""
_AHEAD = 3
"""Batches that wait for their use when they are streamed."""


class Samples(Protocol):
    """The rows of one or several arrays of equal length."""

    def batches(self, parts: Sequence[Part]) -> Iterator[tuple[Tensor, ...]]:
        """Yield, for each part, its rows of every array on the device, dtypes kept; not to be written to."""
        ...


class ResidentSamples:
    """All rows lie on the device; on a CPU they are the (memory-mapped) arrays themselves, and a slice is no copy."""

    def __init__(self, arrays: Sequence[Rows | Tensor], device: torch.device) -> None:
        self._rows = [_Readable(array, device) for array in arrays]

    def batches(self, parts: Sequence[Part]) -> Iterator[tuple[Tensor, ...]]:
        """Yield the rows of each part."""
        for part in parts:
            yield tuple(rows.read(part) for rows in self._rows)


class _Readable:
    """Rows as tensors on a device: held there, but for composite rows on a CPU, put together when they are read."""

    def __init__(self, rows: Rows | Tensor, device: torch.device) -> None:
        self._device = device
        self._tensor, self._composite = None, None
        if isinstance(rows, Tensor | np.ndarray):
            self._tensor = as_tensor(rows).to(device)
        elif device.type == "cpu":
            self._composite = rows
        else:
            self._tensor = put_together(rows, device)

    def read(self, part: Part) -> Tensor:
        """Return the rows [b, ...]."""
        if self._tensor is None:
            assert self._composite is not None
            return torch.from_numpy(self._composite[part]).to(self._device)
        if isinstance(part, slice):
            return self._tensor[part]
        return self._tensor[torch.from_numpy(part).to(self._device, non_blocking=True)]


class StreamedSamples:
    """A thread gathers the next parts into pinned memory while the device computes."""

    def __init__(self, arrays: Sequence[Rows | Tensor], device: torch.device) -> None:
        self._rows = [_Readable(array, torch.device("cpu")) for array in arrays]
        self._device = device

    def batches(self, parts: Sequence[Part]) -> Iterator[tuple[Tensor, ...]]:
        """Yield the rows of each part; ends its thread however the iteration ends."""
        ready: queue.Queue[tuple[Tensor, ...] | BaseException] = queue.Queue(_AHEAD)
        stop = threading.Event()
        thread = threading.Thread(target=self._gather, args=(parts, ready, stop), daemon=True)
        thread.start()
        try:
            for _ in parts:
                rows = ready.get()
                if isinstance(rows, BaseException):
                    raise rows
                yield tuple(row.to(self._device, non_blocking=True) for row in rows)
        finally:
            stop.set()
            while thread.is_alive():  # it may be waiting for room
                try:
                    ready.get(timeout=0.01)
                except queue.Empty:
                    continue
            thread.join()

    def _gather(self, parts: Sequence[Part], ready: queue.Queue[tuple[Tensor, ...] | BaseException],
                stop: threading.Event) -> None:  # fmt: skip
        try:
            for part in parts:
                if stop.is_set():
                    return
                rows = tuple(row.read(part) for row in self._rows)
                ready.put(tuple(row.pin_memory() for row in rows) if self._device.type == "cuda" else rows)
        except BaseException as error:  # handed over: it must end the trial, not this thread alone
            ready.put(error)


def make_samples(arrays: Sequence[Rows | Tensor], device: torch.device) -> Samples:
    """Return the rows of ``arrays`` [N, ...]: resident on a CPU, and wherever `RESIDENT_FRACTION` allows it."""
    if device.type == "cuda":
        needed = sum(array.nbytes if isinstance(array, Tensor) else num_bytes(array) for array in arrays)
        if needed > RESIDENT_FRACTION * torch.cuda.mem_get_info(device)[0]:
            return StreamedSamples(arrays, device)
    return ResidentSamples(arrays, device)


def put_together(rows: Rows, device: torch.device) -> Tensor:
    """Return composite rows as one tensor on ``device``, passed there in parts."""
    tensor = torch.empty(rows.shape, dtype=torch.from_numpy(np.empty(0, rows.dtype)).dtype, device=device)
    for part in row_slices(rows):
        tensor[part] = torch.from_numpy(rows[part])
    return tensor


def as_tensor(array: np.ndarray | Tensor) -> Tensor:
    """View an array as a tensor, a read-only map too: nothing here writes to its rows."""
    if isinstance(array, Tensor):
        return array
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
