"""The conformance suite of distances.

It tests the contract in the docstring of `Distance`, on small clouds of points. Shape
letters: n target points, D features.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from orca_ray.alignment import distance as contract
from orca_ray.alignment.distance import Distance, SourceFeatures
from orca_ray.alignment.registry import get_distance
from orca_ray.errors import UserError
from orca_ray.testing.suite import Suite

Fit = Callable[[str, SourceFeatures], Distance]
"""Function of the name of a distance and source features that returns the distance
fitted to them.
"""


class DistanceSuite(Suite):
    """Test class of distances.

    Set `names` to the registered names of the distances to test.
    """

    steps: ClassVar[Mapping[str, float]] = {}
    """Step of the finite differences, by name; default: 1e-4.

    Distances with kinks may need a smaller step.
    """
    exchange_tolerance: ClassVar[Mapping[str, float]] = {}
    """Relative change of the value allowed when source and target are exchanged, by
    name, for distances whose regularisation depends on the source. Default: 1e-9.
    """

    fixed_blocks: ClassVar[Collection[str]] = ()
    """Names of distances that work in blocks of a fixed size, which need more than the
    limit of the memory test.
    """
    untrained_labels: ClassVar[Collection[str]] = ()
    """Names of distances for which labels change the value, but not the direction of
    the gradient.
    """

    def refusal(self, name: str, num_source: int, source_classes: int) -> str:
        """Return a regular expression for a distance's error about a small source.

        "" if it accepts the source. The source has ``num_source`` samples of 4 features
        in ``source_classes`` classes.
        """
        return ""

    def frozen(
        self, distance: Distance, x_nD: Tensor, source: SourceFeatures
    ) -> Distance:
        """Return a distance with those values fixed that its gradient keeps constant.

        For example, a bandwidth that is computed from ``x_nD`` is used for other
        points, too. Finite differences can then be compared with the gradient. By
        default, nothing is fixed, and ``distance`` itself is returned.
        """
        return distance

    @pytest.fixture
    def device(self) -> str:
        """Return the device to test on."""
        return "cpu"

    @pytest.fixture
    def fit(self, device: str) -> Fit:
        """Return a function that fits a distance to a source."""
        return lambda name, source: get_distance(name).fit(source.to(device))

    def test_zero_on_itself_positive_elsewhere_and_never_negative(
        self, name: str, fit: Fit
    ) -> None:
        src = source(30)
        distance = fit(name, src)
        elsewhere = distance(*cloud(20, shift=1.0)).item()
        order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
        own, gradient = value_and_gradient(distance, src.x[order], src.y[order] * 5 + 2)
        assert elsewhere > 0.01
        if not distance.debiased:
            return
        assert abs(own) < 1e-5 * elsewhere
        assert (
            gradient.norm()
            < 1e-3 * value_and_gradient(distance, src.x + 1.0, src.y)[1].norm()
        )
        for seed in range(8):
            assert (
                fit(name, source(20, seed=seed))(
                    *cloud(11 + seed, seed=seed + 50)
                ).item()
                >= 0.0
            )

    def test_symmetric(self, name: str, fit: Fit) -> None:
        src = source(24)
        target = cloud(17, shift=0.5)
        distance = fit(name, src)
        if not distance.symmetric:
            pytest.skip("not symmetric")
        there = distance(*target).item()
        back = fit(name, SourceFeatures(*target, "test"))(src.x, src.y).item()
        assert back == pytest.approx(there, rel=self.exchange_tolerance.get(name, 1e-9))

    def test_grows_with_a_shift(self, name: str, fit: Fit) -> None:
        src = source(30)
        distance = fit(name, src)
        values = [
            distance(src.x + shift, src.y).item() for shift in (0.0, 0.3, 0.6, 1.2)
        ]
        assert values == sorted(values)

    def test_order_of_points_and_names_of_labels_do_not_matter(
        self, name: str, fit: Fit
    ) -> None:
        src = source()
        x, y = cloud(17)
        value, gradient = value_and_gradient(fit(name, src), x, y)
        generator = torch.Generator().manual_seed(0)
        a = torch.randperm(24, generator=generator)
        b = torch.randperm(17, generator=generator)
        permuted = SourceFeatures(src.x[a], src.y[a], "test"), x[b], y[b], gradient[b]
        ids = torch.tensor([900, -7, 12])
        renamed = (
            SourceFeatures(src.x, ids.flip(0)[src.y], "test"),
            x,
            ids[y].to(torch.int32),
            gradient,
        )
        for other, x_b, y_b, expected in (permuted, renamed):
            value_b, gradient_b = value_and_gradient(fit(name, other), x_b, y_b)
            assert value_b == pytest.approx(value, rel=1e-7)
            torch.testing.assert_close(gradient_b, expected, rtol=1e-4, atol=1e-7)

    def test_gradient_equals_finite_differences(self, name: str, fit: Fit) -> None:
        for n, d in ((9, 4), (15, 2), (8, 20)):
            src = source(d=d)
            x, y = cloud(n, d=d, shift=0.4)
            distance = fit(name, src)
            if not distance.exact_gradient:
                pytest.skip("the gradient is not the value's own")
            distance = self.frozen(distance, x, src)
            _, gradient = value_and_gradient(distance, x, y)
            moves = torch.randn(
                8, n, d, generator=torch.Generator().manual_seed(7), dtype=torch.float64
            )
            step = self.steps.get(name, 1e-4)
            numeric = [
                (distance(x + step * u, y) - distance(x - step * u, y)) / (2 * step)
                for u in moves
            ]
            expected = (moves * gradient).sum((1, 2))
            assert expected.abs().max() > 1e-3
            torch.testing.assert_close(
                torch.stack(numeric),
                expected,
                rtol=2e-4,
                atol=2e-5 * float(gradient.norm()),
            )

    @pytest.mark.parametrize(
        ("num_source", "source_classes", "num_target", "target_classes"),
        [
            (1, 1, 1, 1),
            (1, 1, 6, 2),
            (12, 3, 1, 1),
            (12, 1, 9, 1),
            (12, 12, 9, 9),
            (12, 1, 9, 9),
            (40, 2, 3, 3),
        ],
    )
    def test_few_samples_and_classes(
        self,
        name: str,
        num_source: int,
        source_classes: int,
        num_target: int,
        target_classes: int,
        fit: Fit,
    ) -> None:
        src = source(num_source, classes=source_classes)
        if message := self.refusal(name, num_source, source_classes):
            with pytest.raises(UserError, match=message):
                fit(name, src)
            return
        distance = fit(name, src)
        value, gradient = value_and_gradient(
            distance, *cloud(num_target, classes=target_classes, shift=2.0)
        )
        if distance.debiased:
            assert value > 0
            assert distance.diagnosis.converged
        # The notes say that samples have no influence.
        assert (gradient.norm(dim=1) > 0).all() or distance.diagnosis.notes

    def test_all_points_the_same(self, name: str, fit: Fit) -> None:
        point = torch.full((6, 4), 3.1, dtype=torch.float64)
        distance = fit(name, SourceFeatures(point, torch.arange(6) % 2, "test"))
        own = distance(point[:3], torch.zeros(3, dtype=torch.int64)).item()
        assert own == pytest.approx(0.0, abs=1e-9) or not distance.debiased
        value, _ = value_and_gradient(distance, point + 1.0, torch.arange(6) % 3)
        assert value > 0

    def test_a_common_scale_only_rescales_and_a_common_shift_changes_nothing(
        self, name: str, fit: Fit
    ) -> None:
        src = source()
        x, y = cloud(17, shift=0.5)
        distance = fit(name, src)
        value, gradient = value_and_gradient(distance, x, y)
        for scale, shift in (
            (1e-8, 0.0),
            (1e-4, 0.0),
            (1e4, 0.0),
            (1e8, 0.0),
            (1.0, 1e4),
        ):
            other = fit(name, SourceFeatures(src.x * scale + shift, src.y, "test"))
            value_b, gradient_b = value_and_gradient(other, x * scale + shift, y)
            degree = 1.0 if scale == 1.0 else distance.degree
            if degree is not None:
                assert value_b / scale**degree == pytest.approx(value, rel=1e-5)
                torch.testing.assert_close(
                    gradient_b / scale ** (degree - 1), gradient, rtol=1e-3, atol=1e-5
                )

    def test_sides_of_different_scale_stay_finite(self, name: str, fit: Fit) -> None:
        x, y = cloud(17)
        distance = fit(name, source())
        for scale in (1e-6, 1e-2, 1e2, 1e6):
            value, _ = value_and_gradient(distance, (x * scale).float(), y)
            assert value > 0 or not distance.debiased
            assert (
                distance.diagnosis.converged
                or distance.diagnosis.notes
                or not distance.debiased
            )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, name: str, dtype: torch.dtype, fit: Fit) -> None:
        src = source()
        x, y = cloud(17, shift=0.5)
        for scale in (1e-4, 1.0, 1e4):
            distance = fit(
                name, SourceFeatures((src.x * scale).to(dtype), src.y, "test")
            )
            halves = (x * scale).to(dtype)
            value, gradient = value_and_gradient(distance, halves, y)
            assert gradient.dtype == dtype
            single, gradient_b = value_and_gradient(distance, halves.float(), y)
            assert value == single
            if (
                dtype == torch.bfloat16
            ):  # float16's smallest step is as large as the smallest gradients here
                torch.testing.assert_close(
                    gradient.float(), gradient_b, rtol=0.01, atol=1e-30
                )

    def test_pure_deterministic_and_reusable(self, name: str, fit: Fit) -> None:
        src = source()
        x, y = cloud(17)
        before = [tensor.clone() for tensor in (src.x, src.y, x, y)]
        state = torch.get_rng_state()
        distance = fit(name, src)
        first = value_and_gradient(distance, x, y)
        diagnosis = distance.diagnosis
        distance(*cloud(5, classes=2, seed=9))
        second = value_and_gradient(distance, x, y)
        assert distance.diagnosis == diagnosis
        assert distance._source is not None
        placed = distance._source
        refitted = value_and_gradient(
            distance.fit(source(9, seed=3).to(placed.x.device)).fit(placed), x, y
        )
        for other in (second, refitted):
            assert other[0] == first[0]
            assert torch.equal(other[1], first[1])
        assert torch.equal(torch.get_rng_state(), state)
        assert all(
            torch.equal(a, b) for a, b in zip(before, (src.x, src.y, x, y), strict=True)
        )

    def test_terms_take_the_place_of_a_fit(
        self, name: str, fit: Fit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        src = source()
        x, y = cloud(17, shift=0.5)
        distance = fit(name, src)
        assert all(
            isinstance(tensor, Tensor) and not tensor.requires_grad
            for tensor in distance.terms.values()
        )
        first = value_and_gradient(distance, x, y)
        kept = {key: tensor.cpu().clone() for key, tensor in distance.terms.items()}

        def never(*_: Any) -> Mapping[str, Tensor]:
            raise AssertionError("computed again")

        again = get_distance(name)
        monkeypatch.setattr(type(again), "_source_terms", never)
        assert distance._source is not None
        second = value_and_gradient(again.fit(distance._source, kept), x, y)
        assert second[0] == first[0]
        assert torch.equal(second[1], first[1])

    def test_precision_follows_the_features_and_the_value_needs_no_gradient(
        self, name: str, fit: Fit
    ) -> None:
        distance = fit(name, source())
        x, y = cloud(17, shift=0.5)
        exact = distance(x, y)
        assert exact.dtype == torch.float64
        with torch.autocast("cpu", dtype=torch.bfloat16):
            single = distance(x.float(), y)
            gradient = value_and_gradient(distance, x.float(), y)[1]
        assert single.dtype == gradient.dtype == torch.float32
        assert single.item() == pytest.approx(exact.item(), rel=1e-5)
        assert distance(x.bfloat16(), y).dtype == torch.float32
        value, _ = value_and_gradient(distance, x, y)
        with torch.no_grad():
            assert distance(x, y).item() == pytest.approx(value, rel=1e-12)

    def test_memory_is_bounded(
        self, name: str, fit: Fit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        src = source(120)
        x, y = cloud(40, shift=0.5)
        distance = fit(name, src)
        value, gradient = value_and_gradient(distance, x, y)
        monkeypatch.setattr(contract, "MEMORY_BYTES", 100_000)
        with _Largest() as largest:
            try:
                small = fit(name, src)
                value_b, gradient_b = value_and_gradient(small, x, y)
            except UserError as error:
                assert "more than the 0.1 MB" in str(error)  # noqa: PT017 - a distance may also work in blocks
                return
        assert value_b == pytest.approx(value, rel=1e-6)
        torch.testing.assert_close(gradient_b, gradient, rtol=1e-4, atol=1e-7)
        if name not in self.fixed_blocks:
            # Six matrices [40, 120] in float64 are more than the limit, and so is [120,
            # 120].
            held = max(
                tensor.nbytes
                for tensor in vars(small).values()
                if isinstance(tensor, Tensor)
            )
            assert largest.num_bytes <= max(100_000, held)
        assert distance.diagnosis.notes == () or not distance.debiased
        assert small.diagnosis.converged or not distance.diagnosis.converged

    def test_labels_without_effect_are_noted(self, name: str, fit: Fit) -> None:
        """A note names a source of one class, and classes of one sample.

        The classes are those of the target.
        """
        of_classes = fit(name, source(24))
        of_one_class = fit(name, source(24, classes=1))
        x, y = cloud(17)
        of_classes(x, y)
        usual_notes = of_classes.diagnosis.notes

        of_one_class(x, y)
        notes = of_one_class.diagnosis.notes
        source_notes = [
            note for note in notes if "source samples are of one class" in note
        ]
        assert len(source_notes) == of_one_class.uses_labels
        # "; " separates the sentences of a record's notes.
        assert not any("; " in note for note in notes)

        y_with_single_sample = torch.tensor([7, *[1] * 10, *[2] * 6])
        of_classes(x, y_with_single_sample)
        target_notes = [
            note
            for note in of_classes.diagnosis.notes
            if note not in usual_notes and "one sample" in note
        ]
        assert len(target_notes) == of_classes.uses_labels

    def test_labels_matter_where_the_distance_uses_them(
        self, name: str, fit: Fit
    ) -> None:
        src = source(30)
        x, y = cloud(17)
        shuffled = SourceFeatures(
            src.x,
            src.y[torch.randperm(30, generator=torch.Generator().manual_seed(3))],
            "test",
        )
        distance = fit(name, src)
        other = fit(name, shuffled)
        value, gradient = value_and_gradient(distance, x, y)
        value_b, gradient_b = value_and_gradient(other, x, y)
        cosine = torch.nn.functional.cosine_similarity(
            gradient.flatten(), gradient_b.flatten(), dim=0
        )
        if not distance.uses_labels:
            torch.testing.assert_close(
                gradient, gradient_b, rtol=1e-9, atol=1e-12
            )  # the order of summation differs
            return
        assert value_b != pytest.approx(value, rel=1e-3)
        assert cosine < 0.999 or name in self.untrained_labels


def cloud(
    n: int, d: int = 4, classes: int = 3, seed: int = 0, shift: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return random points [n, d], float64, and their labels [n].

    There is one centre per class; labels are 0 to ``classes`` - 1.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    means = 1.5 * torch.randn(classes, d, generator=generator, dtype=torch.float64)
    points = (
        means[labels]
        + torch.randn(n, d, generator=generator, dtype=torch.float64)
        + shift
    )
    order = torch.randperm(n, generator=generator)
    return points[order], labels[order]


def source(n: int = 24, seed: int = 1, **kwargs: int) -> SourceFeatures:
    """Return a `cloud` of points and labels as source features."""
    return SourceFeatures(*cloud(n, seed=seed, **kwargs), "test")


def value_and_gradient(
    distance: Distance, x: Tensor, y: Tensor
) -> tuple[float, Tensor]:
    """Return the distance of points from the source, and its gradient.

    Points ``x`` [n, D] have labels ``y``; the gradient is [n, D]. Both must be finite.
    """
    assert distance._source is not None
    device = distance._source.x.device
    x = x.to(device, copy=True).requires_grad_()
    value = distance(x, y.to(device))
    assert value.shape == ()
    assert value.device == device
    value.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()
    return value.item(), x.grad.cpu()


class _Largest(TorchFunctionMode):
    """Context that measures the largest tensor that a function of torch returns."""

    num_bytes = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self.num_bytes = max(self.num_bytes, tensor.nbytes)
        return result
