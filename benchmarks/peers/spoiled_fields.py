"""Fields of the spoiled sets, most with several channels: the equations, their samples
and outer splits.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.peers.fields import (
    NUM_POINTS,
    integrate,
    sample_smooth,
    split_fields,
    to_modes,
    to_values,
)
from benchmarks.peers.parts import SPLIT_SEED, Parts
from orca_ray.data.rows import Array
from orca_ray.simulation import centres, generators
from orca_ray.simulation.pdebench.periodic import sample_waves
from orca_ray.simulation.small_fields import laplacian_symbol
from orca_ray.simulation.stiff import Etdrk4, evolve_spectral


def wave() -> Parts:
    """Return u at t = 0 and the speed c, [N, 2, 32, 32], and u at t = 1.2 [N, 32, 32],
    of u_tt = c² Lap u on the unit square, at rest at first and without flux at the
    edge.
    """
    num_steps = 120
    squared_step = (1.2 / num_steps) ** 2
    symbol = laplacian_symbol(NUM_POINTS, 1.0 / NUM_POINTS)
    samples = []
    last = []
    for random in generators(SPLIT_SEED, 0, 560):
        initial, medium = sample_smooth(random, 2, 1.0)
        speed = 0.6 * np.exp(0.5 * medium)
        factor = squared_step * np.minimum(speed, 1.5) ** 2
        before = initial
        now = initial + 0.5 * factor * to_values(symbol * to_modes(initial))
        for _ in range(num_steps - 1):
            change = factor * to_values(symbol * to_modes(now))
            next_field = 2 * now - before + change
            before = now
            now = next_field
        samples.append(np.stack([initial, np.minimum(speed, 1.5)]))
        last.append(now)
    return split_fields(np.stack(samples), np.stack(last), 160)


def kuramoto_sivashinsky() -> Parts:
    """Return u, both [N, 128], at two times that are 12 apart, of u_t = -u_xx - u_xxxx
    - (u²)_x / 2, periodic with the length 32.

    The first time is 60 after a random start, when the solution is chaotic.
    """
    length = 32.0
    points = centres(0.0, 1.0, 128)
    start = [sample_waves(random)(points) for random in generators(SPLIT_SEED, 0, 600)]

    def evolve(initial: Array, interval: float) -> Array:
        frames = evolve_spectral(
            initial,
            lambda k: (k / length) ** 2 - (k / length) ** 4,
            lambda k: -0.5j * k / length,
            interval=interval,
            num_frames=2,
            steps=round(10 * interval),
        )
        return frames[:, 1]

    initial = evolve(np.stack(start), 60.0)
    return split_fields(initial, evolve(initial, 12.0), 200)


def coupled_burgers() -> Parts:
    """Return u and v at t = 0 and t = 0.4, both [N, 2, 128], of u_t + (u² / 2 + u v /
    2)_x = 0.01 u_xx and the same equation with u and v exchanged, periodic on [0, 1).
    """
    num_points = 256
    points = centres(0.0, 1.0, num_points)
    initial = []
    for random in generators(SPLIT_SEED, 0, 600):
        waves = [sample_waves(random)(points) for _ in range(2)]
        initial.append(waves)
    fields = np.array(initial)
    k = 2 * np.pi * np.arange(num_points // 2 + 1)
    stepper = Etdrk4(np.asarray(-0.01 * k**2, dtype=np.float64), 0.4 / 400)
    factor = np.where(np.arange(len(k)) <= num_points // 3, -1j * k, 0.0)

    def change(modes: Array) -> Array:
        values = np.fft.irfft(modes, num_points)
        product = values.prod(axis=1, keepdims=True)
        return np.asarray(factor * np.fft.rfft(0.5 * values**2 + 0.5 * product))

    modes = np.fft.rfft(fields)
    for _ in range(400):
        modes = stepper.step(modes, change)
    last = np.fft.irfft(modes, num_points)
    return split_fields(fields[..., ::2], last[..., ::2], 200)


def gray_scott() -> Parts:
    """Return u and v at t = 0 and the feed rate f, [N, 3, 32, 32], and u and v at t =
    400, [N, 2, 32, 32], of the Gray-Scott equations.

    They are u_t = 0.16 Lap u - u v² + f (1 - u) and v_t = 0.08 Lap v + u v² - (f +
    0.06) v, without flux at the edge of 32 × 32 units.
    """
    diffusion = np.array([0.16, 0.08])[:, None, None, None]
    stepper = Etdrk4(diffusion * laplacian_symbol(NUM_POINTS, 1.0), 2.0)
    drawn = [sample_smooth(random, 2, 1.0) for random in generators(SPLIT_SEED, 0, 400)]
    spots, rates = np.stack(drawn, axis=1)
    v = 0.3 / (1 + np.exp(-8 * (spots - 0.8)))
    initial = np.stack([1 - 2 * v, v])
    feed = 0.035 + 0.015 * np.tanh(rates)

    def change(modes: Array) -> Array:
        u, v = to_values(modes)
        reaction = u * v**2
        return to_modes(
            np.stack([feed * (1 - u) - reaction, reaction - (feed + 0.06) * v])
        )

    last = integrate(stepper, change, initial, num_steps=200)
    x = np.stack([*initial, feed], axis=1)
    return split_fields(x, last.swapaxes(0, 1), 120)


def three_species() -> Parts:
    """Return the densities of three species, both [N, 3, 32, 32], at t = 0 and t = 12:
    each suppresses the next one (May and Leonard 1975), and they spread.

    s_t = 0.002 Lap s + s (1 - s - 0.6 s' - 1.8 s''), where s' and s'' are the next
    species and the one after, on [-1, 1]² without flux at the edge.
    """
    stepper = Etdrk4(0.002 * laplacian_symbol(NUM_POINTS, 2.0 / NUM_POINTS), 0.2)
    drawn = [sample_smooth(random, 3, 1.5) for random in generators(SPLIT_SEED, 0, 400)]
    initial = 0.4 / (1 + np.exp(-np.stack(drawn, axis=1)))
    last = integrate(stepper, _compete, initial, num_steps=60)
    return split_fields(initial.swapaxes(0, 1), last.swapaxes(0, 1), 120)


def _compete(modes: Array) -> Array:
    """Return the modes [3, N, X, Y] of the change of three competing densities."""
    densities = to_values(modes)
    following = np.roll(densities, -1, axis=0)
    preceding = np.roll(densities, 1, axis=0)
    growth = 1 - densities - 0.6 * following - 1.8 * preceding
    return to_modes(densities * growth)


LOADERS: dict[str, Callable[[], Parts]] = {
    "wave": wave,
    "kuramoto_sivashinsky": kuramoto_sivashinsky,
    "coupled_burgers": coupled_burgers,
    "gray_scott": gray_scott,
    "three_species": three_species,
}
"""Functions that simulate the sets, by name."""
