"""Run the trial of a stored record again, and compare the results.

Nothing is written into the store.
"""

import json
import math
import re
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from orca_ray.data.prepared import PAPER
from orca_ray.errors import UserError
from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.leaderboard.statistics.paired import LogScores
from orca_ray.leaderboard.statistics.table import COLUMNS
from orca_ray.methods.registry import get_method
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.record import Record, Status
from orca_ray.results.status import only_trial
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.trial_spec import Resources, TrialSpec
from orca_ray.sweep.run.recorder import make_record
from orca_ray.sweep.run.trial_state import Start
from orca_ray.sweep.worker.runner import TrialRunner
from orca_ray.tasks.registry import get_task

ENVIRONMENT = (
    "version",
    "torch_version",
    "metric_version",
    "device",
    "processor",
    "node",
)
"""Columns about software and hardware.

Different values may explain why results differ, but are not themselves a difference of
results.
"""
MACHINE = ("torch_version", "device", "processor")
"""Columns of which equal values are needed for bit-equal deterministic trials.

See docs/decisions/0005-deterministic.md.
"""
_REPLACED_SOURCE = re.compile(
    r"stands in for the paper's source: 'orca-sweep data fetch (\S+)'"
)


class Verdict(StrEnum):
    """Verdict on the result in a record after its trial has run again."""

    EQUAL = "equal"
    """The results of a deterministic trial, or the scores of another, are equal."""
    WITHIN_NOISE = "within noise"
    """The score is not equal, but could be that of another seed."""
    UNKNOWN = "noise unknown"
    """The score is not equal, and how much seeds differ is unknown."""
    DIFFERS = "differs"
    """The score is not one of the same trial."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A record, the record of the repetition of its trial, and how they compare."""

    record: Record
    again: Record
    verdict: Verdict
    rule: str
    """The rule that the verdict follows from, as a sentence."""
    differences: dict[str, tuple[Any, Any]]
    """Results that differ, by column: value in the record, value in the repetition."""
    environment: dict[str, tuple[Any, Any]]
    """Columns in `ENVIRONMENT` that differ: value in record and repetition."""

    @property
    def agrees(self) -> bool:
        """Whether the record is reproduced, bit for bit or up to the noise of seeds."""
        return self.verdict in (Verdict.EQUAL, Verdict.WITHIN_NOISE)

    @property
    def scores(self) -> tuple[float | None, float | None]:
        """Scores of record and repetition; None: no score.

        They are test scores or, if test was not read, validation scores.
        """
        return _score(self.record), _score(self.again)


def find_record(store: ResultsStore, key: str, sweep: str | None = None) -> Record:
    """Return the record of the trial whose key starts with ``key``.

    ``sweep`` None: the trial may be of any sweep. Raises UserError unless exactly one
    trial fits.
    """
    records = {
        (record.sweep, record.trial_key): record
        for record in store.select({}, key_prefix=key)
    }
    return records[only_trial(records, key, sweep)]


def reproduce(
    record: Record, store: ResultsStore, model: Path | None = None
) -> Comparison:
    """Run the trial of ``record`` again in this process, and compare the results.

    An alignment is computed again, not read from the cache. A deterministic trial on
    the same `MACHINE` must give all results again, bit for bit. Elsewhere, and for
    other trials, a score that is not equal is within noise if it is in the 95 %
    prediction interval of one more seed, which follows from the scores of the sweep in
    ``store``. ``model``: directory that the model is written to.

    Raises UserError if the record has no score, if this version does not have its
    configuration, or if data, method, body or source are missing here or not the same.
    """
    again = run_again(record, make_trial(record), model)
    old = _score(record)
    new = _score(again)
    old_fields = record.reproducible_fields()
    new_fields = again.reproducible_fields()
    # Records of earlier versions lack the columns that were added later.
    comparable = (
        name
        for name in old_fields
        if old_fields[name] is not None or name not in RECORDS.later
    )
    changed = {
        name: (old_fields[name], new_fields[name])
        for name in comparable
        if old_fields[name] != new_fields[name]
    }
    environments = {
        name: (getattr(record, name), getattr(again, name)) for name in ENVIRONMENT
    }
    differences = {
        name: pair for name, pair in changed.items() if name not in ENVIRONMENT
    }
    is_same_machine = all(
        environments[name][0] == environments[name][1] for name in MACHINE
    )
    is_equal = not differences if record.deterministic else old == new
    if is_equal:
        verdict = Verdict.EQUAL
        rule = "equal, bit for bit"
    elif record.deterministic and is_same_machine:
        verdict = Verdict.DIFFERS
        rule = (
            "a deterministic trial gives all results again, bit for bit, with the same"
            " torch on the same processor or GPU"
        )
    elif new is None:
        verdict = Verdict.DIFFERS
        rule = "a trial without a score is not the same"
    else:
        verdict, rule = _compare_with_noise(record, new, store)
    return Comparison(
        record=record,
        again=again,
        verdict=verdict,
        rule=rule,
        differences=differences,
        environment={
            name: pair for name, pair in environments.items() if pair[0] != pair[1]
        },
    )


