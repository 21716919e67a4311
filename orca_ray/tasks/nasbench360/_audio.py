"""Log-mel spectrograms [96 mels, frames] of FSD50K's clips, cut, masked and mixed.

Distributions are those of the reference's ``SpectrogramDataset``; all draws come from the given generator.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from orca_ray.data.mel import log_mel
from orca_ray.data.readers import read_wav
from orca_ray.data.rows import Array

SAMPLE_RATE = 22050
NUM_MELS = 96
NUM_FRAMES = 101
"""Frames of one second: windows centred at 0, 10 ms, …, 1 s."""
MASK_PROBABILITY, MIX_PROBABILITY = 0.5, 0.75

_MOST_MASKS, _MOST_MELS, _MOST_FRAMES = 2, 0.15, 0.20
_MOST_BACKGROUND = 0.5
_KEPT_BYTES = 512 * 2**20


def spectrogram(path: str) -> Array:
    """Return the log-mel spectrogram of a file, its mean subtracted: [96, frames], at least 101 frames.

    Recordings shorter than a second are repeated. Raises UserError for an invalid file.
    """
    waveform = read_wav(Path(path), SAMPLE_RATE)
    if len(waveform) < SAMPLE_RATE:
        waveform = np.resize(waveform, SAMPLE_RATE)
    decibels = log_mel(waveform, sample_rate=SAMPLE_RATE, n_mels=NUM_MELS)
    return np.asarray(decibels - decibels.mean())


def middle(spectrogram_MT: Array) -> Array:
    """Return the middle 101 frames. (The reference leaves longer chunks long; all published ones last a second.)"""
    start = (spectrogram_MT.shape[1] - NUM_FRAMES) // 2
    return spectrogram_MT[:, start : start + NUM_FRAMES]


def framed(spectrogram_MT: Array) -> Array:
    """Return [1, 96, 102]: the spectrogram and the empty frame that the reference appends."""
    return np.pad(spectrogram_MT, ((0, 0), (0, 1)))[None]


class Backgrounds:
    """The background recordings; up to half a gigabyte of their spectrograms is cached."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._kept: dict[int, Array] = {}
        self._room = _KEPT_BYTES

    def draw(self, random: np.random.RandomState) -> Array:
        """Return the spectrogram [96, frames] of a random one."""
        index = int(random.randint(len(self._paths)))
        if index in self._kept:
            return self._kept[index]
        drawn = spectrogram(self._paths[index])
        if drawn.nbytes <= self._room:
            self._kept[index] = drawn
            self._room -= drawn.nbytes
        return drawn


def training_example(spectrogram_MT: Array, backgrounds: Backgrounds, random: np.random.RandomState) -> Array:
    """Return [96, 101] of a chunk, masked at random and, with probability ¾, mixed with a background."""
    example = _cut(_masked(spectrogram_MT, random), random)
    if random.random_sample() >= MIX_PROBABILITY:
        return example
    background = _cut(_masked(backgrounds.draw(random), random), random)
    share = random.uniform(0, _MOST_BACKGROUND)
    return (1 - share) * example + share * background


def _cut(spectrogram_MT: Array, random: np.random.RandomState) -> Array:
    start = int(random.randint(spectrogram_MT.shape[1] - NUM_FRAMES + 1))
    return spectrogram_MT[:, start : start + NUM_FRAMES]


def _masked(spectrogram_MT: Array, random: np.random.RandomState) -> Array:
    """Apply SpecAugment's masks (Park et al., 2019, arXiv:1904.08779) with probability ½.

    One or two bands of mels and of frames are set to the spectrogram's minimum.
    """
    if random.random_sample() >= MASK_PROBABILITY:
        return spectrogram_MT
    masked = spectrogram_MT.copy()
    for _ in range(random.randint(1, _MOST_MASKS + 1)):
        masked[_band(len(masked), _MOST_MELS, random)] = spectrogram_MT.min()
        masked[:, _band(masked.shape[1], _MOST_FRAMES, random)] = spectrogram_MT.min()
    return masked


def _band(size: int, most: float, random: np.random.RandomState) -> slice:
    width = int(random.uniform(0, most) * size)
    start = int(random.uniform(0, size - width))
    return slice(start, start + width)
