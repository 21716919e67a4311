"""Every distance, by its registered name, against the contract in `Distance`'s docstring."""

import numpy as np
import ot
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from orca_ray.alignment import distance as contract
from orca_ray.alignment.distance import Distance, SourceFeatures
from orca_ray.alignment.distances.mmd import MMD
from orca_ray.alignment.distances.sliced import Sliced, directions
from orca_ray.alignment.registry import distance_names, get_distance
from orca_ray.errors import UserError
from orca_ray.testing import DistanceSuite
from orca_ray.testing.distances import cloud, source, value_and_gradient
from tests.sampling import Sampled

OWN_SOLVER = ["sinkhorn", "otdd"]


def bures(a: np.ndarray, b: np.ndarray) -> float:
    """Squared 2-Wasserstein distance between the Gaussians of two clouds, from matrix roots."""
    s, t = np.cov(a.T, bias=True), np.cov(b.T, bias=True)
    root = np.real(sqrtm(s))
    cross = np.real(sqrtm(root @ t @ root))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(cross))


class TestEveryDistance(Sampled, DistanceSuite):
    names = distance_names()
    steps = {"sliced": 1e-6}  # noqa: RUF012 - projections change places
    exchange_tolerance = dict.fromkeys(OWN_SOLVER, 0.05)
    fixed_blocks = ("otdd_reference",)
    untrained_labels = ("otdd_reference",)

    @pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    def device(self, request: pytest.FixtureRequest) -> str:
        if request.param == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        device: str = request.param
        return device

    def refusal(self, name: str, num_source: int, source_classes: int) -> str:
        alone = name == "otdd_reference" and num_source == source_classes
        return rf"shape \({num_source}, 4\): .* choose another distance" if alone else ""

    def frozen(self, distance: Distance, x_nD: Tensor, source: SourceFeatures) -> Distance:
        if not isinstance(distance, MMD):
            return distance
        return MMD(bandwidth=distance.bandwidth(x_nD)).fit(source.to(distance._x_ND.device))


def test_solvers_of_this_package_note_that_they_work_in_blocks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    src, (x, y) = source(120), cloud(40, shift=0.5)
    monkeypatch.setattr(contract, "MEMORY_BYTES", 100_000)
    for name in OWN_SOLVER:
        caplog.clear()
        small = get_distance(name).fit(src)
        small(x, y)
        assert "the source and itself (120 x 120 points) exceeds" in caplog.text
        assert "between target and source (40 x 120 points) exceeds the memory" in small.diagnosis.notes[0]
        assert small.diagnosis.converged
    # A plan cannot be found in blocks.
    with pytest.raises(UserError, match=r"\(40 x 120 samples\) takes 0\.3 MB, more than the 0\.1 MB"):
        get_distance("wasserstein").fit(src)(x, y)
    monkeypatch.setattr(contract, "MEMORY_BYTES", 500)
    for name in ("sinkhorn", "mmd", "otdd"):  # not one row fits
        with pytest.raises(UserError, match=r"more than the 0\.0 MB that a call may use; take fewer source samples"):
            get_distance(name).fit(source(100))(*cloud(100))


def test_user_errors() -> None:
    with pytest.raises(UserError, match=r"unknown distance 'mmd_median'.*Allowed: bures, l2, mmd, "):
        get_distance("mmd_median")
    with pytest.raises(UserError, match="source features 'images'"):
        SourceFeatures(torch.full((2, 3), float("nan")), torch.zeros(2, dtype=torch.int64), "images")
    with pytest.raises(UserError, match="source labels 'images': expected 2"):
        SourceFeatures(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), "images")


def test_l2_is_the_debiased_mean_pairwise_distance() -> None:
    src, (x, y) = source(), cloud(17)

    def mean_pairwise(a: Tensor, b: Tensor) -> Tensor:
        return ((a[:, None] - b[None]) ** 2).sum(-1).mean()

    expected = mean_pairwise(x, src.x) - (mean_pairwise(x, x) + mean_pairwise(src.x, src.x)) / 2
    assert get_distance("l2").fit(src)(x, y).item() == pytest.approx(expected.item())


def test_mmd_is_the_sum_of_five_gaussian_kernels() -> None:
    src, (x, y) = source(), cloud(17, shift=0.5)
    h = (torch.pdist(torch.cat([x, src.x])) ** 2).mean().item()

    def kernels(a: Tensor, b: Tensor) -> float:
        squares = ((a[:, None] - b[None]) ** 2).sum(-1)
        return float(sum(torch.exp(-squares / (h * width)).mean() for width in (0.25, 0.5, 1, 2, 4)))

    distance = MMD().fit(src)
    assert distance.bandwidth(x) == pytest.approx(h, rel=1e-9)
    value, gradient = value_and_gradient(distance, x, y)
    assert value == pytest.approx(kernels(x, x) + kernels(src.x, src.x) - 2 * kernels(x, src.x))
    fixed = value_and_gradient(MMD(bandwidth=distance.bandwidth(x)).fit(src), x, y)[1]
    torch.testing.assert_close(gradient, fixed)


def test_bures_is_the_distance_of_two_gaussians() -> None:
    for num_source, n, d in ((40, 17, 5), (6, 9, 20)):
        src, (x, y) = source(num_source, d=d), cloud(n, d=d, shift=0.5)
        value = get_distance("bures").fit(src)(x, y).item()
        assert value == pytest.approx(bures(x.numpy(), src.x.numpy()), rel=1e-6)


def test_sliced_couples_quantiles_exactly() -> None:
    for n in (1, 7, 36):
        src, (x, y) = source(24), cloud(n, classes=1, shift=0.5)
        lines = [(x @ u, src.x @ u) for u in directions(4)]
        exact = [ot.wasserstein_1d(a.numpy(), b.numpy(), p=2) for a, b in lines]
        assert Sliced().fit(src)(x, y).item() == pytest.approx(float(np.mean(exact)))


def test_directions_are_whole_frames() -> None:
    frames_PD = directions(48)
    assert len(frames_PD) == 528
    torch.testing.assert_close(frames_PD[48:96] @ frames_PD[48:96].T, torch.eye(48, dtype=torch.float64))
    assert frames_PD.mean().abs() < 0.01
    assert torch.equal(frames_PD, directions(48))


def test_shifted_set_is_its_shift_away() -> None:
    """What the docstring says of units, exactly."""
    src = source(24)
    shift = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    squared = (shift * shift).sum().item()
    for name, factor in (("l2", 1.0), ("bures", 1.0), ("sliced", 0.25), ("sinkhorn", 0.5)):
        value = get_distance(name).fit(src)(src.x + shift, src.y).item()
        assert value == pytest.approx(factor * squared, rel=1e-6)


def test_wasserstein_is_what_an_assignment_costs() -> None:
    """With as many points on both sides an optimal plan is a permutation (Birkhoff)."""
    (x, y), src = cloud(20, shift=0.5), source(20)
    cost = 0.5 * torch.cdist(x, src.x).square().numpy()
    rows, columns = linear_sum_assignment(cost)
    value, gradient = value_and_gradient(get_distance("wasserstein").fit(src), x, y)
    assert value == pytest.approx(cost[rows, columns].mean(), rel=1e-9)
    torch.testing.assert_close(gradient, (x - src.x[columns]) / 20, rtol=1e-6, atol=1e-9)
