"""`TrialTrainer` runs one trial, epoch by epoch, with exact resume.

A trial adapts a body to a task by a method. The trainer does not catch UserError,
NotFiniteError and out-of-memory errors; the caller sets the trial's status.
"""

import gc
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

import torch

from orca_ray.alignment import tensor_cache
from orca_ray.data.prepared import (
    HELD_OUT,
    PreparedData,
    SplitName,
    with_fold,
    with_train_fraction,
)
from orca_ray.data.rows import Array, Rows
from orca_ray.errors import UserError
from orca_ray.methods.options import Scalar
from orca_ray.methods.registry import check_unfit, get_method, resolve
from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.methods.snapshot import (
    Snapshot,
    load_weights,
    take_snapshot,
    weight_names,
)
from orca_ray.methods.stages.four_bit import num_values
from orca_ray.methods.stages.trial import (
    ArtefactCollector,
    Stage,
    Trial,
    network_request,
)
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.results.artefacts import Artefact
from orca_ray.tasks.augmentations import Augmentation, get_augmentation, get_shift
from orca_ray.tasks.scaling import input_statistics, with_target_statistics
from orca_ray.tasks.task import Task
from orca_ray.training.checkpoint import AlignedCache
from orca_ray.training.config import DataConfig
from orca_ray.training.evaluate import BATCH_SIZE, Objective, SplitInputs, predict
from orca_ray.training.numerics import (
    choose_precision,
    derive_seed,
    return_freed_memory,
    torch_settings,
)
from orca_ray.training.ranks import ALONE, Ranks
from orca_ray.training.sample_cost import memory_mib

_FORMAT = 6
"""Version of the content of checkpoints; those of another version are not restored."""
_LARGE_PROCESS_MIB = 1024
"""Memory in MiB above which a closed trial returns freed memory to the system.

Below, the next trial of the process reuses it, since getting 100 MiB anew takes 60 ms.
"""
_log = logging.getLogger(__name__)


