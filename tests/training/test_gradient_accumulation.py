"""Gradient accumulation, memory limits, checkpointing of layers and compilation."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orca_ray.data.prepared import Split
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.process import progress_count
from orca_ray.testing.trials import copy_of
from orca_ray.training import evaluate, refine, sample_cost
from orca_ray.training.config import RefineConfig
from orca_ray.training.evaluate import Samples, SplitInputs
from orca_ray.training.gradient_accumulation import GradientAccumulator, wants_compile
from orca_ray.training.numerics import NotFiniteError, torch_settings
from orca_ray.training.sample_cost import (
    CONTEXT_MIB,
    CPU_TENSOR_BYTES,
    MemoryLimits,
    SampleCost,
    budget_bytes,
    even_micro_batch,
    halve,
    limit_memory,
    max_micro_batch,
    memory_limits,
)

from .training_toys import (
    CPU,
    EXACT,
    OBJECTIVE,
    limited_memory,
    make_refine,
    real_model,
    real_split,
    same,
    toy_model,
    toy_split,
)

CUDA = torch.device("cuda")


def make_accumulator(
    model: CrossModalModel, split: Split, **options: Any
) -> GradientAccumulator:
    config = RefineConfig(**options)
    loss = OBJECTIVE.training_loss(split.y, CPU)
    feed = SplitInputs(split.x, model, EXACT)
    return GradientAccumulator(
        model, list(model.parameters()), feed, split.y, loss, config, seed=0
    )


def gradient(
    accumulator: GradientAccumulator, model: nn.Module, num_samples: int
) -> Tensor:
    model.zero_grad()
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        next(accumulator.gradients([np.arange(num_samples)[::-1].copy()]))
    gradients = [parameter.grad for parameter in model.parameters()]
    return torch.cat([grad.flatten() for grad in gradients if grad is not None])


def test_the_gradient_does_not_depend_on_the_micro_batch(bert: str) -> None:
    model = real_model(bert)
    accumulator = make_accumulator(model, real_split(12))
    accumulator.limit = 12
    expected = gradient(accumulator, model, 12)
    for limit in (1, 7, 40):
        accumulator.limit = limit
        in_micro_batches = gradient(accumulator, model, 12)
        torch.testing.assert_close(in_micro_batches, expected, rtol=1e-4, atol=1e-6)


def saved_by_autograd(model: CrossModalModel, x: Tensor) -> int:
    saved: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    assert output.requires_grad
    return sum(saved.values())


def test_a_micro_batch_stays_within_the_memory_budget(
    bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = real_model(bert)
    split = real_split(64)
    x = torch.from_numpy(split.x)
    cost = make_accumulator(model, split, batch_size=64).cost
    assert cost.num_tokens == 8
    saved_bytes = saved_by_autograd(model, x[:16])
    assert cost.saved_bytes == pytest.approx(saved_bytes / 16, rel=0.1)
    budget = 10 * cost.saved_bytes
    monkeypatch.setattr(sample_cost, "budget_bytes", lambda memory_mib, device: budget)
    accumulator = make_accumulator(model, split, batch_size=64)
    assert 4 <= accumulator.micro_batch <= accumulator.limit < 10
    assert saved_by_autograd(model, x[: accumulator.limit]) <= budget


def test_limits_of_a_micro_batch() -> None:
    small = SampleCost(saved_bytes=2**20, largest_bytes=2**10, num_tokens=1)
    assert max_micro_batch(small, 100 * 2**20, CPU) == 80  # a quarter on top
    assert max_micro_batch(small, 100 * 2**20, CPU, extra_bytes=2**20) == 40
    assert max_micro_batch(small, 1, CPU) == 1
    wide = SampleCost(
        saved_bytes=2**20, largest_bytes=CPU_TENSOR_BYTES // 3, num_tokens=1
    )
    assert max_micro_batch(wide, 2**40, CPU) == 3
    assert max_micro_batch(wide, 2**40, CUDA) == 1024
    even_sizes = {limit: even_micro_batch(64, limit) for limit in (1, 21, 40, 64, 99)}
    assert even_sizes == {1: 1, 21: 16, 40: 32, 64: 64, 99: 64}


def test_checkpointing_keeps_gradients_and_saves_memory(bert: str) -> None:
    split = real_split(12)
    model = real_model(bert, dropout=0.3)
    without_checkpointing = make_accumulator(model, split)
    without_checkpointing.limit = 12
    expected = gradient(without_checkpointing, model, 12)
    x = torch.from_numpy(split.x)
    model.train()
    before = saved_by_autograd(model, x)
    accumulator = make_accumulator(model, split, gradient_checkpointing="on")
    accumulator.limit = 12
    assert torch.equal(gradient(accumulator, model, 12), expected)
    assert saved_by_autograd(model, x) < 0.5 * before
    assert not accumulator.notes


def test_a_network_without_repeated_layers_is_noted() -> None:
    accumulator = make_accumulator(
        toy_model(), toy_split(9), gradient_checkpointing="on"
    )
    (note,) = accumulator.notes
    assert "no repeated layers" in note


def test_the_largest_tensor_limits_micro_batches_with_checkpointing(
    bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = real_model(bert, dropout=0.3)
    large = real_split(64)
    cost = make_accumulator(model, large, batch_size=64).cost
    monkeypatch.setattr(sample_cost, "CPU_TENSOR_BYTES", 5 * cost.largest_bytes)
    limited = make_accumulator(model, large, batch_size=64, gradient_checkpointing="on")
    assert limited.limit == 5


@pytest.mark.parametrize(
    ("check_every", "least_steps", "most_steps"), [(1, 1, 9), (64, 10, 10)]
)
def test_nan_ends_the_trial_before_it_can_be_the_best(
    check_every: int,
    least_steps: int,
    most_steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Devices that a check synchronises with check only some losses."""
    x = toy_split(40).x[:].copy()
    x[17] = np.nan
    train = Split(x, toy_split(40).y)
    monkeypatch.setitem(refine.CHECK_EVERY, "cpu", check_every)
    model = toy_model()
    loop = make_refine(model, RefineConfig(epochs=2, batch_size=4), train=train)
    _ = loop.micro_batch  # measures the cost of a sample
    steps: list[None] = []
    model.embedder.register_forward_hook(lambda *_: steps.append(None))
    with pytest.raises(NotFiniteError, match="training loss is nan in epoch 1"):
        loop.step()
    assert loop.best_epoch is None
    assert loop.epoch == 0
    assert least_steps <= len(steps) <= most_steps


