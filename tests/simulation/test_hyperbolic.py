"""The compressible gas, without and with viscosity, and shallow water: balances, waves, Riemann's problem."""

import math

import numpy as np
import pytest

from orca_ray.simulation import cfd_1d, cfd_2d, shallow_water
from orca_ray.simulation.hyperbolic import GAMMA, Gas, Stress, Water, sweep_axis
from orca_ray.simulation.simulation import Array, centres, generators

MU = 4 / 3 * 0.1 + 0.1


def _sod(x: Array, t: float, gamma: float) -> Array:
    """Density of Sod's shock tube, membrane at 0 (Toro, chapter 4)."""
    from scipy.optimize import brentq

    sound_left, sound_right = math.sqrt(gamma), math.sqrt(gamma * 0.1 / 0.125)

    def fan(p: float) -> float:
        return float(2 * sound_left / (gamma - 1) * (p ** ((gamma - 1) / (2 * gamma)) - 1))

    def shock(p: float) -> float:
        return (p - 0.1) * math.sqrt(2 / 0.125 / ((gamma + 1) * p + (gamma - 1) * 0.1))

    p = brentq(lambda p: fan(p) + shock(p), 0.1, 1.0)
    velocity = shock(p)
    squeeze = (gamma - 1) / (gamma + 1)
    behind_shock = 0.125 * (p / 0.1 + squeeze) / (squeeze * p / 0.1 + 1)
    front = sound_right * math.sqrt((gamma + 1) / (2 * gamma) * p / 0.1 + (gamma - 1) / (2 * gamma))
    behind_fan = p ** (1 / gamma)
    tail = velocity - sound_left * p ** ((gamma - 1) / (2 * gamma))
    inside = np.maximum(2 / (gamma + 1) - squeeze / sound_left * x / t, 1e-9) ** (2 / (gamma - 1))
    edges = [x < -sound_left * t, x < tail * t, x < velocity * t, x < front * t]
    return np.select(edges, [np.ones_like(x), inside, behind_fan, behind_shock], 0.125)


def test_sods_tube() -> None:
    errors = []
    for n in (100, 200, 400):
        x = centres(-1.0, 1.0, n)
        tube = np.stack([np.where(x < 0, 1.0, 0.125), np.zeros(n), np.where(x < 0, 1.0, 0.1)])
        frames = cfd_1d.evolve(tube[:, None], 0.0, 2 / n, 0.4, 2, "outflow")
        errors.append(float(np.abs(frames[0, 0, -1] - _sod(x, 0.4, GAMMA)).mean()))
    assert errors[2] < 3e-3, errors
    assert math.log2(errors[0] / errors[2]) / 2 > 0.75


def _check_totals_and_signs(frames: Array) -> None:
    """Mass, momenta and energy, summed over cells, do not change between primitive frames [F, T, ...]."""
    conserved = Gas().conserved(frames)
    totals = conserved.reshape(*conserved.shape[:2], -1).sum(axis=-1)
    np.testing.assert_allclose(totals, np.broadcast_to(totals[:, :1], totals.shape), rtol=1e-11, atol=1e-9)
    assert frames[[0, -1]].min() > 0  # density and pressure


def test_mass_momentum_and_energy_are_kept() -> None:
    x = centres(-1.0, 1.0, 128)
    initial = np.stack([cfd_1d.sample_initial(rng, x) for rng in generators(0, 0, 4)], axis=1)
    frames = cfd_1d.evolve(initial, MU, 2 / 128, 0.02, 6)
    for sample in range(4):
        _check_totals_and_signs(frames[:, sample])
    for rng in generators(1, 0, 2):
        plane = cfd_2d.sample_initial(rng, centres(0.0, 1.0, 32))
        _check_totals_and_signs(cfd_2d.evolve(plane, 1 / 32, 0.02, 3))


def _damped_sound(mu: float, k: float) -> complex:
    """Return lambda of a plane wave exp(i k x + lambda t) on a gas of density 1 and pressure 1 at rest.

    Linearised: density r, velocity v, pressure p with r' = -i k v, v' = -i k p - mu k^2 v, p' = -gamma i k v.
    """
    return complex(-mu * k * k / 2, -math.sqrt(GAMMA * k * k - (mu * k * k / 2) ** 2))


def _sound_error(n: int, mu: float) -> float:
    """The error of a wave of amplitude 1e-6 after half a period of time, relative to it."""
    k, height, end = math.pi, 1e-6, 0.5
    rate = _damped_sound(mu, k)
    x = centres(-1.0, 1.0, n)

    def exact(t: float) -> Array:
        velocity = height * np.exp(1j * k * x + rate * t)
        return np.stack([1 - 1j * k / rate * velocity, velocity, 1 - GAMMA * 1j * k / rate * velocity]).real

    frames = cfd_1d.evolve(exact(0.0)[:, None], mu, 2 / n, end, 2)
    return float(np.abs(frames[:, 0, -1] - exact(end)).mean()) / height


