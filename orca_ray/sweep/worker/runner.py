"""The runner of a trial on a worker, which all executors use.

Each call runs one epoch. An exception in a trial is not raised to the caller. The
status in the last report says how the trial ended.
"""

import logging
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from orca_ray.alignment.tensor_cache import processor
from orca_ray.data.cache import scratch_directory
from orca_ray.data.prepared import PAPER, under_protocol
from orca_ray.discovery import origin
from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.methods.snapshot import read_weights
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.options import KeepModels
from orca_ray.results.logs import TrialLog
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Status
from orca_ray.sweep.messages.causes import bounded, classify
from orca_ray.sweep.messages.report import TrialReport, Worker
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.worker.checkpoints import Checkpoints
from orca_ray.sweep.worker.models import write_model
from orca_ray.sweep.worker.rank_processes import RankProcesses
from orca_ray.sweep.worker.staging import staged_data
from orca_ray.sweep.worker.staging_items import StagingRequest
from orca_ray.tasks.registry import get_task
from orca_ray.training.ranks import ALONE, Ranks
from orca_ray.training.sample_cost import MemoryLimits, limit_memory

logger = logging.getLogger(__name__)

PAPER_NOTE = (
    "paper protocol: epochs were selected on test, and scores are over the whole split"
    " where the reference averages over chunks of its evaluation batch (what else"
    " differs: docs/decisions/0008-published-configurations.md)"
)
"""Note in the record of every trial under the protocol ``paper``."""


