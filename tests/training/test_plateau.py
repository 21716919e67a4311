"""When a curve is flat: falling, flat and noisy ones."""

import numpy as np
import pytest

from orca_ray.training.optimisation import Plateau


def first_flat(values: list[float], patience: int = 4, tolerance: float = 0.005) -> int | None:
    """Number of values after which the curve is first called flat; None: never."""
    plateau = Plateau(patience, tolerance)
    return next((number for number, value in enumerate(values, 1) if plateau.add(value, values[0])), None)


def noisy(values: np.ndarray, noise: float, seed: int) -> list[float]:
    return [float(v) for v in values * (1 + noise * np.random.RandomState(seed).normal(size=len(values)))]


def test_a_falling_curve_is_not_flat() -> None:
    assert first_flat([0.99**epoch for epoch in range(200)]) is None
    assert first_flat([10.0 - 0.05 * epoch for epoch in range(100)]) is None


def test_a_constant_or_rising_curve_is_flat_as_soon_as_it_can_be_judged() -> None:
    for patience in (1, 3, 5):
        assert first_flat([2.0] * 20, patience) == 2 * patience
        assert first_flat([2.0 + epoch for epoch in range(20)], patience) == 2 * patience


def test_a_curve_that_levels_out_is_flat_soon_after() -> None:
    values = [float(max(1.0, 2.0 - 0.1 * epoch)) for epoch in range(60)]  # level from the 11th value on
    assert 14 <= (first_flat(values) or 0) <= 18


@pytest.mark.parametrize("seed", range(20))
def test_noise_neither_hides_a_plateau_nor_makes_one(seed: int) -> None:
    falling = noisy(0.97 ** np.arange(40), 0.01, seed)
    assert first_flat(falling) is None
    # Of a flat curve every verdict is nearly a toss-up, and they come every epoch: the plateau is soon found.
    assert (first_flat(noisy(np.ones(60), 0.01, seed)) or 99) <= 30


def test_the_tolerance_is_relative() -> None:
    slow = [0.999**epoch for epoch in range(40)]  # falls by 0.4 % in 4 epochs
    for scale in (1e-6, 1.0, 1e6):
        assert first_flat([scale * value for value in slow], tolerance=0.005) == 8
        assert first_flat([scale * value for value in slow], tolerance=0.003) is None


def test_the_tolerance_is_a_share_of_the_start() -> None:
    assert first_flat([1.0, *(0.01 * 0.9**epoch for epoch in range(40))], tolerance=0.01) == 9


def test_values_around_zero() -> None:
    assert first_flat([0.0] * 10) == 8
    assert first_flat([-1.0 * epoch for epoch in range(1, 30)]) is None


def test_patience_zero_finds_nothing_flat() -> None:
    assert first_flat([1.0] * 100, patience=0) is None


def test_state_goes_on_elsewhere() -> None:
    values = noisy(np.concatenate([0.9 ** np.arange(10), np.full(30, 0.9**9)]), 0.003, 0)
    expected = first_flat(values)
    assert expected is not None
    for cut in range(expected):
        first, second = Plateau(4, 0.005), Plateau(4, 0.005)
        assert not any(first.add(value, values[0]) for value in values[:cut])
        second.restart(first.values)
        assert [second.add(value, values[0]) for value in values[cut:expected]] == [False] * (expected - cut - 1) + [
            True
        ]
    restarted = Plateau(2, 0.0)
    restarted.add(1.0, 1.0)
    restarted.restart()
    assert restarted.values == []
