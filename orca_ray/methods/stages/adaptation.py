"""Adaptation: adapt a body to a task by a method, epoch by epoch, with exact resume. It is the work of one trial.

UserError, NotFiniteError and out-of-memory errors are not handled here; the caller sets the trial's status.
"""

import gc
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from orca_ray.data.prepared import PreparedData, with_train_fraction
from orca_ray.errors import UserError
from orca_ray.methods.hyperparameters import resolve
from orca_ray.methods.recipe import Scalar, get_method
from orca_ray.methods.reports import Outcome, Progress, Stage
from orca_ray.methods.stages.align_stage import AlignStage
from orca_ray.methods.stages.artefacts import ArtefactCollector
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.results.artefacts import Artefact
from orca_ray.tasks.augmentations import get_augmentation
from orca_ray.tasks.scaling import input_statistics, with_target_statistics
from orca_ray.tasks.task import Task
from orca_ray.training import checkpoint
from orca_ray.training.aligned_cache import AlignedCache
from orca_ray.training.evaluate import Objective, score
from orca_ray.training.probe import ProbePoint
from orca_ray.training.refine import RefineLoop
from orca_ray.training.reproducibility import derive_seed, torch_settings
from orca_ray.training.throughput import memory_mib

_FORMAT = 4
_log = logging.getLogger(__name__)


