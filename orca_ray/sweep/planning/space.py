"""Search spaces of sweep files: a range or a list of choices for each searched hyper-parameter."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Scalar = int | float | str | bool


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"the range {list(bounds)} is empty: give [low, high] with low < high")
    if not math.isfinite(bounds[1] - bounds[0]):
        raise ValueError(f"the range {list(bounds)} is too wide: give bounds closer to zero")
    return bounds


def _positive(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] <= 0:
        raise ValueError(f"a log_uniform range must be positive, got {list(bounds)}")
    return bounds


Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]


class Dimension(BaseModel):
    """The values that a searched hyper-parameter may take; exactly one of the four fields is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    log_uniform: Annotated[Bounds, AfterValidator(_positive)] | None = None
    uniform: Bounds | None = None
    integer: tuple[int, int] | None = None
    choice: Annotated[list[Scalar], Field(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of log_uniform: [low, high], uniform: [low, high], integer: [low, high], "
                f"choice: [a, b, ...]; got {', '.join(given) or 'none'}"
            )
        if self.integer is not None and self.integer[0] > self.integer[1]:
            raise ValueError(f"the range {list(self.integer)} is empty: give [low, high] with low <= high")
        return self

    def distribution(self) -> Any:
        """Return the dimension as an Optuna distribution."""
        from optuna import distributions

        if self.integer is not None:
            return distributions.IntDistribution(*self.integer)
        if self.choice is not None:
            return distributions.CategoricalDistribution(self.choice)
        bounds = self.bounds()
        return distributions.FloatDistribution(*bounds, log=self.log_uniform is not None)

    def bounds(self) -> tuple[float, float]:
        """Return the lowest and highest value of a range; a ``choice`` has none, and fails an assertion."""
        bounds = self.log_uniform or self.uniform or self.integer
        assert bounds is not None, "a choice has no bounds"
        return bounds

    def corners(self) -> Sequence[Scalar]:
        """Return all choices, or the lowest and highest value of a range."""
        return self.choice or self.bounds()

    def contains(self, value: Scalar) -> bool:
        """Return whether ``value`` is one of the choices, or a number in the range (ends included)."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.bounds()
        return isinstance(value, (int, float)) and low <= value <= high

    def describe(self) -> str:
        """Return the dimension as text for error messages, e.g. "uniform [0.0, 0.5]"."""
        [(kind, value)] = self.model_dump(exclude_none=True).items()
        return f"{kind} {list(value)}"


def tidy(value: Scalar) -> Scalar:
    """Round a float to four significant digits, because trial keys hash it and must be equal on every machine."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
