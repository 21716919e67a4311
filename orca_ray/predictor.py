"""`Predictor`: a trained model that predicts without Ray, Optuna or a store."""

import copy
import html
import itertools
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.methods import model_config, model_folder
from orca_ray.methods.conformal import Conformal, sets_of
from orca_ray.methods.importance import (
    MOST_SAMPLES,
    REPEATS,
    Evaluated,
    FeatureImportance,
    draw_rows,
    find_features,
    measure_importance,
    samples_in_time,
)
from orca_ray.methods.model_card import make_card, report_lines
from orca_ray.methods.model_config import ModelConfig, TaskSummary
from orca_ray.methods.model_inputs import BATCH_SIZE, ModelInputs, read_data
from orca_ray.methods.registry import get_method, resolve
from orca_ray.methods.snapshot import Snapshot, read_weights, rebuild, weight_names
from orca_ray.models.crossmodal import CrossModalModel, pooled
from orca_ray.models.mixture import Mixture
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.paths import expand_user
from orca_ray.tasks.losses import get_loss
from orca_ray.training.evaluate import Objective, SplitInputs, predict, score
from orca_ray.training.numerics import (
    NotFiniteError,
    Precision,
    choose_precision,
    find_device,
)

HUB = "hub:"
"""Beginning of the name of a model on the Hugging Face hub, ``hub:OWNER/NAME``."""


