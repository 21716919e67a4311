"""Log-mel spectrograms of recordings, for FSD50K and for recordings of users."""

import functools

import numpy as np
import numpy.typing as npt

from orca_ray.data.rows import Array
from orca_ray.errors import UserError

_SMALLEST_POWER = 1e-10
_FRAMES = 1024
"""Number of frames per Fourier transform call, which needs 50 MB of memory."""


def log_mel(
    waveform: npt.NDArray[np.float32],
    *,
    sample_rate: int = 22050,
    n_mels: int = 96,
    n_fft: int = 1920,
    top_db: float = 80.0,
) -> npt.NDArray[np.float32]:
    """Return the log-mel spectrogram [n_mels, 1 + n // hop] of one recording, in decibels, as FSD50K's baseline does.

    The baseline computes torchaudio's ``MelSpectrogram`` with its default options: a centred Hann window (30 ms long),
    reflected edges, power 2, and triangular filters of height 1 on the HTK mel scale (O'Shaughnessy 1987). Frames are
    10 ms (``hop``) apart; both times are rounded down to whole samples. Then it converts to decibels as librosa's
    ``power_to_db``. Equal in librosa: ``melspectrogram(..., htk=True, norm=None, pad_mode="reflect")``.

    Args:
        waveform: samples [n] in [−1, 1]; UserError is raised unless n > n_fft // 2.
        sample_rate: samples per second. One second at 22,050 Hz gives 101 frames.
        n_mels: number of mel bands, from 0 Hz to half the sample rate.
        n_fft: samples per Fourier transform.
        top_db: values are clamped to at least the recording's maximum minus ``top_db``.
    """
    if waveform.ndim != 1 or len(waveform) <= n_fft // 2:
        needed = f"a spectrogram needs one channel of more than {n_fft // 2} samples"
        raise UserError(f"{needed}, got shape {list(waveform.shape)}; repeat or pad shorter recordings")
    window, hop = int(sample_rate * 0.03), int(sample_rate * 0.01)
    # Float64, because float32 is too inaccurate in bands with a power far below the maximum.
    padded = np.pad(waveform.astype(np.float64), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    shape, filters = _window(window, n_fft), _mel_filters(sample_rate, n_mels, n_fft)
    power = np.empty((len(frames), n_mels))
    for start in range(0, len(frames), _FRAMES):
        spectrum = np.fft.rfft(frames[start : start + _FRAMES] * shape, axis=1)
        power[start : start + _FRAMES] = (spectrum.real**2 + spectrum.imag**2) @ filters
    decibels = 10.0 * np.log10(np.maximum(power, _SMALLEST_POWER))
    cut: Array = np.maximum(decibels, decibels.max() - top_db)
    return cut.T.astype(np.float32, order="C")


@functools.lru_cache(maxsize=4)
def _window(size: int, n_fft: int) -> Array:
    """Return the periodic Hann window of ``size`` samples, padded with zeros on both sides to [n_fft]."""
    assert 0 < size <= n_fft
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    before = (n_fft - size) // 2
    return np.pad(hann, (before, n_fft - size - before))


@functools.lru_cache(maxsize=4)
def _mel_filters(sample_rate: int, n_mels: int, n_fft: int) -> Array:
    """Return the triangular filters [n_fft // 2 + 1, n_mels]; a frequency f in Hz is 2595 log10(1 + f / 700) mel."""
    highest = 2595 * np.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, n_mels + 2) / 2595) - 1)
    frequencies = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rising = (frequencies[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies[:, None]) / (corners[2:] - corners[1:-1])
    return np.maximum(0, np.minimum(rising, falling))
