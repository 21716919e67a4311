"""The distance of the ORCA reference, against its formulas and its values.

The formulas are written down plainly here.
"""

import itertools
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
    deviation = torch.linspace(0.3, 1.0, d, dtype=torch.float64)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return scale * (noise * deviation + 0.2 * seed)


def source(
    scale: float = 1.0, sizes: tuple[int, ...] = (17, 9, 14), d: int = 5
) -> SourceFeatures:
    """Classes called 3, 8, 13, …, their points mixed."""
    clouds = [cloud(size, d, seed, scale) for seed, size in enumerate(sizes, 1)]
    names = [5 * number + 3 for number in range(len(sizes))]
    x = torch.cat(clouds)
    y = torch.tensor(names).repeat_interleave(torch.tensor(sizes))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return SourceFeatures(x[order], y[order], "test")


def call(
    distance: Distance, x: Tensor, y: Tensor | None = None, shares: Tensor | None = None
) -> tuple[float, Tensor]:
    """Return value and gradient; by default, all points are of one class."""
    x = x.clone().requires_grad_()
    if y is None:
        y = torch.zeros(len(x), dtype=torch.long)
    value = distance(x, y, shares)
    (gradient,) = torch.autograd.grad(value, x)
    return value.item(), gradient


# The formulas, one matrix at a time, with autograd where the reference has it.


def squares(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y[None]).square().sum(-1)


def half_squares(y: Tensor, x: Tensor) -> Tensor:
    return squares(y, x) / 2


def soft_minimum(cost: Tensor, potential: Tensor, e: float) -> Tensor:
    log_sum = torch.logsumexp((potential - cost) / e, 1)
    log_mean: Tensor = log_sum - math.log(cost.shape[1])
    return -e * log_mean


