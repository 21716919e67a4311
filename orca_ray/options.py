"""Enumerations of option values, and `Config`, the base class of checked options.

The module imports nothing heavy, so that ``orca-sweep --help`` can list the names.
"""

import math
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Literal, get_type_hints

from orca_ray.errors import UserError, unknown_name

Seen = Literal["no", "unknown", "known"]
"""Whether pretraining saw the data of a task, in increasing order."""


class Protocol(StrEnum):
    """Split that selects epochs and hyper-parameters.

    It is validation (``held-out``) or, as in ORCA, test (``paper``).
    """

    HELD_OUT = "held-out"
    PAPER = "paper"


class KeepModels(StrEnum):
    """Models of confirm trials to keep in the results store: none, all, or the best.

    The best is one model for each task. The default is none: a benchmark of ten tasks
    and sixteen methods would leave hundreds of models of up to 350 MB.
    """

    NONE = "none"
    BEST = "best"
    ALL = "all"


class ExportFormat(StrEnum):
    """Format of an exported network."""

    ONNX = "onnx"
    TORCH = "torch"


def must(text: str, holds: Callable[[float], bool], option: str, value: float) -> None:
    """Raise UserError unless ``holds(value)`` is true: ``option`` must be ``text``.

    Bind ``text`` and ``holds`` by `functools.partial` to use it as a rule in the
    annotation of an option of a `Config`.
    """
    if not holds(value):
        raise UserError(f"{option} must be {text}, got {value!r}")


def one_of(
    names: Callable[[], Iterable[str]] | Iterable[str], option: str, value: str
) -> None:
    """Raise UserError if the ``value`` of ``option`` is not one of ``names``.

    A function ``names`` is called to get the names. Bind ``names`` by
    `functools.partial` to use `one_of` as a rule in the annotation of an option of a
    `Config`.
    """
    allowed = list(names() if callable(names) else names)
    if value not in allowed:
        raise unknown_name(option, value, allowed)


def section_name(config: type[Any]) -> str:
    """Return the section that a `Config` describes: ``refine`` for `RefineConfig`."""
    return config.__name__.removesuffix("Config").lower()


class Config:
    """Base class of a section of options.

    A subclass is a frozen dataclass. The annotation of an option holds rules for the
    option's value.
    """

    def __post_init__(self) -> None:
        """Check each option by the rules in its annotation, which raise UserError."""
        section = section_name(type(self))
        annotations = get_type_hints(type(self), include_extras=True)
        for option, annotated in annotations.items():
            for rule in annotated.__metadata__:
                rule(f"{section}.{option}", getattr(self, option))


_at_least_0 = partial(
    must, "at least 0 and finite", lambda value: 0 <= value < math.inf
)
_at_least_1 = partial(
    must, "at least 1 and finite", lambda value: 1 <= value < math.inf
)
at_least_2 = partial(must, "at least 2 and finite", lambda value: 2 <= value < math.inf)
_above_0 = partial(
    must, "greater than 0 and finite", lambda value: 0 < value < math.inf
)

Count = Annotated[int, _at_least_0]
"""Integer of at least 0."""
Number = Annotated[int, _at_least_1]
"""Integer of at least 1."""
Amount = Annotated[float, _at_least_0]
"""Finite number of at least 0."""
Positive = Annotated[float, _above_0]
"""Finite number above 0."""
Fraction = Annotated[float, partial(must, "in [0, 1)", lambda value: 0 <= value < 1)]
"""Number in [0, 1)."""
Share = Annotated[float, partial(must, "in (0, 1]", lambda value: 0 < value <= 1)]
"""Number in (0, 1]."""
