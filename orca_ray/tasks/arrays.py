"""Steps that `Task.build` functions share.

They hold out samples, fill inputs, name arrays by split, and compute spectrograms.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orca_ray.data import prepared, splits
from orca_ray.data.raw import Workspace
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError

Pair = tuple[Array, Array]
Scale = tuple[Array, Array]
"""Mean and deviation, with which x is scaled to (x − mean) / deviation; both float32,
of the shape of one sample.
"""
EPSILON = 1e-5
"""Number added to pointwise deviations, as in ORCA's code."""
_BATCH_BYTES = 64 * 2**20


def hold_out(
    path: Path, samples: Array | int, num_held_out: int, seed: int
) -> tuple[Indices, Indices]:
    """Return random indices of the training and the validation samples.

    ``num_held_out`` samples are for validation. ``samples`` is the number N of training
    samples, or their labels [N]: both sets then have the class proportions of the
    labels. ``path``, the file with the samples, is named in errors. Raises UserError if
    there are too few samples.
    """
    count = samples if isinstance(samples, int) else len(samples)
    if count <= num_held_out:
        raise UserError(
            f"{path}: expected more than {num_held_out} training samples, because as"
            f" many are held out for validation, found {count}; get the whole file"
        )
    sizes = (count - num_held_out, num_held_out)
    try:
        if isinstance(samples, int):
            kept, held_out = splits.split(count, sizes, seed)
        else:
            kept, held_out = splits.stratified_split(samples, sizes, seed)
    except UserError as error:
        raise UserError(
            f"{path}: cannot hold out {num_held_out} of {count} samples for validation:"
            f" {error}"
        ) from error
    return kept, held_out


