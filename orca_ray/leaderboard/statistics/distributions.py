"""Distribution functions that the statistics need, in closed form, so that the board needs no SciPy."""

import math
from functools import cache
from statistics import NormalDist

NORMAL = NormalDist()


def student_tail(t: float, freedom: int) -> float:
    """Return P(|T| > t) of Student's distribution with a whole number of degrees of freedom, for t >= 0.

    The finite series is that of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if math.isinf(t):
        return 0.0
    angle = math.atan2(t, math.sqrt(freedom))
    cosine = math.cos(angle) ** 2
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * (k - 1) / k
        total += term
    total *= math.sin(angle)
    if odd:
        total = 2 / math.pi * (angle + (total if freedom > 1 else 0.0))
    return max(1 - total, 0.0)


@cache
def student_quantile(level: float, freedom: int) -> float:
    """Return t with P(|T| > t) = ``level``, by bisection."""
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, freedom) > level else (low, middle)
    return high


def chi_square_tail(x: float, freedom: int) -> float:
    """Return P(X > x) of the chi-square distribution with a whole number of degrees of freedom.

    The finite series is that of Abramowitz and Stegun, 26.4.4 and 26.4.5.
    """
    half = x / 2
    if half <= 0:
        return 1.0
    shape = 0.5 if freedom % 2 else 1.0
    tail = math.erfc(math.sqrt(half)) if freedom % 2 else math.exp(-half)
    while shape < freedom / 2:
        tail += math.exp(shape * math.log(half) - half - math.lgamma(shape + 1))
        shape += 1
    return tail