class Predictor:
    """A trained model with its preprocessing.

    Inputs ``x`` of the methods are an array [N, *input_shape] or, if the model was made
    of a user's data, data of the same form: a table, arrays of unequal lengths, or the
    path of a file or folder. Inputs are read in parts, so they may be larger than
    memory. Instances are not thread-safe.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        preprocessing: Mapping[str, Any] | None = None,
        *,
        card: str | None = None,
        device: str = "auto",
        conformal: Conformal | None = None,
    ) -> None:
        """Build the network of ``snapshot``.

        Args:
            snapshot: description and weights of the model.
            preprocessing: content of ``preprocessing.json``; None: inputs are arrays.
            card: the model card; None: `save` makes one of the description.
            device: torch device; ``auto``: a GPU if there is one.
            conformal: scores of which intervals are made; None: there are none.

        Raises UserError as `rebuild` does, and for a device that this machine lacks.
        """
        self.config: ModelConfig = snapshot.config
        """The description of the model."""
        self.device = find_device(device)
        self.preprocessing_json = preprocessing
        """Content of ``preprocessing.json``; None: inputs are arrays."""
        self.preprocessing = (
            None if preprocessing is None else Preprocessing.from_json(preprocessing)
        )
        """How inputs are made of the user's data; None: inputs are arrays."""
        self._check_preprocessing()
        self._card = card
        self._conformal = conformal
        self.network = rebuild(snapshot.config, snapshot.weights).to(self.device)
        """The `torch.nn.Module` that maps inputs to standardised outputs.

        Shapes are [B, *input_shape] and [B, *output_shape].
        """
        self.members: list[CrossModalModel]
        """The networks whose predictions are averaged, or the one network."""
        if isinstance(self.network, Mixture):
            self.members = self.network.networks
        else:
            self.members = [self.network]
        statistics = [
            None if stored is None else stored.array()
            for stored in (self.config.y_mean, self.config.y_std)
        ]
        self._objective = Objective(
            self.task.target, self.task.loss, self.task.metric, *statistics
        )
        self._precision = self._choose_precision()

    def _check_preprocessing(self) -> None:
        """Raise UserError if the preprocessing does not fit the task."""
        if self.preprocessing is None:
            return
        shape = self.preprocessing.encoder.shape
        target = self.preprocessing.target.target
        if shape != self.task.input_shape or target != self.task.target:
            raise UserError(
                f"{model_config.PREPROCESSING} and {model_folder.CONFIG} belong to"
                " different models"
            )

    def _choose_precision(self) -> Precision:
        """Return the precision that all members take; float32 if they differ."""
        configs = self.config.members or [self.config]
        precisions = set()
        for config, network in zip(configs, self.members, strict=True):
            option = resolve(config.method, config.hyperparameters).refine.precision
            if option == "fast":  # allowed in training only
                option = "auto"
            width = int(network.body.feature_width)
            precisions.add(choose_precision(option, self.device, width))
        if len(precisions) == 1:
            return precisions.pop()
        return choose_precision("float32", self.device, 0)  # the width does not matter

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Self:
        """Return the model in a folder, or in the repository ``hub:OWNER/NAME``.

        The files are verified. Raises UserError if there is no model folder, if a file
        is missing or was changed, if the format is that of another version, or as
        `__init__` does.
        """
        if isinstance(path, str) and path.startswith(HUB):
            folder = _from_hub(path)
        else:
            folder = expand_user(path)
        config = model_folder.read_config(folder)
        card = folder / model_config.CARD
        return cls(
            Snapshot(config, read_weights(folder)),
            model_folder.read_preprocessing(folder, config),
            card=card.read_text(encoding="utf-8") if card.is_file() else None,
            device=device,
            conformal=model_folder.read_conformal(folder, config),
        )

    def save(self, path: str | Path) -> Path:
        """Write the model to the folder ``path``, and return the folder's path.

        An existing model folder is replaced. Raises UserError if ``path`` has other
        files, or cannot be written.
        """
        folder = expand_user(path)
        model_folder.write_folder(
            folder,
            self.config,
            self.snapshot().weights,
            preprocessing=self.preprocessing_json,
            conformal=self._conformal,
            card=self._card or make_card(self.config, label_names=self.label_names),
        )
        return folder

    def snapshot(self) -> Snapshot:
        """Return description and weights, from which an equal model can be built.

        The names of the weights of an ensemble begin with the member's number.
        """
        weights: dict[str, Tensor] = {}
        configs = self.config.members or [self.config]
        for number, (config, network) in enumerate(
            zip(configs, self.members, strict=True)
        ):
            state = network.state_dict()
            prefix = f"{number}." if self.config.members else ""
            for name in weight_names(get_method(config.method), network):
                weights[f"{prefix}{name}"] = state[name].cpu().contiguous()
        return Snapshot(self.config, weights)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the content of a model folder.

        The copy is loaded onto a GPU only where there is one.
        """
        device = "cpu" if self.device.type == "cpu" else "auto"
        build = partial(
            type(self), card=self._card, device=device, conformal=self._conformal
        )
        return build, (self.snapshot(), self.preprocessing_json)

    def report(self) -> dict[str, Any]:
        """Return the report of `orca_ray.adapt` about this model.

        It has the fields of `orca_ray.adaptation.report.Report`. It is empty if no
        adaptation to own data made the model.
        """
        return copy.deepcopy(dict(self.config.report))

    @property
    def task(self) -> TaskSummary:
        """The task that the model was trained on."""
        return self.config.task

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes or labels; empty if they have none."""
        if self.preprocessing is None:
            return ()
        return tuple(self.preprocessing.target.label_names)

    @property
    def decides(self) -> bool:
        """Whether the model predicts classes, labels or masks, with probabilities."""
        return (
            self.task.target.kind in ("classes", "labels")
            or not get_loss(self.task.loss).regression
        )

    def predict(self, x: Any) -> Array:
        """Return the predictions for N samples.

        Classes: [N] names, or numbers if they have no names. Labels: [N, K] bool. A
        number: [N] float32. Fields: [N, *shape] float32, or bool for masks. Raises
        UserError for inputs that the model cannot take.
        """
        return self.decide(self.outputs(x))

    def predict_proba(self, x: Any) -> Array:
        """Return probabilities, float32.

        They are [N, K] of classes (with sum 1) or labels, or [N, *shape] of masks.
        Raises UserError if the model predicts numbers, and for inputs that the model
        cannot take.
        """
        return self.probabilities(self.outputs(x))

    def predict_interval(self, x: Any, level: float = 0.9) -> tuple[Array, Array]:
        """Return the low and the high ends of conformal intervals, float32.

        The number of a new sample is in its interval with probability ``level``, if
        the sample is drawn as the training data were. Shapes are those of `predict`;
        each value of a field has an interval of its own.

        Raises UserError if the model predicts no numbers, if its folder has no scores
        for intervals, if the level needs more samples, and as `predict` does.
        """
        self.check_interval(level)
        if self.decides:
            raise UserError(
                f"{self.task.name} has classes, which have no intervals: use"
                " predict_sets"
            )
        return self.interval_of(self.outputs(x), level)

    def predict_sets(self, x: Any, level: float = 0.9) -> Array:
        """Return conformal sets of classes, bool [N, K].

        The class of a new sample is in its set with probability ``level``, if the
        sample is drawn as the training data were. A set is never empty.

        Raises UserError if the model predicts no classes, and as `predict_interval`.
        """
        self.check_interval(level)
        if self.task.target.kind != "classes":
            raise UserError(
                f"{self.task.name} has no classes: use predict_interval for numbers"
            )
        return self.sets_of(self.outputs(x), level)

    def check_interval(self, level: float) -> None:
        """Raise UserError if the model makes no intervals or sets of this level."""
        kind = self.task.target.kind
        if self.decides and kind != "classes":
            raise UserError(
                f"{self.task.name} predicts {kind}: intervals are of numbers and"
                " fields, and sets of classes"
            )
        self._quantile(level)

    def interval_of(self, outputs: Array, level: float) -> tuple[Array, Array]:
        """Return the intervals for `outputs`; see `predict_interval`."""
        radius = self._quantile(level)
        low = self._with_user_axes(outputs - radius)
        high = self._with_user_axes(outputs + radius)
        return low, high

    def sets_of(self, outputs: Array, level: float) -> Array:
        """Return the sets of classes for `outputs`; see `predict_sets`."""
        return sets_of(self.probabilities(outputs), float(self._quantile(level)))

    def _quantile(self, level: float) -> Array:
        """Return the scores that a new sample does not exceed at this level."""
        if self._conformal is None:
            raise UserError(
                "this model folder has no scores for --interval: run 'orca-sweep adapt'"
                " again with this version of orca-ray; the same command writes the"
                " model anew from its stored trials"
            )
        return self._conformal.quantile(level)

    def embed(self, x: Any) -> Array:
        """Return the body's pooled features [N, F] of samples, float32.

        A classifier's head maps these features to logits. Features of several members
        follow each other.
        """
        inputs = self.inputs(x)
        batches = []
        with torch.no_grad(), self._precision.active():
            for chunk in inputs.chunks():
                for part in torch.split(torch.from_numpy(chunk), BATCH_SIZE):
                    features = [
                        self._features(network, part.to(self.device))
                        for network in self.members
                    ]
                    batches.append(torch.cat(features, dim=1).float().cpu().numpy())
        return np.concatenate(batches)

    def _features(self, network: CrossModalModel, part: Tensor) -> Tensor:
        """Return the pooled features [B, F] of inputs [B, *input_shape]."""
        with self._precision.autocast():
            with torch.autocast(self.device.type, enabled=False):
                tokens = network.embed(part)
            return pooled(network.encode(tokens), network.body.pooling)

    def evaluate(
        self, x: Any, y: Any = None, *, group: Array | None = None
    ) -> dict[str, float]:
        """Return the score by the name of the task's metric; lower is better.

        Args:
            x: inputs.
            y: targets [N, ...]; classes by name or number. None: the targets in the
                file or folder ``x``. Samples whose target is missing do not count.
            group: ids [N] of samples; rows with equal ids are parts of one sample.

        Raises UserError if there are no targets, if they do not fit, or if the metric
        is not defined for them.
        """
        inputs, targets = self._labelled(x, y)
        labelled = np.flatnonzero(_has_target(targets))
        outputs = self._outputs(inputs)[labelled]
        ids = None if group is None else np.asarray(group)[labelled]
        return {
            self.task.metric: score(outputs, targets[labelled], self._objective, ids)
        }

    def _labelled(self, x: Any, y: Any) -> tuple[ModelInputs, Array]:
        """Return samples and their targets [N, ...], of which some are not missing.

        Arguments and errors are those of `evaluate`.
        """
        if y is None and isinstance(x, str | Path):
            x = read_data(x, self.preprocessing, labelled=True)
        inputs = self.inputs(x)
        targets = self._targets(inputs.data.y if y is None else y)
        if len(targets) != len(inputs):
            raise UserError(
                f"{len(inputs)} inputs, but {len(targets)} targets: give one target for"
                " each input"
            )
        if not _has_target(targets).any():
            raise UserError("every target is missing: evaluate needs some")
        return inputs, targets

    def importance(
        self,
        x: Any,
        y: Any = None,
        *,
        repeats: int = REPEATS,
        seconds: float = 60.0,
        seed: int = 0,
    ) -> list[FeatureImportance]:
        """Return how much worse the score is if a feature is shuffled, by feature.

        Give samples that the model was not trained on: on those of training, features
        that it has only memorised look important. The largest importance is first.

        Args:
            x, y: inputs and targets as in `evaluate`; of more than
                `orca_ray.methods.importance.MOST_SAMPLES`, as many are drawn.
            repeats: number of permutations of each feature.
            seconds: time limit; fewer repeats, or fewer samples, are used to keep it.
            seed: seed of the permutations.

        Raises UserError as `evaluate` does, and for a model of images, fields or
        recordings.
        """
        features = find_features(self.preprocessing, self.task.input_shape)
        if not features:
            raise UserError(
                f"{self.task.name}: importance is that of the columns of tables, of"
                " features, and of channels and steps of series"
            )
        if repeats < 1:
            raise UserError(f"repeats={repeats}: give at least 1")
        inputs, targets = self._labelled(x, y)
        encoded = np.concatenate(list(inputs.chunks()))
        labelled = np.flatnonzero(_has_target(targets))
        rows = labelled[draw_rows(len(labelled), MOST_SAMPLES, seed)]
        parts = [Evaluated(encoded[rows], targets[rows], self.outputs_of)]
        deadline = time.monotonic() + seconds
        parts = samples_in_time(parts, len(features), seconds)
        return measure_importance(
            parts,
            lambda outputs, y: score(outputs, y, self._objective, None),
            features,
            repeats=repeats,
            seconds=deadline - time.monotonic(),
            seed=seed,
        )

    def outputs(self, x: Any) -> Array:
        """Return the outputs [N, ...] that metrics compare with targets, float32.

        They are logits, or numbers in target units.
        """
        return self._outputs(self.inputs(x))

    def inputs(self, x: Any) -> ModelInputs:
        """Return the samples in ``x``, which are read in parts.

        Raises UserError for samples that the model cannot take.
        """
        return ModelInputs.of(x, self.task, self.preprocessing)

    def stream(self, inputs: ModelInputs) -> Iterator[Array]:
        """Yield the `outputs` of consecutive samples.

        Only one part of ``inputs`` is in memory at a time.
        """
        yield from map(self.outputs_of, inputs.chunks())

    def outputs_of(self, encoded: Array) -> Array:
        """Return the `outputs` of encoded samples, float32 [N, *input_shape].

        `ModelInputs.chunks` yields such samples. Raises UserError if an output is not
        finite.
        """
        samples = SplitInputs(encoded, self.network, self._precision)
        try:
            return predict(samples, self._objective, BATCH_SIZE)[0]
        except NotFiniteError as error:
            raise UserError(
                "the model's outputs are not finite, because inputs are far from those"
                " of training: check their units"
            ) from error

    def decide(self, outputs: Array) -> Array:
        """Return the predictions for the result of `outputs`; see `predict`."""
        if self.task.target.kind == "classes":
            class_numbers: Array = outputs.argmax(axis=1)
            if not self.label_names:
                return class_numbers
            return np.asarray(self.label_names)[class_numbers]
        return self._with_user_axes(outputs > 0 if self.decides else outputs)

    def probabilities(self, outputs: Array) -> Array:
        """Return the probabilities for the result of `outputs`; see `predict_proba`."""
        if not self.decides:
            raise UserError(
                f"{self.task.name} predicts numbers, which have no probabilities: use"
                " predict"
            )
        logits = torch.from_numpy(outputs)
        if self.task.target.kind == "classes":
            probabilities = logits.softmax(dim=1)
        else:
            probabilities = logits.sigmoid()
        return self._with_user_axes(np.asarray(probabilities))

    def _with_user_axes(self, values: Array) -> Array:
        """Return fields [N, *shape] with their axes in the order of the user's data.

        Other values are returned unchanged.
        """
        if self.preprocessing is None:
            return values
        return self.preprocessing.target.decode(values)

    def __repr__(self) -> str:
        return f"<Predictor {self.task.name} by {self._origin}>"

    def _repr_html_(self) -> str:
        """Return a paragraph for notebooks: the model, and its report or scores."""
        scores = {
            "validation": self.config.validation_score,
            "test": self.config.test_score,
        }
        score_texts = ", ".join(
            f"{value:.4g} on {split}"
            for split, value in scores.items()
            if value is not None
        )
        # The first paragraph of the report, up to an empty line.
        summary_lines = itertools.takewhile(bool, report_lines(self.config.report))
        summary = " ".join(line.removeprefix("- ") for line in summary_lines)
        text = (
            f"{self!r}, {self.task.metric} (lower is better):"
            f" {summary or score_texts or 'unknown'}"
        )
        return f"<p>{html.escape(text)}</p>"

    @property
    def _origin(self) -> str:
        """The members of an ensemble, or method and body of the one network."""
        return (
            model_config.describe_members(self.config)
            or f"{self.config.method} on {self.config.body.name}"
        )

    def _outputs(self, inputs: ModelInputs) -> Array:
        return np.concatenate(list(self.stream(inputs)))

    def _targets(self, y: Any) -> Array:
        """Return the user's targets [N, ...] in the form that the metric takes.

        Raises UserError if there are none, or if they do not fit the task.
        """
        if y is None:
            raise UserError(
                "evaluate needs targets: give y, or the path of data that has them"
            )
        targets: Array = np.asarray(y)
        if self.preprocessing is not None:
            return np.asarray(self.preprocessing.target.encode(targets))
        shape: tuple[int, ...] = ()
        if self.task.target.kind != "classes":
            shape = self.task.target.output_shape
        if targets.shape[1:] != shape or targets.dtype.kind not in "biuf":
            raise UserError(
                f"targets have shape {targets.shape} and type {targets.dtype}; expected"
                f" numbers of shape (N, *{shape})"
            )
        return targets