def fill_array(
    workspace: Workspace,
    name: str,
    indices: Indices,
    rows: Callable[[Indices], Array],
    shape: tuple[int, ...],
    most: int | None = None,
) -> Array:
    """Return the array ``name`` [N, *shape] float32 of a workspace.

    ``rows(indices[b])`` fills it for each batch b. A batch has at most 64 MiB, and at
    most ``most`` of the N indices (None: any number).
    """
    array = workspace.array(name, (len(indices), *shape))
    size = max(1, _BATCH_BYTES // (4 * int(np.prod(shape))))
    for part in workspace.batches(name, len(indices), min(size, most or size), array):
        array[part] = rows(indices[part])
    return array


def stack_rows(function: Callable[[int], Array]) -> Callable[[Indices], Array]:
    """Return a function that stacks ``function(index)`` of given indices.

    `fill_array` takes such functions as ``rows``.
    """
    return lambda indices: np.stack([function(int(index)) for index in indices])


def by_index(x: Array, y: Array, parts: Sequence[Indices]) -> list[Pair]:
    """Return the rows of ``x`` and of ``y`` for each index array in ``parts``.

    The parts are train, validation and test.
    """
    return [(x[part], y[part]) for part in parts]


def classification(
    parts: Sequence[Pair], *, axes: tuple[int, ...] | None = None
) -> dict[str, Array]:
    """Return the arrays of a classification task by name.

    ``parts`` are (x, y) of train, validation and test. ``x`` is standardised with mean
    and deviation of train over ``axes``. None: over all axes; ``(0,)``: over samples,
    one mean and deviation for each feature. NaN in ``x`` marks padding and becomes 0,
    the mean.
    """
    return name_arrays([(x, y.astype(np.int64)) for x, y in standardised(parts, axes)])


def regression(
    parts: Sequence[Pair], *, target_axes: tuple[int, ...] = (0,)
) -> dict[str, Array]:
    """Return the arrays of a dense or scalar task by name.

    ``x`` is standardised over all axes; ``y`` is float32 and not scaled. ``y_mean`` and
    ``y_std`` are mean and deviation of the training targets over ``target_axes``, which
    include axis 0.
    """
    arrays = name_arrays(
        [(x, y.astype(np.float32)) for x, y in standardised(parts, None)]
    )
    mean, std = splits.statistics(arrays["train_y"], target_axes)
    return {**arrays, "y_mean": mean[0], "y_std": std[0]}


def pointwise_statistics(blocks: Iterable[Array]) -> Scale:
    """Return mean and deviation over all samples at each point.

    The variance divides by n − 1, and `EPSILON` is added to the deviation. Both have
    the shape of one sample. ``blocks`` [b, ...] are the samples, merged in float64
    (Chan, Golub and LeVeque, Algorithms for computing the sample variance, 1983).
    """
    count = 0
    mean = np.zeros(())
    squares = np.zeros(())
    for block in blocks:
        wide = block.astype(np.float64)
        num_rows = len(wide)
        centre = wide.mean(axis=0)
        step = centre - mean
        squares = (
            squares
            + ((wide - centre) ** 2).sum(axis=0)
            + step**2 * (count * num_rows / (count + num_rows))
        )
        count += num_rows
        mean = mean + step * (num_rows / count)
    deviation: Array = np.sqrt(squares / (count - 1))
    return mean.astype(np.float32), (deviation + EPSILON).astype(np.float32)


def name_arrays(parts: Sequence[Pair]) -> dict[str, Array]:
    """Return the arrays by name, ``train_x`` to ``test_y``.

    ``parts`` are (x, y) of train, validation and test.
    """
    pairs = zip(prepared.SPLITS, parts, strict=True)
    return {
        f"{split}_{axis}": array
        for split, pair in pairs
        for axis, array in zip("xy", pair, strict=True)
    }


def standardised(parts: Sequence[Pair], axes: tuple[int, ...] | None) -> list[Pair]:
    """Return ``parts`` with ``x`` scaled as in `classification`.

    They are (x, y) of train, validation and test.
    """
    mean, std = splits.statistics(parts[0][0], axes)
    return [
        (np.nan_to_num(splits.standardise(x, mean, std), nan=0.0), y) for x, y in parts
    ]


_SMALLEST_POWER = 1e-10
_FRAMES = 1024
"""Number of frames per Fourier transform call, which needs 50 MB of memory."""


def log_mel(
    waveform: npt.NDArray[np.float32],
    *,
    sample_rate: int = 22050,
    n_mels: int = 96,
    n_fft: int = 1920,
) -> npt.NDArray[np.float32]:
    """Return the log-mel spectrogram [n_mels, 1 + n // hop] of a recording.

    It is in decibels, as FSD50K's baseline computes it. The baseline computes
    torchaudio's ``MelSpectrogram`` with its default options: a centred Hann window (30
    ms long), reflected edges, power 2, and triangular filters of height 1 on the HTK
    mel scale (O'Shaughnessy 1987). Frames are 10 ms (``hop``) apart; both times are
    rounded down to whole samples. Then it converts to decibels as librosa's
    ``power_to_db``: values are clamped to at least the recording's maximum minus 80.
    Equal in librosa: ``melspectrogram(..., htk=True, norm=None, pad_mode="reflect")``.

    Args:
        waveform: samples [n] in [−1, 1]; UserError is raised unless n > n_fft // 2.
        sample_rate: samples per second. One second at 22,050 Hz gives 101 frames.
        n_mels: number of mel bands, from 0 Hz to half the sample rate.
        n_fft: samples per Fourier transform.
    """
    if waveform.ndim != 1 or len(waveform) <= n_fft // 2:
        needed = f"a spectrogram needs one channel of more than {n_fft // 2} samples"
        raise UserError(
            f"{needed}, got shape {list(waveform.shape)}; repeat or pad shorter"
            " recordings"
        )
    window = int(sample_rate * 0.03)
    hop = int(sample_rate * 0.01)
    # Float64, because float32 is too inaccurate in bands with a power far below the
    # maximum.
    padded = np.pad(waveform.astype(np.float64), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    shape = _window(window, n_fft)
    filters = _mel_filters(sample_rate, n_mels, n_fft)
    power = np.empty((len(frames), n_mels))
    for start in range(0, len(frames), _FRAMES):
        spectrum = np.fft.rfft(frames[start : start + _FRAMES] * shape, axis=1)
        power[start : start + _FRAMES] = (spectrum.real**2 + spectrum.imag**2) @ filters
    decibels = 10.0 * np.log10(np.maximum(power, _SMALLEST_POWER))
    cut: Array = np.maximum(decibels, decibels.max() - 80.0)
    return cut.T.astype(np.float32, order="C")


@functools.lru_cache(maxsize=4)
def _window(size: int, n_fft: int) -> Array:
    """Return the periodic Hann window of ``size`` samples, as [n_fft].

    It is padded with zeros on both sides.
    """
    assert 0 < size <= n_fft
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    before = (n_fft - size) // 2
    return np.pad(hann, (before, n_fft - size - before))


@functools.lru_cache(maxsize=4)
def _mel_filters(sample_rate: int, n_mels: int, n_fft: int) -> Array:
    """Return the triangular filters [n_fft // 2 + 1, n_mels].

    A frequency f in Hz is 2595 log10(1 + f / 700) mel.
    """
    highest = 2595 * np.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, n_mels + 2) / 2595) - 1)
    frequencies = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rising = (frequencies[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies[:, None]) / (corners[2:] - corners[1:-1])
    return np.maximum(0, np.minimum(rising, falling))
