"""The ladder-exact OTDD against the same formulas written down plainly, and against
values the reference gave.
"""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from benchmarks.reference import make_features
from orca_ray.alignment import cost as cost_module
from orca_ray.alignment import distance as contract
from orca_ray.alignment.cost import CostMatrix
from orca_ray.alignment.distance import Distance, SourceFeatures
from orca_ray.alignment.distances import otdd_reference
from orca_ray.alignment.registry import get_distance
from orca_ray.errors import UserError

NAME = "otdd_reference"
Metric = Callable[[Tensor, Tensor], Tensor]


def cloud(n: int, d: int = 5, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.3, 1.0, d, dtype=torch.float64)
    return scale * (
        torch.randn(n, d, generator=generator, dtype=torch.float64) * spread
        + 0.2 * seed
    )


def source(
    scale: float = 1.0, sizes: tuple[int, ...] = (17, 9, 14), d: int = 5
) -> SourceFeatures:
    """Classes called 3, 8, 13, …, their points mixed."""
    x = torch.cat([cloud(size, d, seed + 1, scale) for seed, size in enumerate(sizes)])
    y = torch.cat([torch.full((size,), 5 * c + 3) for c, size in enumerate(sizes)])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return SourceFeatures(x[order], y[order], "test")


def call(
    distance: Distance, x: Tensor, y: Tensor | None = None, shares: Tensor | None = None
) -> tuple[float, Tensor]:
    x = x.clone().requires_grad_()
    value = distance(
        x, torch.zeros(len(x), dtype=torch.long) if y is None else y, shares
    )
    return value.item(), torch.autograd.grad(value, x)[0]


# The formulas, one matrix at a time, with autograd where the reference has it.


def squares(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y[None]).square().sum(-1)


def half_squares(y: Tensor, x: Tensor) -> Tensor:
    return squares(y, x) / 2


def soft_minimum(cost: Tensor, potential: Tensor, e: float) -> Tensor:
    mean: Tensor = torch.logsumexp((potential - cost) / e, 1) - math.log(cost.shape[1])
    return -e * mean


