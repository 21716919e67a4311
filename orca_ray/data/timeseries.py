"""Reader of ``.ts`` text files of the UCR and UEA time series archives (with class labels, without time stamps)."""

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.errors import UserError


def parse_ts(text: str, name: str) -> tuple[list[Array], list[str]]:
    """Return the series, float64 [channels, length], and their class labels; lengths may differ between series.

    Each line after ``@data`` is one series: ``:`` separates channels, ``,`` separates values, and the last field is the
    label. Raises :class:`UserError`, naming the file ``name`` and the line, if there is no ``@data`` line or no series,
    a value is not a finite number, channels of a series differ in length, or series differ in number of channels.
    """
    lines = text.splitlines()
    starts = [index for index, line in enumerate(lines) if line.strip().lower() == "@data"]
    if not starts:
        raise UserError(f"{name}: no @data line; this is not a .ts file, or only the beginning of one")
    series: list[Array] = []
    labels: list[str] = []
    for number, line in enumerate(lines[starts[0] + 1 :], start=starts[0] + 2):
        if line.strip():
            *channels, label = line.strip().split(":")
            try:
                series.append(_channels(channels, series[0].shape[0] if series else None))
            except ValueError as error:
                raise UserError(f"{name}, line {number}: {error}") from error
            labels.append(label.strip())
    if not series:
        raise UserError(f"{name}: no series after @data")
    return series, labels


def pad(series: list[Array], length: int) -> Array:
    """Stack N series [channels, length_i] into [N, channels, length], padded with NaN; UserError if one is longer."""
    longest = max(each.shape[1] for each in series)
    if longest > length:
        raise UserError(f"a series of length {longest} does not fit into {length}")
    padded = np.full((len(series), series[0].shape[0], length), np.nan)
    for row, each in zip(padded, series, strict=True):
        row[:, : each.shape[1]] = each
    return padded


def _channels(fields: list[str], expected: int | None) -> Array:
    if not fields:
        raise ValueError("no values before the class label")
    if expected is not None and len(fields) != expected:
        raise ValueError(f"{len(fields)} channels where the first series has {expected}")
    rows = [[float(value) for value in field.split(",")] for field in fields]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"channels of different lengths: {sorted({len(row) for row in rows})}")
    values = np.array(rows, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    return values
