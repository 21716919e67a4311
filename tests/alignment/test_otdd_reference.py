"""The ladder-exact OTDD against the same formulas written down plainly, and against values the reference gave."""

import ctypes
import gc
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orca_ray.alignment import distance as contract
from orca_ray.alignment.distance import Distance, SourceFeatures
from orca_ray.alignment.distances import otdd_reference
from orca_ray.alignment.registry import get_distance
from orca_ray.errors import UserError
from benchmarks.reference import make_features

NAME = "otdd_reference"
Metric = Callable[[Tensor, Tensor], Tensor]


def cloud(n: int, d: int = 5, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.3, 1.0, d, dtype=torch.float64)
    return scale * (torch.randn(n, d, generator=generator, dtype=torch.float64) * spread + 0.2 * seed)


def source(scale: float = 1.0, sizes: tuple[int, ...] = (17, 9, 14), d: int = 5) -> SourceFeatures:
    """Classes called 3, 8, 13, …, their points mixed."""
    x = torch.cat([cloud(size, d, seed + 1, scale) for seed, size in enumerate(sizes)])
    y = torch.cat([torch.full((size,), 5 * c + 3) for c, size in enumerate(sizes)])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return SourceFeatures(x[order], y[order], "test")


def call(distance: Distance, x: Tensor, y: Tensor | None = None, shares: Tensor | None = None) -> tuple[float, Tensor]:
    x = x.clone().requires_grad_()
    value = distance(x, torch.zeros(len(x), dtype=torch.long) if y is None else y, shares)
    value.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return value.item(), x.grad


# The formulas, one matrix at a time, with autograd where the reference has it.


def squares(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y[None]).square().sum(-1)


def plain_ladder(x: Tensor, y: Tensor) -> list[float]:
    box = torch.cat([x, y])
    diameter = float((box.amax(0) - box.amin(0)).norm().detach())
    temperatures, e = [diameter**2], diameter**2
    while e > 0.1 * (1 + 1e-12):
        temperatures.append(e)
        e /= 4
    return [*temperatures, 0.1]


def soft_minimum(cost: Tensor, potential: Tensor, e: float) -> Tensor:
    mean: Tensor = torch.logsumexp(potential / e - cost / e, 1) - math.log(cost.shape[1])
    return -e * mean


def potentials(rows: Tensor, columns: Tensor, temperatures: list[float]) -> tuple[Tensor, Tensor]:
    """Of the costs of one side's points to the other's, [n, m] and [m, n]; gradients flow through the last step."""
    with torch.no_grad():
        e, (n, m) = temperatures[0], rows.shape
        f, g = soft_minimum(rows, rows.new_zeros(m), e), soft_minimum(columns, rows.new_zeros(n), e)
        for e in temperatures:
            f, g = (f + soft_minimum(rows, g, e)) / 2, (g + soft_minimum(columns, f, e)) / 2
    return soft_minimum(rows, g, e), soft_minimum(columns, f, e)


def divergence(metric: Metric, x: Tensor, y: Tensor, temperatures: list[float]) -> Tensor:
    f, g = potentials(metric(x, y.detach()), metric(y, x.detach()), temperatures)
    own_x, own_y = metric(x, x.detach()), metric(y, y.detach())
    f_own, g_own = potentials(own_x, own_x, temperatures)[0], potentials(own_y, own_y, temperatures)[0]
    total: Tensor = (f - f_own).mean() + (g - g_own).mean()
    return total


def plainly(src: SourceFeatures, target: Tensor) -> Tensor:
    names = torch.tensor(sorted(set(src.y.tolist())))
    sides = [src.x[src.y == c] for c in names] + [target]
    w = torch.zeros(len(sides), len(sides), dtype=torch.float64)
    for i in range(len(sides)):
        for j in range(i):
            distance = divergence(squares, sides[j], sides[i], plain_ladder(sides[j], sides[i])).detach()
            w = w.index_put((torch.tensor([i, j]), torch.tensor([j, i])), distance)
    y = torch.searchsorted(names, src.y)

    def labelled(points: Tensor, ids: Tensor) -> Tensor:
        return torch.cat([points, ids[:, None].to(points)], 1)

    def metric(a: Tensor, b: Tensor) -> Tensor:
        return squares(a[:, :-1], b[:, :-1]) / 2 + w[a[:, -1].long()][:, b[:, -1].long()] / 2

    x = labelled(src.x, y)
    z = labelled(target, torch.full((len(target),), len(names)))
    return divergence(metric, x, z, plain_ladder(x, z))


@pytest.mark.parametrize("scale", [0.05, 0.5, 3.0, 40.0])
def test_equals_the_plain_formulas(scale: float) -> None:
    src, target = source(scale), cloud(11, seed=4, scale=scale).requires_grad_()
    expected = plainly(src, target)
    expected.backward()  # type: ignore[no-untyped-call]
    value, gradient = call(get_distance(NAME).fit(src), target.detach())
    # Source-only costs are interpolated between phases of the ladder.
    assert value == pytest.approx(expected.item(), rel=2e-5)
    torch.testing.assert_close(gradient, target.grad, rtol=1e-6, atol=1e-9 * scale)


