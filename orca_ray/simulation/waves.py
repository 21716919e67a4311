"""Random one-dimensional initial fields of PDEBench: a few sine waves, now and then rectified or cut by a window."""

from dataclasses import dataclass

import numpy as np

from orca_ray.simulation.simulation import Array

_CHOSEN = 2
_RECTIFIED = 0.1
_WINDOW_WIDTH = 0.01


@dataclass(frozen=True)
class Waves:
    """A periodic function of x, drawn once and evaluated anywhere.

    sum_i A_i sin(2 pi n_i (x - low) / period + phase_i), its absolute value if ``rectified``, times ``sign``, times a
    window that is 1 between ``window[0]`` and ``window[1]`` (absolute positions) and 0 elsewhere, over tanh flanks.
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
        """Evaluate at ``x`` (any shape), which may lie outside the first period."""
        place = np.mod(x - self.low, self.period)
        total = np.zeros_like(place)
        for amplitude, number, phase in zip(self.amplitudes, self.numbers, self.phases, strict=True):
            if number:
                total += amplitude * np.sin(2 * np.pi * number / self.period * place + phase)
            else:
                total += amplitude * np.sin(phase)
        total = self.sign * (np.abs(total) if self.rectified else total)
        if self.window is None:
            return total
        left, right = ((place - (edge - self.low)) / _WINDOW_WIDTH for edge in self.window)
        cut: Array = total * 0.5 * (np.tanh(left) - np.tanh(right))
        return cut


def draw_waves(
    rng: np.random.Generator,
    *,
    num_modes: int = 4,
    windowed: float = 0.1,
    low: float = 0.0,
    period: float = 1.0,
) -> Waves:
    """Draw an initial field as PDEBench describes it.

    Of ``num_modes`` waves two are drawn with replacement: a wave drawn twice has twice its wave number, and one that is
    not drawn keeps its amplitude at wave number 0, that is, adds a constant. (The paper's formula shows no constant,
    PDEBench's generator has it, and without it Burgers' solutions would decay to nothing.) Wave numbers are multiples
    of 2 pi / period, so that the field is exactly periodic. All draws are independent; PDEBench's generator draws
    whether there is a window, and where, from one number, so that all are 0.45 wide, and rare ones lie far to the left.

    Args:
        rng: of the sample.
        num_modes: 4, or 3 for gas.
        windowed: probability of a window; a tenth is rectified always.
        low: left end of the domain.
        period: its length.
    """
    drawn = np.bincount(rng.integers(0, num_modes, size=_CHOSEN), minlength=num_modes)
    return Waves(
        amplitudes=rng.uniform(0.0, 1.0, size=num_modes),
        numbers=drawn * np.arange(1.0, num_modes + 1.0),
        phases=rng.uniform(0.0, 2 * np.pi, size=num_modes),
        rectified=bool(rng.uniform() < _RECTIFIED),
        sign=float(rng.choice((-1.0, 1.0))),
        window=(rng.uniform(0.1, 0.45), rng.uniform(0.55, 0.9)) if rng.uniform() < windowed else None,
        low=low,
        period=period,
    )


def to_unit_range(field: Array) -> Array:
    """Shift and scale a field [X] so that its least value is 0 and its greatest 1 (a constant one becomes 0)."""
    shifted: Array = field - field.min()
    top = shifted.max()
    if top > 0:
        shifted /= top
    return shifted
