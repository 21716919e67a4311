"""Inputs from arrays: series, images, vectors and recordings.

Letters of axes: C channels, L steps, H rows, W columns, F features. An encoded sample
is [C, L] or [C, H, W].
"""

from dataclasses import replace
from typing import Literal, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, model_validator

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import LazySamples, UserData, Warn
from orca_ray.tasks.arrays import log_mel

_PIXEL = 255.0
"""Largest value of a pixel."""
STRONG_SHIFT = 20.0
"""Ratio of the largest value to that of training above which units seem to differ."""


class ArrayInputs(BaseModel):
    """Encoder of arrays.

    It orders the axes, pads or resizes, fills in missing values, and standardises.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["array"] = "array"
    axes: str
    """Axes of one sample in the user's data, such as "LC" or "HW"."""
    given: tuple[int, ...] | None
    """Shape of one sample in the user's data.

    None: shapes differ, so series are padded or cut, and images resized.
    """
    shape: tuple[int, ...]
    """Shape of an encoded sample: (C, L) or (C, H, W)."""
    mask: bool = False
    """Whether the last channel is 1 where a step was given and 0 where it was padded.
    """
    per_feature: bool = False
    """Whether mean and deviation belong to each position of a vector.

    Otherwise they belong to each channel.
    """
    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]
    largest: float
    """Largest absolute value of the training samples."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Raise ValueError if the numbers of statistics do not fit the shape."""
        is_sample = len(self.shape) in (2, 3) and min(self.shape) > 0
        width = self.shape[1] if self.per_feature else self.num_channels
        if not is_sample or {len(self.mean), len(self.std)} != {width}:
            raise ValueError(
                f"shape {self.shape} needs {width} means and deviations, got"
                f" {len(self.mean)}"
            )
        return self

    @property
    def num_channels(self) -> int:
        """Number of channels of the samples, without the mask."""
        return self.shape[0] - int(self.mask)

    def encode(self, data: UserData, warn: Warn) -> Array:
        """Return the encoded samples, float32 [N, *shape].

        Padded steps and missing values become 0, the mean. Raises UserError for a
        sample of another shape, which the message names, and for values of another
        scale. Calls ``warn`` for series that are cut, and for values far from those of
        training.
        """
        if self.mask:  # the lengths are needed too
            data = replace(data, x=samples_of(data)[:])
        raw = self.raw(data, warn)
        self._check_scale(raw, data, warn)
        # Shape in which the statistics of features or channels broadcast over samples.
        shape = (1, 1, -1) if self.per_feature else (1, -1, *[1] * (raw.ndim - 2))
        mean = np.array(self.mean, dtype=np.float32).reshape(shape)
        std = np.array(self.std, dtype=np.float32).reshape(shape)
        with np.errstate(over="ignore"):
            scaled = (raw - mean) / std
        x: Array = np.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0)
        if not self.mask:
            return x
        step_axis = self.axes.index("L")
        lengths = np.array([np.shape(sample)[step_axis] for sample in samples_of(data)])
        is_step = (np.arange(self.shape[1]) < lengths[:, None])[:, None]
        return np.concatenate([x, is_step.astype(np.float32)], axis=1)

    @np.errstate(
        over="ignore", invalid="ignore"
    )  # values too large for float32 count as missing
    def raw(self, data: UserData, warn: Warn) -> Array:
        """Return the samples padded or resized, but not standardised, float32.

        Padded and missing values are NaN.
        """
        samples = samples_of(data)
        if (
            isinstance(samples, np.ndarray)
            and samples.shape[1:] == self.given
            and samples.dtype.kind in "biuf"
        ):
            ordered = channels_first(samples, self.axes, batch=True)
            raw = np.array(ordered, dtype=np.float32)
        else:
            shape = (len(samples), self.num_channels, *self.shape[1:])
            raw = np.full(shape, np.nan, dtype=np.float32)
            for row, sample in enumerate(samples):
                self._place(raw[row], np.asarray(sample), data, row, warn)
        raw[~np.isfinite(raw)] = np.nan
        return raw

    def _place(
        self, into: Array, sample: Array, data: UserData, row: int, warn: Warn
    ) -> None:
        """Write a sample into ``into`` [C, ...], padded, cut or resized."""
        self._check_shape(sample, data.place(row))
        ordered = channels_first(sample, self.axes)
        if len(ordered) != self.num_channels:
            raise UserError(
                f"{data.place(row)}: expected {self.num_channels} channels, found"
                f" {len(ordered)}"
            )
        if len(self.shape) == 3:
            into[:] = resize(ordered, self.shape[1:])
            return
        num_steps = ordered.shape[1]
        most_steps = self.shape[1]
        if num_steps > most_steps:
            warn(
                f"{data.place(row)}: {num_steps} steps are cut to {most_steps}, the"
                " longest of training"
            )
            num_steps = most_steps
        into[:, :num_steps] = ordered[:, :num_steps]

    def _check_shape(self, sample: Array, where: str) -> None:
        """Raise UserError for a sample of another shape or type than in training."""
        if self.given is not None and sample.shape != self.given:
            message = (
                f"{where}: expected shape {list(self.given)} (axes {self.axes}), found"
                f" {list(sample.shape)}"
            )
            if sorted(sample.shape) == sorted(self.given):
                message += "; the order of the axes seems to differ"
            raise UserError(message)
        if sample.ndim != len(self.axes) or sample.dtype.kind not in "biuf":
            raise UserError(
                f"{where}: expected numbers with axes {self.axes}, found"
                f" {sample.dtype} of shape {list(sample.shape)}"
            )

    def _check_scale(self, raw: Array, data: UserData, warn: Warn) -> None:
        """Raise UserError for pixels of another scale than in training.

        For other values of another scale, ``warn`` is called.
        """
        largest = 0.0
        if np.isfinite(raw).any():
            largest = float(np.nanmax(np.abs(raw), initial=0.0))
        is_image = len(self.shape) == 3
        # Pixels up to 1 in one data set and up to hundreds in the other are an error.
        problem = f"{data.source}: values up to {largest:g}, in training up to"
        if is_image and 100 < self.largest <= _PIXEL and 0 < largest <= 1:
            raise UserError(f"{problem} {self.largest:g}; multiply by 255")
        if is_image and 0 < self.largest <= 1 and 100 < largest <= _PIXEL:
            raise UserError(f"{problem} {self.largest:g}; divide by 255")
        is_larger = largest > STRONG_SHIFT * self.largest
        is_smaller = 0 < largest < self.largest / STRONG_SHIFT**2
        if is_larger or is_smaller:
            scale = f"values up to {largest:.3g}, in training up to {self.largest:.3g}"
            warn(f"{data.source}: {scale}; are they in other units?")


