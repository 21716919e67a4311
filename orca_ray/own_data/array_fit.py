"""Fit the encoders of arrays and recordings: axes, sizes, mean and deviation."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pandas as pd

from orca_ray.data import splits
from orca_ray.data.rows import Array
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError
from orca_ray.own_data import KINDS, Notes, Options, UserData
from orca_ray.own_data.array_inputs import ArrayInputs, AudioInputs

Shape = tuple[int, ...]

MOST_SIDE = 224
"""Largest default side of images in pixels; larger images are reduced.

Bodies resize images to 56 pixels by default.
"""
MOST_STEPS = 8192
"""Largest default length of series of unequal length, in steps."""
MOST_SECONDS = 10.0
"""Largest default length of recordings, in seconds."""
LEAST_RATE = 4000.0
"""Sampling rate in Hz below which a recording stays a series.

From this rate on, it becomes a spectrogram.
"""
NUM_MELS = 64
"""Number of mel bands of a spectrogram."""
_MEASURED = 512
"""Largest number of samples that mean and deviation are measured on."""
_MEASURED_BYTES = 2**25
"""Largest memory of the samples that mean and deviation are measured on, in bytes.

At least 8 samples are used.
"""
_SKETCHED = 32
"""Number of random projections of a sample that are compared with others."""
_PROJECTED = 4096
"""Largest number of values of a sample that are projected."""
_LARGEST_SKETCHED = 1e15
"""Absolute value from which a value is left out of a sketch."""
_LEAST_SKETCHED = 8
"""Number of values of a sample below which other samples may be near by chance."""
_MEASURED_RECORDINGS = 128
"""Largest number of recordings that mean and deviation are measured on."""


@dataclass
class Survey:
    """Properties of the samples, collected in one pass over them."""

    hashes: Array
    """A hash of each sample's content [N], as bytes; equal samples have equal hashes.
    """
    shapes: Counter[Shape] = field(default_factory=Counter)
    first: dict[Shape, int] = field(default_factory=dict)
    """Index of the first sample of each shape."""
    num_missing: int = 0
    """Number of samples with a value that is NaN or infinite."""
    sketches: Array | None = None
    """Random projections of the samples [N, `_SKETCHED`], float32, whose distances are
    about those of the samples. None: samples have unequal shapes, few values, or are
    rows of a table.
    """


def survey_samples(data: UserData) -> Survey:
    """Read all samples once; return their hashes, shapes and missing values.

    For a table, there are hashes only. Raises UserError for a sample that is no array
    of numbers.
    """
    if hasattr(data.x, "columns"):
        return _survey_table(cast(pd.DataFrame, data.x))
    summary = Survey(np.empty(len(data), dtype="S16"))
    sketches = np.zeros((len(data), _SKETCHED), dtype=np.float32)
    directions = np.random.default_rng(0).normal(size=(_PROJECTED, _SKETCHED))
    samples = (
        sample for part in data.batches() for sample in cast(list[Array], part.x)
    )
    for row, sample in enumerate(samples):
        array = np.asarray(sample)
        if array.dtype.kind not in "biuf":
            raise UserError(
                f"{data.place(row)}: expected an array of numbers, found {array.dtype}"
            )
        digest = hashlib.blake2b(array.tobytes(), digest_size=8, person=b"orca")
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        summary.hashes[row] = digest.hexdigest().encode()
        summary.shapes[array.shape] += 1
        summary.first.setdefault(array.shape, row)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            summary.num_missing += 1
        sketches[row] = _sketch(array, directions)
    if len(summary.shapes) == 1 and array.size >= _LEAST_SKETCHED:
        summary.sketches = sketches
    return summary


def _sketch(sample: Array, directions: Array) -> Array:
    """Return the projections of evenly spaced values of a sample on ``directions``."""
    step = max(1, -(-sample.size // _PROJECTED))
    values = np.asarray(sample.reshape(-1)[::step], dtype=np.float64)
    # Some numbers are so large that they count as missing.
    known = np.where(np.abs(values) < _LARGEST_SKETCHED, values, 0.0)
    sketch: Array = known @ directions[: len(values)]
    return sketch.astype(np.float32)


def _survey_table(frame: pd.DataFrame) -> Survey:
    """Return the hashes of a table's rows."""
    hashable = frame.apply(
        lambda column: column.astype(str) if column.dtype.kind == "O" else column
    )
    hashes = pd.util.hash_pandas_object(hashable, index=False)
    return Survey(hashes.to_numpy().astype("S20"))


