"""Ranks: processes that train one model together, each on its own device.

Each rank takes a part of every optimiser step.
"""

import math
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from orca_ray.training.numerics import derive_seed, is_out_of_memory

_TIMEOUT = timedelta(hours=1)
"""Limit of a wait for other ranks; long, because the process that starts the ranks
notices when a rank has ended.
"""


class RankLostError(ConnectionError):
    """Error: another process that trains the same model has ended."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among the ranks; by default, it is the only one.

    Ranks are the processes that train one model. All ranks have equal weights,
    configuration and data, and take the same steps. Methods that communicate wait until
    all ranks have called them, and raise RankLostError if another rank has ended.
    """

    rank: int = 0
    """Number of this process, from 0; the first one reports, and saves checkpoints."""
    size: int = 1

    def connect(self, file: Path) -> None:
        """Wait for the other ranks, which call this with the same ``file``.

        The path must not exist before.
        """
        loopback = next(
            name for _, name in socket.if_nameindex() if name.startswith("lo")
        )
        # All ranks are on one node.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        # Otherwise, NCCL ends the process when a rank is gone.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _lost_ranks():
            dist.init_process_group(
                backend, f"file://{file}", _TIMEOUT, self.size, self.rank
            )

    def share(self, count: int) -> slice:
        """Return the slice of ``count`` items that this rank processes.

        Lengths differ by at most 1 among ranks.
        """
        start = math.ceil(count * self.rank / self.size)
        end = math.ceil(count * (self.rank + 1) / self.size)
        return slice(start, end)

    def seed(self, *path: int) -> None:
        """Seed torch's global generators by ``path`` and the rank.

        The first rank does nothing. So ranks differ in dropout, and the state of the
        first rank's generators is enough to resume all ranks.
        """
        if self.rank:
            torch.manual_seed(derive_seed(self.rank, *path))

    def sum_gradients(self, parameters: Iterable[Parameter], loss: Tensor) -> Tensor:
        """Replace each ``.grad`` by its sum over ranks; return the sum of losses.

        ``loss`` is the scalar loss of this rank. All ranks must have gradients of the
        same parameters.
        """
        if self.size == 1:
            return loss
        gradients = [
            parameter.grad for parameter in parameters if parameter.grad is not None
        ]
        # One message, because many small ones take longer; it needs as much memory as
        # the gradients.
        flat = torch.cat(
            [*(gradient.flatten() for gradient in gradients), loss.reshape(1)]
        )
        with _lost_ranks():
            dist.all_reduce(flat)
        ends = np.cumsum([gradient.numel() for gradient in gradients]).tolist()
        *gradient_sums, loss_sum = flat.tensor_split(ends)
        for gradient, gradient_sum in zip(gradients, gradient_sums, strict=True):
            gradient.copy_(gradient_sum.view_as(gradient))
        return loss_sum[0].clone()

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite ``tensors`` by the values that they have on the first rank."""
        if self.size == 1:
            return
        with _lost_ranks(), torch.no_grad():
            for tensor in tensors:
                value = tensor.contiguous()
                dist.broadcast(value, 0)
                tensor.copy_(value)

    def join_rows(self, part: np.ndarray, count: int) -> np.ndarray:
        """Return the rows of all ranks as one array [count, ...].

        ``part`` contains the rows of this rank's `share`.
        """
        if self.size == 1:
            return part
        whole = np.zeros((count, *part.shape[1:]), part.dtype)
        whole[self.share(count)] = part
        with _lost_ranks():
            dist.all_reduce(torch.from_numpy(whole))  # in place
        return whole


ALONE = Ranks()
"""A process that trains by itself."""


def abort() -> None:
    """Make communication of this process with other ranks fail.

    It also fails where another thread waits for it.
    """
    group = dist.group.WORLD
    if group is not None:
        group.abort()


def disconnect() -> None:
    """Undo :meth:`Ranks.connect`, whether the other ranks have ended or not.

    Does nothing if not connected.
    """
    if dist.is_initialized():
        abort()
        dist.destroy_process_group()


@contextmanager
def _lost_ranks() -> Iterator[None]:
    """Raise RankLostError for the RuntimeErrors of `torch.distributed`."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise RankLostError(f"another rank does not answer: {error}") from error
