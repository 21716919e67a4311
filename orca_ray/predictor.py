"""`Predictor`: a trained model, which predicts without Ray, Optuna or a results store;
see `load`.
"""

import copy
import html
import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.methods import model_folder
from orca_ray.methods.model_card import make_card, reported
from orca_ray.methods.model_folder import ModelConfig, TaskSummary
from orca_ray.methods.model_inputs import BATCH_SIZE, ModelInputs, read_data
from orca_ray.methods.registry import get_method, resolve
from orca_ray.methods.snapshot import Snapshot, read_weights, rebuild, weight_names
from orca_ray.models.crossmodal import CrossModalModel, pooled
from orca_ray.models.mixture import Mixture
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.tasks.losses import get_loss
from orca_ray.training.evaluate import Objective, SplitInputs, predict, score
from orca_ray.training.numerics import NotFiniteError, choose_precision, find_device

HUB = "hub:"


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
    ) -> None:
        """Build the network of ``snapshot``.

        Args:
            snapshot: description and weights of the model.
            preprocessing: content of ``preprocessing.json``; None: inputs are arrays.
            card: the model card; None: `save` makes one of the description.
            device: torch device; ``auto``: a GPU if there is one.

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
        if self.preprocessing is not None:
            made = self.preprocessing.encoder.shape, self.preprocessing.target.target
            if made != (self.task.input_shape, self.task.target):
                raise UserError(
                    f"{model_folder.PREPROCESSING} and {model_folder.CONFIG} belong to"
                    " different models"
                )
        self._card = card
        self.network = rebuild(snapshot.config, snapshot.weights).to(self.device)
        """The `torch.nn.Module` that maps inputs [B, *input_shape] to standardised
        outputs [B, *output_shape].
        """
        network = self.network
        self.members: list[CrossModalModel] = (
            network.networks if isinstance(network, Mixture) else [network]
        )
        """The networks whose predictions are averaged; the network itself if there is
        one.
        """
        config = snapshot.config
        statistics = [
            None if each is None else each.array()
            for each in (config.y_mean, config.y_std)
        ]
        self._objective = Objective(
            config.task.target, config.task.loss, config.task.metric, *statistics
        )
        options = (
            resolve(each.method, each.hyperparameters).refine.precision
            for each in config.members or [config]
        )
        found = {
            choose_precision(
                "auto" if option == "fast" else option,
                self.device,
                int(own.body.feature_width),
            )
            for option, own in zip(options, self.members, strict=True)
        }
        self._precision = (
            found.pop()
            if len(found) == 1
            else choose_precision("float32", self.device, 0)
        )

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Self:
        """Return the model in a folder, or in the Hugging Face repository
        ``hub:OWNER/NAME``; its files are verified.

        Raises UserError if there is no model folder, if a file is missing or was
        changed, if the format is that of another version, or as `__init__` does.
        """
        folder = (
            _from_hub(path)
            if isinstance(path, str) and path.startswith(HUB)
            else Path(path).expanduser()
        )
        config = model_folder.read_config(folder)
        card = folder / model_folder.CARD
        return cls(
            Snapshot(config, read_weights(folder)),
            model_folder.read_preprocessing(folder, config),
            card=card.read_text(encoding="utf-8") if card.is_file() else None,
            device=device,
        )

    def save(self, path: str | Path) -> Path:
        """Write the model to the folder ``path``, and return the folder's path; an
        existing model folder is replaced.

        Raises UserError if ``path`` has other files, or cannot be written.
        """
        folder = Path(path).expanduser()
        model_folder.write_folder(
            folder,
            self.config,
            self.snapshot().weights,
            preprocessing=self.preprocessing_json,
            card=self._card or make_card(self.config, label_names=self.label_names),
        )
        return folder

    def snapshot(self) -> Snapshot:
        """Return the description and weights of this model, from which an equal model
        can be built.
        """
        weights: dict[str, Tensor] = {}
        for number, (config, network) in enumerate(
            zip(self.config.members or [self.config], self.members, strict=True)
        ):
            state = network.state_dict()
            mark = f"{number}." if self.config.members else ""
            names = weight_names(get_method(config.method), network)
            weights |= {
                f"{mark}{name}": state[name].cpu().contiguous() for name in names
            }
        return Snapshot(self.config, weights)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the content of a model folder; the copy is loaded onto a GPU only
        where there is one.
        """
        device = "cpu" if self.device.type == "cpu" else "auto"
        return partial(type(self), card=self._card, device=device), (
            self.snapshot(),
            self.preprocessing_json,
        )

    def report(self) -> dict[str, Any]:
        """Return what `orca_ray.adapt` found out about this model: the fields of
        `orca_ray.selection.Report`.

        Empty if the model was not made by an adaptation to own data.
        """
        return copy.deepcopy(dict(self.config.report))

    @property
    def task(self) -> TaskSummary:
        """The task that the model was trained on."""
        return self.config.task

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes or labels; empty if they have none."""
        return (
            ()
            if self.preprocessing is None
            else tuple(self.preprocessing.target.label_names)
        )

    @property
    def decides(self) -> bool:
        """Whether the model predicts classes, labels or masks, and so has
        probabilities.
        """
        return (
            self.task.target.kind in ("classes", "labels")
            or not get_loss(self.task.loss).regression
        )

    def predict(self, x: Any) -> Array:
        """Return the predictions for N samples.

        Classes: [N] names, or numbers if they have no names. Labels: [N, K] bool. A
            number: [N] float32. Fields:
        [N, *shape] float32, or bool for masks. Raises UserError for inputs that the
        model cannot take.
        """
        return self.decide(self.outputs(x))

    def predict_proba(self, x: Any) -> Array:
        """Return probabilities, float32: [N, K] of classes (with sum 1) or labels, [N,
        *shape] of masks.

        Raises UserError if the model predicts numbers, and for inputs that the model
        cannot take.
        """
        return self.probabilities(self.outputs(x))

    def embed(self, x: Any) -> Array:
        """Return the body's pooled features [N, F] of samples, float32; a classifier's
        head maps them to logits.

        Features of several members follow each other.
        """
        inputs = self.inputs(x)
        found = []
        with torch.no_grad(), self._precision.active():
            for chunk in inputs.chunks():
                for part in torch.split(torch.from_numpy(chunk), BATCH_SIZE):
                    features = [
                        self._features(network, part.to(self.device))
                        for network in self.members
                    ]
                    found.append(torch.cat(features, dim=1).float().cpu().numpy())
        return np.concatenate(found)

    def _features(self, network: CrossModalModel, part: Tensor) -> Tensor:
        with self._precision.autocast():
            with torch.autocast(self.device.type, enabled=False):
                tokens = network.embed(part)
            return pooled(network.encode(tokens), network.body.pooling)

    def evaluate(
        self, x: Any, y: Any = None, *, group: Array | None = None
    ) -> dict[str, float]:
        """Return the score as a dict from the name of the task's metric to its value;
        lower is better.

        Args:
            x: inputs.
            y: targets [N, ...]; classes by name or number. None: the targets in the
                file or folder ``x``. Samples whose target is missing do not count.
            group: ids [N] of samples; rows with equal ids are parts of one sample.

        Raises UserError if there are no targets, if they do not fit, or if the metric
        is not defined for them.
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
        known = np.flatnonzero(_known(targets))
        if not len(known):
            raise UserError("every target is missing: evaluate needs some")
        ids = None if group is None else np.asarray(group)[known]
        return {
            self.task.metric: score(
                self._outputs(inputs)[known], targets[known], self._objective, ids
            )
        }

    def outputs(self, x: Any) -> Array:
        """Return the outputs [N, ...] that metrics compare with targets: float32
        logits, or numbers in target units.
        """
        return self._outputs(self.inputs(x))

    def inputs(self, x: Any) -> ModelInputs:
        """Return the samples in ``x``, which are read in parts; UserError for samples
        that the model cannot take.
        """
        return ModelInputs.of(x, self.task, self.preprocessing)

    def stream(self, inputs: ModelInputs) -> Iterator[Array]:
        """Yield the `outputs` of consecutive samples; only one part of ``inputs`` is in
        memory at a time.
        """
        yield from map(self.outputs_of, inputs.chunks())

    def outputs_of(self, encoded: Array) -> Array:
        """Return the `outputs` of encoded samples, float32 [N, *input_shape], as
        `ModelInputs.chunks` yields them.

        Raises UserError if an output is not finite.
        """
        try:
            return predict(
                SplitInputs(encoded, self.network, self._precision),
                self._objective,
                BATCH_SIZE,
            )[0]
        except NotFiniteError as error:
            raise UserError(
                "the model's outputs are not finite, because inputs are far from those"
                " of training: check their units"
            ) from error

    def decide(self, outputs: Array) -> Array:
        """Return the predictions for ``outputs``, which are the result of `outputs`;
        see `predict`.
        """
        if self.task.target.kind == "classes":
            chosen: Array = outputs.argmax(axis=1)
            return np.asarray(self.label_names)[chosen] if self.label_names else chosen
        return self._as_given(outputs > 0 if self.decides else outputs)

    def probabilities(self, outputs: Array) -> Array:
        """Return the probabilities for ``outputs``, which are the result of `outputs`;
        see `predict_proba`.
        """
        if not self.decides:
            raise UserError(
                f"{self.task.name} predicts numbers, which have no probabilities: use"
                " predict"
            )
        logits = torch.from_numpy(outputs)
        classes = self.task.target.kind == "classes"
        return self._as_given(
            np.asarray(logits.softmax(dim=1) if classes else logits.sigmoid())
        )

    def _as_given(self, values: Array) -> Array:
        """Return fields [N, *shape] with their axes in the order of the user's data;
        other values as they are.
        """
        return (
            values
            if self.preprocessing is None
            else self.preprocessing.target.decode(values)
        )

    def __repr__(self) -> str:
        return f"<Predictor {self.task.name} by {self._made}>"

    def _repr_html_(self) -> str:
        scores = {
            "validation": self.config.validation_score,
            "test": self.config.test_score,
        }
        shown = ", ".join(
            f"{value:.4g} on {split}"
            for split, value in scores.items()
            if value is not None
        )
        told = (
            line.removeprefix("- ")
            for line in itertools.takewhile(bool, reported(self.config.report))
        )
        text = (
            f"{self!r}, {self.task.metric} (lower is better):"
            f" {' '.join(told) or shown or 'unknown'}"
        )
        return f"<p>{html.escape(text)}</p>"

    @property
    def _made(self) -> str:
        return (
            model_folder.composed(self.config)
            or f"{self.config.method} on {self.config.body.name}"
        )

    def _outputs(self, inputs: ModelInputs) -> Array:
        return np.concatenate(list(self.stream(inputs)))

    def _targets(self, y: Any) -> Array:
        if y is None:
            raise UserError(
                "evaluate needs targets: give y, or the path of data that has them"
            )
        given: Array = np.asarray(y)
        if self.preprocessing is not None:
            return np.asarray(self.preprocessing.target.encode(given))
        shape = (
            () if self.task.target.kind == "classes" else self.task.target.output_shape
        )
        if given.shape[1:] != shape or given.dtype.kind not in "biuf":
            found = f"shape {given.shape} and type {given.dtype}"
            raise UserError(
                f"targets have {found}; expected numbers of shape (N, *{shape})"
            )
        return given


