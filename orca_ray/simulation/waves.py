"""Random one-dimensional initial fields of PDEBench: sums of sine waves, some in absolute value or within a window."""

from dataclasses import dataclass

import numpy as np

from orca_ray.simulation.simulation import Array

_CHOSEN = 2
_RECTIFIED = 0.1
_WINDOW_WIDTH = 0.01


@dataclass(frozen=True)
class Waves:
    """The function sum_i amplitudes[i] sin(2 pi numbers[i] (x - low) / period + phases[i]), periodic in x.

    If ``rectified``, its absolute value is used. It is multiplied by ``sign`` and, unless ``window`` is None, by a
    window that is 1 from x = ``window[0]`` to ``window[1]`` and 0 elsewhere, with smooth (tanh) transitions.
    """

    amplitudes: Array
    numbers: Array
    phases: Array
    rectified: bool
    sign: float
    window: tuple[float, float] | None
    low: float
    period: float

    def __call__(self, x: Array) -> Array:
        """Return the values at positions ``x``, an array of any shape."""
        position = np.mod(x - self.low, self.period)
        total = np.zeros_like(position)
        for amplitude, number, phase in zip(self.amplitudes, self.numbers, self.phases, strict=True):
            if number:
                total += amplitude * np.sin(2 * np.pi * number / self.period * position + phase)
            else:
                total += amplitude * np.sin(phase)
        total = self.sign * (np.abs(total) if self.rectified else total)
        if self.window is None:
            return total
        left, right = ((position - (edge - self.low)) / _WINDOW_WIDTH for edge in self.window)
        cut: Array = total * 0.5 * (np.tanh(left) - np.tanh(right))
        return cut


def sample_waves(
    rng: np.random.Generator, *, num_modes: int = 4, windowed: float = 0.1, low: float = 0.0, period: float = 1.0
) -> Waves:
    """Sample an initial field as PDEBench describes it.

    The field is a sum of ``num_modes`` waves. Two of them are drawn with replacement: wave i = 1, 2, ... gets wave
    number i if drawn once, and 2 i if drawn twice. The others get wave number 0, i.e. add a constant, as in PDEBench's
    generator, but not in its paper's formula. ``windowed`` is the probability of a window; a tenth of the fields is
    rectified. The domain begins at ``low`` and is one ``period`` long. (PDEBench's windows are all 0.45 wide.)
    """
    counts = np.bincount(rng.integers(0, num_modes, size=_CHOSEN), minlength=num_modes)
    return Waves(
        amplitudes=rng.uniform(0.0, 1.0, size=num_modes),
        numbers=counts * np.arange(1.0, num_modes + 1.0),
        phases=rng.uniform(0.0, 2 * np.pi, size=num_modes),
        rectified=bool(rng.uniform() < _RECTIFIED),
        sign=float(rng.choice((-1.0, 1.0))),
        window=(rng.uniform(0.1, 0.45), rng.uniform(0.55, 0.9)) if rng.uniform() < windowed else None,
        low=low,
        period=period,
    )


def to_unit_range(field: Array) -> Array:
    """Return a field [X], shifted and scaled so that its values range from 0 to 1; a constant field becomes 0."""
    shifted: Array = field - field.min()
    return shifted / (shifted.max() or 1.0)
