"""Fit the encoders of arrays and recordings: find axes and sizes, and measure mean and
deviation.
"""

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
"""Side in pixels beyond which images are reduced; bodies see 56 by default."""
MOST_STEPS = 8192
MOST_SECONDS = 10.0
"""Default limits: steps of series of unequal length, and seconds of recordings."""
LEAST_RATE = 4000.0
"""Sampling rate in Hz below which a recording stays a series and is not made a
spectrogram.
"""
NUM_MELS = 64
# most samples, and most bytes, that mean and deviation are measured on
_MEASURED = 512
_MEASURED_BYTES = 2**25


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


def survey(data: UserData) -> Survey:
    """Read all samples once; return hashes and, except for tables, shapes and number of
    samples with missing values.

    Raises UserError for a sample that is no array of numbers.
    """
    if hasattr(data.x, "columns"):
        frame = cast(pd.DataFrame, data.x)
        plain = frame.apply(
            lambda column: column.astype(str) if column.dtype.kind == "O" else column
        )
        return Survey(
            pd.util.hash_pandas_object(plain, index=False).to_numpy().astype("S20")
        )
    found = Survey(np.empty(len(data), dtype="S16"))
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
        found.hashes[row] = digest.hexdigest().encode()
        found.shapes[array.shape] += 1
        found.first.setdefault(array.shape, row)
        found.num_missing += array.dtype.kind == "f" and not bool(
            np.isfinite(array).all()
        )
    return found


def fit_array(
    data: UserData,
    train: Indices,
    found: Survey,
    options: Options,
    notes: Notes,
    *,
    dense: bool,
) -> ArrayInputs:
    """Return the encoder of arrays; it standardises by mean and deviation of up to 512
    samples of ``train``.

    Raises UserError for ``options.axes`` that do not fit, samples of unequal numbers of
    axes or channels, too many axes, and inputs that are all equal or missing.
    """
    if len({len(shape) for shape in found.shapes}) > 1:
        one, other = sorted(found.first, key=len)[:: len(found.first) - 1]
        shapes = f"{list(one)} and {list(other)} ({data.place(found.first[other])})"
        raise UserError(
            f"{data.source}: samples have different numbers of axes, such as {shapes};"
            " give them the same"
        )
    shape = next(iter(found.shapes))
    axes = _axes(data, found, options, notes, dense=dense)
    size = _size(data, axes, found, options, notes)
    given = shape if len(found.shapes) == 1 and size is None else None
    spatial = size if size is not None else _spatial(shape, axes)
    channels = (
        {shape[axes.index("C")] for shape in found.shapes} if "C" in axes else {1}
    )
    if len(channels) > 1:
        least = min(channels)
        most = max(channels)
        raise UserError(
            f"{data.source}: samples have {least} to {most} channels; give all the same"
            f" (axes {axes})"
        )
    if 0 in (*channels, *spatial):
        raise UserError(
            f"{data.source}: expected samples with values, found shape {list(shape)}"
        )
    mask = options.mask and given is None and len(spatial) == 1
    width = spatial[0] if axes == "F" else next(iter(channels))
    plain = ArrayInputs(
        axes=axes,
        given=given,
        shape=(channels.pop(), *spatial),
        per_feature=axes == "F",
        mean=(0.0,) * width,
        std=(1.0,) * width,
        largest=0.0,
    )
    return _measured(data, train, plain, notes, mask=mask)


