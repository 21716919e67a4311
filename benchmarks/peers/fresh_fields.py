"""Fields of the new sets: solitons, a flow that stirs a dye, and scattered waves.

``python -m benchmarks.peers.fresh_fields`` prints how far each solver is from a known
solution.
"""

# ruff: noqa: T201 - a check prints its errors

from collections.abc import Callable

import numpy as np
from scipy.fft import fft2, fftfreq, ifft2, irfft, irfft2, rfft, rfft2, rfftfreq
from scipy.sparse.linalg import LinearOperator, gmres
from scipy.special import hankel1, jv

from benchmarks.peers.fields import split_fields
from benchmarks.peers.parts import SPLIT_SEED, Parts
from orca_ray.data.rows import Array
from orca_ray.simulation import generators
from orca_ray.simulation.stiff import Etdrk4

_NUM_SAMPLES = 1100
"""Number of samples of a set."""
_BATCH = 100
"""Number of samples that are solved at a time."""

KDV_LENGTH = 40.0
KDV_POINTS = 256


def korteweg_de_vries() -> Parts:
    """Return u at t = 0 and t = 3, both [N, 128], of u_t + 6 u u_x + u_xxx = 0,
    periodic with the length 40.

    u begins with one to three solitons and small smooth waves.
    """
    drawn = [
        _draw_solitons(random) for random in generators(SPLIT_SEED, 0, _NUM_SAMPLES)
    ]
    initial = np.stack(drawn)
    last = solve_kdv(initial, 3.0, 1500)
    return split_fields(initial[:, ::2], last[:, ::2])


def _draw_solitons(random: np.random.Generator) -> Array:
    """Return an initial field [256]."""
    x = KDV_LENGTH / KDV_POINTS * np.arange(KDV_POINTS)
    u = np.zeros(KDV_POINTS)
    for _ in range(int(random.integers(1, 4))):
        speed = random.uniform(0.8, 4.0)
        distance = x - random.uniform(0, KDV_LENGTH)
        distance -= KDV_LENGTH * np.round(distance / KDV_LENGTH)
        u += speed / 2 / np.cosh(np.sqrt(speed) / 2 * distance) ** 2
    for number in range(1, 6):
        phase = random.uniform(0, 2 * np.pi)
        wave = np.cos(2 * np.pi * number * x / KDV_LENGTH + phase)
        u += 0.1 * random.standard_normal() * wave
    return u


def solve_kdv(initial: Array, end: float, num_steps: int) -> Array:
    """Return the solution [..., 256] at the time ``end`` of the Korteweg-de Vries
    equation, by Runge-Kutta steps of fourth order with an integrating factor.

    See Trefethen, "Spectral methods in MATLAB", 2000, program 27.
    """
    num_points = initial.shape[-1]
    k = 2 * np.pi * rfftfreq(num_points, KDV_LENGTH / num_points)
    is_kept = np.arange(len(k)) <= num_points // 3
    dt = end / num_steps
    half = np.exp(0.5j * dt * k**3)
    whole = half**2
    factor = np.where(is_kept, -3j * k, 0.0) * dt

    def change(modes: Array) -> Array:
        return np.asarray(factor * rfft(irfft(modes, num_points) ** 2))

    modes = rfft(initial)
    for _ in range(num_steps):
        first = change(modes)
        second = change(half * (modes + first / 2))
        third = change(half * modes + second / 2)
        fourth = change(whole * modes + half * third)
        modes = whole * (modes + first / 6) + half * (second + third) / 3 + fourth / 6
    return np.asarray(irfft(modes, num_points))


def two_solitons(x: Array, time: float) -> Array:
    """Return the exact solution of two solitons that collide (Hirota, 1971)."""
    k = np.array([1.2, 1.8])
    shifts = np.array([16.0, 10.0])
    first, second = np.exp(k[:, None] * (x - shifts[:, None]) - (k**3 * time)[:, None])
    coupling = ((k[0] - k[1]) / (k[0] + k[1])) ** 2
    total = 1 + first + second + coupling * first * second
    slope = k[0] * first + k[1] * second + coupling * k.sum() * first * second
    bend = k[0] ** 2 * first + k[1] ** 2 * second
    bend += coupling * k.sum() ** 2 * first * second
    return np.asarray(2 * (bend / total - (slope / total) ** 2))


FLOW_POINTS = 64
VISCOSITY = 8e-3
"""Of the flow, and diffusivity of the dye."""


def stirred_dye() -> Parts:
    """Return vorticity and dye, both [N, 2, 32, 32], at t = 0 and t = 3, of a flow that
    cannot be compressed, periodic on [0, 2 pi)².

    w_t + u · grad w = nu Lap w, and the same for the dye; u is the velocity that has
    the vorticity w.
    """
    drawn = [
        np.stack([_draw_periodic(random), _draw_periodic(random)])
        for random in generators(SPLIT_SEED, 0, _NUM_SAMPLES)
    ]
    initial = np.stack(drawn)
    last = np.concatenate(
        [
            solve_flow(initial[begin : begin + _BATCH], 3.0, 60)
            for begin in range(0, len(initial), _BATCH)
        ]
    )
    return split_fields(initial[..., ::2, ::2], last[..., ::2, ::2])