def potentials(
    rows: Tensor, columns: Tensor, temperatures: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return the potentials f [n] and g [m]; gradients flow through the last step.

    ``rows`` [n, m] and ``columns`` [m, n] are the costs of the points of one side to
    those of the other side.
    """
    n, m = rows.shape
    e = temperatures[0]
    with torch.no_grad():
        f = soft_minimum(rows, rows.new_zeros(m), e)
        g = soft_minimum(columns, rows.new_zeros(n), e)
        for e in temperatures:
            soft_f = soft_minimum(rows, g, e)
            soft_g = soft_minimum(columns, f, e)
            f = (f + soft_f) / 2
            g = (g + soft_g) / 2
    return soft_minimum(rows, g, e), soft_minimum(columns, f, e)


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
    rows = metric(x, y.detach())
    columns = metric(y, x.detach())
    f, g = potentials(rows, columns, temperatures)
    within_x = metric(x, x.detach())
    within_y = metric(y, y.detach())
    f_within, _ = potentials(within_x, within_x, temperatures)
    g_within, _ = potentials(within_y, within_y, temperatures)
    total: Tensor = (f - f_within).mean() + (g - g_within).mean()
    return total


def class_distances(classes: Sequence[Tensor]) -> Tensor:
    """Return the distances W between classes, from their points."""
    w = torch.zeros(len(classes), len(classes), dtype=torch.float64)
    for (i, x), (j, y) in itertools.combinations(enumerate(classes), 2):
        distance = divergence(squares, x, y, plain_ladder(x, y)).detach()
        w[i, j] = distance
        w[j, i] = distance
    return w


def plain_distance(src: SourceFeatures, target: Tensor) -> Tensor:
    """Return the distance of the points of one target class from the source."""
    names = torch.tensor(sorted(set(src.y.tolist())))
    w = class_distances([*(src.x[src.y == c] for c in names), target])

    def labelled(points: Tensor, ids: Tensor) -> Tensor:
        return torch.cat([points, ids[:, None].to(points)], 1)

    def metric(a: Tensor, b: Tensor) -> Tensor:
        classes_of_a = a[:, -1].long()
        classes_of_b = b[:, -1].long()
        half_w = w[classes_of_a][:, classes_of_b] / 2
        return half_squares(a[:, :-1], b[:, :-1]) + half_w

    x = labelled(src.x, torch.searchsorted(names, src.y))
    z = labelled(target, torch.full((len(target),), len(names)))
    return divergence(metric, x, z, plain_ladder(x, z))


def assert_plain_formulas(
    src: SourceFeatures, x: Tensor, dtype: torch.dtype = torch.float64
) -> Distance:
    """Compare value and gradient with the plain formulas; return the distance.

    The distance is fitted to a source in a precision.
    """
    distance = get_distance(NAME).fit(SourceFeatures(src.x.to(dtype), src.y, "test"))
    value, gradient = call(distance, x.to(dtype))
    x.requires_grad_()
    expected = plain_distance(src, x)
    (expected_gradient,) = torch.autograd.grad(expected, x)
    is_double = dtype == torch.float64
    # Source-only costs are interpolated between phases of the ladder.
    assert value == pytest.approx(expected.item(), rel=2e-5 if is_double else 1e-4)
    gap = (gradient.double() - expected_gradient).norm() / expected_gradient.norm()
    assert gap < (1e-6 if is_double else 1e-3)
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
        # One source class, and fewer points than features.
        ((6,), 4, 12, "6 source samples are of one class"),
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
def test_the_distance_equals_that_of_the_reference() -> None:
    features = make_features(64, 128, 2.0)
    distance = get_distance(NAME).fit(
        SourceFeatures(features.source_x, features.source_y, "test")
    )
    value, gradient = call(distance, features.target)
    assert value == pytest.approx(2.897535, rel=1e-5)
    assert gradient.norm().item() == pytest.approx(0.176412, rel=1e-3)


def test_classes_are_weighed_and_single_samples_left_out() -> None:
    distance = get_distance(NAME).fit(source())
    first_class = cloud(6, seed=5)
    last_class = cloud(9, seed=7)
    x = torch.cat([first_class, cloud(1, seed=6), last_class])
    y = torch.tensor([2] * 6 + [-4] + [40] * 9)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    shares = torch.tensor([0.2, 0.5, 0.3])  # of classes -4, 2 and 40
    value, gradient = call(distance, x[order], y[order], shares)
    assert distance.diagnosis.notes == ("1 target classes of one sample left out",)
    first_value, first_gradient = call(distance, first_class)
    last_value, last_gradient = call(distance, last_class)
    assert value == pytest.approx(0.5 * first_value + 0.3 * last_value)
    expected = torch.cat([0.5 * first_gradient, torch.zeros(1, 5), 0.3 * last_gradient])
    torch.testing.assert_close(gradient, expected[order], rtol=1e-6, atol=1e-9)
    # All classes are left out.
    value, gradient = call(distance, cloud(3), torch.arange(3))
    assert value == 0.0
    assert not gradient.any()


def test_source_classes_that_are_too_small_or_too_large_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    src = source(sizes=(17, 1, 14))
    is_usable = src.y != 8
    distance = get_distance(NAME).fit(src)
    value, gradient = call(distance, cloud(9, seed=4))
    note, *_ = distance.diagnosis.notes
    assert note.startswith("1 of 3 source classes left out, with 1 samples")
    usable = SourceFeatures(src.x[is_usable], src.y[is_usable], "test")
    expected, expected_gradient = call(get_distance(NAME).fit(usable), cloud(9, seed=4))
    assert value == expected
    torch.testing.assert_close(gradient, expected_gradient)
    with pytest.raises(UserError, match=r"shape \(4, 5\).*class of 2 to 50000"):
        get_distance(NAME).fit(SourceFeatures(cloud(4), torch.arange(4), "test"))
    monkeypatch.setattr(otdd_reference, "MAX_CLASS", 15)
    distance = get_distance(NAME).fit(source())
    call(distance, cloud(9, seed=4))
    note, *_ = distance.diagnosis.notes
    assert note.startswith("1 of 3 source classes left out, with 17 samples")


def test_what_single_precision_cannot_hold_is_infinite_or_refused() -> None:
    """Features of a diverged embedder, or of such a source, cause no solver's error."""
    src = source()
    single = SourceFeatures(src.x.float(), src.y, "test")
    distance = get_distance(NAME).fit(single)
    for scale in (1e-4, 1e6, 1e8, 1e10, 1e37):
        value, gradient = call(distance, scale * cloud(6, seed=4).float())
        assert math.isinf(value) == (scale > 1e9)
        assert bool(torch.isfinite(gradient).all())
    message = rf"shape \(40, 5\): {NAME} computes in torch.float32"
    with pytest.raises(UserError, match=message):
        get_distance(NAME).fit(SourceFeatures(1e20 * single.x, src.y, "test"))


def test_lost_sums_of_costs_that_are_not_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sums of some rows and of no columns are lost, and the other way round."""
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
    labels = torch.arange(7) % 2
    labelled = CostMatrix(y, y, torch.ones(2, 2), (labels, labels))
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
    few_steps = (0.15, 0.3, 5.0, 3.0, 3.5)
    many_steps = (50.0, 60.0, 80.0, 100.0, 130.0, 190.0, 1e3, 3e3, 9e3)
    for squared in (*few_steps, *many_steps):
        f, _ = potentials(c, c, otdd_reference.ladder(squared))
        value = otdd_reference.self_value(table, squared)
        assert value == pytest.approx(float(f.mean()), rel=1e-5)
