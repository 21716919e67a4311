"""Names of the evaluation protocols. The module imports nothing heavy, so that ``--help`` can list them."""

from enum import StrEnum


class Protocol(StrEnum):
    """Which split selects epochs and hyper-parameters: validation (``held-out``) or, as in ORCA, test (``paper``)."""

    HELD_OUT = "held-out"
    PAPER = "paper"
