"""The recorder, which writes the rows of trials to the store in batches.

`make_record` makes the record of an ended trial.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.logs import LogRow, LogStream
from orca_ray.results.record import CurvePoint, Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.plan.trial_spec import TrialSpec, canonical_json
from orca_ray.sweep.run.trial_state import Start, TrialState
from orca_ray.sweep.worker.checkpoints import Checkpoints
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import get_task
from orca_ray.version import code_version

logger = logging.getLogger(__name__)

MAX_RECORDS = 50
"""Number of waiting records from which on all waiting rows are written immediately."""
MAX_SECONDS = 2.0
"""Seconds between two writes of waiting rows."""
MAX_NEW_FILES = 40
"""Number of files that the store may gain before its newest ones are merged."""
LOG_SECONDS = 10.0
"""Seconds between two times at which the logs of running trials are stored."""


class Recorder:
    """Writer of rows to the results store, in batches.

    Rows that are added later than `MAX_SECONDS` after the last write are written at
    once. Thus, thousands of short trials share a few files, and a sweep of long trials
    stores each record when its trial ends. Rows that could not be written wait for the
    next write. Small files of the store are merged after every `MAX_NEW_FILES`.

    The recorder also deletes checkpoints of trials whose records are durable. It does
    so in a thread, because an object store may take seconds, in which no other trial
    could start.

    Every method that writes may raise UserError if the store fails. Not thread-safe.
    """

    def __init__(
        self, store: ResultsStore, sweep: str, before: Callable[[], None] | None = None
    ) -> None:
        """Store the arguments.

        ``before`` is called before and after each write. If it raises an exception, the
        rows remain in the list of waiting rows.
        """
        self._store = store
        self._sweep = sweep
        self._before = before or (lambda: None)
        self._rows: dict[str, list[Any]] = {}
        self._written_at = time.monotonic() - MAX_SECONDS
        self._checkpoints = Checkpoints(store.uri)
        self._ended: list[str] = []
        self._thread = ThreadPoolExecutor(1, "orca-ray checkpoints")
        self._deletion: Future[None] | None = None
        self._logged_at = time.monotonic()

    def add(self, **rows: Sequence[Any]) -> None:
        """Add rows to be written, as keyword arguments of `ResultsStore.append`.

        An example is ``suggestions=[suggestion]``.
        """
        for name, values in rows.items():
            self._rows.setdefault(name, []).extend(values)
        if len(self._rows.get("records", ())) >= MAX_RECORDS:
            self._write()
        self.flush_due()

    def ended(self, item: TrialState, record: Record, report: TrialReport) -> None:
        """Add the rows of an ended trial: record, curve, artefacts, rest of the log."""
        self._ended.append(record.trial_key)
        points = []
        for epoch in item.curve:
            values = asdict(epoch)
            del values["epochs"]
            points.append(values)
        of_trial: dict[str, Any] = {
            "sweep": self._sweep,
            "trial_key": record.trial_key,
            "attempt": item.attempt,
        }
        self.add(
            records=[record],
            curves=[CurvePoint(**of_trial, **point) for point in points],
            artefacts=[
                ArtefactRow(self._sweep, record.trial_key, **asdict(artefact))
                for artefact in report.artefacts
            ],
            logs=self._log_rows([item], ended=True),
        )

    def attempt_failed(self, item: TrialState) -> None:
        """Add the rest of the log of a failed attempt; the next one gets a new log."""
        self.add(logs=self._log_rows([item], ended=True))
        item.log = LogStream()

    def add_logs(self, items: Iterable[TrialState]) -> None:
        """Add the new log text of running trials, at most every `LOG_SECONDS`."""
        if time.monotonic() - self._logged_at >= LOG_SECONDS:
            self._logged_at = time.monotonic()
            self.add(logs=self._log_rows(items))

    def flush_due(self) -> None:
        """Write the waiting rows if the last write was `MAX_SECONDS` ago or longer."""
        if self._rows and time.monotonic() - self._written_at >= MAX_SECONDS:
            self._write()

    def flush(self) -> None:
        """Write all rows now, and wait for the deletion of checkpoints."""
        self._write()
        if self._deletion is not None:  # the last one; they run one after another
            self._deletion.result()

    def close(self, items: Iterable[TrialState]) -> None:
        """Write all rows, and the logs of trials that have not ended."""
        self.add(logs=self._log_rows(items, ended=True))
        self.flush()

    def tidy(self, keys: Iterable[str], done: Collection[tuple[str, str]]) -> None:
        """Compact the store, and delete the checkpoints of some trials.

        These are the trials ``keys``, and all trials of the searches ``done``, which
        are given as pairs (task, method).
        """
        _try_to_compact(self._store.compact)
        journal = self._store.journal(self._sweep)
        self._checkpoints.remove(
            *keys,
            *(row.trial_key for row in journal if (row.task, row.method) in done),
        )
        self._checkpoints.remove_directory()

    def _write(self) -> None:
        """Write all waiting rows; then delete checkpoints of trials that have ended."""
        self._before()
        if any(self._rows.values()):
            self._store.append(**self._rows)
            # a driver that lost the lease meanwhile must not delete checkpoints
            self._before()
        self._rows = {}
        self._written_at = time.monotonic()
        if self._ended:  # one listing of the directory for a batch
            self._deletion = self._thread.submit(self._checkpoints.remove, *self._ended)
            self._ended = []
        if self._store.num_written >= MAX_NEW_FILES:
            _try_to_compact(self._store.compact_recent)

    def _log_rows(
        self, items: Iterable[TrialState], *, ended: bool = False
    ) -> list[LogRow]:
        """Take the texts that the trials ``items`` have logged, and return their rows.

        ``ended``: the attempts have ended, and all of their texts are taken.
        """
        texts = [(item, item.log.take(ended=ended)) for item in items]
        now = datetime.now(UTC)
        return [
            LogRow(self._sweep, item.trial.key, item.attempt, now, text)
            for item, text in texts
            if text
        ]


def _try_to_compact(compact: Callable[[], Any]) -> None:
    """Call ``compact``. If it fails, warn: the rows are stored anyway.

    It fails if the disk is full, or if another sweep's file is damaged.
    """
    try:
        compact()
    except UserError as error:
        logger.warning(
            "all scores are stored, but the store cannot be compacted now: %s", error
        )


_TRIAL = (
    "task",
    "method",
    "body",
    "phase",
    "protocol",
    "seed",
    "data_fingerprint",
    "deterministic",
)
"""Fields that `TrialSpec` and `Record` share."""


def make_record(
    trial: TrialSpec,
    sweep: str,
    report: TrialReport,
    curve: Sequence[EpochProgress],
    start: Start,
    **run: Any,
) -> Record:
    """Return the record of a trial that has ended.

    ``report`` is the last report of the trial, which began at ``start``. The keyword
    arguments ``run`` are the fields ``executor`` and ``attempts``. Results that were
    not reported are None.
    """
    assert report.status is not None
    task = get_task(trial.task)
    metric = task.under(trial.protocol).metric
    wall_seconds = start.seconds()
    return Record(
        **{name: getattr(trial, name) for name in _TRIAL},
        trial_key=trial.key,
        sweep=sweep,
        benchmark=task.benchmark,
        metric=metric,
        metric_version=get_metric(metric).version,
        hyperparameters=canonical_json(dict(trial.hyperparameters)),
        status=report.status,
        error=report.error,
        started_at=start.at,
        finished_at=start.at + timedelta(seconds=wall_seconds),
        wall_seconds=wall_seconds,
        node=report.worker.node,
        device=report.worker.device,
        torch_version=report.worker.torch,
        version=code_version(),
        processor=report.worker.processor or None,
        cpus=trial.resources.cpus,
        gpus=trial.resources.gpus,
        **_outcome(report, curve),
        **run,
    )


def _outcome(report: TrialReport, curve: Sequence[EpochProgress]) -> dict[str, Any]:
    """Return the record's fields about the result: scores, epochs, durations, ...

    For a completed trial, they are those of its last report. For other trials, best
    score, best epoch and number of epochs are computed from the curve, because the
    report after a resumption covers several epochs, and may go beyond the epoch after
    which the trial was stopped. If the worker disappeared before it reported a result,
    distances and durations are computed from the curve, too.
    """
    align = [point for point in curve if point.stage == "align"]
    refine = [point for point in curve if point.stage == "refine"]
    outcome: dict[str, Any] = {
        **dict.fromkeys(field.name for field in fields(Outcome)),
        "align_epochs": len(align),
        "align_seconds": sum(point.seconds for point in align),
        "refine_seconds": sum(point.seconds for point in refine),
        "evaluate_seconds": 0.0,
    }
    if align:
        outcome["distance_before"] = align[0].distance
        outcome["distance_after"] = align[-1].distance
    if report.outcome is not None:
        outcome |= asdict(report.outcome)
    if report.status is Status.COMPLETED:
        return outcome
    scored = [
        (point.validation_score, point.epoch)
        for point in refine
        if point.validation_score is not None
    ]
    best, epoch = min(scored, default=(None, None))
    return {
        **outcome,
        "validation_score": best,
        "test_score": None,
        "best_epoch": epoch,
        "epochs": len(refine),
    }
