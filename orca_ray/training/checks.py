"""Range checks for the configuration dataclasses: a UserError names the option, its value and the range."""

import math
from collections.abc import Iterable

from orca_ray.errors import UserError, unknown_name


def at_least(option: str, value: float, minimum: float) -> None:
    """Refuse a value below ``minimum``, NaN or infinite."""
    if not minimum <= value < math.inf:
        raise UserError(f"{option} must be at least {minimum:g} and finite, got {value!r}")


def at_most(option: str, value: float, maximum: float) -> None:
    """Refuse a value above ``maximum``."""
    if not value <= maximum:
        raise UserError(f"{option} must be at most {maximum:g}, got {value!r}")


def above(option: str, value: float, bound: float) -> None:
    """Refuse a value that is not greater than ``bound``, NaN or infinite."""
    if not bound < value < math.inf:
        raise UserError(f"{option} must be greater than {bound:g} and finite, got {value!r}")


def fraction(option: str, value: float) -> None:
    """Refuse a value outside [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise UserError(f"{option} must be in [0, 1), got {value!r}")


def one_of(option: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a name that is not among ``allowed``, with the nearest one."""
    names = list(allowed)
    if value not in names:
        raise unknown_name(option, value, names)