def fit_array(
    data: UserData,
    train: Indices,
    summary: Survey,
    options: Options,
    notes: Notes,
    *,
    dense: bool,
) -> ArrayInputs:
    """Return the encoder of arrays.

    It standardises by mean and deviation of up to 512 samples of ``train``. ``dense``:
    the targets are fields.

    Raises UserError for ``options.axes`` that do not fit, samples of unequal numbers of
    axes or channels, too many axes, and inputs that are all equal or missing.
    """
    _check_equal_axes(data, summary)
    shape = next(iter(summary.shapes))
    if all(0 in each for each in summary.shapes):
        raise _without_values(data, shape)
    axes = _choose_axes(data, summary, options, notes, dense=dense)
    size = _choose_size(data, axes, summary, options, notes)
    spatial = _spatial_shape(shape, axes) if size is None else size
    num_channels = _num_channels(data.source, axes, summary)
    if 0 in (num_channels, *spatial):
        raise _without_values(data, shape)
    keeps_shape = len(summary.shapes) == 1 and size is None
    is_vector = axes == "F"  # each feature has its own scale
    width = spatial[0] if is_vector else num_channels
    unmeasured = ArrayInputs(
        axes=axes,
        given=shape if keeps_shape else None,
        shape=(num_channels, *spatial),
        per_feature=is_vector,
        mean=(0.0,) * width,
        std=(1.0,) * width,
        largest=0.0,
    )
    has_mask = options.mask and not keeps_shape and len(spatial) == 1
    return _with_statistics(data, train, unmeasured, notes, mask=has_mask)


def _without_values(data: UserData, shape: Shape) -> UserError:
    """Return the error for samples of a ``shape`` that has no values."""
    return UserError(
        f"{data.source}: expected samples with values, found shape {list(shape)}"
    )


def _check_equal_axes(data: UserData, summary: Survey) -> None:
    """Raise UserError for samples of unequal numbers of axes."""
    if len({len(shape) for shape in summary.shapes}) == 1:
        return
    by_axes = sorted(summary.first, key=len)
    fewest = by_axes[0]
    most = by_axes[-1]
    shapes = f"{list(fewest)} and {list(most)} ({data.place(summary.first[most])})"
    raise UserError(
        f"{data.source}: samples have different numbers of axes, such as {shapes};"
        " give them the same"
    )


def _num_channels(source: str, axes: str, summary: Survey) -> int:
    """Return the number of channels; raise UserError if it differs between samples."""
    if "C" not in axes:
        return 1
    numbers = {shape[axes.index("C")] for shape in summary.shapes}
    if len(numbers) > 1:
        raise UserError(
            f"{source}: samples have {min(numbers)} to {max(numbers)} channels; give"
            f" all the same (axes {axes})"
        )
    return numbers.pop()


def _with_statistics(
    data: UserData, train: Indices, unmeasured: ArrayInputs, notes: Notes, *, mask: bool
) -> ArrayInputs:
    """Return the encoder with the statistics of some training samples.

    There are at most 512 samples, evenly spaced. ``mask``: a channel marks the steps
    that are not padded.
    """
    raw = _measured_samples(data, train, unmeasured)
    is_vector = unmeasured.per_feature
    axes = (0, 1) if is_vector else (0, *range(2, raw.ndim))
    is_empty = np.isnan(raw).all(axis=axes, keepdims=True)
    filled = np.where(is_empty, 0.0, raw)  # an empty channel counts as constant
    mean, std = splits.statistics(filled, axes)
    constant = np.flatnonzero(
        np.nanmax(filled, axis=axes) == np.nanmin(filled, axis=axes)
    )
    width = len(unmeasured.mean)
    if len(constant) == width:
        raise UserError(
            f"{data.source}: all inputs of train are equal or missing; there is nothing"
            " to learn from"
        )
    if len(constant):
        what = "features" if is_vector else "channels"
        listed = ", ".join(str(place + 1) for place in constant[:10].tolist())
        notes.warn(
            f"{len(constant)} of {width} {what} are constant or empty in train:"
            f" {listed}; they become 0"
        )
    num_channels, *spatial = unmeasured.shape
    if mask:
        num_channels += 1
    return unmeasured.model_copy(
        update={
            "mean": tuple(mean.ravel().tolist()),
            "std": tuple(std.ravel().tolist()),
            "largest": float(np.nanmax(np.abs(raw), initial=0.0)),
            "mask": mask,
            "shape": (num_channels, *spatial),
        }
    )