def potentials(
    rows: Tensor,
    columns: Tensor,
    temperatures: Sequence[float],
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the costs of one side's points to the other's, [n, m] and [m, n]; gradients
    flow through the last step.

    The last one returned is the first one before that step.
    """
    with torch.no_grad():
        e = temperatures[0]
        n, m = rows.shape
        start = rows.new_zeros(n) if start is None else start
        f = soft_minimum(rows, rows.new_zeros(m), e)
        g = soft_minimum(columns, start, e)
        for e in temperatures:
            f, g = (
                (f + soft_minimum(rows, g, e)) / 2,
                (g + soft_minimum(columns, f, e)) / 2,
            )
    return soft_minimum(rows, g, e), soft_minimum(columns, f, e), f


def plain_ladder(x: Tensor, y: Tensor) -> list[float]:
    box = torch.cat([x, y])
    diameter = float((box.amax(0) - box.amin(0)).norm().detach())
    temperatures = [diameter**2]
    e = diameter**2
    while e > 0.1 * (1 + 1e-12):
        temperatures.append(e)
        e /= 4
    return [*temperatures, 0.1]


def divergence(
    metric: Metric, x: Tensor, y: Tensor, temperatures: list[float]
) -> Tensor:
    f, g, _ = potentials(metric(x, y.detach()), metric(y, x.detach()), temperatures)
    own_x = metric(x, x.detach())
    own_y = metric(y, y.detach())
    f_own = potentials(own_x, own_x, temperatures)[0]
    g_own = potentials(own_y, own_y, temperatures)[0]
    total: Tensor = (f - f_own).mean() + (g - g_own).mean()
    return total


def plainly(src: SourceFeatures, target: Tensor) -> Tensor:
    names = torch.tensor(sorted(set(src.y.tolist())))
    sides = [src.x[src.y == c] for c in names] + [target]
    w = torch.zeros(len(sides), len(sides), dtype=torch.float64)
    for i in range(len(sides)):
        for j in range(i):
            distance = divergence(
                squares, sides[j], sides[i], plain_ladder(sides[j], sides[i])
            ).detach()
            w = w.index_put((torch.tensor([i, j]), torch.tensor([j, i])), distance)
    y = torch.searchsorted(names, src.y)

    def labelled(points: Tensor, ids: Tensor) -> Tensor:
        return torch.cat([points, ids[:, None].to(points)], 1)

    def metric(a: Tensor, b: Tensor) -> Tensor:
        return (
            squares(a[:, :-1], b[:, :-1]) / 2
            + w[a[:, -1].long()][:, b[:, -1].long()] / 2
        )

    x = labelled(src.x, y)
    z = labelled(target, torch.full((len(target),), len(names)))
    return divergence(metric, x, z, plain_ladder(x, z))


def assert_plain_formulas(
    src: SourceFeatures, x: Tensor, dtype: torch.dtype = torch.float64
) -> Distance:
    """Return a distance that was fitted to a source in a precision, after comparing its
    value and gradient.
    """
    distance = get_distance(NAME).fit(SourceFeatures(src.x.to(dtype), src.y, "test"))
    value, gradient = call(distance, x.to(dtype))
    x.requires_grad_()
    expected = plainly(src, x)
    (expected_gradient,) = torch.autograd.grad(expected, x)
    # Source-only costs are interpolated between phases of the ladder.
    assert value == pytest.approx(
        expected.item(), rel=2e-5 if dtype == torch.float64 else 1e-4
    )
    gap = (gradient.double() - expected_gradient).norm() / expected_gradient.norm()
    assert gap < (1e-6 if dtype == torch.float64 else 1e-3)
    return distance


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(0.05, torch.float64), (3.0, torch.float64), (2.0, torch.float32)],
)
def test_equals_the_plain_formulas(scale: float, dtype: torch.dtype) -> None:
    assert_plain_formulas(source(scale), cloud(11, seed=4, scale=scale), dtype)


@pytest.mark.parametrize(
    ("sizes", "n", "d", "note"),
    [
        (
            (6,),
            4,
            12,
            "6 source samples are of one class",
        ),  # one source class, and fewer points than features
        (
            (17, 9, 14),
            257,
            5,
            "a target class has 257 samples, more than the source: all were used",
        ),
    ],
)
def test_where_the_reference_crashes(
    sizes: tuple[int, ...], n: int, d: int, note: str
) -> None:
    distance = assert_plain_formulas(source(sizes=sizes, d=d), cloud(n, d=d, seed=4))
    assert note in "; ".join(distance.diagnosis.notes)


@pytest.mark.slow
def test_equals_what_the_reference_gave() -> None:
    features = make_features(64, 128, 2.0)
    distance = get_distance(NAME).fit(
        SourceFeatures(features.source_x, features.source_y, "test")
    )
    ours, gradient = call(distance, features.target)
    assert ours == pytest.approx(2.897535, rel=1e-5)
    assert gradient.norm().item() == pytest.approx(0.176412, rel=1e-3)


def test_classes_are_weighed_and_single_samples_left_out() -> None:
    distance = get_distance(NAME).fit(source())
    parts = [cloud(6, seed=5), cloud(1, seed=6), cloud(9, seed=7)]
    x = torch.cat(parts)
    y = torch.tensor([2] * 6 + [-4] + [40] * 9)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    shares = torch.tensor([0.2, 0.5, 0.3])  # of classes -4, 2 and 40
    value, gradient = call(distance, x[order], y[order], shares)
    assert distance.diagnosis.notes == ("1 target classes of one sample left out",)
    first = call(distance, parts[0])
    last = call(distance, parts[2])
    assert value == pytest.approx(0.5 * first[0] + 0.3 * last[0])
    expected = torch.cat([0.5 * first[1], torch.zeros(1, 5), 0.3 * last[1]])[order]
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
    value, gradient = call(distance, cloud(3), torch.arange(3))  # nothing is left
    assert value == 0.0
    assert not gradient.any()


def test_source_classes_that_are_too_small_or_too_large_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    src = source(sizes=(17, 1, 14))
    kept = src.y != 8
    distance = get_distance(NAME).fit(src)
    value, gradient = call(distance, cloud(9, seed=4))
    assert distance.diagnosis.notes[0].startswith(
        "1 of 3 source classes left out, with 1 samples"
    )
    without = call(
        get_distance(NAME).fit(SourceFeatures(src.x[kept], src.y[kept], "test")),
        cloud(9, seed=4),
    )
    assert value == without[0]
    torch.testing.assert_close(gradient, without[1])
    with pytest.raises(UserError, match=r"shape \(4, 5\).*class of 2 to 50000"):
        get_distance(NAME).fit(SourceFeatures(cloud(4), torch.arange(4), "test"))
    monkeypatch.setattr(otdd_reference, "MAX_CLASS", 15)
    distance = get_distance(NAME).fit(source())
    call(distance, cloud(9, seed=4))
    assert distance.diagnosis.notes[0].startswith(
        "1 of 3 source classes left out, with 17 samples"
    )


def test_what_single_precision_cannot_hold_is_infinite_or_refused() -> None:
    """An embedder that runs away, or a source of such features; neither may end in a
    solver's own error.
    """
    src = source()
    single = SourceFeatures(src.x.float(), src.y, "test")
    distance = get_distance(NAME).fit(single)
    for scale in (1e-4, 1e6, 1e8, 1e10, 1e37):
        value, gradient = call(distance, scale * cloud(6, seed=4).float())
        assert math.isinf(value) == (scale > 1e9)
        assert bool(torch.isfinite(gradient).all())
    with pytest.raises(
        UserError, match=rf"shape \(40, 5\): {NAME} computes in torch.float32"
    ):
        get_distance(NAME).fit(SourceFeatures(1e20 * single.x, src.y, "test"))


def test_lost_sums_of_costs_that_are_not_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some rows' and no columns' are lost, and the other way round."""
    monkeypatch.setattr(contract, "MEMORY_BYTES", 100)
    monkeypatch.setattr(cost_module, "CACHE_BYTES", 80)
    y = cloud(7)
    x = cloud(9, seed=1)
    y[3] += 100.0
    for rows, columns in ((y, x), (x, y)):
        f_N = columns[:, 0].clone()
        g_n = rows[:, 0].clone()
        c = half_squares(rows, columns)
        soft_f_N, soft_g_n = otdd_reference.soft_minima(
            CostMatrix(rows, columns), f_N, g_n, 0.1
        )
        torch.testing.assert_close(soft_g_n, soft_minimum(c, f_N, 0.1))
        torch.testing.assert_close(soft_f_N, soft_minimum(c.T, g_n, 0.1))
    labelled = CostMatrix(
        y, y, torch.ones(2, 2), (torch.arange(7) % 2, torch.arange(7) % 2)
    )
    soft_f_N, _ = otdd_reference.soft_minima(
        labelled, y[:, 0], y[:, 0], 0.1, symmetric=True
    )
    torch.testing.assert_close(
        soft_f_N, soft_minimum(half_squares(y, y) + 0.5, y[:, 0], 0.1)
    )


def test_values_of_a_cloud_with_itself_are_interpolated() -> None:
    x = 0.3 * cloud(40, 6)
    table = otdd_reference.self_values(CostMatrix(x), 0.05)
    c = half_squares(x, x)
    for squared in (
        0.15,
        0.3,
        5.0,
        3.0,
        3.5,
        50.0,
        60.0,
        80.0,
        100.0,
        130.0,
        190.0,
        1e3,
        3e3,
        9e3,
    ):
        expected = float(potentials(c, c, otdd_reference.ladder(squared))[0].mean())
        assert otdd_reference.self_value(table, squared) == pytest.approx(
            expected, rel=1e-5
        )