def _measured(
    data: UserData, train: Indices, plain: ArrayInputs, notes: Notes, *, mask: bool
) -> ArrayInputs:
    """Return the encoder ``plain`` with the statistics of at most 512 training samples,
    evenly spaced.
    """
    features = plain.per_feature
    width = len(plain.mean)
    row_bytes = 4 * int(np.prod(plain.shape))
    number = min(len(train), max(8, min(_MEASURED, _MEASURED_BYTES // row_bytes)))
    chosen = train[np.linspace(0, len(train) - 1, number).astype(np.int64)]
    size = data.batch_size()
    parts = (
        data.select(chosen[start : start + size]) for start in range(0, number, size)
    )
    raw = np.concatenate([plain.raw(part, lambda _: None) for part in parts])
    axes = (0, 1) if features else (0, *range(2, raw.ndim))
    known = np.where(
        np.isnan(raw).all(axis=axes, keepdims=True), 0.0, raw
    )  # an empty channel counts as constant
    mean, std = splits.statistics(known, axes)
    constant = np.flatnonzero(
        np.nanmax(known, axis=axes) == np.nanmin(known, axis=axes)
    )
    if len(constant) == width:
        raise UserError(
            f"{data.source}: all inputs of train are equal or missing; there is nothing"
            " to learn from"
        )
    if len(constant):
        what = "features" if features else "channels"
        listed = ", ".join(str(each + 1) for each in constant[:10].tolist())
        notes.warn(
            f"{len(constant)} of {width} {what} are constant or empty in train:"
            f" {listed}; they become 0"
        )
    found = {"mean": tuple(mean.ravel().tolist()), "std": tuple(std.ravel().tolist())}
    largest = float(np.nanmax(np.abs(raw), initial=0.0))
    shape = (plain.shape[0] + mask, *plain.shape[1:])
    return plain.model_copy(
        update={**found, "largest": largest, "mask": mask, "shape": shape}
    )


def _axes(
    data: UserData, found: Survey, options: Options, notes: Notes, *, dense: bool
) -> str:
    """Return the axes of one sample, as given or inferred from the shapes."""
    shape = max(found.shapes, key=lambda each: (found.shapes[each], each))
    allowed = {1: ("L", "F"), 2: ("CL", "LC", "HW"), 3: ("CHW", "HWC")}.get(
        len(shape), ()
    )
    if not allowed:
        advice = (
            "one number a sample: give features as [N, F]"
            if not shape
            else "join axes, such as time and channels"
        )
        samples = f"samples of {len(shape)} axes {list(shape)}"
        raise UserError(
            f"{data.source}: {samples} cannot be used; {advice}. Data may be {KINDS}"
        )
    if options.axes:
        axes = options.axes.removeprefix("N")
        if sorted(axes) not in [sorted(each) for each in allowed]:
            listed = ", ".join(f"N{each}" for each in allowed)
            raise UserError(
                f"axes {options.axes} do not fit samples of shape {list(shape)};"
                f" allowed: {listed}"
            )
        return axes
    axes, why = _guessed(data, shape, found, dense=dense)
    others = " or ".join(f"N{each}" for each in allowed if each != axes)
    notes.find("axes", f"N{axes}", f"{why}; else {others}", "axes")
    return axes


def _guessed(
    data: UserData, shape: Shape, found: Survey, *, dense: bool
) -> tuple[str, str]:
    if len(shape) == 1:
        if len(found.shapes) > 1:
            return "L", "lengths differ, so each sample is a series"
        return (
            ("F", "columns have different scales")
            if _scales_differ(data)
            else ("L", "all columns have one scale")
        )
    if len(shape) == 3:
        if shape[2] < min(shape[:2]):
            return "HWC", f"the last axis, of {shape[2]}, is the shortest"
        return "CHW", f"the first axis, of {shape[0]}, is not longer than the last"
    if data.kind_hint == "images":
        return "HW", "images without colour"
    lengths = [{each[axis] for each in found.shapes} for axis in (0, 1)]
    if len(lengths[0]) != len(lengths[1]) and 1 in map(len, lengths):
        return (
            "CL" if len(lengths[0]) == 1 else "LC"
        ), "the other axis has different lengths"
    if data.y is not None and dense and data.y.shape[1:] == shape and min(shape) > 3:
        return "HW", "the targets are fields of the same shape"
    if shape[0] == shape[1]:
        return "HW", f"both axes have length {shape[0]}"
    axes = "CL" if shape[0] < shape[1] else "LC"
    return (
        axes,
        f"the longer axis, of {max(shape)}, is taken as steps, the other as channels",
    )


def _scales_differ(data: UserData) -> bool:
    """Return whether columns of [N, F] differ so much that they are features, and not
    steps of one series.
    """
    sample = data.select(
        np.unique(np.linspace(0, len(data) - 1, min(len(data), 1000)).astype(np.int64))
    ).x
    values = np.asarray(sample, dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    if np.isnan(values).all(axis=0).any():
        return True
    mean = np.nanmean(values, axis=0)
    std = np.nanstd(values, axis=0)
    usual = float(np.median(std[std > 0])) if (std > 0).any() else 1.0
    return bool(std.max() > 10 * max(usual, 1e-300) or np.ptp(mean) > 10 * usual)


def _spatial(shape: Shape, axes: str) -> Shape:
    return tuple(size for size, axis in zip(shape, axes, strict=True) if axis != "C")


def _size(
    data: UserData, axes: str, found: Survey, options: Options, notes: Notes
) -> Shape | None:
    """Return the spatial size to pad or resize samples to; None if samples keep their
    own size.
    """
    sizes = np.array([_spatial(shape, axes) for shape in found.shapes])
    least = sizes.min(axis=0)
    most = sizes.max(axis=0)
    unequal = bool((least != most).any())
    if sizes.shape[1] == 1:
        if not (unequal or options.size):
            return None
        length = options.size or min(int(most[0]), MOST_STEPS)
        why = (
            f"lengths are {least[0]} to {most[0]}; shorter series are padded with the"
            " mean, longer ones cut"
        )
        notes.find("length", length, why, "size, mask")
        return (length,)
    large = data.kind_hint == "images" and most.max() > MOST_SIDE
    if not (unequal or large or options.size):
        return None
    usual = float(
        np.average(np.sqrt(sizes.prod(axis=1)), weights=list(found.shapes.values()))
    )
    side = options.size or int(min(MOST_SIDE, max(16, round(usual))))
    why = f"images are {least[0]}×{least[1]} to {most[0]}×{most[1]}; all are resized"
    notes.find("image size", f"{side}×{side}", why, "size")
    return side, side


def fit_audio(
    data: UserData, train: Indices, found: Survey, options: Options, notes: Notes
) -> AudioInputs:
    """Return the encoder of recordings; it standardises by the spectrograms of up to
    128 recordings of ``train``.
    """
    assert data.rate is not None
    lengths = np.array([shape[0] for shape in found.shapes]) / data.rate
    seconds = options.seconds or min(float(lengths.max()), MOST_SECONDS)
    why = (
        f"recordings are {lengths.min():.2f} to {lengths.max():.2f} s; shorter ones get"
        " silence, longer ones are cut"
    )
    notes.find("length", f"{seconds:.3g} s", why, "seconds")
    notes.find("sampling rate", f"{data.rate:g} Hz", "most files have it", "rate")
    notes.find(
        "inputs",
        f"log-mel spectrograms of {NUM_MELS} bands, 100 frames a second",
        "recordings",
    )
    plain = AudioInputs(
        rate=data.rate,
        num_samples=max(1, round(seconds * data.rate)),
        num_mels=NUM_MELS,
    )
    chosen = data.select(
        train[np.linspace(0, len(train) - 1, min(128, len(train))).astype(np.int64)]
    )
    mean, std = splits.statistics(plain.encode(chosen, lambda _: None))
    return plain.model_copy(
        update={"mean": float(mean.item()), "std": float(std.item())}
    )