class TrialTrainer:
    """Trainer of one trial: runs a method's stages and, if ``test``, the test.

    A `step` is one epoch or one probe. On a CPU, equal arguments give bit-equal
    outcomes, whatever ran in the process before. Every call restores torch's global
    random generators, number of threads and determinism flag afterwards.
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
        on_step: Callable[[], None] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Build the model and plan the stages.

        Args:
            task: defines shapes, loss, metric and augmentation.
            data: the task's prepared data; the test split is read only if ``test``.
            method, body: names of the method and of the body.
            hyperparameters: values by dotted name, which override the method's
                defaults.
            seed: determines initialisation, sampling, order and dropout.
            test: whether to evaluate the kept epoch on the test split at the end (only
                in confirm trials).
            device, threads: torch device, and number of intra-op CPU threads.
            deterministic: see `torch_settings`.
            reuse_aligned: whether to load the aligned embedder from a cache, and to
                store it for other trials.
            aligned: directory of the cache of alignments; None: ``aligned`` in the
                cache directory.
            standardise: whether to standardise inputs and regression targets that are
                not standardised yet.
            on_step: called between optimiser steps of refining; it may call `save`.
            ranks: processes that run parallel stages together, each with a trainer of
                equal arguments.

        Raises UserError for an unknown name, a value out of range, a task that the
        method cannot adapt to, or data whose shapes differ from the task's.
        """
        _check_data(task, data)
        check_unfit(method, task)
        recipe = get_method(method)
        options = resolve(method, hyperparameters)
        data = _chosen_data(task, data, options.data, seed)
        statistics = None
        if standardise:
            statistics = input_statistics(data.train.x, task.input_scale)
            data = with_target_statistics(task, data)
        self._hyperparameters = options
        self._device = torch.device(device)
        self._threads = threads
        self._deterministic = deterministic
        _start_measuring_memory(self._device)
        self._artefacts = ArtefactCollector(task, data)
        with self._computing():
            request = network_request(
                task,
                options,
                body,
                pretrained=recipe.pretrained,
                seed=seed,
                statistics=statistics,
            )
            model = recipe.network(request).to(self._device)
            # Stages may add modules for training.
            self._weight_names = weight_names(recipe, model)
            trial = Trial(
                method=method,
                aligns=recipe.aligns,
                pretrained=recipe.pretrained,
                trainable=recipe.trainable,
                task=task,
                data=data,
                body=body,
                hyperparameters=options,
                seed=seed,
                device=self._device,
                objective=Objective(
                    task.target, task.loss, task.metric, data.y_mean, data.y_std
                ),
                augmentation=_augmentation(task, options.refine.shift),
                model=model,
                cache=AlignedCache(aligned) if reuse_aligned else None,
                test=test and _has_unseen_test_samples(data, options.data),
                artefacts=self._artefacts,
                on_step=on_step,
                ranks=ranks,
            )
            self._stages: list[Stage] = list(recipe.stages(trial))
            """The current stage and those after it."""
        self._trial: Trial | None = trial
        self._identity = _identity(trial)
        self.stage = self._stages[0].name
        """Name of the stage that the next `step` runs, or ``done``."""
        self._outcome = Outcome(
            num_parameters=sum(map(num_values, model.parameters())),
            num_trainable=sum(map(num_values, set(recipe.trainable(model)))),
        )

    @property
    def done(self) -> bool:
        """Whether all stages have ended and the outcome is final."""
        return self.stage == "done"

    @property
    def parallel(self) -> bool:
        """Whether the next `step` must be called by all ranks.

        If not, only the first rank calls it.
        """
        return not self.done and self._stages[0].parallel

    @property
    def trial(self) -> Trial:
        """Task, data, options and model, which the stages share, until `close`."""
        assert self._trial is not None, "this trainer is closed"
        return self._trial

    @property
    def model(self) -> CrossModalModel:
        """The model with its present weights; once `done`, those of the kept epoch."""
        return self.trial.model

    def step(self) -> EpochProgress:
        """Run one epoch or probe, and return its report.

        Once `done`, only return a report with stage "done".
        """
        if self.done:
            epochs = self._hyperparameters.refine.epochs
            return EpochProgress(
                stage="done",
                epoch=epochs,
                epochs=epochs,
                validation_score=self._outcome.validation_score,
            )
        stage = self._stages[0]
        with self._computing():
            report = stage.step()
        self._outcome = stage.add_to(self._outcome)
        if stage.done and len(self._stages) > 1:
            del self._stages[0]
        self._name_stage()
        peak = memory_mib(self._device)
        self._outcome = replace(
            self._outcome,
            peak_memory_mib=max(peak, self._outcome.peak_memory_mib or 0.0),
        )
        return report

    def result(self) -> Outcome:
        """Return the outcome so far.

        Once `done`, it is final and, if ``test``, includes the test score.
        """
        return self._outcome

    def artefacts(self) -> tuple[Artefact, ...]:
        """Return the artefacts so far, small pictures of what the model does.

        There are none unless ``test``.
        """
        return tuple(self._artefacts.collected)

    def outputs(self, split: SplitName) -> Array:
        """Return the present model's predictions [N, *output_shape] for a split.

        They are in the target's units, as metrics take them.
        """
        trial = self.trial
        model = self.model
        precision = choose_precision(
            self._hyperparameters.refine.precision,
            trial.device,
            model.body.feature_width,
        )
        with self._computing():
            model.eval()
            inputs = SplitInputs(trial.data.splits[split].x, model, precision)
            predictions, _ = predict(inputs, trial.objective, BATCH_SIZE)
        return predictions

    def snapshot(self, protocol: str = HELD_OUT) -> Snapshot:
        """Return the present model as a model folder holds it.

        Once `done`, it has the weights of the kept epoch. ``protocol`` is only
        recorded. Raises UserError if the configuration of the body can no longer be
        read.
        """
        return take_snapshot(self.trial, self._weight_names, self._outcome, protocol)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint to ``path`` atomically.

        It can be called between any two steps, and in ``on_step``.
        """
        # Stages before refining may change the weights outside the body only.
        weights = {
            name: value
            for name, value in self.model.state_dict().items()
            if not name.startswith("body.")
        }
        tensor_cache.save(
            path,
            {
                "format": _FORMAT,
                "identity": self._identity,
                "stages": len(self._stages),
                "stage": self._stages[0].state_dict(),
                "outcome": asdict(self._outcome),
                "weights": weights,
                "artefacts": self._artefacts.state_dict(),
            },
        )

    def start(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Load the weights of another trial's model, by name.

        Raises UserError unless they are those of this network.
        """
        load_weights(self.model, weights, self._weight_names)

    def restore(self, path: str | Path) -> bool:
        """Restore a checkpoint, and return whether that was possible.

        It is not if the checkpoint is missing, damaged, or of another trial or version.
        """
        state = tensor_cache.load(path)
        if state is None:
            return False
        if state.get("format") != _FORMAT or state["identity"] != self._identity:
            _log.warning(
                "checkpoint %s belongs to another trial or version; starting again",
                path,
            )
            return False
        with self._computing():
            self.model.load_state_dict(state["weights"], strict=False)
            del self._stages[: len(self._stages) - state["stages"]]
            if state["stage"] is not None:
                self._stages[0].load_state_dict(state["stage"])
        self._name_stage()
        self._artefacts.load_state_dict(state["artefacts"])
        self._outcome = Outcome(**state["outcome"])
        return True

    def close(self) -> None:
        """Free the memory of model, optimiser and caches, including CUDA memory.

        `result` remains available.
        """
        self._stages = []
        self._trial = None
        uses_cuda = self._device.type == "cuda"
        # Only the garbage collector frees checkpointed layers and compiled networks; it
        # takes 0.2 s.
        if uses_cuda or self._hyperparameters.refine.gradient_checkpointing == "on":
            gc.collect()
        if uses_cuda:
            torch.cuda.empty_cache()
        if memory_mib(torch.device("cpu")) > _LARGE_PROCESS_MIB:
            return_freed_memory()

    def _name_stage(self) -> None:
        self.stage = "done" if self._stages[0].done else self._stages[0].name

    def _computing(self) -> AbstractContextManager[None]:
        return torch_settings(self._threads, deterministic=self._deterministic)