class TrialRunner:
    """Runner of a trial, which runs and reports epochs one by one.

    It saves checkpoints at intervals.
    """

    def __init__(
        self, trial: TrialSpec, settings: WorkerSettings, *, reuse_aligned: bool = True
    ) -> None:
        """Store the arguments; data and model are loaded by :meth:`step`.

        Without ``reuse_aligned``, the trial neither takes an alignment from other
        trials nor stores one for them.
        """
        self.trial = trial
        self._settings = settings
        self._reuse_aligned = reuse_aligned
        self._checkpoints = Checkpoints(settings.store)
        self._saved_at = time.monotonic()
        self._staged = False
        self._curve: list[EpochProgress] = []
        self._trainer: TrialTrainer | None = None
        self._ranks: RankProcesses | None = None  # of a trial on several GPUs
        self._last: TrialReport | None = None
        self._log = TrialLog()
        self._between_epochs = (
            True  # False during an epoch: the state is then inconsistent
        )

    def step(self) -> TrialReport:
        """Run the next step of the trial, and return a report of it.

        The first step stages the trial's data, which may take many minutes on a node
        that has just joined. Each later step runs one epoch. An exception ends the
        trial as failed.
        """
        with self._log.collecting():
            try:
                report = self._step()
            except Exception as error:
                report = self._failure(
                    error if self._ranks is None else self._ranks.find_cause(error)
                )
        return replace(report, log=self._log.take())

    def interrupt(self) -> None:
        """Save a checkpoint, and free the model.

        No checkpoint is saved if the trial has ended, or is in the middle of an epoch.
        """
        if self._trainer is not None and self._last is None and self._between_epochs:
            self._save()
        self.close()

    def write_model(self, directory: Path) -> None:
        """Write the model folder of a completed trial to ``directory``.

        Call it before `close`. Raises UserError if the directory cannot be written.
        """
        assert self._trainer is not None
        write_model(self._trainer, directory, self.trial)

    def close(self) -> None:
        """Free the model, and end the processes of other ranks."""
        self._end_ranks()
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None
            limit_memory(MemoryLimits(), torch.device(device_for(self.trial)))

    def _end_ranks(self) -> None:
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None

    def _step(self) -> TrialReport:
        """Do the work of `step`; errors are raised."""
        points: list[EpochProgress] = []
        if not self._staged:
            staged_data(StagingRequest.of_trial(self.trial), self._settings.staging)
            self._staged = True
            return self._report(points)
        if self._trainer is None:
            outcome = None
            if self._last is None:
                outcome = self._checkpoints.outcome(self.trial.key)
            if outcome is not None:
                logger.info(
                    "trial %s had ended before its record was written", self.trial.key
                )
                self._last = outcome
                return outcome
            self._trainer = self._build()
            saved = self._checkpoints.restore(self.trial.key, self._trainer.restore)
            if saved is not None:
                logger.info(
                    "trial %s resumes after %d epochs",
                    self.trial.key,
                    len(saved.progress),
                )
                points += saved.progress
                self._curve = list(points)
        if self._trainer.done:
            return self._finish(points)
        self._between_epochs = False
        if self._ranks is not None:
            self._ranks.join(self._trainer)
        progress = self._trainer.step()
        self._between_epochs = True
        self._curve.append(progress)
        points.append(progress)
        if self._trainer.done:
            return self._finish(points)
        self._save_if_due()
        return self._report(points)

    def _build(self) -> TrialTrainer:
        """Return the trial's trainer; for several GPUs, start the other ranks, too."""
        build = partial(
            build_trainer,
            trial=self.trial,
            staging=self._settings.staging,
            store=self._settings.store,
            device=device_for(self.trial),
            reuse_aligned=self._reuse_aligned,
        )
        if (ranks := self.trial.resources.ranks) > 1:
            self._ranks = RankProcesses(ranks, build)
        return build(
            self._ranks.first if self._ranks else ALONE, on_step=self._save_if_due
        )

    def _save_if_due(self) -> None:
        """Save a checkpoint if the last one is older than ``checkpoint_seconds``.

        It is called between epochs, and between the steps of an epoch.
        """
        if (
            self._trainer is not None
            and time.monotonic() - self._saved_at >= self._settings.checkpoint_seconds
        ):
            self._save()

    def _save(self) -> None:
        """Save a checkpoint, and the time at which this was done or tried."""
        with self._best_effort():
            self._checkpoints.save(
                self.trial.key,
                TrialReport(progress=tuple(self._curve)),
                self._write_state,
            )
        self._saved_at = time.monotonic()

    def _write_state(self, path: Path) -> None:
        assert self._trainer is not None
        self._trainer.save(path)
        if self._ranks is not None:
            self._ranks.check()  # afterwards, because saving waits for the GPU

    def _finish(self, points: list[EpochProgress]) -> TrialReport:
        """Return the last report of a completed trial; store its model and outcome.

        ``points`` are the epochs since the report before.
        """
        assert self._trainer is not None
        self._end_ranks()
        report = replace(
            self._report(points),
            status=Status.COMPLETED,
            artefacts=self._trainer.artefacts(),
        )
        if (
            self._settings.keep_models is not KeepModels.NONE
            and self.trial.phase == "confirm"
        ):
            # Before the outcome, after which the trial is never run again.
            with self._best_effort("model"), scratch_directory() as scratch:
                self.write_model(scratch / self.trial.key)
                StoredModels(self._settings.store).add(
                    self.trial.key, scratch / self.trial.key
                )
        with self._best_effort():
            self._checkpoints.save_outcome(
                self.trial.key, replace(report, progress=tuple(self._curve))
            )
        self._last = report
        return report

    def _failure(self, error: Exception) -> TrialReport:
        """Return the last report of a trial that ``error`` has ended."""
        self._end_ranks()
        # Logged at INFO, not as an error: the reason is in the record, which the driver
        # prints.
        logger.info(
            "trial %s (%s, %s) failed",
            self.trial.key,
            self.trial.task,
            self.trial.method,
            exc_info=error,
        )
        status = classify(error)
        detail = f"{type(error).__name__}: {error}"[:2000]
        if status is Status.FAILED_CODE:
            detail = bounded("".join(traceback.format_exception(error)))
        report = self._report(self._curve)  # all epochs: resumed ones may be unreported
        self._last = replace(report, status=status, error=detail)
        return self._last

    def _report(self, progress: list[EpochProgress]) -> TrialReport:
        worker = this_worker(device_for(self.trial))
        return TrialReport(
            progress=tuple(progress), outcome=self._outcome(), worker=worker
        )

    def _outcome(self) -> Outcome | None:
        """Return the trainer's result with notes; None if there is no trainer yet."""
        if self._trainer is None:
            return None
        outcome = self._trainer.result()
        notes = [outcome.notes]
        paper_source = self.trial.replaced_source
        if paper_source and outcome.align_epochs:
            name = self.trial.hyperparameters["align.source"]
            notes.append(
                f"aligned to {name}, which stands in for the paper's source:"
                f" 'orca-sweep data fetch {paper_source}'"
            )
        if self.trial.halvings:
            notes.append(
                "memory ran out in an earlier attempt: micro-batch halved"
                f" {self.trial.halvings} times"
            )
        if self.trial.protocol == PAPER:
            notes.append(PAPER_NOTE)
        notes += _plug_ins(self.trial)
        return replace(outcome, notes="; ".join(filter(None, notes)) or None)

    @contextmanager
    def _best_effort(self, what: str = "state") -> Iterator[None]:
        """Context manager: log errors of writing ``what`` to the store.

        Such errors do not end the trial.
        """
        try:
            yield
        except (OSError, UserError) as error:
            logger.warning(
                "trial %s: its %s cannot be saved: %s", self.trial.key, what, error
            )


