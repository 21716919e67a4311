"""Inputs from arrays: series, images and vectors of equal or unequal sizes, and
recordings.

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
STRONG_SHIFT = 20.0


class ArrayInputs(BaseModel):
    """Encoder of arrays: orders the axes, pads or resizes, fills in missing values, and
    standardises.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["array"] = "array"
    axes: str
    """Axes of one sample in the user's data, such as "LC" or "HW"."""
    given: tuple[int, ...] | None
    """Shape of one sample in the user's data; None: shapes differ, so series are padded
    or cut, and images resized.
    """
    shape: tuple[int, ...]
    """Shape of an encoded sample: (C, L) or (C, H, W)."""
    mask: bool = False
    """Whether the last channel is 1 where a step was given and 0 where it was padded.
    """
    per_feature: bool = False
    """Whether mean and deviation belong to each position of a vector, and not to each
    channel.
    """
    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]
    largest: float
    """Largest absolute value of the training samples."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wanted = self.shape[1] if self.per_feature else self.num_channels
        if (
            len(self.shape) not in (2, 3)
            or min(self.shape) < 1
            or {len(self.mean), len(self.std)} != {wanted}
        ):
            raise ValueError(
                f"shape {self.shape} needs {wanted} means and deviations, got"
                f" {len(self.mean)}"
            )
        return self

    @property
    def num_channels(self) -> int:
        """Number of channels of the samples, without the mask."""
        return self.shape[0] - self.mask

    def encode(self, data: UserData, warn: Warn) -> Array:
        """Return the encoded samples, float32 [N, *shape]. Padded steps and missing
        values become 0, the mean.

        Raises UserError for a sample of another shape, which the message names, and for
        values of another scale. Calls ``warn`` for series that are cut, and for values
        far from those of training.
        """
        if self.mask:  # the lengths are needed too
            data = replace(data, x=samples_of(data)[:])
        raw = self.raw(data, warn)
        self._check_scale(raw, data, warn)
        mean, std = (np.array(each, dtype=np.float32) for each in (self.mean, self.std))
        form = (1, 1, -1) if self.per_feature else (1, -1, *[1] * (raw.ndim - 2))
        with np.errstate(over="ignore"):
            scaled = (raw - mean.reshape(form)) / std.reshape(form)
        x: Array = np.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0)
        if not self.mask:
            return x
        lengths = np.array(
            [np.shape(sample)[self.axes.index("L")] for sample in samples_of(data)]
        )
        given = (np.arange(self.shape[1]) < lengths[:, None])[:, None]
        return np.concatenate([x, given.astype(np.float32)], axis=1)

    @np.errstate(
        over="ignore", invalid="ignore"
    )  # values too large for float32 count as missing
    def raw(self, data: UserData, warn: Warn) -> Array:
        """Return the samples padded or resized, but not standardised, float32; padded
        and missing values are NaN.
        """
        samples = samples_of(data)
        if (
            isinstance(samples, np.ndarray)
            and samples.shape[1:] == self.given
            and samples.dtype.kind in "biuf"
        ):
            raw = np.array(
                channels_first(samples, self.axes, batch=True), dtype=np.float32
            )
        else:
            raw = np.full(
                (len(samples), self.num_channels, *self.shape[1:]),
                np.nan,
                dtype=np.float32,
            )
            for row, sample in enumerate(samples):
                self._place(raw[row], np.asarray(sample), data, row, warn)
        raw[~np.isfinite(raw)] = np.nan
        return raw

    def _place(
        self, into: Array, sample: Array, data: UserData, row: int, warn: Warn
    ) -> None:
        if self.given is not None and sample.shape != self.given:
            swapped = "; the order of the axes seems to differ" * (
                sorted(sample.shape) == sorted(self.given)
            )
            expected = f"expected shape {list(self.given)} (axes {self.axes})"
            raise UserError(
                f"{data.place(row)}: {expected}, found {list(sample.shape)}{swapped}"
            )
        if sample.ndim != len(self.axes) or sample.dtype.kind not in "biuf":
            expected = f"expected numbers with axes {self.axes}"
            raise UserError(
                f"{data.place(row)}: {expected}, found {sample.dtype} of shape"
                f" {list(sample.shape)}"
            )
        first = channels_first(sample, self.axes)
        if len(first) != self.num_channels:
            raise UserError(
                f"{data.place(row)}: expected {self.num_channels} channels, found"
                f" {len(first)}"
            )
        if len(self.shape) == 3:
            into[:] = resized(first, self.shape[1:])
            return
        if first.shape[1] > self.shape[1]:
            warn(
                f"{data.place(row)}: {first.shape[1]} steps are cut to {self.shape[1]},"
                " the longest of training"
            )
        steps = min(first.shape[1], self.shape[1])
        into[:, :steps] = first[:, :steps]

    def _check_scale(self, raw: Array, data: UserData, warn: Warn) -> None:
        found = (
            float(np.nanmax(np.abs(raw), initial=0.0))
            if np.isfinite(raw).any()
            else 0.0
        )
        pixels = 1.5 < self.largest <= _PIXEL and len(self.shape) == 3
        if pixels and self.largest > 100 and 0 < found <= 1:
            raise UserError(
                f"{data.source}: values up to {found:g}, in training up to"
                f" {self.largest:g}; multiply by 255"
            )
        if 0 < self.largest <= 1 and len(self.shape) == 3 and 100 < found <= _PIXEL:
            raise UserError(
                f"{data.source}: values up to {found:g}, in training up to"
                f" {self.largest:g}; divide by 255"
            )
        if (
            found > STRONG_SHIFT * self.largest
            or 0 < found < self.largest / STRONG_SHIFT**2
        ):
            scale = f"values up to {found:.3g}, in training up to {self.largest:.3g}"
            warn(f"{data.source}: {scale}; are they in other units?")


class AudioInputs(BaseModel):
    """Encoder of recordings as log-mel spectrograms [1, mels, frames], one frame each
    10 ms, standardised.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["audio"] = "audio"
    rate: PositiveFloat
    """Sampling rate in Hz."""
    num_samples: PositiveInt
    """Length in samples: shorter recordings are padded with silence, and the middle of
    longer ones is kept.
    """
    num_mels: PositiveInt
    mean: float = 0.0
    std: PositiveFloat = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an encoded recording."""
        return 1, self.num_mels, 1 + self.num_samples // int(self.rate * 0.01)

    def encode(self, data: UserData, warn: Warn) -> Array:
        """Return spectrograms float32 [N, 1, mels, frames]; UserError for another
        sampling rate or several channels.
        """
        if data.rate != self.rate:
            found = "an unknown one" if data.rate is None else f"{data.rate:g} Hz"
            raise UserError(
                f"{data.source}: expected the sampling rate {self.rate:g} Hz, found"
                f" {found}; resample"
            )
        parts = [
            self._spectrogram(np.asarray(each), data.place(row))
            for row, each in enumerate(samples_of(data))
        ]
        return ((np.stack(parts) - self.mean) / self.std).astype(np.float32)[:, None]

    def _spectrogram(self, waveform: Array, where: str) -> Array:
        if waveform.ndim != 1 or not len(waveform):
            raise UserError(
                f"{where}: expected one channel of samples, found shape"
                f" {list(waveform.shape)}"
            )
        surplus = len(waveform) - self.num_samples
        cut = waveform[max(0, surplus) // 2 :][: self.num_samples].astype(np.float32)
        padded = np.pad(cut, (0, self.num_samples - len(cut)))
        points = 2 ** int(np.ceil(np.log2(2 * max(1, int(self.rate * 0.03)))))
        return log_mel(
            padded, sample_rate=int(self.rate), n_mels=self.num_mels, n_fft=points
        )


def samples_of(data: UserData) -> Array | list[Array] | LazySamples:
    """Return the samples, which may be unread; raises UserError for a table."""
    if hasattr(data.x, "columns"):
        raise UserError(f"{data.source}: expected arrays, found a table")
    return data.x if isinstance(data.x, np.ndarray | list | LazySamples) else data.x[:]


def channels_first(sample: Array, axes: str, *, batch: bool = False) -> Array:
    """Return a sample (``batch``: an array of samples) with axes in the order C, L or
    C, H, W; a missing C is added.
    """
    offset = int(batch)
    if "C" not in axes:
        return np.expand_dims(sample, offset)
    order = [
        axes.index("C"),
        *(place for place, axis in enumerate(axes) if axis != "C"),
    ]
    return sample.transpose(*range(offset), *(place + offset for place in order))


def resized(image: Array, size: tuple[int, ...]) -> Array:
    """Return an image [C, H, W] resized to ``size`` (H, W), float32, bilinear and
    antialiased.
    """
    if image.shape[1:] == size:
        return image
    height, width = size
    planes = [
        Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
        for plane in image
    ]
    return np.stack(
        [
            np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
            for plane in planes
        ]
    )