class AudioInputs(BaseModel):
    """Encoder of recordings as standardised log-mel spectrograms [1, mels, frames].

    There is one frame each 10 ms.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["audio"] = "audio"
    rate: PositiveFloat
    """Sampling rate in Hz."""
    num_samples: PositiveInt
    """Length in samples.

    Shorter recordings are padded with silence, and the middle of longer ones is kept.
    """
    num_mels: PositiveInt
    mean: float = 0.0
    std: PositiveFloat = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an encoded recording."""
        return 1, self.num_mels, 1 + self.num_samples // int(self.rate * 0.01)

    def encode(self, data: UserData, warn: Warn) -> Array:
        """Return spectrograms float32 [N, 1, mels, frames].

        Raises UserError for another sampling rate or several channels.
        """
        if data.rate != self.rate:
            shown_rate = "an unknown one" if data.rate is None else f"{data.rate:g} Hz"
            raise UserError(
                f"{data.source}: expected the sampling rate {self.rate:g} Hz, found"
                f" {shown_rate}; resample"
            )
        spectrograms = np.stack(
            [
                self._spectrogram(np.asarray(waveform), data.place(row))
                for row, waveform in enumerate(samples_of(data))
            ]
        )
        return ((spectrograms - self.mean) / self.std).astype(np.float32)[:, None]

    def _spectrogram(self, waveform: Array, where: str) -> Array:
        """Return the log-mel spectrogram [mels, frames] of a recording's middle."""
        if waveform.ndim != 1 or not len(waveform):
            raise UserError(
                f"{where}: expected one channel of samples, found shape"
                f" {list(waveform.shape)}"
            )
        start = max(0, len(waveform) - self.num_samples) // 2
        cut = waveform[start : start + self.num_samples].astype(np.float32)
        padded = np.pad(cut, (0, self.num_samples - len(cut)))
        # Fourier transforms span at least 60 ms, rounded up to a power of 2.
        window = max(1, int(self.rate * 0.03))
        num_points = 2 ** int(np.ceil(np.log2(2 * window)))
        return log_mel(
            padded, sample_rate=int(self.rate), n_mels=self.num_mels, n_fft=num_points
        )


def samples_of(data: UserData) -> Array | list[Array] | LazySamples:
    """Return the samples, which may be unread; raises UserError for a table."""
    if hasattr(data.x, "columns"):
        raise UserError(f"{data.source}: expected arrays, found a table")
    return data.x if isinstance(data.x, np.ndarray | list | LazySamples) else data.x[:]


def channels_first(sample: Array, axes: str, *, batch: bool = False) -> Array:
    """Return a sample with axes in the order C, L or C, H, W.

    A missing C is added. ``batch``: ``sample`` is an array of samples.
    """
    num_batch_axes = 1 if batch else 0
    if "C" not in axes:
        return np.expand_dims(sample, num_batch_axes)
    spatial = [place for place, axis in enumerate(axes) if axis != "C"]
    order = [axes.index("C"), *spatial]
    places = [place + num_batch_axes for place in order]
    return sample.transpose(*range(num_batch_axes), *places)


def resize(image: Array, size: tuple[int, ...]) -> Array:
    """Return an image [C, H, W] resized to ``size`` (H, W), float32.

    Resizing is bilinear and antialiased.
    """
    if image.shape[1:] == size:
        return image
    height, width = size
    planes = []
    for plane in image:
        whole = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
        small = whole.resize((width, height), Image.Resampling.BILINEAR)
        planes.append(np.asarray(small))
    return np.stack(planes)