@pytest.mark.parametrize("mu", [0.0, MU])
def test_sound_travels_and_decays_as_it_should_to_second_order(mu: float) -> None:
    errors = [_sound_error(n, mu) for n in (32, 64, 128)]
    assert errors[2] < 4e-3, errors
    assert math.log2(errors[1] / errors[2]) > 1.7, errors


def test_sound_crosses_the_plane_at_an_angle_as_it_crosses_the_line() -> None:
    """A wave along the diagonal, with both viscosities: speed, damping and the mixed terms of the stress."""
    errors = []
    for n in (32, 64):
        k, height, end = 2 * math.pi * math.sqrt(2), 1e-6, 0.1
        rate = _damped_sound(MU, k)
        points = centres(0.0, 1.0, n)
        phase = 2 * np.pi * (points[:, None] + points[None, :])

        def exact(t: float, phase: Array = phase, rate: complex = rate, k: float = k, height: float = height) -> Array:
            along = height * np.exp(1j * phase + rate * t)
            density, pressure = 1 - 1j * k / rate * along, 1 - GAMMA * 1j * k / rate * along
            return np.stack([density, along / math.sqrt(2), along / math.sqrt(2), pressure]).real

        frames = cfd_2d.evolve(exact(0.0), 1 / n, end, 2)
        errors.append(float(np.abs(frames[:, -1] - exact(end)).mean()) / height)
    assert errors[1] < 0.05, errors
    assert math.log2(errors[0] / errors[1]) > 1.5


def _spectral(field: Array, axis: int) -> Array:
    """Return the derivative of a periodic field [N, N] on [0, 1)^2, exactly for one of few waves."""
    n = field.shape[axis]
    k = np.moveaxis(np.broadcast_to(2j * np.pi * np.fft.fftfreq(n, 1 / n), (n, n)), -1, axis)
    derivative: Array = np.fft.ifft(k * np.fft.fft(field, axis=axis), axis=axis).real
    return derivative


def _stress_errors(n: int) -> Array:
    """The largest error of the rates of both momenta and of energy, relative to their largest values."""
    eta, zeta = 0.1, 0.3
    x = 2 * np.pi * centres(0.0, 1.0, n)
    density = 2 + np.sin(x)[:, None] * np.cos(x)[None, :]
    v = np.stack([np.sin(x[:, None] + 2 * x[None, :]), np.cos(2 * x)[:, None] * np.sin(x + 1)[None, :]])
    slopes = np.array([[_spectral(v[i], j) for j in (0, 1)] for i in (0, 1)])
    sigma = eta * (slopes + slopes.swapaxes(0, 1))
    sigma[[0, 1], [0, 1]] += (zeta - 2 / 3 * eta) * (slopes[0, 0] + slopes[1, 1])
    work = np.einsum("ixy,ijxy->jxy", v, sigma)
    exact = np.stack([sum(_spectral(flux[j], j) for j in (0, 1)) for flux in (*sigma, work)])
    found = Stress(eta, zeta, 1 / n).rates(density, np.stack([*(density * v), np.full((n, n), 50.0)]))
    errors: Array = np.abs(found - exact).max(axis=(1, 2)) / np.abs(exact).max(axis=(1, 2))
    return errors


def test_the_stress_and_its_work_are_what_is_published() -> None:
    """sigma = eta (grad v + grad v^T - 2/3 div v) + zeta div v, with derivatives by Fourier's series."""
    coarse, fine = _stress_errors(32), _stress_errors(64)
    assert fine.max() < 0.02, fine
    assert np.log2(coarse / fine).min() > 1.8, (coarse, fine)


def test_the_stress_on_the_line_and_its_work() -> None:
    """Of v = sin(pi x), momentum changes by mu v_xx = -pi^2 mu v and energy by mu (v v_x)_x = pi^2 mu cos(2 pi x)."""
    for n, tolerance in ((32, 0.02), (128, 1e-3)):
        x = centres(-1.0, 1.0, n)
        v, density = np.sin(np.pi * x), 2 + 0.5 * np.cos(np.pi * x)
        before = np.stack([density, density * v, np.full(n, 50.0)])[:, None]
        rates = (cfd_1d.viscous_step(before, np.full((1, 1), 1e-6), MU, 2 / n) - before)[:, 0] / 1e-6
        scale = MU * math.pi**2
        assert not rates[0].any()
        np.testing.assert_allclose(rates[1], -scale * v, atol=tolerance * scale)
        np.testing.assert_allclose(rates[2], scale * np.cos(2 * np.pi * x), atol=tolerance * scale)


