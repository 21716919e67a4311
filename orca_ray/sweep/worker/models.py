"""Models of confirm trials.

Workers store the models. The driver keeps the best model of each task, and completes
the cards of the models.
"""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from safetensors.numpy import load

from orca_ray.data import cache
from orca_ray.data.prepared import SplitName
from orca_ray.data.rows import Array
from orca_ray.data.tensor_file import save_tensors
from orca_ray.errors import UserError
from orca_ray.methods.model_card import make_card, write_card
from orca_ray.methods.model_config import CARD, PREPROCESSING, parse_config
from orca_ray.methods.model_folder import CONFIG, write_folder
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.options import KeepModels
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.search import TrialSource
from orca_ray.tasks.registry import get_task, is_own

logger = logging.getLogger(__name__)

OUTPUTS = "outputs.safetensors"
"""File with a model's outputs by split, beside the model of a trial on own data.

Ensembles are selected by these outputs.
"""


def write_model(trainer: TrialTrainer, directory: Path, trial: TrialSpec) -> None:
    """Write the model of a trainer that is done to ``directory``.

    Raises UserError if the directory has other files or cannot be written.
    """
    taken = trainer.snapshot(trial.protocol)
    config = replace(taken.config, trial=trial.key)
    path = get_task(trial.task).prepared_directory(trial.protocol) / PREPROCESSING
    preprocessing = cache.read_json(path) if path.is_file() else None
    card = make_card(config, label_names=_label_names(preprocessing))
    write_folder(
        directory, config, taken.weights, card=card, preprocessing=preprocessing
    )
    if is_own(trial.task):
        _write_outputs(trainer, directory / OUTPUTS)


def _write_outputs(trainer: TrialTrainer, path: Path) -> None:
    """Write a model's outputs for validation and test samples, if there are any."""
    import torch
    from torch import Tensor

    names: tuple[SplitName, ...] = ("validation", "test")
    outputs: dict[str, Tensor] = {
        name: torch.from_numpy(trainer.outputs(name))
        for name in names
        if len(trainer.trial.data.splits[name])
    }
    save_tensors(path, outputs)


def read_outputs(content: bytes) -> dict[str, Array]:
    """Return the outputs [N, *output_shape] of a model by split.

    ``content`` is that of a file `OUTPUTS`. Raises SafetensorError if it is damaged.
    Raises UserError for fields [N, C, H, W] without metadata, whose axes may be in the
    wrong order: earlier versions, which wrote no metadata, stored the channels of some
    networks last.
    """
    outputs = load(content)
    has_images = any(
        array.ndim == 4 and array.shape[1] > 1 for array in outputs.values()
    )
    # A file starts with 8 bytes that hold the length of its JSON header.
    if has_images and not content[8:].startswith(b'{"__metadata__"'):
        raise UserError(
            "an earlier version of orca-ray stored these outputs of several channels,"
            " some of them in the wrong order: adapt again with another --results"
        )
    return outputs


