"""One trial's work: adapt a body to a task by a method, epoch by epoch, with exact resume.

It judges nothing: a UserError, a NotFiniteError or torch's out-of-memory error passes through to whoever runs the
trial, which gives the trial its status.
"""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from orca_ray.data.prepared import PreparedData
from orca_ray.methods.align_stage import AlignStage
from orca_ray.methods.hyperparameters import resolve
from orca_ray.methods.progress import Outcome, Progress, Stage
from orca_ray.methods.recipe import Scalar, get_method
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.tasks.augmentations import get_augmentation
from orca_ray.tasks.scaling import input_statistics, with_target_statistics
from orca_ray.tasks.task import Task
from orca_ray.training import checkpoint
from orca_ray.training.aligned_cache import AlignedCache
from orca_ray.training.objective import Objective
from orca_ray.training.refine import RefineLoop
from orca_ray.training.runtime import computing, memory_mib

_FORMAT = 2
_log = logging.getLogger(__name__)


class Adaptation:
    """Align (if the method does), refine, evaluate; `step` runs one epoch of whatever is next.

    Equal arguments give bit-equal outcomes on CPU with equal ``threads``, whatever ran in the process before. torch's
    global generators, thread count and determinism flag are as they were after every call.
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
        """Build the model; no data is read yet.

        Args:
            task: the task, for its shapes, loss, metric and augmentation.
            data: the task's prepared data; its test split is touched only if ``test``.
            method: name of a recipe.
            body: name of a body.
            hyperparameters: by dotted name; what is missing keeps the method's default.
            seed: decides initialisation, draws, order and dropout.
            test: whether the best epoch is scored on test at the end (confirm trials only).
            device: torch device.
            threads: intra-op CPU threads while this trial computes.
            deterministic: refuse CUDA kernels that are not reproducible, and TF32 where it is not asked for (slower; on
                CPUs equal ``threads`` are all it takes).
            reuse_aligned: whether to take over, and keep for others, the aligned embedder of trials that align alike.
            aligned: directory of aligned embedders; None: in the cache directory.
            standardise: whether inputs and regression targets that are in other units are standardised in the model,
                as all others are in their arrays; the reference does not.
        """
        self._statistics = input_statistics(data.train.x, task.input_scale) if standardise else None
        data = with_target_statistics(task, data) if standardise else data
        self._task, self._data, self._seed, self._test = task, data, seed, test
        self._recipe = get_method(method)
        self._hyperparameters = resolve(method, hyperparameters)
        self._body = body
        self._device = torch.device(device)
        self._threads, self._deterministic = threads, deterministic
        self._objective = Objective(task.target, task.loss, task.metric, data.y_mean, data.y_std)
        self._augmentation = get_augmentation(task.augmentation)
        self._outcome = Outcome()
        self._aligned = AlignedCache(aligned) if reuse_aligned else None
        self._align: AlignStage | None = None
        self._refine: RefineLoop | None = None
        self._model: CrossModalModel | None = None
        if self._device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats(self._device)
        with self._computing():
            self._model = self._build()
        self._stage: Stage = "refine"
        if self._recipe.aligns and self._hyperparameters.align.epochs > 0:
            self._stage = "align"
        num_parameters = sum(parameter.numel() for parameter in self._model.parameters())
        num_trainable = sum(parameter.numel() for parameter in set(self._recipe.trainable(self._model)))
        self._outcome = replace(self._outcome, num_parameters=num_parameters, num_trainable=num_trainable)

    @property
    def stage(self) -> Stage:
        """The stage that the next `step` runs."""
        return self._stage

    @property
    def done(self) -> bool:
        """Whether refining has ended and the outcome is final."""
        return self._stage == "done"

    @property
    def model(self) -> CrossModalModel:
        """The model as it stands; with the best epoch's weights once done."""
        assert self._model is not None, "this adaptation is closed"
        return self._model

    def step(self) -> Progress:
        """Run one epoch of the current stage; the last refine epoch restores the best weights and reads test.

        Raises what the stages raise: UserError, NotFiniteError, torch.OutOfMemoryError.
        """
        with self._computing():
            progress = _STEPS[self._stage](self)
        peak = memory_mib(self._device)
        self._outcome = replace(self._outcome, peak_memory_mib=max(peak, self._outcome.peak_memory_mib or 0.0))
        return progress

    def result(self) -> Outcome:
        """Return the outcome so far; final, and with the test score, once `done`."""
        return self._outcome

    def save(self, path: str | Path) -> None:
        """Write a checkpoint atomically; at any stage, between two steps."""
        state = {
            "format": _FORMAT,
            "identity": self._identity(),
            "stage": self._stage,
            "outcome": asdict(self._outcome),
            "align": self._align.state_dict() if self._align else None,
            "embedder": dict(self.model.embedder.state_dict()),
            "refine": self._refine.state_dict() if self._refine else None,
        }
        checkpoint.save(path, state)

    def restore(self, path: str | Path) -> bool:
        """Continue from a checkpoint; False, with nothing changed, when there is no whole one of this trial."""
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
        self._stage = state["stage"]
        self._outcome = Outcome(**state["outcome"])
        return True

    def close(self) -> None:
        """Free model, optimiser and caches, CUDA memory included; the outcome stays readable."""
        modules = [] if self._model is None else list(map(weakref.ref, self._model.modules()))
        self._align = self._refine = self._model = None
        if any(module() is not None for module in modules):  # held by a cycle; to look for cycles takes 0.2 s
            gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _step_align(self) -> Progress:
        started = perf_counter()  # source features and pseudo-labels are part of the stage's price
        self._align = self._align or self._make_align()
        epoch = self._align.step()
        seconds = perf_counter() - started
        align_seconds = self._outcome.align_seconds + seconds
        self._outcome = replace(self._outcome, **self._align.outcome(), align_seconds=align_seconds)
        if self._align.done:
            self._align = None
            self._stage = "refine"
        return Progress(
            stage="align",
            epoch=epoch.epoch,
            epochs=self._hyperparameters.align.epochs,
            distance=epoch.distance,
            learning_rate=epoch.learning_rate,
            seconds=seconds,
        )

    def _step_refine(self) -> Progress:
        self._refine = self._refine or self._make_refine()
        epoch = self._refine.step()
        self._outcome = replace(
            self._outcome,
            validation_score=self._refine.best_score,
            best_epoch=self._refine.best_epoch,
            epochs=epoch.epoch,
            refine_seconds=self._outcome.refine_seconds + epoch.seconds - epoch.validation_seconds,
            evaluate_seconds=self._outcome.evaluate_seconds + epoch.validation_seconds,
            notes=_joined(self._outcome.notes, self._refine.notes),
            precision=self._refine.precision.name,
            micro_batch=self._refine.micro_batch,
            **asdict(self._refine.throughput()),
        )
        if self._refine.done:
            self._finish(self._refine)
        return Progress(
            stage="refine",
            epoch=epoch.epoch,
            epochs=self._hyperparameters.refine.epochs,
            loss=epoch.loss,
            validation_score=epoch.validation_score,
            learning_rate=epoch.learning_rate,
            seconds=epoch.seconds,
        )

    def _step_done(self) -> Progress:
        epochs = self._hyperparameters.refine.epochs
        return Progress(stage="done", epoch=epochs, epochs=epochs, validation_score=self._outcome.validation_score)

    def _finish(self, refine: RefineLoop) -> None:
        refine.restore_best()
        self._stage = "done"
        if not self._test:
            return
        started = perf_counter()
        test = self._data.splits["test"]
        score = refine.evaluate(test)
        seconds = self._outcome.evaluate_seconds + perf_counter() - started
        notes = _joined(self._outcome.notes, refine.notes)
        self._outcome = replace(self._outcome, test_score=score, evaluate_seconds=seconds, notes=notes)

    def _build(self) -> CrossModalModel:
        assert self._task.input_shape is not None, "a resolved task knows its shapes"
        model = build_model(
            input_shape=self._task.input_shape,
            target=self._task.target,
            body=self._body,
            pretrained=self._recipe.pretrained,
            config=self._hyperparameters.embedder,
            dropout=self._hyperparameters.refine.dropout,
            stochastic_depth=self._hyperparameters.refine.stochastic_depth == "body",
            seed=self._seed,
            statistics=self._statistics,
        )
        return model.to(self._device)

    def _make_align(self) -> AlignStage:
        return AlignStage(
            model=self.model,
            data=self._data,
            target=self._task.target,
            body=self._body,
            pretrained=self._recipe.pretrained,
            hyperparameters=self._hyperparameters,
            seed=self._seed,
            device=self._device,
            threads=self._threads,
            deterministic=self._deterministic,
            kept=self._aligned,
        )

    def _make_refine(self) -> RefineLoop:
        return RefineLoop(
            self.model,
            self._recipe.trainable(self.model),
            self._data.splits["train"],
            self._data.splits["validation"],
            self._objective,
            self._hyperparameters.refine,
            seed=self._seed,
            device=self._device,
            augmentation=self._augmentation,
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "task": self._task.name,
            "data": self._data.fingerprint,
            "method": self._recipe.name,
            "body": self._body,
            "hyperparameters": self._hyperparameters.to_flat(),
            "seed": self._seed,
            "test": self._test,
        }

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with computing(self._threads, deterministic=self._deterministic):
            if not self._deterministic:
                yield
                return
            # cuDNN may time its kernels to choose among them, and by default lets convolutions round to TF32.
            cudnn = torch.backends.cudnn
            with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
                yield


def _joined(notes: str | None, more: list[str]) -> str | None:
    """Add those of ``more`` that ``notes`` does not tell yet."""
    told = notes.split("; ") if notes else []
    return "; ".join([*told, *(note for note in more if note not in told)]) or None


_STEPS: dict[Stage, Callable[[Adaptation], Progress]] = {
    "align": Adaptation._step_align,
    "refine": Adaptation._step_refine,
    "done": Adaptation._step_done,
}
