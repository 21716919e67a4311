"""Precision and throughput: choice by device, restored settings, peaks and rates."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from orca_ray.models.checkpointing import repeated_layers
from orca_ray.training.config import RefineConfig
from orca_ray.training.micro_batch import Cost
from orca_ray.training.precision import Precision, choose_precision
from orca_ray.training.reproducibility import torch_settings
from orca_ray.training.throughput import PEAKS, peak_flops, throughput

from .training_toys import CPU, EXACT, make_refine, real_model, real_split, toy_model, toy_split


def test_bfloat16_is_for_the_body_alone(bert: str) -> None:
    model = real_model(bert)
    seen: dict[str, torch.dtype] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda module, inputs, output: seen.update({name: output.dtype})

    model.embedder.register_forward_hook(watch("embedder"))
    model.head.output.register_forward_hook(watch("head"))  # type: ignore[union-attr]
    repeated_layers(model.body)[0].get_submodule("intermediate.dense").register_forward_hook(watch("body"))
    with Precision("bfloat16", CPU).autocast():
        model(torch.from_numpy(real_split(2).x))
    assert seen == {"embedder": torch.float32, "body": torch.bfloat16, "head": torch.float32}


def test_precision_is_chosen_by_device_and_width(monkeypatch: pytest.MonkeyPatch) -> None:
    for amx, width, expected in ((True, 768, "bfloat16"), (True, 384, "float32"), (False, 768, "float32")):
        monkeypatch.setattr("orca_ray.training.precision.has_bfloat16_units", lambda device, amx=amx: amx)
        assert choose_precision("auto", CPU, width).name == expected
    assert choose_precision("bfloat16", CPU, 16) == Precision("bfloat16", CPU)
    lacking = choose_precision("tf32", CPU, 16)
    assert lacking.name == "float32"
    assert lacking.note == "refined in float32 because this cpu device has no tf32"


def test_flags_of_precision_are_put_back() -> None:
    def flags() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = flags()
    with Precision("tf32", torch.device("cuda")).active():
        assert flags() == ("high", True)
    with Precision("float32", torch.device("cuda")).active():
        assert flags() == ("highest", False)
    assert flags() == before
    torch.set_float32_matmul_precision("medium")
    try:
        with torch_settings(1, deterministic=False):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before[0])


def test_rates() -> None:
    cost = Cost(saved_bytes=1, largest_bytes=1, flops=10**9, num_tokens=64)
    rates = throughput(cost, 50, 2.0, EXACT)
    assert (rates.samples_per_second, rates.tokens_per_second) == (25.0, 1600.0)
    peak = peak_flops(EXACT)
    assert peak is not None
    assert 1e9 < peak < 1e14
    assert rates.model_flop_utilisation == pytest.approx(25e9 / peak)
    assert throughput(Cost(1, 1, 1, None), 50, 2.0, EXACT).tokens_per_second is None
    on_two = throughput(cost, 50, 2.0, EXACT, devices=2)
    assert on_two.samples_per_second == 25.0
    assert on_two.model_flop_utilisation == pytest.approx(25e9 / (2 * peak))
    assert peak_flops(Precision("float32", torch.device("mps"))) is None


CARDS: list[tuple[str, str, float | None]] = [
    ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
    ("NVIDIA H100 PCIe", "bfloat16", 756e12),
    ("NVIDIA A100-SXM4-80GB", "float32", 19.5e12),
    ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "float32", None),
    ("NVIDIA A10G", "bfloat16", 70e12),
    ("NVIDIA GH200 480GB", "bfloat16", 989e12),
    ("NVIDIA RTX A4000", "bfloat16", None),
    ("NVIDIA GeForce RTX 4090", "tf32", 82.6e12),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", "tf32", None),
    ("NVIDIA L40S", "tf32", 183e12),
    ("NVIDIA L4", "bfloat16", 121e12),
    ("Tesla V100-SXM2-16GB", "bfloat16", None),
    ("Some other card", "float32", None),
]


def test_peaks_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, precision, expected in CARDS:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(Precision(precision, torch.device("cuda"))) == expected
    assert all(bf16 is None or bf16 >= fp32 for bf16, _, fp32 in PEAKS.values() if fp32 is not None)


def test_rates_survive_a_resume() -> None:
    first, second = (make_refine(toy_model(), RefineConfig(epochs=3), train=toy_split(40)) for _ in range(2))
    first.step()
    second.load_state_dict(first.state_dict())
    assert second.throughput() == first.throughput()