class ModelKeeper:
    """Keeper of the stored models of a sweep.

    When all trials of a task have ended, it deletes the models that are not to be kept,
    and completes the cards of the others.

    The best model of a task is found in two steps, without test scores. The best
    configuration (method, body and hyper-parameters) is the one whose confirm trials
    have the lowest mean validation score; on a tie, it is the one that trains fewest
    parameters. Among its seeds, the one with the lowest validation score is the best.
    """

    def __init__(
        self, store: str, keep: KeepModels, *, command: str, emit: Callable[[str], None]
    ) -> None:
        """Keep the models of the store at the path or URI ``store``.

        ``command`` is written into cards, and ``emit`` is called with messages.
        """
        self._models = StoredModels(store)
        self._keep = keep
        self._command = command
        self._emit = emit
        self._done: set[str] = set()
        self.best: dict[str, str] = {}
        """Path or URI of the best stored model of each task that has ended."""
        self.missing: dict[str, str] = {}
        """Task of each trial whose model should be in the store and is not, by key."""

    def tidy(self, searches: Iterable[TrialSource], *, ended: bool = False) -> None:
        """Delete models that are not to be kept, and complete the cards of the others.

        Only tasks whose trials have all ended are considered. ``ended``: the sweep has
        ended. Then the cards of other tasks are completed, too, but their models stay.
        """
        if self._keep is KeepModels.NONE:
            return
        by_task: dict[str, list[TrialSource]] = defaultdict(list)
        for search in searches:
            by_task[search.task].append(search)
        for task, searches_of_task in by_task.items():
            done = all(search.done for search in searches_of_task)
            if task in self._done or not (done or ended):
                continue
            if done:
                self._done.add(task)
            try:
                self._tidy(task, _completed_confirm_trials(searches_of_task), done=done)
            # The scores are safe, and the next run tries again.
            except (UserError, OSError) as error:
                self._emit(f"{task}: models cannot be tidied: {error}")

    def _tidy(self, task: str, confirmed: Sequence[Record], *, done: bool) -> None:
        """Delete models of one task that are not to be kept; complete the other cards.

        ``confirmed`` are the records of the task's completed confirm trials. Unless all
        trials of the task are ``done``, nothing is deleted.
        """
        best = best_of(confirmed)
        if best is None:
            return
        kept_keys = {record.trial_key for record in confirmed}
        if done and self._keep is KeepModels.BEST:
            kept_keys = {best.trial_key}
        stored = {
            record.trial_key: record
            for record in confirmed
            if self._models.has(record.trial_key)
        }
        if done:
            missing_keys = sorted(kept_keys - stored.keys())
            self.missing |= dict.fromkeys(missing_keys, task)
        if done and best.trial_key in stored:
            self.best[task] = self._models.place(best.trial_key)
            for key in stored.keys() - kept_keys:
                self._models.remove(key)
        for key in stored.keys() & kept_keys:
            self.complete(stored[key], confirmed)

    def complete(self, record: Record, confirmed: Sequence[Record]) -> None:
        """Add the test scores of all trials in ``confirmed`` to a model's card.

        The model is the stored one of the trial of ``record``.
        """
        text = self._models.read(record.trial_key, CONFIG)
        if text is None:
            return
        config = parse_config(text, f"{self._models.place(record.trial_key)}/{CONFIG}")
        preprocessing = self._models.read(record.trial_key, PREPROCESSING)
        names = _label_names(
            None if preprocessing is None else json.loads(preprocessing)
        )
        config = replace(
            config, sweep=record.sweep, command=config.command or self._command
        )
        card, described = write_card(config, board_of(confirmed), names)
        self._models.write(record.trial_key, CARD, card.encode())
        self._models.write(record.trial_key, CONFIG, described.encode())


def _completed_confirm_trials(searches: Iterable[TrialSource]) -> list[Record]:
    """Return the records of the confirm trials that completed."""
    return [
        record
        for search in searches
        for record in search.records.values()
        if record.phase == "confirm" and record.status is Status.COMPLETED
    ]


class _Scored(NamedTuple):
    """A trial with a validation score."""

    score: float
    record: Record


def best_of(confirmed: Sequence[Record]) -> Record | None:
    """Return the record of the best model (defined in `ModelKeeper`).

    None if no trial has a validation score.
    """
    scored: dict[tuple[str, str, str], list[_Scored]] = defaultdict(list)
    for record in confirmed:
        if record.validation_score is not None:
            configuration = (record.method, record.body, record.hyperparameters)
            scored[configuration].append(_Scored(record.validation_score, record))
    if not scored:
        return None
    # On a tie, the names decide, so that the result does not depend on the order.
    best = min(scored, key=lambda name: (*_rank(scored[name]), name))
    trial = min(scored[best], key=lambda trial: (trial.score, trial.record.trial_key))
    return trial.record


def _rank(trials: Sequence[_Scored]) -> tuple[float, float]:
    """Return mean score and number of trained parameters of one configuration."""
    num_trained: float | None = trials[0].record.num_trainable
    if num_trained is None:
        num_trained = math.inf
    return mean(trial.score for trial in trials), num_trained


def board_of(confirmed: Sequence[Record]) -> dict[str, list[float]]:
    """Return the test scores of each method for a model card, best method first.

    Methods are sorted by their mean score; lower is better.
    """
    scores: dict[str, list[float]] = defaultdict(list)
    for record in confirmed:
        if record.test_score is not None:
            scores[record.method].append(record.test_score)
    return dict(sorted(scores.items(), key=lambda item: (mean(item[1]), item[0])))


def _label_names(preprocessing: Mapping[str, Any] | None) -> Sequence[str]:
    """Return the label names in the preprocessing of an own task; else no names."""
    if preprocessing is None:
        return ()
    from orca_ray.own_data.infer_task import Preprocessing

    return Preprocessing.from_json(preprocessing).target.label_names
