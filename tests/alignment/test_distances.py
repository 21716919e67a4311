"""Every distance, by its registered name, against the contract in `Distance`'s docstring."""

import pytest
import torch
from torch import Tensor

from orca_ray.alignment.distance import Distance, distance_names, get_distance
from orca_ray.alignment.features import SourceFeatures
from orca_ray.alignment.mmd import MMD
from orca_ray.errors import UserError

NAMES = [name for name in distance_names() if name != "otdd"]  # an alias, see test_otdd_is_the_gaussian_one
USES_LABELS = {"otdd-gaussian", "otdd-entropic"}


def cloud(n: int, d: int = 4, classes: int = 3, seed: int = 0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Class-wise separated points [n, d] in float64, and labels [n] in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    means = 1.5 * torch.randn(classes, d, generator=generator, dtype=torch.float64)
    points = means[labels] + torch.randn(n, d, generator=generator, dtype=torch.float64) + shift
    order = torch.randperm(n, generator=generator)
    return points[order], labels[order]


def source(n: int = 24, seed: int = 1, **kwargs: int) -> SourceFeatures:
    return SourceFeatures(*cloud(n, seed=seed, **kwargs), "test")


def value_and_gradient(distance: Distance, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    x = x.clone().requires_grad_()
    value = distance(x, y)
    assert value.shape == ()
    value.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return value.item(), x.grad


@pytest.mark.parametrize("name", NAMES)
class TestEveryDistance:
    def test_zero_on_itself_and_positive_elsewhere(self, name: str) -> None:
        src = source(30)
        distance = get_distance(name).fit(src)
        elsewhere = distance(*cloud(20, shift=1.0)).item()
        order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
        own, gradient = value_and_gradient(distance, src.x[order], src.y[order] * 5 + 2)
        assert elsewhere > 0.01
        assert abs(own) < 1e-5 * elsewhere
        assert gradient.norm() < 1e-3 * value_and_gradient(distance, src.x + 1.0, src.y)[1].norm()

    def test_grows_with_a_shift(self, name: str) -> None:
        src = source(30)
        distance = get_distance(name).fit(src)
        values = [distance(src.x + shift, src.y).item() for shift in (0.0, 0.3, 0.6, 1.2)]
        assert values == sorted(values)

    def test_permutation_invariance(self, name: str) -> None:
        src, (x, y) = source(), cloud(17)
        value, gradient = value_and_gradient(get_distance(name).fit(src), x, y)
        a, b = torch.randperm(24), torch.randperm(17)
        permuted = get_distance(name).fit(SourceFeatures(src.x[a], src.y[a], "test"))
        value_b, gradient_b = value_and_gradient(permuted, x[b], y[b])
        assert value_b == pytest.approx(value, rel=1e-7)
        torch.testing.assert_close(gradient_b, gradient[b], rtol=1e-4, atol=1e-7)

    def test_labels_are_only_names_and_may_have_gaps(self, name: str) -> None:
        src, (x, y) = source(), cloud(17)
        value, gradient = value_and_gradient(get_distance(name).fit(src), x, y)
        ids = torch.tensor([900, -7, 12])
        renamed = get_distance(name).fit(SourceFeatures(src.x, ids.flip(0)[src.y], "test"))
        value_b, gradient_b = value_and_gradient(renamed, x, ids[y].to(torch.int32))
        assert value_b == pytest.approx(value, rel=1e-7)
        torch.testing.assert_close(gradient_b, gradient, rtol=1e-4, atol=1e-7)

    @pytest.mark.parametrize(("n", "d"), [(9, 4), (15, 2), (8, 20)])
    def test_gradient_equals_finite_differences(self, name: str, n: int, d: int) -> None:
        src, (x, y) = source(d=d), cloud(n, d=d, shift=0.4)
        distance = get_distance(name).fit(src)
        if isinstance(distance, MMD):
            distance = MMD(bandwidth=distance.bandwidth(x)).fit(src)  # the bandwidth is constant in the gradient
        _, gradient = value_and_gradient(distance, x, y)
        generator = torch.Generator().manual_seed(7)
        directions = torch.randn(8, n, d, generator=generator, dtype=torch.float64)
        step = 1e-4
        numeric = [(distance(x + step * u, y) - distance(x - step * u, y)) / (2 * step) for u in directions]
        expected = (directions * gradient).sum((1, 2))
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(torch.stack(numeric), expected, rtol=2e-4, atol=2e-5 * float(gradient.norm()))

    @pytest.mark.parametrize(
        ("num_source", "source_classes", "num_target", "target_classes"),
        [(1, 1, 1, 1), (1, 1, 6, 2), (12, 3, 1, 1), (12, 1, 9, 1), (12, 12, 9, 9), (12, 1, 9, 9), (40, 2, 3, 3)],
    )
    def test_few_samples_and_classes(
        self, name: str, num_source: int, source_classes: int, num_target: int, target_classes: int
    ) -> None:
        distance = get_distance(name).fit(source(num_source, classes=source_classes))
        value, gradient = value_and_gradient(distance, *cloud(num_target, classes=target_classes, shift=2.0))
        assert value > 0
        assert torch.isfinite(gradient).all()
        assert gradient.norm() > 0

    def test_duplicated_points_change_nothing(self, name: str) -> None:
        src, (x, y) = source(), cloud(9)
        once, gradient = value_and_gradient(get_distance(name).fit(src), x, y)
        doubled = SourceFeatures(src.x.repeat(2, 1), src.y.repeat(2), "test")
        distance = get_distance(name).fit(doubled)
        twice, gradient_b = value_and_gradient(distance, x.repeat(3, 1), y.repeat(3))
        # OTDD's eps and the MMD's bandwidth are means over pairs: duplicates move them a little, and nothing else.
        assert twice == pytest.approx(once, rel=0.02)
        assert torch.isfinite(gradient_b).all()
        torch.testing.assert_close(gradient_b.view(3, 9, -1).sum(0), gradient, rtol=0.1, atol=0.02)

    def test_all_points_the_same(self, name: str) -> None:
        point = torch.full((6, 4), 3.0, dtype=torch.float64)
        distance = get_distance(name).fit(SourceFeatures(point, torch.arange(6) % 2, "test"))
        assert distance(point[:3], torch.zeros(3, dtype=torch.int64)).item() == pytest.approx(0.0, abs=1e-9)
        value, gradient = value_and_gradient(distance, point + 1.0, torch.arange(6) % 3)
        assert value > 0
        assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e3, 1e8])
    def test_common_scale_only_rescales(self, name: str, scale: float) -> None:
        src, (x, y) = source(), cloud(17, shift=0.5)
        value, gradient = value_and_gradient(get_distance(name).fit(src), x, y)
        scaled = get_distance(name).fit(SourceFeatures(src.x * scale, src.y, "test"))
        value_b, gradient_b = value_and_gradient(scaled, x * scale, y)
        degree = 0 if name == "mmd" else 2
        assert value_b / scale**degree == pytest.approx(value, rel=1e-5)
        torch.testing.assert_close(gradient_b / scale ** (degree - 1), gradient, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("scale", [1e-6, 1e-2, 1e2, 1e6])
    def test_sides_of_different_scale_stay_finite(self, name: str, scale: float) -> None:
        x, y = cloud(17)
        value, gradient = value_and_gradient(get_distance(name).fit(source()), (x * scale).float(), y)
        assert value > 0
        assert torch.isfinite(gradient).all()

    def test_far_from_the_origin(self, name: str) -> None:
        src, (x, y) = source(), cloud(17, shift=0.5)
        value, gradient = value_and_gradient(get_distance(name).fit(src), x, y)
        moved = get_distance(name).fit(SourceFeatures(src.x + 1e4, src.y, "test"))
        value_b, gradient_b = value_and_gradient(moved, x + 1e4, y)
        assert value_b == pytest.approx(value, rel=1e-5)
        torch.testing.assert_close(gradient_b, gradient, rtol=1e-3, atol=1e-5)

    def test_pure_deterministic_and_reusable(self, name: str) -> None:
        src, (x, y) = source(), cloud(17)
        before = [tensor.clone() for tensor in (src.x, src.y, x, y)]
        state = torch.get_rng_state()
        distance = get_distance(name).fit(src)
        first = value_and_gradient(distance, x, y)
        distance(*cloud(5, classes=2, seed=9))
        second = value_and_gradient(distance, x, y)
        refitted = value_and_gradient(distance.fit(source(9, seed=3)).fit(src), x, y)
        for other in (second, refitted):
            assert other[0] == first[0]
            assert torch.equal(other[1], first[1])
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(a, b) for a, b in zip(before, (src.x, src.y, x, y), strict=True))

    def test_precision_follows_the_features(self, name: str) -> None:
        distance, (x, y) = get_distance(name).fit(source()), cloud(17, shift=0.5)
        exact = distance(x, y)
        assert exact.dtype == torch.float64
        with torch.autocast("cpu", dtype=torch.bfloat16):
            single, gradient = distance(x.float(), y), value_and_gradient(distance, x.float(), y)[1]
        assert single.dtype == gradient.dtype == torch.float32
        assert single.item() == pytest.approx(exact.item(), rel=1e-5)
        assert distance(x.bfloat16(), y).dtype == torch.float32

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_not_finite_is_refused_by_name_and_shape(self, name: str, bad: float) -> None:
        distance, (x, y) = get_distance(name).fit(source()), cloud(17)
        x[3, 1] = bad
        with pytest.raises(UserError, match=r"target features of shape \(17, 4\): 1 of 68 values are NaN or infinite"):
            distance(x, y)

    def test_wrong_shapes_are_refused(self, name: str) -> None:
        distance, (x, y) = get_distance(name).fit(source()), cloud(17)
        with pytest.raises(UserError, match=r"shape \(17, 3\), but the source has 4 features"):
            distance(x[:, :3], y)
        with pytest.raises(UserError, match="expected 17 integer class ids"):
            distance(x, y[:5])
        with pytest.raises(UserError, match="expected 17 integer class ids"):
            distance(x, y.float())
        with pytest.raises(UserError, match="expected a float matrix"):
            distance(x[:0], y[:0])
        with pytest.raises(RuntimeError, match="fit"):
            get_distance(name)(x, y)

    def test_labels_matter_where_the_distance_uses_them(self, name: str) -> None:
        src, (x, y) = source(30), cloud(17)
        shuffled = SourceFeatures(src.x, src.y[torch.randperm(30, generator=torch.Generator().manual_seed(3))], "test")
        gradient = value_and_gradient(get_distance(name).fit(src), x, y)[1]
        other = value_and_gradient(get_distance(name).fit(shuffled), x, y)[1]
        cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), other.flatten(), dim=0)
        if name in USES_LABELS:
            assert cosine < 0.999
        else:
            assert torch.allclose(gradient, other, rtol=1e-9, atol=1e-12)  # only the order of summation differs


def test_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown distance 'otd'\. Did you mean 'otdd'"):
        get_distance("otd")


def test_otdd_is_the_gaussian_one() -> None:
    src, (x, y) = source(), cloud(17)
    assert get_distance("otdd").fit(src)(x, y) == get_distance("otdd-gaussian").fit(src)(x, y)


def test_source_features_are_checked() -> None:
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
    joint = torch.cat([src.x, x])
    squares = ((joint[:, None] - joint[None]) ** 2).sum(-1)
    h = squares.sum() / (41 * 40)
    kernel = sum(torch.exp(-squares / (h * width)) for width in (0.25, 0.5, 1, 2, 4))
    assert isinstance(kernel, Tensor)
    expected = kernel[:24, :24].mean() + kernel[24:, 24:].mean() - 2 * kernel[:24, 24:].mean()
    distance = MMD().fit(src)
    assert distance.bandwidth(x) == pytest.approx(h.item())
    value, gradient = value_and_gradient(distance, x, y)
    assert value == pytest.approx(expected.item())
    frozen = value_and_gradient(MMD(bandwidth=distance.bandwidth(x)).fit(src), x, y)[1]
    torch.testing.assert_close(gradient, frozen)