def _has_target(targets: Array) -> Array:
    """Return a mask [N] of the targets [N, ...] that are not missing.

    A missing target is −1 for classes, and NaN for numbers. Targets that are neither
    cannot be missing.
    """
    if targets.dtype.kind == "f":
        finite = np.isfinite(targets).reshape(len(targets), -1)
        return np.asarray(finite.all(axis=1))
    if targets.ndim == 1:
        return np.asarray(targets >= 0)
    return np.ones(len(targets), dtype=bool)


def load(path: str | Path, device: str = "auto") -> Predictor:
    """Return the model in a folder, or in ``hub:OWNER/NAME``; see `Predictor.load`."""
    return Predictor.load(path, device)


def _from_hub(name: str) -> Path:
    """Return the local copy of a model folder on the Hugging Face hub."""
    from huggingface_hub import constants, snapshot_download

    from orca_ray.models.hugging_face import cause, check_hub

    repository = name.removeprefix(HUB)
    files = [
        model_folder.CONFIG,
        model_config.WEIGHTS,
        model_config.PREPROCESSING,
        model_config.CONFORMAL,
        model_config.CARD,
    ]
    try:
        check_hub(repository, model_folder.CONFIG)
        folder = snapshot_download(
            repository,
            allow_patterns=files,
            local_files_only=constants.HF_HUB_OFFLINE,
        )
    except (UserError, ModuleNotFoundError):
        raise
    # the hub's client raises many types that it does not document
    except Exception as error:
        raise UserError(
            f"cannot get the model {repository!r} from the hub: {cause(error)}"
        ) from error
    return Path(folder)