def _chosen_data(
    task: Task, data: PreparedData, options: DataConfig, seed: int
) -> PreparedData:
    """Return the data with the fold, and the share of training samples, of a trial."""
    data = with_fold(data, options.fold)
    if options.fraction == 1:
        return data
    return with_train_fraction(
        data,
        options.fraction,
        derive_seed(seed, "fraction") % 2**32,
        classes=task.target.kind == "classes",
    )


def _has_unseen_test_samples(data: PreparedData, options: DataConfig) -> bool:
    """Return whether the data have test samples that are not used for training.

    Own data may have no test split. In the place of a fold, -1 means that training has
    the test samples, too.
    """
    return len(data.test) > 0 and options.fold != -1


def _start_measuring_memory(device: torch.device) -> None:
    """Reset the recorded peak of memory of a CUDA device; on a CPU, do nothing."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)


def _augmentation(task: Task, shift: float) -> Augmentation | None:
    """Return random shifts by up to ``shift``, if they suit, else the task's own."""
    return get_shift(task, shift) or get_augmentation(task.augmentation)


def _identity(trial: Trial) -> dict[str, object]:
    """Return what a checkpoint must have in common with a trial to be its own."""
    return {
        "task": trial.task.name,
        "data": trial.data.fingerprint,
        "method": trial.method,
        "body": trial.body,
        "hyperparameters": trial.hyperparameters.to_flat(),
        "seed": trial.seed,
        "test": trial.test,
    }


def _check_data(task: Task, data: PreparedData) -> None:
    """Raise UserError unless the data have the types and shapes of the task."""
    assert task.input_shape is not None, "a resolved task knows its shapes"
    target_shape = () if task.target.kind == "classes" else task.target.output_shape
    for name, split in (("training", data.train), ("validation", data.validation)):
        count = len(split.x)
        _check_rows(task, f"{name} inputs", split.x, (count, *task.input_shape))
        _check_rows(task, f"{name} targets", split.y, (count, *target_shape))


def _check_rows(task: Task, name: str, rows: Rows, expected: tuple[int, ...]) -> None:
    """Raise UserError unless ``rows`` are numbers of the shape ``expected``."""
    if rows.dtype.kind not in "biuf" or rows.shape != expected:
        count, *shape = expected
        raise UserError(
            f"{task.name}: the {name} have shape {rows.shape} and type {rows.dtype};"
            f" the task needs {count} rows of numbers of shape {tuple(shape)}: prepare"
            " its data again"
        )