def _plug_ins(trial: TrialSpec) -> list[str]:
    """Return a sentence for each package of plug-ins that the trial uses.

    A sentence names the package and its version. They become notes of the record.
    """
    task = get_task(trial.task).under(trial.protocol)
    used = {
        "task": task.name,
        "method": trial.method,
        "metric": task.metric,
        "loss": task.loss,
    }
    used |= {"augmentation": task.augmentation}
    used |= {
        name: str(trial.hyperparameters.get(f"align.{name}", ""))
        for name in ("distance", "source")
    }
    names_by_package: dict[str, list[str]] = {}
    for kind, name in used.items():
        package = origin(kind, name)
        if package:
            names_by_package.setdefault(package, []).append(f"{kind} {name}")
    return [
        f"from the package {package}: {', '.join(names)}"
        for package, names in names_by_package.items()
    ]


def build_trainer(
    ranks: Ranks,
    *,
    trial: TrialSpec,
    staging: str | None,
    store: str,
    device: str,
    reuse_aligned: bool,
    on_step: Callable[[], None] | None = None,
) -> TrialTrainer:
    """Return the trainer of a trial for one of its ``ranks``, with data and model.

    Args:
        ranks: number of this rank, and of all ranks.
        trial: the trial.
        staging: shared folder for staged data; None: there is none.
        store: path or URI of the results store.
        device: PyTorch device.
        reuse_aligned: see `TrialRunner`.
        on_step: function that is called between steps.
    """
    limit_memory(
        MemoryLimits(min(trial.resources.gpus or 1.0, 1.0), trial.halvings),
        torch.device(device),
    )
    data = staged_data(StagingRequest.of_trial(trial), staging)
    task = get_task(trial.task)  # staging brings the declaration of an own task
    trainer = TrialTrainer(
        task.under(trial.protocol).resolved(data),
        under_protocol(data, trial.protocol),
        method=trial.method,
        body=trial.body,
        hyperparameters=trial.hyperparameters,
        seed=trial.seed,
        test=trial.phase == "confirm",
        device=device,
        threads=max(1, trial.threads // ranks.size),
        deterministic=trial.deterministic,
        reuse_aligned=reuse_aligned,
        standardise=trial.protocol != PAPER,
        on_step=on_step,
        ranks=ranks,
    )
    start = str(trial.hyperparameters.get("refine.start", ""))
    if start:
        models = StoredModels(store)
        if not models.has(start):
            raise UserError(
                f"the model of trial {start}, from which this one starts, is not in the"
                " results store"
            )
        with scratch_directory() as scratch:
            models.fetch(start, scratch)
            trainer.start(read_weights(scratch))
    return trainer


def device_for(trial: TrialSpec) -> str:
    """Return the PyTorch device of a trial.

    It is ``cuda`` if the trial requests a GPU or a share of one, else ``cpu``.
    """
    return "cuda" if trial.resources.gpus > 0 else "cpu"


def this_worker(device: str) -> Worker:
    """Return a description of this machine as a worker.

    It has the name, the processor, the GPU (if ``device`` is ``cuda``), and PyTorch's
    version.
    """
    name = "cpu"
    memory = None
    if device == "cuda" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        memory = (
            torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
            / 2**20
        )
    return Worker(
        node=platform.node(),
        device=name,
        torch=str(torch.__version__),
        processor=processor(),
        device_memory_mib=memory,
    )
