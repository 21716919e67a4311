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


SLOW = [0.999**epoch for epoch in range(40)]
"""Falls by 0.4 % in 4 epochs."""


@pytest.mark.parametrize(
    ("values", "patience", "tolerance", "expected"),
    [
        ([0.99**epoch for epoch in range(200)], 4, 0.005, None),
        ([10.0 - 0.05 * epoch for epoch in range(100)], 4, 0.005, None),
        ([2.0] * 20, 1, 0.005, 2),  # as soon as it can be judged
        ([2.0] * 20, 5, 0.005, 10),
        ([2.0 + epoch for epoch in range(20)], 3, 0.005, 6),
        ([max(1.0, 2.0 - 0.1 * epoch) for epoch in range(60)], 4, 0.005, 18),  # level from the 11th value on
        (SLOW, 4, 0.005, 8),  # the tolerance is relative
        ([1e-6 * value for value in SLOW], 4, 0.005, 8),
        ([1e6 * value for value in SLOW], 4, 0.005, 8),
        (SLOW, 4, 0.003, None),
        ([1.0, *(0.01 * 0.9**epoch for epoch in range(40))], 4, 0.01, 9),  # and a share of the first value
        ([0.0] * 10, 4, 0.005, 8),
        ([-1.0 * epoch for epoch in range(1, 30)], 4, 0.005, None),
        ([1.0] * 100, 0, 0.005, None),
    ],
)
def test_when_a_curve_is_flat(values: list[float], patience: int, tolerance: float, expected: int | None) -> None:
    assert first_flat(values, patience, tolerance) == expected


def test_noise_neither_hides_a_plateau_nor_makes_one() -> None:
    for seed in range(20):
        assert first_flat(noisy(0.97 ** np.arange(40), 0.01, seed)) is None
        # Of a flat curve every verdict is nearly a toss-up, and they come every epoch: the plateau is soon found.
        assert (first_flat(noisy(np.ones(60), 0.01, seed)) or 99) <= 30


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
