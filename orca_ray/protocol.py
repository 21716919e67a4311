"""Names of the protocols, in a module that imports nothing heavy, so that ``--help`` can list them."""

from enum import StrEnum


class Protocol(StrEnum):
    """Which splits selection may read; `orca_ray.data.protocol` defines the splits of each protocol."""

    HELD_OUT = "held-out"
    PAPER = "paper"
