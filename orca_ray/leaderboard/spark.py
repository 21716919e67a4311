"""Learning curves as one line of text."""

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
LENGTH = 12
"""Largest number of characters of a curve."""


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """Return values as characters from ``▁`` (``low``) to ``█`` (``high``); NaN is a space.

    Of more than `LENGTH` values, as many are drawn, evenly spaced, with the first and the last one.
    """
    if len(values) > LENGTH:
        values = [values[round(i * (len(values) - 1) / (LENGTH - 1))] for i in range(LENGTH)]
    return "".join(" " if math.isnan(value) else BLOCKS[_level(value, low, high)] for value in values)


def _level(value: float, low: float, high: float) -> int:
    share = (value - low) / (high - low) if high > low else 0.0
    return min(int(share * len(BLOCKS)), len(BLOCKS) - 1)