def test_a_long_viscous_step_is_stable_keeps_totals_and_heats() -> None:
    rng = np.random.default_rng(0)
    density = rng.uniform(0.1, 5.0, size=(24, 24))
    changing = np.stack([*rng.normal(size=(2, 24, 24)), rng.uniform(50, 60, size=(24, 24))])
    after = Stress(0.1, 0.1, 1 / 24).step(density, changing, 1.0)
    np.testing.assert_allclose(after.sum(axis=(1, 2)), changing.sum(axis=(1, 2)), rtol=1e-9, atol=1e-8)

    def motion(state: Array) -> float:
        return float(((state[:2] ** 2).sum(axis=0) / density).sum())

    at_rest = changing.sum(axis=(1, 2))[:2]
    least = float((at_rest**2).sum() / density.sum())  # all at one velocity
    assert motion(after) == pytest.approx(least, abs=0.01 * motion(changing))


def _depths(initial: Array, cell: float, end: float, frames: int = 2) -> Array:
    top = 2 * math.sqrt(float(initial[0].max()))
    return shallow_water.evolve(initial, cell, end / (frames - 1), frames, top)


def test_the_water_of_the_file_stays_within_the_square_and_the_wave_is_round() -> None:
    n = 64
    x = centres(-2.5, 2.5, n)
    depths = _depths(shallow_water.cylinder(0.5, x)[:, None], 5 / n, 1.0, 11)[0]
    mass = depths.sum(axis=(-1, -2))
    np.testing.assert_allclose(mass, mass[0], rtol=1e-7)  # the wave has not come to the edge at t = 1
    for turned in (depths[:, ::-1], depths[:, :, ::-1]):
        np.testing.assert_allclose(turned, depths, atol=1e-12)
    np.testing.assert_allclose(depths[-1].T, depths[-1], atol=5e-3)  # sweeps take turns: the axes are not quite alike
    assert depths.min() > 0.3
    diagonal = np.hypot(x, x)
    np.testing.assert_allclose(np.interp(1.5, x, depths[-1, :, n // 2]), np.interp(1.5, diagonal[n // 2 :],
                               np.diag(depths[-1])[n // 2 :]), atol=0.03)  # fmt: skip


@pytest.mark.parametrize("direction", [0, 1])
def test_water_carries_its_velocity_across_a_wave_along(direction: int) -> None:
    """One dam breaks in a stream across it: wherever the water goes, it streams as fast."""
    depth = np.where(np.arange(32) < 16, 2.0, 1.0)[:, None] * np.ones(3)
    still = np.zeros_like(depth)
    conserved = np.stack([depth, still, 0.3 * depth])[:, None]
    if direction == 1:
        conserved = conserved[[0, 2, 1]].swapaxes(2, 3)
    for _ in range(8):
        conserved = sweep_axis(conserved, 0.4, Water(), "periodic", direction)
    assert (np.abs(conserved[0] - 1.5) < 0.3).any()  # neither of the two depths at rest
    np.testing.assert_allclose(conserved[2 - direction], 0.3 * conserved[0], rtol=1e-12)


def _stoker(x: Array, t: float, deep: float, shallow: float) -> Array:
    """Depth of a dam break onto a wet bed at rest, dam at 0 (Stoker, Water Waves, 1957, section 10.8; g = 1)."""
    from scipy.optimize import brentq

    fast = math.sqrt(deep)

    def excess(depth: float) -> float:
        behind_rarefaction = 2 * (fast - math.sqrt(depth))
        return behind_rarefaction - (depth - shallow) * math.sqrt((depth + shallow) / (2 * depth * shallow))

    middle = brentq(excess, shallow, deep)
    velocity = 2 * (fast - math.sqrt(middle))
    shock = velocity * middle / (middle - shallow)
    fan = (2 * fast - x / t) ** 2 / 9
    tail, head = velocity - math.sqrt(middle), -fast
    return np.select([x < head * t, x < tail * t, x < shock * t], [np.full_like(x, deep), fan, middle], shallow)


@pytest.mark.parametrize("direction", [0, 1])
def test_a_straight_dam_against_stoker(direction: int) -> None:
    errors = []
    for n in (100, 200, 400):
        x = centres(-1.0, 1.0, n)
        line = np.where(x < 0, 2.0, 1.0)
        initial = np.zeros((3, 1, n, 1))
        initial[0, 0, :, 0] = line
        depths = _depths(initial if direction == 0 else initial.swapaxes(2, 3), 2 / n, 0.5)
        errors.append(float(np.abs(depths[0, -1].ravel() - _stoker(x, 0.5, 2.0, 1.0)).mean()))
    assert errors[2] < 2e-3, errors
    assert math.log2(errors[0] / errors[2]) / 2 > 0.8  # the mean error of a shock falls as the cell
