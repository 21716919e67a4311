"""Run the trial of a stored record again, and compare the results.

Nothing is written into the store.
"""

import json
import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy import special

from orca_ray.data.prepared import PAPER
from orca_ray.errors import UserError
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
_REPLACED_SOURCE = re.compile(
    r"stands in for the paper's source: 'orca-sweep data fetch (\S+)'"
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A record, the record of the repetition of its trial, and whether they agree."""

    record: Record
    again: Record
    agrees: bool
    rule: str
    """The rule by which the scores agree or not, as a sentence."""
    differences: dict[str, tuple[Any, Any]]
    """Results that differ, by column: value in the record, value in the repetition."""
    environment: dict[str, tuple[Any, Any]]
    """Columns in `ENVIRONMENT` that differ: value in record and repetition."""

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

    An alignment is computed again, not read from the cache. The results of a
    deterministic trial agree if they are equal bit for bit. Other scores also agree if
    the new one is in the 95 % prediction interval that follows from the scores of all
    seeds in ``store``. ``model``: directory that the model is written to.

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
    if record.deterministic:
        agrees = not differences
        rule = "a deterministic trial agrees if all results are equal, bit for bit"
    else:
        agrees, rule = _within_spread(old, new, _scores_of_seeds(record, store))
    return Comparison(
        record=record,
        again=again,
        agrees=agrees,
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
    started = datetime.now(UTC)
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


def _scores_of_seeds(record: Record, store: ResultsStore) -> list[float]:
    """Return the scores of the trial of ``record`` for all seeds that are stored.

    Its own score is included, and scores of failed trials are left out.
    """
    same = (
        "sweep",
        "task",
        "method",
        "body",
        "phase",
        "protocol",
        "hyperparameters",
        "data_fingerprint",
        "metric",
    )
    records = store.select({name: [getattr(record, name)] for name in same})
    version = record.metric_version or 1
    scores = [
        _score(other)
        for other in records
        if (other.metric_version or 1) == version and not other.status.failed
    ]
    return [score for score in scores if score is not None]


def _within_spread(
    old: float | None, new: float | None, seeds: Sequence[float]
) -> tuple[bool, str]:
    """Return whether two scores agree, and a sentence on the rule.

    ``seeds`` has the stored scores for different seeds. The scores agree if they are
    equal, or if ``new`` is in the 95 % prediction interval of the stored scores. From a
    single stored score, no interval follows.
    """
    if len(seeds) < 2:
        return (
            old == new,
            (
                "with the score of one seed alone, nothing is known of its spread:"
                " scores must be equal"
            ),
        )
    # Student's prediction interval: with few seeds, the standard deviation of the
    # scores is uncertain, too.
    # Quantile 0.975 on both sides leaves 95 % inside.
    factor = float(special.stdtrit(len(seeds) - 1, 0.975)) * math.sqrt(
        1 + 1 / len(seeds)
    )
    centre = mean(seeds)
    allowed = factor * stdev(seeds)
    rule = (
        f"scores agree within {allowed:.3g} of {centre:.4g}: there, {len(seeds)} seeds"
        " say, 95 % of new scores are"
    )
    return old == new or (new is not None and abs(new - centre) <= allowed), rule