class Adaptation:
    """Runs the align stage (if the method has one), the refine stage and the test; each `step` runs one epoch.

    On a CPU, equal arguments give bit-equal outcomes, whatever ran in the process before. Every call restores torch's
    global random generators, number of threads and determinism flag afterwards.
    """

    def __init__(
        self,
        task: Task,
        data: PreparedData,
        method: str,
        body: str,
        hyperparameters: Mapping[str, Scalar],
        seed: int,
        *,
        test: bool,
        device: str = "cpu",
        threads: int = 1,
        deterministic: bool = False,
        reuse_aligned: bool = True,
        aligned: Path | None = None,
        standardise: bool = True,
    ) -> None:
        """Build the model.

        Args:
            task: defines shapes, loss, metric and augmentation.
            data: the task's prepared data; the test split is read only if ``test``.
            method, body: names of the method and of the body.
            hyperparameters: values by dotted name, which override the method's defaults.
            seed: determines initialisation, sampling, order and dropout.
            test: whether to evaluate the best epoch on the test split at the end (only in confirm trials).
            device, threads: torch device, and number of intra-op CPU threads.
            deterministic: see `torch_settings`.
            reuse_aligned: whether to load the aligned embedder from a cache, and to store it for other trials.
            aligned: directory of that cache; None: ``aligned`` in the cache directory.
            standardise: whether to standardise inputs and regression targets, unless the data set already is.

        Raises UserError for an unknown name, a value out of range, or data whose shapes differ from the task's.
        """
        _check_data(task, data)
        self._recipe, self._hyperparameters = get_method(method), resolve(method, hyperparameters)
        if (fraction := self._hyperparameters.data.fraction) < 1:
            drawn = derive_seed(seed, "fraction") % 2**32
            data = with_train_fraction(data, fraction, drawn, classes=task.target.kind == "classes")
        statistics = input_statistics(data.train.x, task.input_scale) if standardise else None
        data = with_target_statistics(task, data) if standardise else data
        self._task, self._data, self._body, self._seed, self._test = task, data, body, seed, test
        self._device, self._threads, self._deterministic = torch.device(device), threads, deterministic
        self._objective = Objective(task.target, task.loss, task.metric, data.y_mean, data.y_std)
        self._augmentation = get_augmentation(task.augmentation)
        self._cache = AlignedCache(aligned) if reuse_aligned else None
        self._align: AlignStage | None = None
        self._refine: RefineLoop | None = None
        if self._device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats(self._device)
        embedder, refine = self._hyperparameters.embedder, self._hyperparameters.refine
        with self._computing():
            self._model: CrossModalModel | None = build_model(
                input_shape=data.train.x.shape[1:], target=task.target, body=body, pretrained=self._recipe.pretrained,
                config=embedder, dense_head=self._hyperparameters.head.dense, dropout=refine.dropout,
                stochastic_depth=refine.stochastic_depth == "body", seed=seed, statistics=statistics,
            ).to(self._device)  # fmt: skip
        aligns = self._recipe.aligns and self._hyperparameters.align.epochs > 0
        self.stage: Stage = "align" if aligns else "refine"
        """The stage that the next `step` runs."""
        self._artefacts = ArtefactCollector(task, data)
        if aligns and test:
            with self._computing():
                self._artefacts.before_aligning(self.model, self._device)
        self._outcome = Outcome(
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            num_trainable=sum(parameter.numel() for parameter in set(self._recipe.trainable(self.model))),
        )

    @property
    def done(self) -> bool:
        """Whether the refine stage has ended and the outcome is final."""
        return self.stage == "done"

    @property
    def model(self) -> CrossModalModel:
        """The model with its present weights; once `done`, with those of the best epoch."""
        assert self._model is not None, "this adaptation is closed"
        return self._model

    def step(self) -> Progress:
        """Run one epoch of the current stage; the last refine epoch also loads the best weights and runs the test."""
        with self._computing():
            steps = {"align": self._step_align, "refine": self._step_refine, "done": self._step_done}
            report = steps[self.stage]()
        peak = memory_mib(self._device)
        self._outcome = replace(self._outcome, peak_memory_mib=max(peak, self._outcome.peak_memory_mib or 0.0))
        return report

    def result(self) -> Outcome:
        """Return the outcome so far; once `done`, it is final and, if ``test``, includes the test score."""
        return self._outcome

    def artefacts(self) -> tuple[Artefact, ...]:
        """Return small pictures of what the model does; all of them once `done`, none unless ``test``."""
        return tuple(self._artefacts.found)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint to ``path`` atomically; possible between any two steps."""
        checkpoint.save(path, {
            "format": _FORMAT, "identity": self._identity(), "stage": self.stage, "outcome": asdict(self._outcome),
            "align": self._align.state_dict() if self._align else None,
            "embedder": dict(self.model.embedder.state_dict()),
            "refine": self._refine.state_dict() if self._refine else None,
            "artefacts": self._artefacts.state_dict(),
        })  # fmt: skip

    def restore(self, path: str | Path) -> bool:
        """Continue from a checkpoint and return True; if it is missing, damaged or of another trial, return False."""
        state = checkpoint.load(path)
        if state is None:
            return False
        if state.get("format") != _FORMAT or state["identity"] != self._identity():
            _log.warning("checkpoint %s belongs to another trial or version; starting again", path)
            return False
        with self._computing():
            self.model.embedder.load_state_dict(state["embedder"])
            self._align = self._refine = None
            if state["align"] is not None:
                self._align = self._make_align()
                self._align.load_state_dict(state["align"])
            if state["refine"] is not None:
                self._refine = self._make_refine()
                self._refine.load_state_dict(state["refine"])
        self._artefacts.load_state_dict(state["artefacts"])
        self.stage = state["stage"]
        self._outcome = Outcome(**state["outcome"])
        return True

    def close(self) -> None:
        """Free the memory of model, optimiser and caches, including CUDA memory; `result` remains available."""
        self._align = self._refine = self._model = None
        # Only the garbage collector frees checkpointed layers and compiled networks; it takes 0.2 s.
        if self._device.type == "cuda" or self._hyperparameters.refine.gradient_checkpointing == "on":
            gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _step_align(self) -> Progress:
        started = perf_counter()  # includes source features and pseudo-labels
        self._align = self._align or self._make_align()
        report, epochs = self._align.step(), self._hyperparameters.align.epochs
        seconds = perf_counter() - started
        self._outcome = self._align.add_to(self._outcome, seconds)
        if self._align.done:
            self._artefacts.after_aligning(self.model, self._device, self._align.source())
            self._align, self.stage = None, "refine"
        if isinstance(report, ProbePoint):
            return Progress(stage="probe", epoch=report.epoch, epochs=epochs, loss=report.error, seconds=seconds)
        return Progress(
            stage="align", epoch=report.epoch, epochs=epochs, distance=report.distance,
            learning_rate=report.learning_rate, seconds=seconds,
        )  # fmt: skip

    def _step_refine(self) -> Progress:
        self._refine = self._refine or self._make_refine()
        epoch = self._refine.step()
        self._outcome = replace(
            self._outcome, **asdict(self._refine.throughput()),
            validation_score=self._refine.best_score, best_epoch=self._refine.best_epoch, epochs=epoch.epoch,
            refine_seconds=self._outcome.refine_seconds + epoch.seconds - epoch.validation_seconds,
            evaluate_seconds=self._outcome.evaluate_seconds + epoch.validation_seconds,
            notes=_joined(self._outcome.notes, self._refine.notes),
            precision=self._refine.precision.name, micro_batch=self._refine.micro_batch,
        )  # fmt: skip
        if self._refine.done:
            self._finish(self._refine)
        return Progress(
            stage="refine", epoch=epoch.epoch, epochs=self._hyperparameters.refine.epochs, loss=epoch.loss,
            validation_score=epoch.validation_score, learning_rate=epoch.learning_rate, seconds=epoch.seconds,
        )  # fmt: skip

    def _step_done(self) -> Progress:
        epochs = self._hyperparameters.refine.epochs
        return Progress(stage="done", epoch=epochs, epochs=epochs, validation_score=self._outcome.validation_score)

    def _finish(self, refine: RefineLoop) -> None:
        refine.restore_best()
        self.stage = "done"
        if not self._test:
            return
        started = perf_counter()
        test = self._data.test
        predictions = refine.predict(test)
        value = score(predictions, test.y, self._objective, test.group)
        seconds = self._outcome.evaluate_seconds + perf_counter() - started
        self._artefacts.after_test(predictions)
        notes = _joined(self._outcome.notes, [*refine.notes, *self._artefacts.notes])
        self._outcome = replace(self._outcome, test_score=value, evaluate_seconds=seconds, notes=notes)

    def _make_align(self) -> AlignStage:
        return AlignStage(
            self.model, self._data, self._task.target, self._body, self._recipe.pretrained, self._hyperparameters,
            self._seed, self._device, self._cache, self._recipe.guarded,
        )  # fmt: skip

    def _make_refine(self) -> RefineLoop:
        data, options = self._data, self._hyperparameters.refine
        return RefineLoop(
            self.model, self._recipe.trainable(self.model), data.train, data.validation, self._objective, options,
            seed=self._seed, device=self._device, augmentation=self._augmentation,
        )  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        return {
            "task": self._task.name, "data": self._data.fingerprint, "method": self._recipe.name, "body": self._body,
            "hyperparameters": self._hyperparameters.to_flat(), "seed": self._seed, "test": self._test,
        }  # fmt: skip

    def _computing(self) -> AbstractContextManager[None]:
        return torch_settings(self._threads, deterministic=self._deterministic)


def _joined(notes: str | None, more: list[str]) -> str | None:
    """Return ``notes`` (joined by "; ") with those of ``more`` appended that it does not contain; None if empty."""
    present = notes.split("; ") if notes else []
    return "; ".join([*present, *(note for note in more if note not in present)]) or None


def _check_data(task: Task, data: PreparedData) -> None:
    """Raise UserError unless training and validation data are numeric arrays with the shapes of the task."""
    assert task.input_shape is not None, "a resolved task knows its shapes"
    target_shape = () if task.target.kind == "classes" else task.target.output_shape
    for name, split in (("training", data.train), ("validation", data.validation)):
        for what, rows, shape in (("inputs", split.x, task.input_shape), ("targets", split.y, target_shape)):
            if rows.dtype.kind not in "biuf" or rows.shape != (len(split.x), *shape):
                raise UserError(
                    f"{task.name}: the {name} {what} have shape {rows.shape} and type {rows.dtype}; the task needs "
                    f"{len(split.x)} rows of numbers of shape {shape}: prepare its data again"
                )