def make_trial(record: Record) -> TrialSpec:
    """Return the trial of a record.

    Raises UserError if the record has no score, or if the trial cannot be the same
    here.
    """
    if _score(record) is None or record.status.failed:
        advice = "run its sweep again with --retry-failed"
        raise UserError(
            f"trial {record.trial_key} ended as {record.status}, so it has no score to"
            f" reproduce: {advice}"
        )
    task = get_task(record.task)
    get_method(record.method)
    data = task.prepared(record.protocol)
    option = (
        f" --protocol {PAPER}" if record.protocol == PAPER and task.paper_splits else ""
    )
    commands = (
        f"'orca-sweep data fetch {task.name}{option}', then 'orca-sweep data prepare"
        f" {task.name}{option}'"
    )
    if data is None:
        raise UserError(
            f"the data of {task.name} are not prepared on this machine: run {commands}"
        )
    if data.fingerprint != record.data_fingerprint:
        fingerprints = (
            f"fingerprint {data.fingerprint} here, {record.data_fingerprint} in the"
            " record"
        )
        raise UserError(
            f"the data of {task.name} are not those of the record ({fingerprints}): run"
            f" {commands}"
        )
    hyperparameters = json.loads(record.hyperparameters)
    replaced_source = _REPLACED_SOURCE.search(record.notes or "")
    trial = TrialSpec(
        task=record.task,
        method=record.method,
        body=record.body,
        hyperparameters=hyperparameters,
        seed=record.seed,
        protocol=record.protocol,
        data_fingerprint=record.data_fingerprint,
        phase="confirm" if record.phase == "confirm" else "search",
        epochs=int(hyperparameters.get("refine.epochs", record.epochs)),
        resources=_resources(record),
        replaced_source=replaced_source[1] if replaced_source else "",
        deterministic=bool(record.deterministic),
    )
    if trial.key != record.trial_key:
        raise UserError(
            f"the record's configuration has the key {trial.key}, not"
            f" {record.trial_key}: it was changed"
        )
    return trial


def run_again(record: Record, trial: TrialSpec, model: Path | None = None) -> Record:
    """Run a trial again in this process, and return the new record.

    If the trial of ``record`` stopped early, the new one stops after as many epochs. If
    the trial completes and ``model`` is given, the trained model is written to that
    directory. Raises UserError if the trial fails because something is missing or wrong
    here.
    """
    started = Start()
    curve = list[EpochProgress]()
    with tempfile.TemporaryDirectory(prefix="orca-ray-") as scratch:
        runner = TrialRunner(
            trial,
            WorkerSettings(scratch, checkpoint_seconds=math.inf),
            reuse_aligned=False,
        )
        try:
            report = TrialReport()
            while not report.done:
                report = runner.step()
                curve += report.progress
                epochs = sum(point.stage == "refine" for point in curve)
                if (
                    record.status is Status.STOPPED_EARLY
                    and not report.done
                    and epochs >= record.epochs
                ):
                    report = report.stopped_early()
            if model is not None and report.status is Status.COMPLETED:
                runner.write_model(model)
        finally:
            runner.close()
    reason = re.match(
        r"(?:UserError|StagingError): (.*)", report.error or "", re.DOTALL
    )
    if reason is not None:
        raise UserError(f"trial {record.trial_key} cannot run here: {reason[1]}")
    return make_record(
        trial, record.sweep, report, curve, started, executor="inline", attempts=1
    )


def _resources(record: Record) -> Resources:
    """Return the resources of a recorded trial, with at most the GPUs that are here."""
    gpus = 0
    if record.device != "cpu":
        gpus_of_record = max(1, int(record.gpus or 1))
        gpus = min(gpus_of_record, torch.cuda.device_count())
    return Resources(cpus=record.cpus or 1.0, gpus=float(gpus))


def _score(record: Record) -> float | None:
    if record.test_score is not None:
        return record.test_score
    return record.validation_score


def _compare_with_noise(
    record: Record, new: float, store: ResultsStore
) -> tuple[Verdict, str]:
    """Return the verdict on a score that is not equal, and a sentence on the rule.

    The noise is that of the board: of the seeds of the trial, averaged with that of the
    other methods of the task as far as methods of a task are alike in the sweep.
    """
    scores = _scores_of_sweep(record, store)
    table = ScoreTable.of(scores)
    low, high = LogScores.of(table).prediction_interval(record.task, _label(record))
    if math.isnan(low):
        return Verdict.UNKNOWN, (
            "the noise over seeds is unknown, because the sweep has one seed or all"
            " seeds have the same score: scores must be equal"
        )
    floor = float(table.floors_T[table.tasks.index(record.task)])
    is_within = low <= max(new, floor) <= high
    num_seeds = int((scores["method"] == _label(record)).sum())
    return (
        Verdict.WITHIN_NOISE if is_within else Verdict.DIFFERS,
        f"a score that is not equal may lie between {low:.4g} and {high:.4g}: there,"
        f" {num_seeds} seeds and the noise of the sweep's other scores say, 95 % of new"
        " scores are",
    )


def _scores_of_sweep(record: Record, store: ResultsStore) -> pd.DataFrame:
    """Return the scores of the sweep of ``record`` as a score table.

    Trials of one phase count that did not fail. Each configuration is a method.
    """
    same = ("sweep", "phase", "protocol")
    rows = [
        (other.task, _label(other), other.seed, _score(other))
        for other in store.select({name: [getattr(record, name)] for name in same})
        if not other.status.failed
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS["scores"]))
    scored = table[table["score"].map(_is_finite)].astype({"score": "float64"})
    return scored.drop_duplicates(["task", "method", "seed"])


def _is_finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _label(record: Record) -> str:
    """Return a name of what the seeds of a trial share."""
    return json.dumps(
        [
            record.method,
            record.body,
            record.hyperparameters,
            record.data_fingerprint,
            record.metric,
            record.metric_version or 1,
        ]
    )
