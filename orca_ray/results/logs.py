"""Rows of the table of logs: what the worker of a trial logged, with the traceback of a failure."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, ClassVar

from orca_ray.results.record import schema_of

MAX_BYTES = 64 * 2**10
"""Largest size of the text that is stored for one run of a trial; the end of a longer log is kept."""


@dataclass(frozen=True)
class LogRow:
    """A part of the log of a trial; the texts of a trial's rows, in the order of ``written_at``, are its log."""

    sweep: str
    trial_key: str
    attempt: int
    written_at: datetime
    text: str

    SCHEMA: ClassVar[Any]

    def to_row(self) -> dict[str, Any]:
        """Return the row by column name; lone surrogates, which Parquet cannot encode, are replaced."""
        return {**asdict(self), "text": self.text.encode("utf-8", "replace").decode("utf-8")}


LogRow.SCHEMA = schema_of(LogRow)