def test_single_precision_equals_the_plain_formulas() -> None:
    src, target = source(2.0), cloud(23, seed=4, scale=2.0).requires_grad_()
    expected = plainly(src, target)
    expected.backward()  # type: ignore[no-untyped-call]
    assert target.grad is not None
    value, gradient = call(
        get_distance(NAME).fit(SourceFeatures(src.x.float(), src.y, "test")), target.detach().float()
    )
    assert value == pytest.approx(expected.item(), rel=1e-4)
    assert 1.0 - torch.cosine_similarity(gradient.double().flatten(), target.grad.flatten(), 0) < 1e-6
    assert gradient.norm().item() == pytest.approx(target.grad.norm().item(), rel=1e-3)


def test_one_source_class_and_fewer_points_than_features() -> None:
    src, target = source(sizes=(6,), d=12), cloud(4, d=12, seed=4)
    assert call(get_distance(NAME).fit(src), target)[0] == pytest.approx(plainly(src, target).item(), rel=2e-5)


@pytest.mark.slow
def test_equals_what_the_reference_gave() -> None:
    features = make_features(64, 128, 2.0)
    distance = get_distance(NAME).fit(SourceFeatures(features.source_x, features.source_y, "test"))
    ours, gradient = call(distance, features.target)
    assert ours == pytest.approx(2.897535, rel=1e-5)
    assert gradient.norm().item() == pytest.approx(0.176412, rel=1e-3)


def test_classes_are_weighed_and_single_samples_left_out() -> None:
    distance = get_distance(NAME).fit(source())
    parts = [cloud(6, seed=5), cloud(1, seed=6), cloud(9, seed=7)]
    x, y = torch.cat(parts), torch.tensor([2] * 6 + [-4] + [40] * 9)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    shares = torch.tensor([0.2, 0.5, 0.3])  # of classes -4, 2 and 40
    value, gradient = call(distance, x[order], y[order], shares)
    assert distance.diagnosis.notes == ("1 target classes of one sample left out",)
    first, last = call(distance, parts[0]), call(distance, parts[2])
    assert value == pytest.approx(0.5 * first[0] + 0.3 * last[0])
    expected = torch.cat([0.5 * first[1], torch.zeros(1, 5), 0.3 * last[1]])[order]
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_only_single_samples_leave_nothing() -> None:
    distance = get_distance(NAME).fit(source())
    value, gradient = call(distance, cloud(3), torch.arange(3))
    assert value == 0.0
    assert not gradient.any()


def test_small_source_classes_are_left_out() -> None:
    src = source(sizes=(17, 1, 14))
    kept = src.y != 8
    distance = get_distance(NAME).fit(src)
    value, gradient = call(distance, cloud(9, seed=4))
    assert distance.diagnosis.notes[0].startswith("1 of 3 source classes left out, with 1 samples")
    without = call(get_distance(NAME).fit(SourceFeatures(src.x[kept], src.y[kept], "test")), cloud(9, seed=4))
    assert value == without[0]
    torch.testing.assert_close(gradient, without[1])


def test_a_source_without_a_usable_class_is_refused() -> None:
    with pytest.raises(UserError, match=r"shape \(4, 5\).*class of 2 to 50000"):
        get_distance(NAME).fit(SourceFeatures(cloud(4), torch.arange(4), "test"))


def test_large_source_classes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otdd_reference, "MAX_CLASS", 15)
    distance = get_distance(NAME).fit(source())
    call(distance, cloud(9, seed=4))
    assert distance.diagnosis.notes[0].startswith("1 of 3 source classes left out, with 17 samples")


def test_labels_do_not_train() -> None:
    src = source(3.0)
    shuffled = SourceFeatures(src.x, src.y[torch.randperm(40, generator=torch.Generator().manual_seed(3))], "test")
    target = cloud(11, seed=4, scale=3.0)
    (value, gradient), (other, moved) = (call(get_distance(NAME).fit(s), target) for s in (src, shuffled))
    assert abs(value / other - 1.0) > 1e-3
    # Not quite 0: the first of the ladder's steps sees the labels.
    assert 1.0 - float(torch.cosine_similarity(gradient.flatten(), moved.flatten(), 0)) < 1e-7


def test_order_and_names_do_not_matter() -> None:
    src, target = source(), cloud(13, seed=4)
    value, gradient = call(get_distance(NAME).fit(src), target)
    flip = torch.arange(12, -1, -1)
    renamed = SourceFeatures(src.x.flip(0), -src.y.flip(0), "test")
    other, moved = call(get_distance(NAME).fit(renamed), target[flip], torch.full((13,), -7))
    assert other == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(moved, gradient[flip], rtol=1e-4, atol=1e-7)


