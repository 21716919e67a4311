"""Optimisers, schedules, plateaus, decoding, seeds, ranks, feeds and precision."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from orca_ray.data.rows import RowIndex, Target, joined_rows, row_slices
from orca_ray.models.body import repeated_layers, seeded
from orca_ray.torch_private import has_bfloat16_units
from orca_ray.training.config import ALIGN_SCHEDULES
from orca_ray.training.evaluate import (
    Objective,
    Samples,
    SplitInputs,
    predict,
    score,
    to_tensor,
)
from orca_ray.training.numerics import (
    Precision,
    choose_precision,
    derive_seed,
    make_generator,
    torch_settings,
)
from orca_ray.training.optimisation import (
    ParameterGroup,
    Plateau,
    make_optimizer,
    make_schedule,
    set_learning_rate,
)
from orca_ray.training.ranks import Ranks
from orca_ray.training.sample_cost import SampleCost, cpu_peak, throughput

from .training_toys import (
    CPU,
    OBJECTIVE,
    predictions_of,
    real_model,
    real_split,
    toy_split,
)


def learning_rates(name: str, warmup: int, total: int, num: int) -> list[float]:
    schedule = make_schedule(name, warmup_steps=warmup, total_steps=total)
    return [schedule(step) for step in range(num)]


@pytest.mark.parametrize(
    ("name", "warmup", "total", "expected"),
    [
        # The reference: (total - t) / (total - warmup) from t = warmup on.
        ("warmup_linear", 2, 6, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
        ("cosine", 1, 5, [1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0]),
        ("constant", 2, 3, [0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules(name: str, warmup: int, total: int, expected: list[float]) -> None:
    factors = learning_rates(name, warmup, total, len(expected))
    assert factors == pytest.approx(expected, abs=1e-6)
    for warmup, total in ((0, 1), (10, 10), (12, 10)):
        factors = learning_rates(name, warmup, total, 20)
        assert all(0.0 <= factor <= 1.0 for factor in factors)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("adamw", 1.0 - 0.1 * 0.5), ("sgd", 1.0 - 0.1 * 0.5), ("adam", 0.9)],
)
def test_weight_decay_is_decoupled_for_adamw_and_l2_for_others(
    name: str, expected: float
) -> None:
    # Adam normalises the L2 gradient to a step of one rate.
    weight = Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer(
        name, [ParameterGroup([weight])], learning_rate=0.1, weight_decay=0.5
    )
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert float(weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_groups_scale_the_learning_rate() -> None:
    first = Parameter(torch.ones(1))
    second = Parameter(torch.ones(1))
    groups = [
        ParameterGroup([first]),
        ParameterGroup([second], 0.1),
        ParameterGroup([]),
    ]
    optimizer = make_optimizer("sgd", groups, learning_rate=1.0, weight_decay=0.0)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.1]
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]


def test_align_schedules() -> None:
    step = ALIGN_SCHEDULES["step"](60)
    reference = ALIGN_SCHEDULES["reference_step"](100)
    factors = [step(epoch) for epoch in (0, 39, 40, 59)]
    assert factors == [1.0, 1.0, 0.1, 0.1]
    # The reference's rate falls after the epochs 20, 40 and 60 (from 0), not at them.
    factors = [reference(epoch) for epoch in (20, 21, 40, 41, 60, 61, 99)]
    assert factors == pytest.approx([1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008])


SLOW = [0.999**epoch for epoch in range(40)]
"""Falls by 0.4 % in 4 epochs."""


FALLING = [0.99**epoch for epoch in range(200)]
RISING = [2.0 + epoch for epoch in range(20)]
LEVEL_FROM_THE_11TH_ON = [max(1.0, 2.0 - 0.1 * epoch) for epoch in range(60)]
FALLING_FROM_A_HUNDREDTH = [1.0, *(0.01 * 0.9**epoch for epoch in range(40))]
FALLING_BELOW_ZERO = [-1.0 * epoch for epoch in range(1, 30)]


@pytest.mark.parametrize(
    # `num_values`: number of values after which the curve is first called flat.
    ("values", "patience", "tolerance", "num_values"),
    [
        (FALLING, 4, 0.005, None),
        ([2.0] * 20, 5, 0.005, 10),  # as soon as it can be judged
        (RISING, 3, 0.005, 6),
        (LEVEL_FROM_THE_11TH_ON, 4, 0.005, 18),
        ([1e-6 * value for value in SLOW], 4, 0.005, 8),  # the tolerance is relative
        (SLOW, 4, 0.003, None),
        # The tolerance is a share of the first value.
        (FALLING_FROM_A_HUNDREDTH, 4, 0.01, 9),
        ([0.0] * 10, 4, 0.005, 8),
        (FALLING_BELOW_ZERO, 4, 0.005, None),
        ([1.0] * 100, 0, 0.005, None),
    ],
)
def test_when_a_curve_is_flat(
    values: list[float], patience: int, tolerance: float, num_values: int | None
) -> None:
    plateau = Plateau(patience, tolerance)
    is_flat = [plateau.add(value, values[0]) for value in values]
    if num_values is None:
        assert not any(is_flat)
    else:
        assert is_flat.index(True) + 1 == num_values


def test_dense_outputs_are_decoded_and_logits_are_not() -> None:
    target = Target("dense", shape=(4, 4))
    for mean in (np.array(2.0), np.full((4, 4), 2.0)):
        objective = Objective(target, "mse", "rmse", mean, mean * 0 + 3.0)
        decoded = objective.decoder(CPU)(torch.ones(5, 4, 4))
        assert decoded.dtype == torch.float32
        assert torch.equal(decoded, torch.full((5, 4, 4), 5.0))
    classes = Target("classes", size=3)
    objective = Objective(
        classes, "cross_entropy", "error", np.array(2.0), np.array(3.0)
    )
    output = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(objective.decoder(CPU)(output), output)


def test_decoded_scores_are_in_the_targets_units() -> None:
    objective = Objective(
        Target("scalar"), "mse", "rmse", np.array(10.0), np.array(2.0)
    )
    outputs = torch.tensor([0.0, 1.0])
    decoded = objective.decoder(CPU)(outputs).numpy()
    y = np.array([10.0, 14.0], dtype=np.float32)
    assert score(decoded, y, objective) == pytest.approx(np.sqrt(2.0))
    loss = objective.training_loss(y, CPU)
    assert float(loss(outputs, torch.from_numpy(y))) == pytest.approx(2.0)


def test_seeds_are_fixed_for_all_time() -> None:
    """A changed derivation would change every published score."""
    assert derive_seed(0, "order", 1) == 8024286156118006313
    places = [
        (0, ("a", 1)),
        (0, ("a", 2)),
        (0, ("b", 1)),
        (1, ("a", 1)),
        (11, ("a",)),
        (1, ("1", "a")),
    ]
    assert len({derive_seed(seed, *path) for seed, path in places}) == len(places)
    assert all(0 <= derive_seed(seed) < 2**63 for seed in range(50))


def test_a_seed_holds_for_its_block_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(8, CPU):
        first = torch.rand(4)
    assert torch.equal(torch.rand(2), expected)
    with seeded(8, CPU):
        assert torch.equal(torch.rand(4), first)
    first = torch.rand(3, generator=make_generator(1, "x"))
    assert torch.equal(torch.rand(3, generator=make_generator(1, "x")), first)


def test_shares_are_even_and_cover_everything_in_order() -> None:
    for size, count in ((1, 7), (2, 64), (3, 64), (3, 7), (8, 7), (2, 0)):
        items = range(count)
        shares = [items[Ranks(rank, size).share(count)] for rank in range(size)]
        assert list(itertools.chain(*shares)) == list(items)
        lengths = [len(share) for share in shares]
        assert max(lengths) - min(lengths) <= 1
        assert lengths[0] == max(lengths), (
            "the record's micro-batch is the first rank's"
        )


def test_ranks_draw_different_random_numbers() -> None:
    def draw(rank: int) -> float:
        with torch.random.fork_rng(devices=[]):
            Ranks(rank, 3).seed(5, 7)
            return float(torch.rand(()))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_the_units_of_a_cpu_are_asked_for() -> None:
    assert torch.cpu._is_amx_tile_supported() in (True, False)
    assert torch.cpu._is_avx512_bf16_supported() in (True, False)
    assert not has_bfloat16_units(torch.device("mps"))


BATCHES: list[RowIndex] = [np.array([5, 0, 5]), slice(2, 7), np.array([1])]


def test_streamed_rows_are_the_resident_ones(tmp_path: Path) -> None:
    split = toy_split(20)
    np.save(tmp_path / "x.npy", split.x[:])
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    resident = list(Samples([x, split.y], CPU).batches(BATCHES))
    streamed = list(Samples([x, split.y], CPU, streamed=True).batches(BATCHES))
    assert len(resident) == len(BATCHES)
    for rows, (x_rows, y_rows), (streamed_x, streamed_y) in zip(
        BATCHES, resident, streamed, strict=True
    ):
        np.testing.assert_array_equal(x_rows.numpy(), split.x[rows])
        assert torch.equal(streamed_x, x_rows)
        assert torch.equal(streamed_y, y_rows)
        assert streamed_x.dtype == x_rows.dtype
        assert streamed_y.dtype == y_rows.dtype
    _, (of_slice, _), _ = resident
    assert not of_slice.numpy().flags.owndata  # a slice is no copy


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
    model = real_model(bert).eval()
    split = real_split(37)
    chosen = Precision(precision, CPU)
    feed = SplitInputs(split.x, model, chosen)
    expected = predictions_of(model, split.x, precision=chosen)
    tolerance = 1e-5 if precision == "float32" else 0.05
    for size in (1, 5, 500):
        predictions, _ = predict(feed, OBJECTIVE, size)
        np.testing.assert_allclose(predictions, expected, atol=tolerance)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_composite_rows_become_a_tensor_in_blocks(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = np.random.RandomState(0).normal(size=(14, 2, 3)).astype(np.float32)
    first, second = np.split(both, 2)
    joined = joined_rows(first, second)
    four_rows_bytes = first[:4].nbytes
    monkeypatch.setattr(
        "orca_ray.training.evaluate.row_slices",
        lambda rows: row_slices(rows, four_rows_bytes),
    )
    tensor = to_tensor(joined, torch.device(device))
    assert tensor.device.type == device
    np.testing.assert_array_equal(tensor.cpu().numpy(), both)


def test_bfloat16_is_for_the_body_alone(bert: str) -> None:
    model = real_model(bert)
    output_types: dict[str, torch.dtype] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda module, inputs, output: output_types.update({name: output.dtype})

    first_layer, *_ = repeated_layers(model.body)
    body_product = first_layer.get_submodule("intermediate.dense")
    model.embedder.register_forward_hook(watch("embedder"))
    model.head.output.register_forward_hook(watch("head"))  # type: ignore[union-attr]
    body_product.register_forward_hook(watch("body"))
    with Precision("bfloat16", CPU).autocast():
        model(torch.from_numpy(real_split(2).x))
    assert output_types == {
        "embedder": torch.float32,
        "body": torch.bfloat16,
        "head": torch.float32,
    }


@pytest.mark.parametrize(
    ("has_units", "width", "auto", "fast"),
    [
        (True, 768, "bfloat16", "bfloat16"),
        (True, 384, "float32", "bfloat16"),
        (False, 768, "float32", "float32"),
    ],
)
def test_precision_is_chosen_by_device_and_width(
    has_units: bool, width: int, auto: str, fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orca_ray.training.numerics.has_bfloat16_units", lambda device: has_units
    )
    assert choose_precision("auto", CPU, width).name == auto
    assert choose_precision("fast", CPU, width).name == fast


def test_a_precision_that_a_device_lacks_is_noted() -> None:
    assert choose_precision("bfloat16", CPU, 16) == Precision("bfloat16", CPU)
    lacking = choose_precision("tf32", CPU, 16)
    assert lacking.name == "float32"
    assert lacking.note == "refined in float32 because this cpu device has no tf32"


def test_flags_of_precision_are_put_back() -> None:
    def flags() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = flags()
    matmul_precision, _ = before
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
        torch.set_float32_matmul_precision(matmul_precision)


def test_rates_are_per_second() -> None:
    cost = SampleCost(saved_bytes=1, largest_bytes=1, num_tokens=64)
    rates = throughput(cost, 50, 2.0)
    assert rates.samples_per_second == 25.0
    assert rates.tokens_per_second == 1600.0
    assert throughput(SampleCost(1, 1, None), 50, 2.0).tokens_per_second is None
    assert 1e9 < cpu_peak(1, bfloat16=False) < 1e14
