"""A suggestion of hyper-parameters."""

from collections.abc import Mapping
from typing import NamedTuple

from orca_ray.sweep.planning.schema import Scalar


class Candidate(NamedTuple):
    """A suggestion: its number in the search, from 0, and the values of the searched hyper-parameters."""

    number: int
    values: Mapping[str, Scalar]
    known: str | None = None
    """Which answers were known when it was suggested; see `Suggestion.known`."""
