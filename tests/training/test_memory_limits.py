"""Limits of a trial's memory: smaller micro-batches after memory ran out, and budgets by the share of a GPU."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from orca_ray.heartbeat import beats
from orca_ray.training import feed
from orca_ray.training.feed import Samples
from orca_ray.training.memory_limits import CONTEXT_MIB, MemoryLimits, limit_memory, memory_limits
from orca_ray.training.micro_batch import budget_bytes, halved
from tests.training.test_gradient_accumulation import make_accumulator
from tests.training.training_toys import toy_model, toy_split

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    yield
    limit_memory(MemoryLimits(), CPU)


def test_micro_batches_are_halved() -> None:
    split = toy_split(32)
    before = make_accumulator(toy_model(), split, batch_size=16, accumulation=2).micro_batch
    assert halved(64) == 64
    limit_memory(MemoryLimits(halvings=2), CPU)
    assert (halved(64), halved(3)) == (16, 1)
    assert make_accumulator(toy_model(), split, batch_size=16, accumulation=2).micro_batch == before // 4 == 8


def test_budgets_derive_from_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=2**34))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**33, 2**34))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2**30)
    whole, free = budget_bytes(0, CUDA), feed._free_bytes(CUDA)
    limit_memory(MemoryLimits(share=0.25), CUDA)
    assert 4 * (shares.pop() * 2**34 + CONTEXT_MIB * 2**20) == 2**34, "four trials and their CUDA contexts fit"
    assert memory_limits().share == 0.25
    assert budget_bytes(0, CUDA) == whole // 4
    assert (free, feed._free_bytes(CUDA)) == (2**33, 2**32 - CONTEXT_MIB * 2**20 - 2**30)
    assert budget_bytes(100, CUDA) == 100 * 2**20, "what a sweep sets stays"
    limit_memory(MemoryLimits(share=0.01), CUDA)
    limit_memory(MemoryLimits(), CUDA)
    assert shares == [0.0, 1.0], "a context alone exceeds a hundredth of the card; a whole card has no limit"


def test_reading_a_batch_is_progress() -> None:
    before = beats()
    list(Samples([torch.zeros(4, 2)], CPU).batches([slice(0, 2), slice(2, 4)]))
    assert beats() == before + 2
