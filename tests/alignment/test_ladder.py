"""Steps of the reference's ladder, by every way that they can be taken."""

import math
from collections.abc import Sequence
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from orca_ray.alignment import cost_matrix, ladder, ladders, self_values, soft_minima
from orca_ray.alignment.cost_matrix import Cost, LabelledCost
from orca_ray.alignment.cumulants import Cumulants

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


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


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("beside", [0, soft_minima.BESIDE])
@pytest.mark.parametrize("spends", [True, False])
@pytest.mark.parametrize("scale", [0.05, 0.5, 5.0])
@DTYPES
def test_a_ladder_is_the_plain_formulas(
    kept: bool, beside: int, spends: bool, scale: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soft_minima, "BESIDE", beside)
    monkeypatch.setattr(cost_matrix, "BLOCK", 200)
    y, x, start = cloud(9, scale=scale), cloud(40, seed=1, scale=scale), 0.1 * scale * cloud(40, 1, seed=2)[:, 0]
    temperatures = ladder.ladder(float((y.mean(0) - x.mean(0)).square().sum()) + 49.0)
    f, g, plan = plainly(squares(y, x), start, temperatures)
    cost = Cost(y.to(dtype), x.to(dtype), 10**6 if kept else 0)
    solution = ladder.solve(cost, temperatures, start.to(dtype), spends=spends)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-11
    allowed = 2 * torch.finfo(dtype).eps * temperatures[0] + tolerance * scale**2
    torch.testing.assert_close(solution.f_N.double(), f, rtol=tolerance, atol=allowed)
    torch.testing.assert_close(solution.g_n.double(), g, rtol=tolerance, atol=allowed)
    assert solution.value == pytest.approx(float(f.mean() + g.mean()), rel=10 * tolerance, abs=allowed)
    onto = torch.ones_like(y).to(dtype)
    mass = solution.carry(x.to(dtype), onto, -0.5)
    torch.testing.assert_close(mass.double(), plan.mean(0), rtol=100 * tolerance, atol=tolerance)
    torch.testing.assert_close(onto.double(), 1.0 - 0.5 * plan @ x, rtol=100 * tolerance, atol=tolerance)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("limit", ["MOST", "_MOST_FACTORS"])
