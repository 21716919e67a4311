"""Runs one trial step by step on a worker; the same object serves every executor.

It never raises for what a trial may do wrong: how a trial ended is a status in its last report (design, decision 9).
"""

import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orca_ray.data.protocol import PAPER
from orca_ray.errors import UserError
from orca_ray.results.record import Status
from orca_ray.sweep.planning.trial import TrialSpec

logger = logging.getLogger(__name__)

PAPER_NOTE = (
    "paper protocol: epochs were selected on test, and scores are over the whole split where the reference averages "
    "over chunks of its evaluation batch (what else differs: docs/decisions/0008-published-configurations.md)"
)
"""What the record of a trial under that protocol tells of it."""


class TrialRunner:
    """Steps an adaptation, checkpoints it by time, and turns its end into a report.

    A report is plain data: ``progress`` (epochs ended since the last report), ``done``, ``place``, ``outcome`` (so far,
    for the driver may end the trial here; None before there is one), and with the last one ``status``, ``error``.
    """

    def __init__(self, trial: TrialSpec, checkpoints: Path, *, checkpoint_seconds: float = 30.0) -> None:
        """Prepare a trial; nothing heavy happens before the first :meth:`step`.

        Args:
            trial: what to run.
            checkpoints: directory for the state of interrupted trials, shared by the nodes that may run this one.
            checkpoint_seconds: least time between two checkpoints.
        """
        self.trial = trial
        self._state = checkpoints / f"{trial.key}.pt"
        self._curve_file = checkpoints / f"{trial.key}.curve.json"
        self._outcome_file = checkpoints / f"{trial.key}.outcome.json"
        self._checkpoint_seconds = checkpoint_seconds
        self._saved_at = time.monotonic()
        self._curve: list[dict[str, Any]] = []
        self._adaptation: Any = None
        self._last: dict[str, Any] | None = None
        self._between_epochs = True
        """Ctrl-C may come in mid-epoch, when the weights are of neither the last epoch nor the next."""

    def step(self) -> dict[str, Any]:
        """Run one epoch of a stage and report it."""
        try:
            if self._last is None and (finished := self._read_json(self._outcome_file)):
                logger.info("trial %s had ended before its record was written", self.trial.key)
                self._last = finished
                return dict(finished)
            return self._step()
        except Exception as error:
            return self._failure(error)

    def interrupt(self) -> None:
        """Keep the state of an unfinished trial, so that the same sweep goes on from here."""
        if self._adaptation is not None and self._last is None and self._between_epochs:
            self._save()
        self.close()

    def close(self) -> None:
        """Free the model and its memory."""
        if self._adaptation is not None:
            self._adaptation.close()
            self._adaptation = None

    def _step(self) -> dict[str, Any]:
        resumed = self._open() if self._adaptation is None else []
        if self._adaptation.done:
            return self._finish(resumed)
        self._between_epochs = False
        progress = _plain(self._adaptation.step())
        self._between_epochs = True
        self._curve.append(progress)
        points = [*resumed, progress]
        if self._adaptation.done:
            return self._finish(points)
        if time.monotonic() - self._saved_at >= self._checkpoint_seconds:
            self._save()
        return {"progress": points, "done": False, "outcome": self._outcome(), "place": place(device_for(self.trial))}

    def _open(self) -> list[dict[str, Any]]:
        """Build the adaptation, resume it if a checkpoint is there, and return the epochs it had already ended."""
        from orca_ray.data.protocol import under_protocol
        from orca_ray.methods.adaptation import Adaptation
        from orca_ray.tasks.registry import get_task

        trial = self.trial
        task = get_task(trial.task)
        data = task.prepare(trial.protocol)
        if data.fingerprint != trial.data_fingerprint:
            raise UserError(
                f"the data of {trial.task} on this node has fingerprint {data.fingerprint}, the sweep was planned with "
                f"{trial.data_fingerprint}: run 'orca-sweep data verify {trial.task}' there"
            )
        self._adaptation = Adaptation(
            task.under(trial.protocol).resolved(data),
            under_protocol(data, trial.protocol),
            method=trial.method,
            body=trial.body,
            hyperparameters=trial.hyperparameters,
            seed=trial.seed,
            test=trial.phase == "confirm",
            device=device_for(trial),
            threads=trial.threads,
            deterministic=trial.deterministic,
            standardise=trial.protocol != PAPER,
        )
        curve = self._read_json(self._curve_file)
        if curve and self._adaptation.restore(self._state):
            logger.info("trial %s resumes after %d epochs", trial.key, len(curve["curve"]))
            self._curve = curve["curve"]
        return list(self._curve)

    def _save(self) -> None:
        with self._best_effort():
            # The curve first: killed between the two, an epoch is told twice, which is harmless, and none is missing.
            self._write_json(self._curve_file, {"curve": self._curve})
            self._adaptation.save(self._state)
        self._saved_at = time.monotonic()

    def _finish(self, points: list[dict[str, Any]]) -> dict[str, Any]:
        report = {
            "progress": points,
            "done": True,
            "status": str(Status.COMPLETED),
            "error": None,
            "outcome": self._outcome(),
            "place": place(device_for(self.trial)),
        }
        with self._best_effort():
            self._write_json(self._outcome_file, {**report, "progress": self._curve})
        self._last = report
        return report

    def _failure(self, error: Exception) -> dict[str, Any]:
        status = classify(error)
        detail = f"{type(error).__name__}: {error}"
        # To the log file only: the record tells the reason, and whoever shows records shows it once.
        logger.info("trial %s (%s, %s) failed", self.trial.key, self.trial.task, self.trial.method, exc_info=error)
        self._last = {
            "progress": list(self._curve),  # after a resume none of it has been told
            "done": True,
            "status": str(status),
            "error": detail[:2000],
            "outcome": self._outcome(),
            "place": place(device_for(self.trial)),
        }
        return self._last

    def _outcome(self) -> dict[str, Any] | None:
        """Return the outcome so far, or None where not even the model stands."""
        if self._adaptation is None:
            return None
        outcome = _plain(self._adaptation.result())
        if self.trial.protocol == PAPER:
            outcome["notes"] = "; ".join(filter(None, (outcome["notes"], PAPER_NOTE)))
        return outcome

    @contextmanager
    def _best_effort(self) -> Iterator[None]:
        """Go on where state cannot be kept: the trial itself is well, it would only start again after a kill."""
        try:
            yield
        except (OSError, UserError) as error:
            logger.warning("trial %s: its state is not kept: %s", self.trial.key, error)

    @staticmethod
    def _read_json(path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @staticmethod
    def _write_json(path: Path, value: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(path)


def classify(error: Exception) -> Status:
    """Return the status that an exception of a trial ends it with."""
    import torch

    from orca_ray.training.errors import NotFiniteError

    if isinstance(error, NotFiniteError):
        return Status.FAILED_NAN
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return Status.FAILED_OOM
    return Status.FAILED_USER


def device_for(trial: TrialSpec) -> str:
    """Return the device a trial runs on: the GPU it was given, else the CPU."""
    return "cuda" if trial.resources.gpus > 0 else "cpu"


def place(device: str) -> dict[str, str]:
    """Return where this process runs and with what."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else "cpu"
    return {"node": platform.node(), "device": name, "torch": str(torch.__version__)}


def _plain(value: Any) -> dict[str, Any]:
    """Turn a progress or outcome dataclass into a plain dict."""
    from dataclasses import asdict

    return asdict(value)
