"""Names of protocols, kept models and export formats. It imports nothing heavy, so that ``--help`` can list them."""

from enum import StrEnum


class Protocol(StrEnum):
    """Which split selects epochs and hyper-parameters: validation (``held-out``) or, as in ORCA, test (``paper``)."""

    HELD_OUT = "held-out"
    PAPER = "paper"


class KeepModels(StrEnum):
    """Which models of confirm trials stay in the results store: none, all, or the best of each task.

    The default is none: a benchmark of ten tasks and sixteen methods would leave hundreds of models of up to 350 MB.
    """

    NONE = "none"
    BEST = "best"
    ALL = "all"


class ExportFormat(StrEnum):
    """Formats of exported networks."""

    ONNX = "onnx"
    TORCH = "torch"