def test_a_micro_batch_too_large_for_the_device_is_halved() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")

    limited = toy_model()
    limited_loop = make_refine(limited, RefineConfig(epochs=1, batch_size=32))
    with limited_memory(limited, 8, error, training=True):
        loss = limited_loop.step().loss
    assert limited_loop.micro_batch == 8
    assert limited_loop.notes == [
        f"a micro-batch of {size} samples did not fit the device's memory, halved"
        for size in (32, 16)
    ]

    unlimited = toy_model()
    unlimited_loop = make_refine(unlimited, RefineConfig(epochs=1, batch_size=32))
    assert loss == pytest.approx(unlimited_loop.step().loss, rel=1e-5)
    assert unlimited_loop.micro_batch == 32
    assert unlimited_loop.notes == []
    torch.testing.assert_close(
        copy_of(limited), copy_of(unlimited), rtol=1e-3, atol=1e-5
    )


def test_one_sample_too_large_for_the_device_ends_the_trial() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    model = toy_model()
    loop = make_refine(model, RefineConfig(epochs=1, batch_size=32))
    with (
        limited_memory(model, 0, error, training=True),
        pytest.raises(type(error), match=str(error)),
    ):
        loop.step()


def test_other_errors_and_those_of_the_optimiser_are_not_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step of an optimiser that has half of its state could not be repeated."""
    model = toy_model()
    loop = make_refine(model, RefineConfig(epochs=1, batch_size=32))
    before = copy_of(model)
    error = RuntimeError("shapes differ")
    with (
        limited_memory(model, 8, error, training=True),
        pytest.raises(RuntimeError, match="shapes differ"),
    ):
        loop.step()
    tried: list[Tensor] = []

    def fail(tensor: Tensor, **options: Any) -> Tensor:
        tried.append(tensor)
        if len(tried) == 2:
            raise torch.OutOfMemoryError("no memory")
        return torch.full_like(tensor, 0.0, **options)

    monkeypatch.setattr(torch, "zeros_like", fail)
    with pytest.raises(torch.OutOfMemoryError):
        loop.step()
    assert len(tried) == 2
    assert loop.notes == []
    assert loop.micro_batch == 32
    assert same(copy_of(model), before)


def test_training_continues_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fail)
    losses = []
    for mode, notes in (("off", []), ("on", ["not compiled (RuntimeError)"])):
        config = RefineConfig(epochs=1, dropout=0.2, compile=mode)
        loop = make_refine(toy_model(dropout=0.2), config)
        losses.append(loop.step().loss)
        assert loop.notes == notes
    without_compiling, with_failure = losses
    assert without_compiling == with_failure


def test_networks_are_compiled_for_each_micro_batch_and_used_for_its_size_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[int] = []
    sizes: list[int] = []

    def compile_network(
        network: nn.Module, **options: Any
    ) -> Callable[[Tensor], Tensor]:
        compiled.append(loop.micro_batch)

        def run(x: Tensor) -> Tensor:
            sizes.append(len(x))
            output: Tensor = network(x)
            return output

        return run

    monkeypatch.setattr(torch, "compile", compile_network)
    model = toy_model()
    config = RefineConfig(epochs=3, batch_size=16, compile="on")
    loop = make_refine(model, config, train=toy_split(40))
    loop.step()
    # The trial run, and two of three steps: the last one has 8 samples.
    assert sizes == [16, 16, 16]
    with limited_memory(model, 8, training=True):
        loop.step()
        loop.step()
    assert compiled == [16, 8]


def test_when_to_compile() -> None:
    assert not wants_compile("auto", CPU, 10**6)
    assert not wants_compile("auto", CUDA, 10)
    assert wants_compile("auto", CUDA, 10**6)
    assert wants_compile("on", CPU, 1)
    with torch_settings(1, deterministic=True):
        assert not wants_compile("on", CUDA, 10**6)


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    yield
    limit_memory(MemoryLimits(), CPU)


def test_micro_batches_are_halved() -> None:
    unlimited = make_accumulator(toy_model(), toy_split(32), batch_size=32)
    assert halve(64) == 64
    limit_memory(MemoryLimits(halvings=2), CPU)
    assert halve(64) == 16
    assert halve(3) == 1
    limited = make_accumulator(toy_model(), toy_split(32), batch_size=32)
    assert limited.micro_batch == unlimited.micro_batch // 4 == 8


def test_budgets_derive_from_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda _: SimpleNamespace(total_memory=2**34),
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**33, 2**34))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2**30)
    whole_budget = budget_bytes(0, CUDA)
    free = evaluate._free_bytes(CUDA)
    limit_memory(MemoryLimits(share=0.25), CUDA)
    context_bytes = CONTEXT_MIB * 2**20
    trial_bytes = shares.pop() * 2**34 + context_bytes
    assert 4 * trial_bytes == 2**34, "four trials and their CUDA contexts fit"
    assert memory_limits().share == 0.25
    assert budget_bytes(0, CUDA) == whole_budget // 4
    assert free == 2**33
    assert evaluate._free_bytes(CUDA) == 2**32 - context_bytes - 2**30
    assert budget_bytes(100, CUDA) == 100 * 2**20, "what a sweep sets stays"
    limit_memory(MemoryLimits(share=0.01), CUDA)
    assert shares == [0.0], "a context alone exceeds a hundredth of the card"
    limit_memory(MemoryLimits(), CUDA)
    assert shares == [0.0, 1.0], "a whole card has no limit"


def test_reading_a_batch_is_progress() -> None:
    before = progress_count()
    list(Samples([torch.zeros(4, 2)], CPU).batches([slice(0, 2), slice(2, 4)]))
    assert progress_count() == before + 2
