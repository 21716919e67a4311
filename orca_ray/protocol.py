"""The names of the protocols, apart from all that is heavy: the command line lists them in its help."""

from enum import StrEnum


class Protocol(StrEnum):
    """What selection may see; `orca_ray.data.protocol` says what each means for the splits."""

    HELD_OUT = "held-out"
    PAPER = "paper"
