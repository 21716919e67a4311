"""Published results of the benchmarks, and the rule by which they stand beside own scores."""

from orca_ray.leaderboard.published.comparison import compare, own_row, published_for, reason_apart
from orca_ray.leaderboard.published.rows import KINDS, PROTOCOLS, PublishedRow, all_published, published_rows, sources
from orca_ray.leaderboard.published.tables import OWN, Column, Published, PublishedTable

__all__ = [
    "KINDS",
    "OWN",
    "PROTOCOLS",
    "Column",
    "Published",
    "PublishedRow",
    "PublishedTable",
    "all_published",
    "compare",
    "own_row",
    "published_for",
    "published_rows",
    "reason_apart",
    "sources",
]