def _draw_periodic(random: np.random.Generator) -> Array:
    """Return a smooth periodic field [64, 64] with mean 0 and deviation 1."""
    modes = rfft2(random.standard_normal((FLOW_POINTS, FLOW_POINTS)))
    row, column = _wave_numbers(FLOW_POINTS)
    field = irfft2(modes * np.exp(-(row**2 + column**2) / 12))
    field -= field.mean()
    return np.asarray(field / field.std())


def _wave_numbers(num_points: int) -> tuple[Array, Array]:
    """Return the wave numbers [X, 1] and [Y] of `rfft2`."""
    row = fftfreq(num_points, 1 / num_points)[:, None]
    return np.asarray(row), np.asarray(rfftfreq(num_points, 1 / num_points))


def solve_flow(initial: Array, end: float, num_steps: int) -> Array:
    """Return vorticity and dye [N, 2, X, X] at the time ``end``.

    Products are without aliases (two thirds of the modes); time steps are those of
    `Etdrk4`.
    """
    num_points = initial.shape[-1]
    row, column = _wave_numbers(num_points)
    squared = row**2 + column**2
    stepper = Etdrk4(-VISCOSITY * squared, end / num_steps)
    inverse = np.where(squared > 0, 1 / np.maximum(squared, 1), 0.0)
    is_kept = (np.abs(row) <= num_points // 3) & (column <= num_points // 3)
    along_row = 1j * row * is_kept
    along_column = 1j * column * is_kept

    def change(modes: Array) -> Array:
        stream = inverse * modes[:, :1]
        shape = (num_points, num_points)
        values = irfft2(modes, s=shape)
        down = irfft2(1j * column * stream, s=shape)
        right = irfft2(-1j * row * stream, s=shape)
        flux = along_row * rfft2(down * values) + along_column * rfft2(right * values)
        return np.asarray(-flux)

    modes = rfft2(initial)
    for _ in range(num_steps):
        modes = stepper.step(modes, change)
    return np.asarray(irfft2(modes, s=(num_points, num_points)))


SCATTERING_POINTS = 64
WAVE_NUMBER = 18.3
"""About three wavelengths in the unit square.

For multiples of pi / 2, `green_kernel` would divide by zero.
"""


def scattered_waves() -> Parts:
    """Return the contrast of a medium and the real and imaginary part of an incoming
    wave, [N, 3, 32, 32], and the two parts of the whole wave, [N, 2, 32, 32].

    Lap u + k² (1 + m) u = 0 in the plane with k = 18.3. The contrast m is in a disc in
    the unit square; the incoming wave is a plane wave of random direction.
    """
    kernel = green_kernel(SCATTERING_POINTS)
    x = []
    y = []
    for random in generators(SPLIT_SEED, 0, _NUM_SAMPLES):
        contrast = _draw_contrast(random)
        incoming = plane_wave(SCATTERING_POINTS, random.uniform(0, 2 * np.pi))
        whole = solve_scattering(contrast, incoming, kernel)
        x.append(np.stack([contrast, incoming.real, incoming.imag])[:, ::2, ::2])
        y.append(np.stack([whole.real, whole.imag])[:, ::2, ::2])
    return split_fields(np.stack(x), np.stack(y))


def _square(num_points: int) -> Array:
    """Return the coordinates [2, X, X] of the centres of the cells of the unit square,
    relative to its centre.
    """
    line = (np.arange(num_points) + 0.5) / num_points - 0.5
    return np.stack(np.meshgrid(line, line, indexing="ij"))


def plane_wave(num_points: int, angle: float) -> Array:
    """Return a plane wave [X, X] with the wave number `WAVE_NUMBER`."""
    row, column = _square(num_points)
    phase = WAVE_NUMBER * (np.cos(angle) * row + np.sin(angle) * column)
    return np.asarray(np.exp(1j * phase))


def _draw_contrast(random: np.random.Generator) -> Array:
    """Return a smooth contrast [64, 64] of up to 0.6 that ends within a disc."""
    row, column = _square(SCATTERING_POINTS)
    field = np.zeros_like(row)
    for _ in range(int(random.integers(2, 6))):
        place = random.uniform(-0.25, 0.25, 2)
        width = random.uniform(0.05, 0.12)
        squared = (row - place[0]) ** 2 + (column - place[1]) ** 2
        field += random.uniform(-0.4, 0.6) * np.exp(-squared / (2 * width**2))
    window = np.exp(-((np.hypot(row, column) / 0.4) ** 8))
    return np.asarray(np.clip(field, -0.4, 0.6) * window)


def green_kernel(num_points: int) -> Array:
    """Return the Fourier coefficients [2 X, 2 X] of Green's function of the Helmholtz
    equation, cut off beyond the diagonal of the unit square.

    See Vico, Greengard and Ferrando, "Fast convolution with free-space Green's
    functions", 2016, eq. 35: four times the points are needed once, to compute the
    kernel for twice the points.
    """
    radius = 1.5
    frequencies = 2 * np.pi * fftfreq(4 * num_points, 1 / num_points)
    s = np.hypot(frequencies[:, None], frequencies)
    k = WAVE_NUMBER
    numerator = 1 + 0.5j * np.pi * radius * s * jv(1, radius * s) * hankel1(
        0, radius * k
    )
    numerator -= 0.5j * np.pi * radius * k * jv(0, radius * s) * hankel1(1, radius * k)
    values = ifft2(numerator / (s**2 - k**2))
    near = np.r_[0:num_points, -num_points:0]
    return np.asarray(fft2(values[np.ix_(near, near)]))


def solve_scattering(contrast: Array, incoming: Array, kernel: Array) -> Array:
    """Return the whole wave [X, X]: the solution of u = u_in + k² G * (m u), by GMRES.

    Raises RuntimeError if it does not converge.
    """
    num_points = len(contrast)

    def scattered(flat: Array) -> Array:
        source = contrast * flat.reshape(num_points, num_points)
        padded = fft2(source, s=kernel.shape)
        wave = ifft2(kernel * padded)[:num_points, :num_points]
        return np.asarray(WAVE_NUMBER**2 * wave)

    size = num_points**2
    operator = LinearOperator(
        (size, size),
        matvec=lambda flat: flat - scattered(flat).ravel(),
        dtype=np.complex128,
    )
    whole, state = gmres(operator, incoming.ravel(), rtol=1e-7, restart=100, maxiter=10)
    if state:
        raise RuntimeError("GMRES did not converge")
    return np.asarray(whole.reshape(num_points, num_points))


def kdv_error() -> float:
    """Return the relative error of two solitons that have collided."""
    x = KDV_LENGTH / KDV_POINTS * np.arange(KDV_POINTS)
    found = solve_kdv(two_solitons(x, 0.0), 3.0, 1500)
    return _relative(found, two_solitons(x, 3.0))


def vortex_error() -> float:
    """Return the relative error of the vortices of Taylor and Green, whose vorticity
    decays and carries itself along; the dye is a function of the vorticity.
    """
    x = 2 * np.pi * np.arange(FLOW_POINTS) / FLOW_POINTS
    vorticity = 2 * np.cos(2 * x)[:, None] * np.cos(2 * x)
    initial = np.stack([vorticity, -vorticity])[None]
    decay = np.exp(-8 * VISCOSITY * 3.0)
    return _relative(solve_flow(initial, 3.0, 60), decay * initial)


def refined_flow_error() -> float:
    """Return the relative difference from four times the time steps and twice the
    points.
    """
    random = np.random.default_rng(1)
    initial = np.stack([_draw_periodic(random), _draw_periodic(random)])[None]
    modes = np.fft.fftshift(fft2(initial), axes=(-2, -1))
    padded = np.pad(modes, ((0, 0), (0, 0), *[(FLOW_POINTS // 2,) * 2] * 2))
    fine = 4 * ifft2(np.fft.ifftshift(padded, axes=(-2, -1))).real
    reference = solve_flow(fine, 3.0, 240)[..., ::2, ::2]
    return _relative(solve_flow(initial, 3.0, 60), reference)


def scattering_error() -> float:
    """Return the relative error of a wave with a known scattered part.

    The scattered wave is a Gaussian w; the contrast that makes it is
    -(Lap w + k² w) / (k² (u_in + w)), which is complex.
    """
    row, column = _square(SCATTERING_POINTS)
    width = 0.06
    squared = row**2 + column**2
    wave = 0.3 * np.exp(-squared / (2 * width**2))
    laplacian = wave * (squared / width**4 - 2 / width**2)
    incoming = plane_wave(SCATTERING_POINTS, 0.7)
    whole = incoming + wave
    contrast = -(laplacian + WAVE_NUMBER**2 * wave) / (WAVE_NUMBER**2 * whole)
    found = solve_scattering(contrast, incoming, green_kernel(SCATTERING_POINTS))
    return _relative(found, whole)


def _relative(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


Check = Callable[[], float]
CHECKS: dict[str, Check] = {
    "korteweg_de_vries, two solitons": kdv_error,
    "stirred_dye, Taylor-Green vortices": vortex_error,
    "stirred_dye, refined": refined_flow_error,
    "scattered_waves, made solution": scattering_error,
}
"""Functions that return the relative error of a solver, by what it is compared with."""

LOADERS: dict[str, Callable[[], Parts]] = {
    "korteweg_de_vries": korteweg_de_vries,
    "stirred_dye": stirred_dye,
    "scattered_waves": scattered_waves,
}
"""Functions that simulate the sets, by name."""

if __name__ == "__main__":
    for name, check in CHECKS.items():
        print(f"{name}: relative error {check():.2g}")
