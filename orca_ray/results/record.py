"""Rows of the results store.

A `Record` stands for an ended trial, a `CurvePoint` for an epoch, a `SuggestionRow` for
an entry of a search's journal.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, TypeVar, get_args

import pyarrow as pa

from orca_ray.options import Protocol


class Status(StrEnum):
    """Status of an ended trial.

    A trial that is ``completed`` or ``stopped_early`` (by early stopping) has scores.
    The other statuses say how a trial failed:

    - ``failed_user``: by bad data or a bad configuration.
    - ``failed_oom``: it ran out of memory.
    - ``failed_nan``: by a value that is not finite.
    - ``failed_code``: by another exception, whose traceback is in ``error``.
    - ``lost``: its worker or node disappeared.
    - ``timed_out``: it took longer than its limit, or stopped reporting.
    - ``cancelled``: a user ended it.
    """

    COMPLETED = "completed"
    STOPPED_EARLY = "stopped_early"
    FAILED_USER = "failed_user"
    FAILED_OOM = "failed_oom"
    FAILED_NAN = "failed_nan"
    FAILED_CODE = "failed_code"
    LOST = "lost"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"

    @property
    def failed(self) -> bool:
        """Whether the trial has no usable score.

        Lost trials always run again; trials that failed otherwise, only with
        ``--retry-failed``.
        """
        return self not in (Status.COMPLETED, Status.STOPPED_EARLY)


def lower(score: float | None, other: float | None) -> float | None:
    """Return the lower (better) of two scores; None and NaN count as no score."""
    scores = [
        value for value in (score, other) if value is not None and not math.isnan(value)
    ]
    return min(scores, default=None)


PHASES = ("search", "confirm")
"""Phases of a sweep that a trial may belong to."""
PROTOCOLS = tuple(protocol.value for protocol in Protocol)
"""Names of the protocols."""

_COLUMN_TYPES: dict[type, Any] = {
    str: pa.string(),
    Status: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", tz="UTC"),
}
"""Arrow type of a column, by the type of the field."""


class StoredRow:
    """Base class of the rows of the store's tables, which are dataclasses."""

    SCHEMA: ClassVar[Any]
    """Arrow schema of the Parquet files: one column per field, in order."""

    def to_row(self) -> dict[str, Any]:
        """Return the fields by column name.

        Lone surrogates, which Parquet cannot encode, are replaced in texts.
        """
        texts = {
            name: value.encode("utf-8", "replace").decode()
            for name, value in vars(self).items()
            if isinstance(value, str)
        }
        return vars(self) | texts


_Row = TypeVar("_Row", bound=type[Any])


def stored(kind: _Row) -> _Row:
    """Class decorator that sets ``SCHEMA``: one column per field of a dataclass.

    A column is nullable if the field may be None.
    """
    columns = []
    for field in fields(kind):
        alternatives = get_args(field.type)  # of "float | None", e.g.
        is_nullable = type(None) in alternatives
        value_type: Any = alternatives[0] if alternatives else field.type
        column_type = _COLUMN_TYPES[value_type]
        columns.append(pa.field(field.name, column_type, nullable=is_nullable))
    kind.SCHEMA = pa.schema(columns)
    return kind