def _known(targets: Array) -> Array:
    """Return whether each target is known: missing ones are −1 for classes, else NaN."""
    if targets.dtype.kind == "f":
        return np.asarray(np.isfinite(targets).reshape(len(targets), -1).all(axis=1))
    return (
        np.asarray(targets >= 0)
        if targets.ndim == 1
        else np.ones(len(targets), dtype=bool)
    )


def load(path: str | Path, device: str = "auto") -> Predictor:
    """Return the model at ``path``, a folder or ``hub:OWNER/NAME``; see
    `Predictor.load`.
    """
    return Predictor.load(path, device)


def _from_hub(name: str) -> Path:
    """Return the local copy of a repository of the Hugging Face hub that is a model
    folder.
    """
    from huggingface_hub import constants, snapshot_download

    from orca_ray.models.hugging_face import cause, check_hub

    repository = name.removeprefix(HUB)
    files = [
        model_folder.CONFIG,
        model_folder.WEIGHTS,
        model_folder.PREPROCESSING,
        model_folder.CARD,
    ]
    try:
        check_hub(repository, model_folder.CONFIG)
        return Path(
            snapshot_download(
                repository,
                allow_patterns=files,
                local_files_only=constants.HF_HUB_OFFLINE,
            )
        )
    except (UserError, ModuleNotFoundError):
        raise
    except (
        Exception
    ) as error:  # the hub's client raises many types that it does not document
        raise UserError(
            f"cannot get the model {repository!r} from the hub: {cause(error)}"
        ) from error
