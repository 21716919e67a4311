"""One row of the results store: a finished trial, and one point of its learning curve."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

import pyarrow as pa

from orca_ray.protocol import Protocol


class Status(StrEnum):
    """How a trial ended. Every trial ends in exactly one of these."""

    COMPLETED = "completed"
    STOPPED_EARLY = "stopped_early"
    FAILED_USER = "failed_user"
    FAILED_OOM = "failed_oom"
    FAILED_NAN = "failed_nan"
    LOST = "lost"

    @property
    def failed(self) -> bool:
        """Whether the trial gave no usable score and may run again."""
        return self not in (Status.COMPLETED, Status.STOPPED_EARLY)


PHASES = ("search", "confirm")
PROTOCOLS = tuple(protocol.value for protocol in Protocol)

_TEXT, _INTEGER, _REAL, _YES_NO = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_TIME = pa.timestamp("us", tz="UTC")


def _required(name: str, kind: Any) -> Any:
    return pa.field(name, kind, nullable=False)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished trial: what was run, how it ended, its scores, and where and how long it ran.

    Scores are the task's metric over a whole split, lower is better. Times are in seconds, memory in MiB. The two
    time stamps carry a time zone; they are kept in UTC with microseconds.

    Raises:
        ValueError: a phase or protocol that does not exist, a time stamp without time zone, a score that is not finite
            though the trial did not fail. These are mistakes of the caller, not of the user.
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

    SCHEMA: ClassVar[Any] = pa.schema(
        [
            *(
                _required(name, _TEXT)
                for name in ("trial_key", "sweep", "benchmark", "task", "method", "body", "phase", "protocol")
            ),
            _required("seed", _INTEGER),
            *(_required(name, _TEXT) for name in ("hyperparameters", "data_fingerprint", "metric", "status")),
            pa.field("validation_score", _REAL),
            pa.field("test_score", _REAL),
            pa.field("best_epoch", _INTEGER),
            _required("epochs", _INTEGER),
            pa.field("distance_before", _REAL),
            pa.field("distance_after", _REAL),
            pa.field("num_parameters", _INTEGER),
            pa.field("num_trainable", _INTEGER),
            *(
                _required(name, _REAL)
                for name in ("wall_seconds", "align_seconds", "refine_seconds", "evaluate_seconds")
            ),
            pa.field("peak_memory_mib", _REAL),
            *(_required(name, _TEXT) for name in ("executor", "node", "device")),
            _required("started_at", _TIME),
            _required("finished_at", _TIME),
            _required("attempts", _INTEGER),
            pa.field("error", _TEXT),
            *(_required(name, _TEXT) for name in ("version", "torch_version")),
            # Since version 2 of the schema, as LATER says.
            pa.field("align_epochs", _INTEGER),
            pa.field("align_plateaued", _YES_NO),
            pa.field("align_reused", _YES_NO),
            pa.field("notes", _TEXT),
            pa.field("precision", _TEXT),
            pa.field("micro_batch", _INTEGER),
            pa.field("samples_per_second", _REAL),
            pa.field("tokens_per_second", _REAL),
            pa.field("model_flop_utilisation", _REAL),
            pa.field("deterministic", _YES_NO),
        ]
    )

    LATER: ClassVar[Mapping[int, frozenset[str]]] = {
        2: frozenset(
            {
                "align_epochs",
                "align_plateaued",
                "align_reused",
                "notes",
                "precision",
                "micro_batch",
                "samples_per_second",
                "tokens_per_second",
                "model_flop_utilisation",
                "deterministic",
            }
        ),
    }
    """Columns by the version of the schema that brought them; of a record in an older file they are None."""

    CIRCUMSTANCES: ClassVar[frozenset[str]] = frozenset(
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
        }
    )
    """Fields that say when, where and how fast a trial ran; two runs of one trial differ in nothing else."""

    def __post_init__(self) -> None:
        for name, allowed in (("phase", PHASES), ("protocol", PROTOCOLS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"a record's {name} is one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("started_at", "finished_at"):
            if getattr(self, name).tzinfo is None:
                raise ValueError(f"a record's {name} needs a time zone, got {getattr(self, name)!r}")
        for name in ("validation_score", "test_score"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value) and not self.status.failed:
                raise ValueError(f"a record that is {self.status} needs a finite {name}, got {value!r}")

    def to_row(self) -> dict[str, Any]:
        """Return the record as one row of the Parquet table."""
        row = asdict(self)
        row["status"] = self.status.value
        # A file name inside a message may hold lone surrogates, which UTF-8 (and so Parquet) cannot.
        for name in ("error", "notes"):
            row[name] = None if row[name] is None else row[name].encode("utf-8", "replace").decode("utf-8")
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Record":
        """Build the record back from a row of the table; the inverse of `to_row`."""
        values = dict(row)
        values["status"] = Status(values["status"])
        for name in ("started_at", "finished_at"):
            values[name] = values[name].astimezone(UTC)
        return cls(**values)

    def reproducible(self) -> dict[str, Any]:
        """Return what must be equal whichever executor ran the trial: everything but `CIRCUMSTANCES`."""
        return {name: value for name, value in self.to_row().items() if name not in self.CIRCUMSTANCES}


@dataclass(frozen=True)
class CurvePoint:
    """One epoch of one trial: ``loss`` is the training loss, ``distance`` what alignment minimised; both may be NaN."""

    sweep: str
    trial_key: str
    stage: str
    epoch: int
    loss: float | None
    distance: float | None
    validation_score: float | None
    learning_rate: float | None
    seconds: float

    SCHEMA: ClassVar[Any] = pa.schema(
        [
            *(_required(name, _TEXT) for name in ("sweep", "trial_key", "stage")),
            _required("epoch", _INTEGER),
            *(pa.field(name, _REAL) for name in ("loss", "distance", "validation_score", "learning_rate")),
            _required("seconds", _REAL),
        ]
    )

    def to_row(self) -> dict[str, Any]:
        """Return the point as one row of the Parquet table."""
        return asdict(self)
