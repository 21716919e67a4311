"""The distance: its conformance, and what an assignment costs."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from orca_ray.alignment import distance as contract
from orca_ray.alignment.registry import get_distance
from orca_ray.errors import UserError
from orca_ray.testing import DistanceSuite
from orca_ray.testing.distances import cloud, source, value_and_gradient


class TestDistances(DistanceSuite):
    names = ("wasserstein",)


def test_wasserstein_is_what_an_assignment_costs() -> None:
    """With as many points on both sides an optimal plan is a permutation (Birkhoff)."""
    (x, y), src = cloud(20, shift=0.5), source(20)
    cost = 0.5 * torch.cdist(x, src.x).square().numpy()
    rows, columns = linear_sum_assignment(cost)
    value, gradient = value_and_gradient(get_distance("wasserstein").fit(src), x, y)
    assert value == pytest.approx(cost[rows, columns].mean(), rel=1e-9)
    torch.testing.assert_close(
        gradient, (x - src.x[columns]) / 20, rtol=1e-6, atol=1e-9
    )


def test_a_plan_cannot_be_found_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "MEMORY_BYTES", 100_000)
    with pytest.raises(
        UserError, match=r"\(40 x 120 samples\) takes 0\.3 MB, more than the 0\.1 MB"
    ):
        get_distance("wasserstein").fit(source(120))(*cloud(40, shift=0.5))
