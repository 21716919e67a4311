"""Published results, and the rule by which they stand beside own scores."""

from orca_ray.leaderboard.published.comparison import published_for
from orca_ray.leaderboard.published.tables import (
    KINDS,
    OWN,
    Published,
    PublishedRow,
    PublishedTable,
)

__all__ = [
    "KINDS",
    "OWN",
    "Published",
    "PublishedRow",
    "PublishedTable",
    "published_for",
]