def test_kept_kernels_that_lose_their_precision_are_not_used(
    kept: bool, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs that a kernel took the place of are computed again."""
    y, x = cloud(9), cloud(40, seed=1)
    temperatures = ladder.ladder(20.0)
    f, g, plan = plainly(squares(y, x), torch.zeros(40, dtype=torch.float64), temperatures)
    used = Mock(side_effect=soft_minima.Kernel.soft_minima)
    monkeypatch.setattr(soft_minima.Kernel, "soft_minima", lambda *args: used(*args))
    monkeypatch.setattr(soft_minima, limit, 0.0)
    solution = ladder.solve(Cost(y, x, 10**6 if kept else 0), temperatures, spends=True)
    assert used.called == (limit != "MOST")  # with sums that are lost at once there is no kernel to ask
    torch.testing.assert_close(solution.f_N, f)
    torch.testing.assert_close(solution.g_n, g)
    torch.testing.assert_close(solution.carry(x, None, 1.0), plan.mean(0))


def test_steps_share_their_exponentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """At one temperature, and, in the beginning, at a quarter of it."""
    steps = Mock(side_effect=soft_minima.step)
    monkeypatch.setattr(soft_minima, "step", steps)
    temperatures = ladder.ladder(400.0)
    assert len(set(temperatures)) == 7
    for averaged, computed in ((0.0, [0, 1, 2, 3, 4, 5, 6]), (8.0, [0, 3, 6])):
        monkeypatch.setattr(soft_minima, "_AVERAGED", averaged)
        expected = [sorted(set(temperatures), reverse=True)[k] for k in computed]
        for solution in (
            ladder.solve(Cost(cloud(9), cloud(40, seed=1)), temperatures),
            ladder.solve_self(Cost(cloud(9), cloud(9)), temperatures, spends=True),
        ):
            assert math.isfinite(solution.value)
        found = [call.args[3] for call in steps.call_args_list]
        assert found == expected + expected
        steps.reset_mock()


@pytest.mark.parametrize("spends", [True, False])
def test_a_view_of_costs_is_never_spent(spends: bool) -> None:
    cost = Cost(cloud(9), cloud(40, seed=1))
    before = cost.block(slice(None)).clone()
    solution = ladder.solve(cost.columns(slice(3, 20)), ladder.ladder(20.0), spends=spends)
    onto = torch.zeros(9, 5, dtype=torch.float64)
    solution.carry(cloud(40, seed=1)[3:20], onto, 1.0)
    assert torch.equal(cost.block(slice(None)), before)
    _, _, plan = plainly(before[:, 3:20], torch.zeros(17, dtype=torch.float64), ladder.ladder(20.0))
    torch.testing.assert_close(onto, plan @ cloud(40, seed=1)[3:20])


@DTYPES
def test_cumulants_are_soft_minima_at_high_temperatures(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_matrix, "BLOCK", 200)
    y, x = cloud(30), cloud(40, seed=1)
    f, g, c = 3.0 * cloud(40, 1, seed=2)[:, 0], 2.0 * cloud(30, 1, seed=3)[:, 0], squares(y, x)
    for kept in (0, 10**6):
        cost = Cost(y.to(dtype), x.to(dtype), kept)
        for e in (300.0, 1e3, 3e3, 1e4):
            errors = []
            for tolerance in (1e-1, 1e-3, 1e-5):
                cumulants = Cumulants.of(cost, e, tolerance)
                soft = None if cumulants is None else cumulants.soft_minima(f.to(dtype), g.to(dtype), e, tolerance)
                if soft is not None:
                    true = soft_minimum(c.T, g, e), soft_minimum(c, f, e)
                    errors = [float((a.double() - b).abs().max()) for a, b in zip(soft, true, strict=True)]
                    assert max(errors) <= tolerance + (1e-5 if dtype is torch.float32 else 0.0)
                else:
                    assert tolerance < 1e-1 or e < 1e3
            assert errors, "none would do"


def test_cumulants_refuse_what_they_do_not_describe() -> None:
    cost = Cost(cloud(30), cloud(40, seed=1))
    assert Cumulants.of(cost, 1.0, 1e-6) is None
    cumulants = Cumulants.of(cost, 1e4, 1e-3)
    assert cumulants is not None
    f, g = cloud(40, 1)[:, 0], cloud(30, 1)[:, 0]
    assert cumulants.soft_minima(f, g, 1e4, 1e-3) is not None
    assert cumulants.soft_minima(1e3 * f, g, 1e4, 1e-3) is None
    assert cumulants.soft_minima(f, 1e3 * g, 1e4, 1e-3) is None
    assert cumulants.soft_minima(math.nan * f, g, 1e4, 1e-3) is None
    assert Cumulants.of(Cost(1e60 * cloud(30), 1e60 * cloud(40, seed=1)), 1e121, 1e-3) is None  # no overflow


@pytest.mark.parametrize("kept", [0, 10**6])
def test_costs_times_a_vector(kept: int) -> None:
    y, x, c = cloud(9), cloud(40, seed=1), squares(cloud(9), cloud(40, seed=1))
    v, w = cloud(40, 1, seed=2)[:, 0], cloud(9, 1, seed=3)[:, 0]
    for cost, columns in ((Cost(y, x, kept), slice(None)), (Cost(y, x, kept).columns(slice(3, 20)), slice(3, 20))):
        torch.testing.assert_close(cost.times(v[columns]), c[:, columns] @ v[columns])
        torch.testing.assert_close(cost.times_T(w), c[:, columns].T @ w)


@pytest.mark.parametrize(("scale", "sparse"), [(0.5, False), (20.0, True)])
@DTYPES
def test_plans_are_softmaxes_and_are_multiplied_as_sparse_where_they_are(
    scale: float, sparse: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = Mock(side_effect=torch.sparse.mm)
    monkeypatch.setattr(torch.sparse, "mm", product)
    y, x, f = cloud(9, 3, 1, scale).to(dtype), cloud(400, 3, 2, scale).to(dtype), cloud(400, 1, 3)[:, 0].to(dtype)
    onto = torch.ones_like(y)
    mass = soft_minima.carry(soft_minima.plans(Cost(y, x), f, 0.1), x, onto, -0.5)
    plan = torch.softmax((f - squares(y, x)) / 0.1, 1)
    tolerance = 1e-3 if dtype is torch.float32 else 1e-9
    torch.testing.assert_close(mass.double(), plan.sum(0), rtol=tolerance, atol=tolerance / 1e3)
    torch.testing.assert_close(onto.double(), 1.0 - 0.5 * plan @ x.double(), rtol=tolerance, atol=tolerance)
    assert product.called == (sparse and dtype is torch.float32)  # the floor of exponents is above float64's share


def test_potentials_beyond_the_exponent_range() -> None:
    """Potentials so far from soft minima that every exponential under- or overflows."""
    cost, c = Cost(cloud(7), cloud(9, seed=1)), squares(cloud(7), cloud(9, seed=1))
    for start in (-1e4, 1e4):
        f_N, g_n = cloud(9, 1)[:, 0] + start, cloud(7, 1, seed=2)[:, 0]
        (soft_f_N, soft_g_n), _ = soft_minima.step(cost, f_N, g_n, 0.1)
        torch.testing.assert_close(soft_g_n, soft_minimum(c, f_N, 0.1))
        torch.testing.assert_close(soft_f_N, soft_minimum(c.T, g_n, 0.1))


CLASSES = [slice(0, 12), slice(12, 15), slice(15, 31), slice(31, 40)]


@pytest.mark.parametrize(
    ("beside", "together"), [(9 * 60, [4]), (9 * 35, [2, 2]), (9 * 25, [2, 1, 1]), (0, [1, 1, 1, 1])]
)
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("limit", ["", "MOST", "_MOST_FACTORS", "_AVERAGED"])
@pytest.mark.parametrize("scale", [0.05, 0.5, 5.0])
@DTYPES
def test_ladders_side_by_side_are_the_plain_formulas(
    beside: int,
    together: list[int],
    kept: bool,
    limit: str,
    scale: float,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of unlike lengths, however many at once, whatever is kept or loses its precision."""
    monkeypatch.setattr(soft_minima, "BESIDE", beside)
    if limit:
        monkeypatch.setattr(soft_minima, limit, 0.0)
    y, x = cloud(9, scale=scale), cloud(40, seed=1, scale=scale)
    down = [ladder.ladder(each) for each in (20.0, 90.0, 0.05, 20.0)]
    assert [c.stop - c.start for c in ladders._groups(9, CLASSES)] == together
    expected = []
    for c, temperatures in zip(CLASSES, down, strict=True):
        f, g, _ = plainly(squares(y, x[c]), x.new_zeros(c.stop - c.start), temperatures)
        expected.append(float(f.mean() + g.mean()))
    cost = Cost(y.to(dtype), x.to(dtype), 10**6 if kept else 0)
    before = cost.block(slice(None)).clone()
    found = ladders.values(cost, CLASSES, down)
    assert torch.equal(cost.block(slice(None)), before)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-11
    assert found == pytest.approx(expected, rel=10 * tolerance, abs=tolerance * scale**2 + 1e-15)


def test_ladders_side_by_side_share_their_exponentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all of them stay at their temperatures, or all go to a quarter of them; they end at one temperature."""
    anew = Mock(side_effect=ladders._Lockstep._sum_anew)
    monkeypatch.setattr(ladders._Lockstep, "_sum_anew", lambda *args: anew(*args))
    down = [ladder.ladder(each) for each in (400.0, 300.0, 20.0)]
    assert [len(ladder.all_steps(each)) for each in down] == [10, 10, 8]
    for averaged, computed in ((0.0, [0, 3, 4, 5, 6, 7, 8]), (8.0, [0, 5, 8])):
        monkeypatch.setattr(soft_minima, "_AVERAGED", averaged)
        values = ladders.values(Cost(cloud(9), cloud(40, seed=1)), CLASSES[:3], down)
        assert all(map(math.isfinite, values))
        assert [call.args[1] for call in anew.call_args_list] == computed
        anew.reset_mock()


def own_value(x_nD: Tensor, squared_diameter: float) -> float:
    c = squares(x_nD, x_nD)
    return float(plainly(c, torch.zeros(len(c), dtype=torch.float64), ladder.ladder(squared_diameter))[0].mean())


@pytest.mark.parametrize(
    "squared",
    [
        [0.0, 0.02, 0.05, 0.1],  # ladders without a phase
        [0.3],
        [0.3, 0.3, 0.3, 0.3, 5.0],
        [3.0, 3.1, 3.2, 3.3, 3.4, 3.5],  # too far apart to be interpolated
        [50.0, 60.0, 80.0, 100.0, 130.0, 150.0, 190.0, 1e3],
        [3e3, 5e3, 9e3],
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_values_of_a_cloud_with_itself(squared: list[float], at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x_nD = 0.3 * cloud(40, 6)
    if not at_once:
        monkeypatch.setattr(self_values, "_solved_at_once", lambda *_: None)
    expected = [own_value(x_nD, each) for each in squared]
    assert self_values.at_diameters(Cost(x_nD, x_nD), squared) == pytest.approx(expected, rel=1e-6)
    phases = self_values.by_phase(Cost(x_nD, x_nD), 0.05).tolist()
    interpolated = [self_values.at_phase(phases, each) for each in squared if each > 0.1]
    assert interpolated == pytest.approx([e for e, each in zip(expected, squared, strict=True) if each > 0.1], rel=1e-5)


@pytest.mark.parametrize(
    ("squared", "num_solved"),
    [
        ([3.0, 3.05, 3.1, 3.15, 3.2], 3),
        ([120.0, 121.0, 122.0, 123.0, 480.0, 484.0], 3),  # longer ladders by whole steps: of the same phase
        ([90.0, 95.0, 100.0, 105.0, 110.0], 5),  # the phase begins again at 102.4
        ([50.0, 60.0, 80.0, 100.0, 130.0, 150.0, 190.0], 7),
        ([120.0, 480.0, 1920.0, 7680.0], 4),  # no two phases to interpolate between
    ],
)
def test_near_diameters_are_interpolated(
    squared: list[float], num_solved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_nD = 0.3 * cloud(40, 6)
    solved = Mock(side_effect=self_values._solved)
    monkeypatch.setattr(self_values, "_solved", solved)
    found = self_values.at_diameters(Cost(x_nD, x_nD), squared)
    assert found == pytest.approx([own_value(x_nD, each) for each in squared], rel=5e-6)
    assert sum(len(call.args[1]) for call in solved.call_args_list) == num_solved


def test_values_at_once_whose_sums_are_lost_are_solved_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x_nD = 1e5 * cloud(40, 6).float()
    at_once = Mock(side_effect=self_values._solved_at_once)
    with monkeypatch.context() as patch:
        patch.setattr(self_values, "_solved_at_once", at_once)
        found = self_values.at_diameters(Cost(x_nD, x_nD), [3e3, 5e3, 9e3])
    assert self_values._solved_at_once(*at_once.call_args.args) is None
    monkeypatch.setattr(self_values, "_solved_at_once", lambda *_: None)
    assert found == pytest.approx(self_values.at_diameters(Cost(x_nD, x_nD), [3e3, 5e3, 9e3]), rel=1e-5)


@pytest.mark.parametrize("near", [False, True])
def test_products_are_rounded_only_where_it_does_not_show(near: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_minima, "has_bfloat16_units", lambda _: True)
    rounded = Mock(side_effect=soft_minima._add_rounded)
    monkeypatch.setattr(soft_minima, "_add_rounded", rounded)
    x, f = cloud(2000, 6).float(), torch.zeros(2000)
    x -= x.mean(0)
    y = x[:200] + 0.3
    before = (y - 0.3) if near else 20.0 * y

    def product(coarse: bool) -> Tensor:
        onto = before.clone()
        plans = soft_minima.plans(Cost(y, x, 10**8), f, 0.1)
        soft_minima.carry(plans, x, onto, -1.0, coarse=coarse)
        return onto

    exact = product(False).double()
    assert not rounded.called
    coarse = product(True).double()
    error = float((coarse - exact).norm() / exact.norm())
    if near:
        assert [call.args[3] for call in rounded.call_args_list] == [-1.0, 1.0]  # and back
        assert error < 1e-5
    else:
        assert rounded.call_count == 1
        assert 1e-6 < error < 1e-3
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        assert torch.equal(product(True).double(), exact)
        assert rounded.call_count == 1


@pytest.mark.parametrize(
    ("scale", "target_scale", "n"),
    [(0.005, 0.015, 128), (0.002, 0.02, 128), (0.02, 0.06, 128), (0.3, 0.5, 128), (1.0, 1.5, 9)],
)
def test_rounded_gradients_are_as_good_as_promised(
    scale: float, target_scale: float, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where plans are so smooth that rounding would make them constant, too."""
    monkeypatch.setattr(soft_minima, "has_bfloat16_units", lambda _: True)
    x, y = cloud(500, 16, scale=scale).float(), cloud(n, 16, seed=4, scale=target_scale).float()
    x -= x.mean(0)
    plan = torch.softmax((squares(y, x).mean(0) - squares(y, x)) / 0.1, 1)
    exact = y.double() - plan @ x.double()
    gradient = y.clone()
    soft_minima.carry(iter([(slice(None), plan.float())]), x, gradient, -1.0, coarse=True)
    assert float((gradient - exact).norm() / exact.norm()) < 1e-3


def test_lost_sums_of_costs_that_are_not_kept() -> None:
    """Some rows' and no columns' are lost, and the other way round."""
    y, x = cloud(7), cloud(9, seed=1)
    y[3] += 100.0
    for rows, columns in ((y, x), (x, y)):
        f_N, g_n, c = columns[:, 0].clone(), rows[:, 0].clone(), squares(rows, columns)
        (soft_f_N, soft_g_n), _ = soft_minima.step(Cost(rows, columns, 0), f_N, g_n, 0.1)
        torch.testing.assert_close(soft_g_n, soft_minimum(c, f_N, 0.1))
        torch.testing.assert_close(soft_f_N, soft_minimum(c.T, g_n, 0.1))
    labelled = LabelledCost(y, torch.arange(7) % 2, torch.ones(2, 2), 0)
    (soft_f_N, _), _ = soft_minima.step(labelled, y[:, 0], y[:, 0], 0.1, symmetric=True)
    torch.testing.assert_close(soft_f_N, soft_minimum(squares(y, y) + 0.5, y[:, 0], 0.1))
