"""Feeds of rows, resident or streamed, predictions in batches, precision by device, and throughput."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orca_ray.data.rows import RowIndex, joined_rows, row_slices
from orca_ray.models.body import repeated_layers
from orca_ray.training.evaluate import Samples, SplitInputs, predict, to_tensor
from orca_ray.training.numerics import Precision, choose_precision, torch_settings
from orca_ray.training.sample_cost import PEAKS, SampleCost, peak_flops, throughput

from .training_toys import (
    CPU,
    EXACT,
    OBJECTIVE,
    predictions_of,
    real_model,
    real_split,
    toy_split,
)

PARTS: list[RowIndex] = [np.array([5, 0, 5]), slice(2, 7), np.array([1])]


def test_streamed_rows_are_the_resident_ones(tmp_path: Path) -> None:
    split = toy_split(20)
    np.save(tmp_path / "x.npy", split.x[:])
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    resident = list(Samples([x, split.y], CPU).batches(PARTS))
    streamed = list(Samples([x, split.y], CPU, streamed=True).batches(PARTS))
    assert len(resident) == len(PARTS)
    for part, first, second in zip(PARTS, resident, streamed, strict=True):
        np.testing.assert_array_equal(first[0].numpy(), split.x[part])
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype
    assert not resident[1][0].numpy().flags.owndata  # a slice is no copy


def test_streaming_may_be_left_early_and_passes_errors_on() -> None:
    rows = Samples([toy_split(20).x], CPU, streamed=True)
    many: list[RowIndex] = [slice(0, 2)] * 50
    stream = rows.batches(many)
    next(stream)
    cast(Any, stream).close()  # would hang if its thread waited on
    with pytest.raises(IndexError):
        list(rows.batches([np.array([99])]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_predictions_do_not_depend_on_the_batch(bert: str, precision: str) -> None:
    model, split = real_model(bert).eval(), real_split(37)
    chosen = Precision(precision, CPU)
    feed = SplitInputs(split.x, model, chosen)
    expected = predictions_of(model, split.x, precision=chosen)
    tolerance = 1e-5 if precision == "float32" else 0.05
    for size in (1, 5, 500):
        np.testing.assert_allclose(predict(feed, OBJECTIVE, size)[0], expected, atol=tolerance)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_composite_rows_become_a_tensor_in_blocks(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (np.random.RandomState(seed).normal(size=(7, 2, 3)).astype(np.float32) for seed in (0, 1))
    joined = joined_rows(first, second)
    monkeypatch.setattr("orca_ray.training.evaluate.row_slices", lambda rows: row_slices(rows, 4 * first[0].nbytes))
    together = to_tensor(joined, torch.device(device))
    assert together.device.type == device
    np.testing.assert_array_equal(together.cpu().numpy(), np.concatenate([first, second]))


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
        monkeypatch.setattr("orca_ray.training.numerics.has_bfloat16_units", lambda device, amx=amx: amx)
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
    cost = SampleCost(saved_bytes=1, largest_bytes=1, flops=10**9, num_tokens=64)
    rates = throughput(cost, 50, 2.0, EXACT)
    assert (rates.samples_per_second, rates.tokens_per_second) == (25.0, 1600.0)
    peak = peak_flops(EXACT)
    assert peak is not None
    assert 1e9 < peak < 1e14
    assert rates.model_flop_utilisation == pytest.approx(25e9 / peak)
    assert throughput(SampleCost(1, 1, 1, None), 50, 2.0, EXACT).tokens_per_second is None
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
    assert all(peak["bfloat16"] >= peak["float32"] for peak in PEAKS.values() if len(peak) == 3)
