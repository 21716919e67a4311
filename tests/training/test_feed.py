"""Feeds: rows on the device, resident or streamed; cached features; predictions in batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from orca_ray.data.rows import JoinedRows, RowIndex, Rows, row_slices
from orca_ray.training.evaluate import predict
from orca_ray.training.feed import Feed, Samples, make_samples, to_tensor
from orca_ray.training.precision import Precision

from .training_toys import CPU, OBJECTIVE, predictions_of, real_model, real_split, toy_split

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
    feed = Feed(split.x, model, chosen)
    expected = predictions_of(model, split.x, precision=chosen)
    tolerance = 1e-5 if precision == "float32" else 0.05
    for size in (1, 5, 500):
        np.testing.assert_allclose(predict(feed, OBJECTIVE, size)[0], expected, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("streamed", [False, True])
def test_rows_reach_the_device(streamed: bool) -> None:
    split = toy_split(20)
    device = torch.device("cuda")
    joined = JoinedRows(split.x[:5], split.x[5:])
    arrays: Sequence[Rows] = [split.x[:], split.y, joined]
    for part, (x, y, same_x) in zip(PARTS, Samples(arrays, device, streamed=streamed).batches(PARTS), strict=True):
        np.testing.assert_array_equal(x.cpu().numpy(), split.x[part])
        np.testing.assert_array_equal(y.cpu().numpy(), split.y[part])
        assert torch.equal(x, same_x)
        assert x.device.type == "cuda"
    assert not make_samples(arrays, device).streamed


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_composite_rows_become_a_tensor_in_blocks(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (np.random.RandomState(seed).normal(size=(7, 2, 3)).astype(np.float32) for seed in (0, 1))
    joined = JoinedRows(first, second)
    monkeypatch.setattr("orca_ray.training.feed.row_slices", lambda rows: row_slices(rows, 4 * first[0].nbytes))
    together = to_tensor(joined, torch.device(device))
    assert together.device.type == device
    np.testing.assert_array_equal(together.cpu().numpy(), np.concatenate([first, second]))
