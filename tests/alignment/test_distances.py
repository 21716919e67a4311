"""Every distance against the contract in `Distance`; pseudo-classes of targets.

OTDD and its solver are compared with POT.
"""

import itertools
import logging

import numpy as np
import ot
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from orca_ray.alignment import distance as contract
from orca_ray.alignment import labels as labels_module
from orca_ray.alignment import transport as solver
from orca_ray.alignment.cost import CostMatrix, Gaussians, half_squared_distances
from orca_ray.alignment.distance import Distance, SourceFeatures
from orca_ray.alignment.distances.mmd import MMD
from orca_ray.alignment.distances.otdd import OTDD
from orca_ray.alignment.labels import pseudo_labels
from orca_ray.alignment.registry import distance_names, get_distance
from orca_ray.alignment.transport import TOLERANCE, SolverReport, transport
from orca_ray.errors import UserError
from orca_ray.testing import DistanceSuite
from orca_ray.testing.distances import cloud, source, value_and_gradient
from tests.sampling import Sampled

Side = tuple[np.ndarray, np.ndarray]
"""Points [n, D] of one side, and their class ids [n]."""


def bures(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared 2-Wasserstein distance between Gaussians of two clouds.

    It is computed from matrix roots.
    """
    s = np.cov(a.T, bias=True)
    t = np.cov(b.T, bias=True)
    root = np.real(sqrtm(s))
    cross = np.real(sqrtm(root @ t @ root))
    gap = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(gap + np.trace(s) + np.trace(t) - 2 * np.trace(cross))


class TestEveryDistance(Sampled, DistanceSuite):
    names = distance_names()
    exchange_tolerance = {"otdd": 0.05}  # noqa: RUF012
    fixed_blocks = ("otdd_reference",)
    untrained_labels = ("otdd_reference",)

    @pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    def device(self, request: pytest.FixtureRequest) -> str:
        if request.param == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        device: str = request.param
        return device

    def refusal(self, name: str, num_source: int, source_classes: int) -> str:
        has_only_singles = num_source == source_classes
        if name == "otdd_reference" and has_only_singles:
            return rf"shape \({num_source}, 4\): .* choose another distance"
        return ""

    def frozen(
        self, distance: Distance, x_nD: Tensor, source: SourceFeatures
    ) -> Distance:
        if not isinstance(distance, MMD):
            return distance
        bandwidth = distance.bandwidth(x_nD)
        fixed = MMD().fit(source.to(distance._x_ND.device))
        setattr(fixed, "bandwidth", lambda _: bandwidth)  # noqa: B010 (mypy: a method is replaced)
        return fixed


def test_otdd_notes_that_it_works_in_blocks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    src = source(120)
    x, y = cloud(40, shift=0.5)
    monkeypatch.setattr(contract, "MEMORY_BYTES", 100_000)
    distance = OTDD().fit(src)
    distance(x, y)
    assert "the source and itself (120 x 120 points) exceeds" in caplog.text
    note, *_ = distance.diagnosis.notes
    assert "between target and source (40 x 120 points) exceeds the memory" in note
    assert distance.diagnosis.converged
    monkeypatch.setattr(contract, "MEMORY_BYTES", 500)
    message = r"more than the 0\.0 MB that a call may use; take fewer source samples"
    for name in ("mmd", "otdd"):  # not one row fits
        with pytest.raises(UserError, match=message):
            get_distance(name).fit(source(100))(*cloud(100))


def test_wasserstein_is_what_an_assignment_costs() -> None:
    """With as many points on both sides an optimal plan is a permutation (Birkhoff)."""
    src = source(20)
    x, y = cloud(20, shift=0.5)
    cost = 0.5 * torch.cdist(x, src.x).square().numpy()
    rows, columns = linear_sum_assignment(cost)
    value, gradient = value_and_gradient(get_distance("wasserstein").fit(src), x, y)
    assert value == pytest.approx(cost[rows, columns].mean(), rel=1e-9)
    expected = (x - src.x[columns]) / 20
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_a_plan_cannot_be_found_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "MEMORY_BYTES", 100_000)
    distance = get_distance("wasserstein").fit(source(120))
    with pytest.raises(
        UserError, match=r"\(40 x 120 samples\) takes 0\.3 MB, more than the 0\.1 MB"
    ):
        distance(*cloud(40, shift=0.5))


def test_notes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    distance = get_distance("otdd").fit(source(12))
    x, y = cloud(9, classes=9)
    with caplog.at_level(logging.INFO, "orca_ray.alignment.distance"):
        for _ in range(3):
            distance(x, y)
    logged = [record.getMessage() for record in caplog.records]
    assert logged
    assert logged == [f"distance otdd: {note}" for note in distance.diagnosis.notes]


def test_values_that_are_not_finite_and_wrong_shapes_are_refused() -> None:
    distance = get_distance("l2").fit(source())
    x, y = cloud(17)
    not_finite = (
        r"target features of shape \(17, 4\): 1 of 68 values are NaN or infinite; check"
    )
    for value in (float("nan"), float("inf")):
        x[3, 1] = value
        with pytest.raises(UserError, match=not_finite):
            distance(x, y)
    x[3, 1] = 0.0
    wrong_width = r"shape \(17, 3\), but the source has 4 features"
    with pytest.raises(UserError, match=wrong_width):
        distance(x[:, :3], y)
    for labels in (y[:5], y.float()):
        with pytest.raises(UserError, match="expected 17 integer class ids"):
            distance(x, labels)
    with pytest.raises(UserError, match="expected a float matrix"):
        distance(x[:0], y[:0])
    with pytest.raises(RuntimeError, match="fit"):
        get_distance("l2")(x, y)


def test_user_errors() -> None:
    two_labels = torch.zeros(2, dtype=torch.int64)
    three_labels = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(UserError, match="source features 'images'"):
        SourceFeatures(torch.full((2, 3), float("nan")), two_labels, "images")
    with pytest.raises(UserError, match="source labels 'images': expected 2"):
        SourceFeatures(torch.zeros(2, 3), three_labels, "images")


def test_l2_is_the_debiased_mean_pairwise_distance() -> None:
    src = source()
    x, y = cloud(17)

    def mean_pairwise(a: Tensor, b: Tensor) -> Tensor:
        return ((a[:, None] - b[None]) ** 2).sum(-1).mean()

    within = (mean_pairwise(x, x) + mean_pairwise(src.x, src.x)) / 2
    expected = mean_pairwise(x, src.x) - within
    distance = get_distance("l2").fit(src)
    assert distance(x, y).item() == pytest.approx(expected.item())


def test_mmd_is_the_sum_of_five_gaussian_kernels() -> None:
    src = source()
    x, y = cloud(17, shift=0.5)
    pairwise = torch.pdist(torch.cat([x, src.x]))
    h = (pairwise**2).mean().item()

    def kernels(a: Tensor, b: Tensor) -> float:
        squares = ((a[:, None] - b[None]) ** 2).sum(-1)
        widths = (0.25, 0.5, 1, 2, 4)
        return float(sum(torch.exp(-squares / (h * w)).mean() for w in widths))

    distance = MMD().fit(src)
    assert distance.bandwidth(x) == pytest.approx(h, rel=1e-9)
    value, _ = value_and_gradient(distance, x, y)
    within = kernels(x, x) + kernels(src.x, src.x)
    assert value == pytest.approx(within - 2 * kernels(x, src.x))


def transport_plan(cost: np.ndarray, epsilon: float) -> np.ndarray:
    """Return the plan between uniform weights, from POT's plain Sinkhorn."""
    num_rows, num_columns = cost.shape
    a = np.full(num_rows, 1 / num_rows)
    b = np.full(num_columns, 1 / num_columns)
    options = {"numItermax": 3000, "stopThr": 1e-12, "warn": False}
    return np.asarray(ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn", **options))


def entropic(cost: np.ndarray, epsilon: float) -> float:
    """Return <P, C> + eps KL(P | a b^T)."""
    plan = transport_plan(cost, epsilon)
    relative_plan = np.maximum(plan, 1e-300) * plan.size
    divergence = (plan * np.log(relative_plan)).sum()
    return float((plan * cost).sum() + epsilon * divergence)


def brute_force(x: Tensor, y: Tensor, sx: Tensor, sy: Tensor) -> float:
    """Return the value of OTDD's formula, one explicit cost matrix at a time."""
    target = (x.numpy(), y.numpy())
    source = (sx.numpy(), sy.numpy())

    def cost(row_side: Side, column_side: Side) -> np.ndarray:
        a, classes_a = row_side
        b, classes_b = column_side
        matrix = 0.5 * ot.dist(a, b)
        for c, d in itertools.product(np.unique(classes_a), np.unique(classes_b)):
            rows = classes_a == c
            columns = classes_b == d
            is_same_class = row_side is column_side and c == d
            if not is_same_class:
                half_w = 0.5 * bures(a[rows], b[columns])
                matrix[np.ix_(rows, columns)] += half_w
        return np.asarray(matrix)

    epsilon = 0.05 * cost(source, source).mean()
    within_target = entropic(cost(target, target), epsilon)
    within_source = entropic(cost(source, source), epsilon)
    across = entropic(cost(target, source), epsilon)
    return across - (within_target + within_source) / 2


def points(n: int, d: int = 4, seed: int = 0) -> Tensor:
    """Return the points of a `cloud` without their classes."""
    x, _ = cloud(n, d=d, seed=seed)
    return x


def test_value_equals_brute_force() -> None:
    src = source(15, d=6)
    x, y = cloud(10, d=6, shift=0.5)
    distance = OTDD().fit(src)
    expected = brute_force(x, y, src.x, src.y)
    assert distance(x, y).item() == pytest.approx(expected, rel=1e-5)
    assert distance.diagnosis.converged
    assert 0 < distance.diagnosis.error <= TOLERANCE
    assert distance.diagnosis.iterations > 0


def test_distances_of_gaussians_equal_matrix_roots() -> None:
    x = [points(n, d=5, seed=n) for n in (9, 30, 3)]
    y = [points(n, d=5, seed=n) for n in (12, 2)]
    first_cloud, *_ = x
    a = Gaussians.from_terms(Gaussians.of(x).terms(), first_cloud)
    assert [len(factor) for factor in a.factors] == [5, 5, 3]
    pairs = itertools.product(x, y)
    distances = [bures(p.numpy(), q.numpy()) for p, q in pairs]
    expected = torch.tensor(distances, dtype=torch.float64).view(len(x), len(y))
    torch.testing.assert_close(
        a.distances(Gaussians.of(y)), expected, rtol=1e-5, atol=1e-5
    )
    within = a.pairwise_distances()
    torch.testing.assert_close(within, a.distances(a), rtol=1e-6, atol=1e-6)
    assert torch.equal(within.diagonal(), torch.zeros(3, dtype=torch.float64))


def test_transport_is_the_optimum_and_its_gradients_the_plan() -> None:
    x = points(12).requires_grad_()
    y = points(19, seed=4).requires_grad_()
    w = torch.tensor(
        [[0.0, 1.0, 0.5], [2.0, 0.3, 0.0]], dtype=torch.float64, requires_grad=True
    )
    rows = torch.arange(12) % 2
    columns = torch.arange(19) % 3
    cost = half_squared_distances(x, y) + 0.5 * w[rows][:, columns]
    plan = torch.from_numpy(transport_plan(cost.detach().numpy(), 0.2))
    expected = torch.autograd.grad((plan * cost).sum(), (x, y, w))
    report = SolverReport()
    value = transport(CostMatrix(x, y, w, (rows, columns)), 0.2, report)
    optimum = entropic(cost.detach().numpy(), 0.2)
    assert value.item() == pytest.approx(optimum, rel=1e-8)
    gradients = torch.autograd.grad(value, (x, y, w))
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)
    assert report.error <= TOLERANCE


@pytest.mark.parametrize(("n", "m"), [(30, 50), (50, 30)])
def test_groups_that_hardly_see_each_other_are_solved(n: int, m: int) -> None:
    # A fifth of the mass must cross a gap of 400 times eps: alternating updates alone
    # would take millions of iterations.
    x = points(n, d=2)
    y = points(m, d=2, seed=4)
    x[: n // 2, 0] += 20.0
    y[: m * 3 // 10, 0] += 20.0
    report = SolverReport()
    value = transport(CostMatrix(x, y), 0.5, report).item()
    assert report.error <= TOLERANCE
    assert report.iterations < 260
    assert report.notes == []
    exact = ot.emd2([], [], half_squared_distances(x, y).numpy())
    assert exact < value < exact + 0.5 * np.log(m)


def test_what_does_not_converge_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "_LARGEST_NEWTON", 10)
    x = points(30, d=2)
    y = points(50, d=2, seed=4)
    x[:15, 0] += 20.0
    report = SolverReport()
    transport(CostMatrix(x, y, what="target and source"), 0.01, report)
    diagnosis = report.diagnosis()
    assert not diagnosis.converged
    assert diagnosis.error > TOLERANCE
    (note,) = diagnosis.notes
    assert "the transport between target and source did not converge" in note
    # Source terms that did not converge are noted at every call.
    terms = OTDD().fit(source(15)).terms
    assert 0 <= terms["error"].item() <= TOLERANCE
    distance = OTDD().fit(source(15), {**terms, "error": torch.tensor(1e-3)})
    for _ in range(2):
        distance(*cloud(10))
        (note,) = distance.diagnosis.notes
        assert "the source's own terms did not converge" in note


def test_many_classes_stay_within_the_memory_of_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tensors that all pairs of classes save for the backward pass are limited."""
    src = source(40, d=8, classes=4)
    x, y = cloud(100, d=8, classes=25)
    value, gradient = value_and_gradient(get_distance("otdd").fit(src), x, y)
    monkeypatch.setattr(contract, "MEMORY_BYTES", 200_000)
    distance = get_distance("otdd").fit(src)
    saved_bytes: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        limited_value, limited_gradient = value_and_gradient(distance, x, y)
    assert sum(saved_bytes.values()) < contract.MEMORY_BYTES
    assert limited_value == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(limited_gradient, gradient, rtol=1e-4, atol=1e-7)


def test_classes_pass_through_and_equal_targets_share_a_class() -> None:
    classes = pseudo_labels(np.array([3, 0, 900, 3], dtype=np.int32))
    assert classes.tolist() == [3, 0, 900, 3]
    assert classes.dtype == np.int64
    # Fewer targets than classes.
    targets = np.array([0.0, 1.0, 0.0, 1.0, 1.0], dtype=np.float32)
    labels = pseudo_labels(targets)
    (label_of_0,) = set(labels[targets == 0.0].tolist())
    (label_of_1,) = set(labels[targets == 1.0].tolist())
    assert label_of_0 != label_of_1
    assert pseudo_labels(np.full((6, 3), 2.0)).tolist() == [0] * 6


@pytest.mark.parametrize(
    ("shape", "scale", "mini_batch"),
    [
        ((), 1e-9, 1000),
        ((5,), 1e9, 1000),
        ((4, 6), 1.0, 1000),
        ((), 1.0, 50),
    ],
)
def test_separated_targets_are_found_again(
    shape: tuple[int, ...],
    scale: float,
    mini_batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(labels_module, "_MINI_BATCH_ABOVE", mini_batch)
    monkeypatch.setattr(labels_module, "NUM_CLASSES", 4)
    random = np.random.RandomState(0)
    groups = np.repeat(np.arange(4), 20)
    other_axes = [1] * len(shape)
    centres = groups.reshape(-1, *other_axes)
    y = (scale * (centres + 0.01 * random.randn(80, *shape))).astype(np.float32)
    labels = pseudo_labels(y, seed=1)
    assert labels.shape == (80,)
    assert len(set(zip(groups.tolist(), labels.tolist(), strict=True))) == 4
    assert np.array_equal(labels, pseudo_labels(y, seed=1))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([[1.0, np.nan]]), r"shape \(1, 2\): NaN or infinite"),
        (np.zeros((0, 3)), "no sample"),
    ],
)
def test_bad_targets_are_refused(y: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pseudo_labels(y)


def test_huge_targets_are_sketched_and_clustered_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = np.repeat(np.arange(4), 6)
    centres = np.random.default_rng(0).normal(size=(4, 20_000))
    fields = centres[groups] + 0.5 * np.random.default_rng(1).normal(size=(24, 20_000))
    monkeypatch.setattr(labels_module, "NUM_CLASSES", 4)
    exact = pseudo_labels(fields.astype(np.float32))
    monkeypatch.setattr(labels_module, "MOST_NUMBERS", 1)
    sketched = pseudo_labels(fields.astype(np.float32))
    assert len(set(zip(exact.tolist(), sketched.tolist(), strict=True))) == 4
    sketch = labels_module.sketch_targets(fields, 0)
    gaps = np.square(sketch[:, None] - sketch).sum(-1)
    exact_gaps = np.square(fields[:, None] - fields).sum(-1)
    differ = exact_gaps > 0
    np.testing.assert_allclose(gaps[differ], exact_gaps[differ], rtol=0.15)
