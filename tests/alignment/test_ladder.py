"""Steps of the reference's ladder against the plain formulas."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from orca_ray.alignment import cost as cost_module
from orca_ray.alignment import distance as contract
from orca_ray.alignment.cost import Cost
from orca_ray.alignment.distances import otdd_reference as ladder


def cloud(n: int, d: int = 5, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * (torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.2 * seed)


def squares(y: Tensor, x: Tensor) -> Tensor:
    return (y[:, None] - x[None]).double().square().sum(-1) / 2


def soft_minimum(cost: Tensor, potential: Tensor, e: float) -> Tensor:
    return -e * (torch.logsumexp((potential - cost) / e, 1) - math.log(cost.shape[1]))


def plainly(c: Tensor, f: Tensor, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return f, g after the last step, and the plan by rows."""
    g = c.new_zeros(len(c))
    f, g = soft_minimum(c.T, g, temperatures[0]), soft_minimum(c, f, temperatures[0])
    for e in temperatures:
        f, g = (f + soft_minimum(c.T, g, e)) / 2, (g + soft_minimum(c, f, e)) / 2
    e = temperatures[-1]
    return soft_minimum(c.T, g, e), soft_minimum(c, f, e), torch.softmax((f - c) / e, 1)


@pytest.mark.parametrize(
    ("stored", "scale", "dtype"),
    [
        (True, 0.05, torch.float64),
        (False, 0.5, torch.float32),
        (True, 5.0, torch.float32),
        (False, 100.0, torch.float64),
        (True, 100.0, torch.float32),
    ],
)
def test_a_ladder_is_the_plain_formulas(
    stored: bool, scale: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_module, "CACHE_BYTES", 800)
    monkeypatch.setattr(contract, "MEMORY_BYTES", 2**20 if stored else 2800)
    y, x, start = cloud(9, scale=scale), cloud(40, seed=1, scale=scale), 0.1 * scale * cloud(40, 1, seed=2)[:, 0]
    temperatures = ladder.ladder(float((y.mean(0) - x.mean(0)).square().sum()) + 49.0)
    f, g, plan = plainly(squares(y, x), start, temperatures)
    solution = ladder.solve(Cost(y.to(dtype), x.to(dtype)).store(), temperatures, start.to(dtype))
    tolerance = 1e-5 if dtype is torch.float32 else 1e-11
    allowed = 2 * torch.finfo(dtype).eps * temperatures[0] + tolerance * scale**2
    torch.testing.assert_close(solution.f_N.double(), f, rtol=tolerance, atol=allowed)
    torch.testing.assert_close(solution.g_n.double(), g, rtol=tolerance, atol=allowed)
    assert solution.value == pytest.approx(float(f.mean() + g.mean()), rel=10 * tolerance, abs=allowed)
    product, mass = solution.barycentres(x.to(dtype))
    if scale < 100.0 or dtype is torch.float64:  # rounding of costs of 1e5 shows in the plan
        torch.testing.assert_close(mass.double(), plan.mean(0), rtol=100 * tolerance, atol=tolerance)
        torch.testing.assert_close(product.double(), plan @ x, rtol=100 * tolerance, atol=tolerance)


@pytest.mark.parametrize("stored", [True, False])
def test_columns_of_a_cost_are_a_cost(stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "MEMORY_BYTES", 2**20 if stored else 2800)
    y, x, temperatures = cloud(9), cloud(40, seed=1), ladder.ladder(20.0)
    part = Cost(y, x).store().columns(slice(3, 20))
    assert part.shape == (9, 17)
    expected = ladder.solve(Cost(y, x[3:20]), temperatures)
    found = ladder.solve(part, temperatures)
    torch.testing.assert_close(found.f_N, expected.f_N)
    torch.testing.assert_close(found.g_n, expected.g_n)


def test_a_symmetric_ladder_is_the_plain_formulas() -> None:
    x, y, w = cloud(20), torch.arange(20) % 2, torch.tensor([[0.0, 3.0], [3.0, 0.0]])
    temperatures = ladder.ladder(30.0)
    c = squares(x, x) + 0.5 * w[y][:, y]
    f, g, plan = plainly(c, torch.zeros(20, dtype=torch.float64), temperatures)
    solution = ladder.solve(Cost(x, None, w, (y, y)), temperatures, symmetric=True)
    torch.testing.assert_close(solution.f_N, f)
    torch.testing.assert_close(solution.g_n, g)
    torch.testing.assert_close(solution.barycentres(x)[0], plan @ x)


def test_potentials_beyond_the_exponent_range() -> None:
    """Potentials so far from soft minima that every exponential under- or overflows."""
    cost, c = Cost(cloud(7), cloud(9, seed=1)), squares(cloud(7), cloud(9, seed=1))
    for start in (-1e4, 1e4):
        f_N, g_n = cloud(9, 1)[:, 0] + start, cloud(7, 1, seed=2)[:, 0]
        soft_f_N, soft_g_n = ladder.soft_minima(cost, f_N, g_n, 0.1)
        torch.testing.assert_close(soft_g_n, soft_minimum(c, f_N, 0.1))
        torch.testing.assert_close(soft_f_N, soft_minimum(c.T, g_n, 0.1))


def test_lost_sums_of_costs_that_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows' and no columns' are lost, and the other way round."""
    monkeypatch.setattr(contract, "MEMORY_BYTES", 100)
    monkeypatch.setattr(cost_module, "CACHE_BYTES", 80)
    y, x = cloud(7), cloud(9, seed=1)
    y[3] += 100.0
    for rows, columns in ((y, x), (x, y)):
        f_N, g_n, c = columns[:, 0].clone(), rows[:, 0].clone(), squares(rows, columns)
        soft_f_N, soft_g_n = ladder.soft_minima(Cost(rows, columns), f_N, g_n, 0.1)
        torch.testing.assert_close(soft_g_n, soft_minimum(c, f_N, 0.1))
        torch.testing.assert_close(soft_f_N, soft_minimum(c.T, g_n, 0.1))
    labelled = Cost(y, y, torch.ones(2, 2), (torch.arange(7) % 2, torch.arange(7) % 2))
    soft_f_N, _ = ladder.soft_minima(labelled, y[:, 0], y[:, 0], 0.1, symmetric=True)
    torch.testing.assert_close(soft_f_N, soft_minimum(squares(y, y) + 0.5, y[:, 0], 0.1))


def test_values_of_a_cloud_with_itself_are_interpolated() -> None:
    x = 0.3 * cloud(40, 6)
    table = ladder.self_values(Cost(x), 0.05)
    for squared in (0.3, 5.0, 3.0, 3.5, 50.0, 60.0, 80.0, 100.0, 130.0, 190.0, 1e3, 3e3, 9e3):
        zeros = torch.zeros(40, dtype=torch.float64)
        expected = float(plainly(squares(x, x), zeros, ladder.ladder(squared))[0].mean())
        assert ladder.self_value(table, squared) == pytest.approx(expected, rel=1e-5)