def test_where_the_reference_crashes() -> None:
    src, target = source(), cloud(257, seed=4).requires_grad_()
    distance = get_distance(NAME).fit(src)
    expected = plainly(src, target)
    expected.backward()  # type: ignore[no-untyped-call]
    value, gradient = call(distance, target.detach())
    assert value == pytest.approx(expected.item(), rel=2e-5)
    torch.testing.assert_close(gradient, target.grad, rtol=1e-6, atol=1e-9)
    assert distance.diagnosis.notes == ("a target class has 257 samples, more than the source: all were used",)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    src, target = source(), cloud(13, seed=4)
    value, gradient = call(get_distance(NAME).fit(src), target)
    monkeypatch.setattr(contract, "MEMORY_BYTES", 600)  # no cost is stored
    other, chunked = call(get_distance(NAME).fit(src), target)
    assert other == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(chunked, gradient, rtol=1e-7, atol=1e-11)


def test_lost_sums_are_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    src, target = source(3.0), cloud(13, seed=4, scale=3.0)
    value, gradient = call(get_distance(NAME).fit(src), target)
    monkeypatch.setattr(otdd_reference, "_MOST", 1.0)
    other, again = call(get_distance(NAME).fit(src), target)
    assert other == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(again, gradient, rtol=1e-7, atol=1e-11)


def test_terms_go_round(monkeypatch: pytest.MonkeyPatch) -> None:
    src, target = source(), cloud(11, seed=4)
    first = get_distance(NAME).fit(src)
    expected = call(first, target)
    monkeypatch.setattr(otdd_reference.ReferenceOTDD, "_source_terms", lambda *_: pytest.fail("computed again"))
    value, gradient = call(get_distance(NAME).fit(src, first.terms), target)
    assert value == expected[0]
    assert torch.equal(gradient, expected[1])


@pytest.mark.parametrize("scale", [1e-4, 1e6])
def test_extreme_scales_stay_finite(scale: float) -> None:
    src = source(scale)
    src = SourceFeatures(src.x.float(), src.y, "test")
    target = cloud(6, seed=4, scale=scale).float().repeat(2, 1)
    value, gradient = call(get_distance(NAME).fit(src), target)
    assert math.isfinite(value)
    assert bool(torch.isfinite(gradient).all())


def test_what_single_precision_cannot_hold_is_infinite_or_refused() -> None:
    """An embedder that runs away, or a source of such features; neither may end in a solver's own error."""
    src = source()
    single = SourceFeatures(src.x.float(), src.y, "test")
    distance = get_distance(NAME).fit(single)
    for scale in (1e8, 1e10, 1e20, 1e37):
        value, gradient = call(distance, scale * cloud(6, seed=4).float())
        assert math.isinf(value) == (scale > 1e9)
        assert bool(torch.isfinite(gradient).all())
    with pytest.raises(UserError, match=rf"shape \(40, 5\): {NAME} computes in torch.float32"):
        get_distance(NAME).fit(SourceFeatures(1e20 * single.x, src.y, "test"))


def test_precisions_of_the_two_sides_may_differ() -> None:
    src, target = source(), cloud(11, seed=4)
    single = get_distance(NAME).fit(SourceFeatures(src.x.float(), src.y, "test"))
    expected = call(get_distance(NAME).fit(src), target)
    for x, dtype in ((target, torch.float64), (target.float(), torch.float32), (target.half(), torch.half)):
        value, gradient = call(single, x)
        assert value == pytest.approx(expected[0], rel=5e-3)
        assert gradient.dtype == dtype


def test_the_value_alone_is_the_same() -> None:
    distance = get_distance(NAME).fit(source())
    value = distance(cloud(11, seed=4), torch.zeros(11, dtype=torch.long))
    assert not value.requires_grad
    assert value.item() == call(distance, cloud(11, seed=4))[0]


def status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def step_mb(n: int, scale: float, num_classes: int) -> float | None:
    """Return what a step takes at its peak; None where that cannot be told."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    src = SourceFeatures(scale * torch.randn(5000, 64, generator=generator), torch.arange(5000) % num_classes, "test")
    # What the source's own terms are makes no difference to memory.
    terms = {"self_KSP": torch.zeros(num_classes, 5, 6), "self_SP": torch.zeros(5, 6)}
    distance = get_distance(NAME).fit(src, terms)
    x = scale * torch.randn(n, 64, generator=generator)
    call(distance, x[:64])
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = status_mb("VmRSS")
    call(distance, x)
    return status_mb("VmHWM") - before


@pytest.mark.parametrize(("n", "scale", "num_classes"), [(512, 20.0, 3), (512, 1.0, 300), (1500, 1.0, 3)])
@pytest.mark.slow
def test_a_step_stays_below_40_mb(n: int, scale: float, num_classes: int) -> None:
    """In a process of its own: what an allocator holds and returns depends on what ran before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        used = pool.submit(step_mb, n, scale, num_classes).result()
    if used is None:
        pytest.skip("the peak of resident memory cannot be reset on this machine")
    assert used < 40.0