@stored
@dataclass(frozen=True, kw_only=True)
class Record(StoredRow):
    """A trial that has ended: definition, status, scores, and its run.

    Scores are the task's metric over a whole split; lower is better. Durations are in
    seconds, memory in MiB. Time stamps need a time zone; the store keeps them in UTC
    with microseconds.

    Raises ValueError if the phase or protocol is unknown, a time stamp has no time
    zone, or the trial did not fail and has a score that is not finite. It is not a
    UserError, because the calling code is wrong.
    """

    trial_key: str
    sweep: str
    benchmark: str
    task: str
    method: str
    body: str
    phase: str
    protocol: str
    seed: int
    hyperparameters: str
    data_fingerprint: str
    metric: str
    status: Status
    validation_score: float | None
    test_score: float | None
    best_epoch: int | None
    epochs: int
    distance_before: float | None
    distance_after: float | None
    num_parameters: int | None
    num_trainable: int | None
    wall_seconds: float
    align_seconds: float
    refine_seconds: float
    evaluate_seconds: float
    peak_memory_mib: float | None
    executor: str
    node: str
    device: str
    started_at: datetime
    finished_at: datetime
    attempts: int
    error: str | None
    version: str
    torch_version: str
    align_epochs: int | None = None
    align_plateaued: bool | None = None
    align_reused: bool | None = None
    notes: str | None = None
    precision: str | None = None
    micro_batch: int | None = None
    samples_per_second: float | None = None
    tokens_per_second: float | None = None
    model_flop_utilisation: float | None = None
    deterministic: bool | None = None
    align_chosen: int | None = None
    metric_version: int | None = None
    processor: str | None = None
    cpus: float | None = None
    gpus: float | None = None
    training_loss: float | None = None

    RUN_COLUMNS: ClassVar[frozenset[str]] = frozenset(
        {
            "wall_seconds",
            "align_seconds",
            "refine_seconds",
            "evaluate_seconds",
            "peak_memory_mib",
            "executor",
            "node",
            "started_at",
            "finished_at",
            "attempts",
            "align_reused",
            "samples_per_second",
            "tokens_per_second",
            "model_flop_utilisation",
            "processor",
            "cpus",
            "gpus",
        }
    )
    """Fields about when, where and how fast a trial ran.

    Two deterministic runs of a trial may differ only in these.
    """

    def __post_init__(self) -> None:
        self._check_word("phase", PHASES)
        self._check_word("protocol", PROTOCOLS)
        self._check_time("started_at")
        self._check_time("finished_at")
        self._check_score("validation_score")
        self._check_score("test_score")

    def _check_word(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise ValueError(
                f"a record's {name} is one of {', '.join(allowed)}, got {value!r}"
            )

    def _check_time(self, name: str) -> None:
        value = getattr(self, name)
        if value.tzinfo is None:
            raise ValueError(f"a record's {name} needs a time zone, got {value!r}")

    def _check_score(self, name: str) -> None:
        """Raise ValueError if the trial succeeded, and the score is not finite."""
        value = getattr(self, name)
        is_needed = value is not None and not self.status.failed
        if is_needed and not math.isfinite(value):
            raise ValueError(
                f"a record that is {self.status} needs a finite {name}, got {value!r}"
            )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Record":
        """Return the record in a row of the table; the inverse of `to_row`."""
        times = {
            name: row[name].astimezone(UTC) for name in ("started_at", "finished_at")
        }
        return cls(**{**row, **times, "status": Status(row["status"])})

    def reproducible_fields(self) -> dict[str, Any]:
        """Return the fields by column name without `RUN_COLUMNS`.

        They are equal for two deterministic runs of a trial.
        """
        return {
            name: value
            for name, value in self.to_row().items()
            if name not in self.RUN_COLUMNS
        }


@stored
@dataclass(frozen=True)
class CurvePoint(StoredRow):
    """One epoch of one trial.

    The training loss and the distance that aligning minimises may be NaN. In the stage
    ``probe``, ``epoch`` is the number of align epochs before the probe, ``loss`` the
    error of the probe.
    """

    sweep: str
    trial_key: str
    stage: str
    epoch: int
    loss: float | None
    distance: float | None
    validation_score: float | None
    learning_rate: float | None
    seconds: float
    attempt: int | None = None
    """Number of the attempt, as in `Record.attempts`; None: 0.

    Only epochs of a trial's last attempt count.
    """


@stored
@dataclass(frozen=True)
class SuggestionRow(StoredRow):
    """Entry of the journal of a search: hyper-parameters that the search suggested.

    The entry also says which results the search knew. It is stored within seconds of
    the start of the suggestion's trial, at the latest with the trial's record. A search
    that is continued runs an unfinished trial again with the same values.
    """

    sweep: str
    task: str
    method: str
    number: int
    """Number in the search of this task and method, from 0."""
    trial_key: str
    """Key of the trial with these values.

    It also depends on body, data and the other hyper-parameters.
    """
    values: str
    """JSON object with the values of the searched hyper-parameters."""
    known: str | None
    """Numbers of the suggestions whose results were known, as JSON.

    The JSON value is a list of ranges [first, last].
    """
    suggested_at: datetime