def _measured_samples(data: UserData, train: Indices, unmeasured: ArrayInputs) -> Array:
    """Return the training samples that the statistics are measured on, not scaled."""
    row_bytes = 4 * int(np.prod(unmeasured.shape))  # float32
    most = max(8, min(_MEASURED, _MEASURED_BYTES // row_bytes))
    rows = _evenly_spaced(train, most)
    size = data.batch_size()
    parts = [
        data.select(rows[start : start + size]) for start in range(0, len(rows), size)
    ]
    # Warnings, such as one about series that are cut, are not needed here.
    return np.concatenate([unmeasured.raw(part, lambda _: None) for part in parts])


def _evenly_spaced(rows: Indices, most: int) -> Indices:
    """Return at most ``most`` of the rows, evenly spaced."""
    places = np.linspace(0, len(rows) - 1, min(most, len(rows)))
    return rows[places.astype(np.int64)]


_MOST_TARGETS = 16
"""Largest number of targets from which features, not series, are inferred."""
_ALLOWED_AXES = {1: ("L", "F"), 2: ("CL", "LC", "HW"), 3: ("CHW", "HWC")}
"""Axes that samples may have, by their number."""


def _choose_axes(
    data: UserData, summary: Survey, options: Options, notes: Notes, *, dense: bool
) -> str:
    """Return the axes of one sample, as given or inferred from the shapes."""
    # The most frequent shape; of equally frequent ones, the largest.
    shape = max(summary.shapes, key=lambda shape: (summary.shapes[shape], shape))
    allowed = _ALLOWED_AXES.get(len(shape))
    if allowed is None:
        advice = "join axes, such as time and channels"
        if not shape:
            advice = "one number a sample: give features as [N, F]"
        raise UserError(
            f"{data.source}: samples of {len(shape)} axes {list(shape)} cannot be used;"
            f" {advice}. Data may be {KINDS}"
        )
    if options.axes:
        axes = options.axes.removeprefix("N")
        if sorted(axes) not in [sorted(letters) for letters in allowed]:
            listed = ", ".join(f"N{letters}" for letters in allowed)
            raise UserError(
                f"axes {options.axes} do not fit samples of shape {list(shape)};"
                f" allowed: {listed}"
            )
        return axes
    axes, why = _guess_axes(data, shape, summary, dense=dense)
    alternatives = " or ".join(f"N{letters}" for letters in allowed if letters != axes)
    notes.add_finding("axes", f"N{axes}", f"{why}; else {alternatives}", "axes")
    return axes


def _guess_axes(
    data: UserData, shape: Shape, summary: Survey, *, dense: bool
) -> tuple[str, str]:
    """Return the likeliest axes of samples of this shape, and why."""
    if len(shape) == 1:
        if len(summary.shapes) > 1:
            return "L", "lengths differ, so each sample is a series"
        if _scales_differ(data):
            return "F", "columns have different scales"
        num_targets = data.y.shape[1] if dense and data.y is not None else 0
        if 0 < num_targets <= _MOST_TARGETS and num_targets != shape[0]:
            return "F", f"the targets are {num_targets} numbers, not a series"
        return "L", "all columns have one scale"
    if len(shape) == 3:
        if shape[2] < min(shape[:2]):
            return "HWC", f"the last axis, of {shape[2]}, is the shortest"
        return "CHW", f"the first axis, of {shape[0]}, is not longer than the last"
    if data.kind_hint == "images":
        return "HW", "images without colour"
    return _guess_axes_of_matrix(data, shape, summary, dense=dense)


def _guess_axes_of_matrix(
    data: UserData, shape: Shape, summary: Survey, *, dense: bool
) -> tuple[str, str]:
    """Return the likeliest axes of samples with two axes, and why."""
    first_lengths = {first for first, _ in summary.shapes}
    second_lengths = {second for _, second in summary.shapes}
    if len(first_lengths) == 1 < len(second_lengths):
        return "CL", "the other axis has different lengths"
    if len(second_lengths) == 1 < len(first_lengths):
        return "LC", "the other axis has different lengths"
    has_fields = data.y is not None and dense and data.y.shape[1:] == shape
    if has_fields and min(shape) > 3:
        return "HW", "the targets are fields of the same shape"
    if shape[0] == shape[1]:
        return "HW", f"both axes have length {shape[0]}"
    why = f"the longer axis, of {max(shape)}, is taken as steps, the other as channels"
    if shape[0] < shape[1]:
        return "CL", why
    return "LC", why


def _scales_differ(data: UserData) -> bool:
    """Return whether the columns of [N, F] have too different scales for a series."""
    rows = np.linspace(0, len(data) - 1, min(len(data), 1000)).astype(np.int64)
    values = np.asarray(data.select(np.unique(rows)).x, dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    if np.isnan(values).all(axis=0).any():
        return True
    mean = np.nanmean(values, axis=0)
    std = np.nanstd(values, axis=0)
    median_std = float(np.median(std[std > 0])) if (std > 0).any() else 1.0
    # The steps of a series have scales within a factor of 10.
    has_large_std = std.max() > 10 * max(median_std, 1e-300)
    return bool(has_large_std or np.ptp(mean) > 10 * median_std)


def _spatial_shape(shape: Shape, axes: str) -> Shape:
    """Return a sample's shape without its channels."""
    return tuple(size for size, axis in zip(shape, axes, strict=True) if axis != "C")


def _choose_size(
    data: UserData, axes: str, summary: Survey, options: Options, notes: Notes
) -> Shape | None:
    """Return the spatial size to which samples are padded, cut or resized.

    None: all samples keep their size.
    """
    sizes = np.array([_spatial_shape(shape, axes) for shape in summary.shapes])
    least = sizes.min(axis=0)
    most = sizes.max(axis=0)
    is_unequal = bool((least != most).any())
    is_series = sizes.shape[1] == 1
    is_large = not is_series and data.kind_hint == "images" and most.max() > MOST_SIDE
    if not (is_unequal or is_large or options.size):
        return None
    if is_series:
        length = options.size or min(int(most[0]), MOST_STEPS)
        why = (
            f"lengths are {least[0]} to {most[0]}; shorter series are padded with the"
            " mean, longer ones cut"
        )
        notes.add_finding("length", length, why, "size, mask")
        return (length,)
    numbers = list(summary.shapes.values())
    # Side of a square with as many pixels, as a mean over all images; at least 16.
    mean_side = float(np.average(np.sqrt(sizes.prod(axis=1)), weights=numbers))
    side = options.size or int(min(MOST_SIDE, max(16, round(mean_side))))
    why = f"images are {least[0]}×{least[1]} to {most[0]}×{most[1]}; all are resized"
    notes.add_finding("image size", f"{side}×{side}", why, "size")
    return side, side


def fit_audio(
    data: UserData, train: Indices, summary: Survey, options: Options, notes: Notes
) -> AudioInputs:
    """Return the encoder of recordings.

    It standardises by the spectrograms of up to 128 recordings of ``train``.
    """
    assert data.rate is not None
    lengths = np.array([shape[0] for shape in summary.shapes]) / data.rate
    seconds = options.seconds or min(float(lengths.max()), MOST_SECONDS)
    why = (
        f"recordings are {lengths.min():.2f} to {lengths.max():.2f} s; shorter ones get"
        " silence, longer ones are cut"
    )
    notes.add_finding("length", f"{seconds:.3g} s", why, "seconds")
    notes.add_finding(
        "sampling rate", f"{data.rate:g} Hz", "most files have it", "rate"
    )
    notes.add_finding(
        "inputs",
        f"log-mel spectrograms of {NUM_MELS} bands, 100 frames a second",
        "recordings",
    )
    unmeasured = AudioInputs(
        rate=data.rate,
        num_samples=max(1, round(seconds * data.rate)),
        num_mels=NUM_MELS,
    )
    measured = data.select(_evenly_spaced(train, _MEASURED_RECORDINGS))
    mean, std = splits.statistics(unmeasured.encode(measured, lambda _: None))
    return unmeasured.model_copy(
        update={"mean": float(mean.item()), "std": float(std.item())}
    )
