"""Snapshots of a trial's network for a model folder, and networks rebuilt from one."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from orca_ray.alignment.tensor_cache import digest
from orca_ray.data.archives import max_bytes
from orca_ray.data.rows import Array, Target
from orca_ray.errors import UserError, shorten
from orca_ray.methods.model_config import (
    WEIGHTS,
    BodySummary,
    ModelConfig,
    StoredArray,
    TaskSummary,
)
from orca_ray.methods.recipe import NO_BODY, Recipe
from orca_ray.methods.registry import get_method, relevant, resolve
from orca_ray.methods.reports import Outcome
from orca_ray.methods.stages.trial import Trial, network_request
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.models.mixture import Average, Mixture
from orca_ray.models.names import listed_body
from orca_ray.models.weights import (
    BodyArchitecture,
    ResultLimit,
    TooLargeResult,
    ValueLimit,
    describe_body,
)
from orca_ray.tasks.losses import get_loss

_LIBRARIES = ("torch", "transformers", "timm", "peft", "bitsandbytes", "lightgbm")
"""Libraries whose versions a model folder names."""
_ROOM = 4
"""Number of values that building a network may take for each value of its weights."""
_VALUES_OF_BUILDING = 2 * 10**8
"""Number of values that building may take for tensors that are dropped.

The word embedding of the body is the largest of them (xlm-roberta: 1.9e8).
"""
_INPUT_SHARE = 4
"""A tensor of a prediction may be this many times as large as the input."""
_LARGEST_BODY = 2**31
"""Number of values that building may take for a body that the folder only names."""


@dataclass(frozen=True)
class Snapshot:
    """Weights of a trained network with its description."""

    config: ModelConfig
    weights: Mapping[str, Tensor]
    """Tensors on the CPU, by name in the network; only those of `weight_names`."""


def weight_names(recipe: Recipe, model: CrossModalModel) -> list[str]:
    """Return the names of those weights of ``model`` that a model folder holds.

    These are all weights or, if `Recipe.names_body`, all except the body's frozen
    weights. ``model`` must be as `Recipe.network` returns it, before stages add
    modules.
    """
    names = list(model.state_dict())
    if not recipe.names_body:
        return names
    frozen = set(_frozen(recipe, model))
    return [name for name in names if name not in frozen]


def take_snapshot(
    trial: Trial, names: Iterable[str], outcome: Outcome, protocol: str
) -> Snapshot:
    """Return copies of the weights ``names`` of a trial's model, with a description.

    The description has the scores of ``outcome``. Raises UserError if the configuration
    of the body can no longer be read.
    """
    model = trial.model
    data = trial.data
    state = model.state_dict()
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    config = ModelConfig(
        task=TaskSummary.of(trial.task, protocol, data.fingerprint),
        method=trial.method,
        body=_describe(trial),
        hyperparameters=relevant(trial.hyperparameters, trial.method),
        seed=trial.seed,
        input_mean=_stored(model.input_mean),
        input_deviation=_stored(model.input_deviation),
        y_mean=_stored(data.y_mean),
        y_std=_stored(data.y_std),
        versions=versions,
        validation_score=outcome.validation_score,
        test_score=outcome.test_score,
    )
    weights = {
        name: state[name].detach().to("cpu", copy=True).contiguous() for name in names
    }
    return Snapshot(config, weights)


def rebuild(
    config: ModelConfig, weights: Mapping[str, Tensor]
) -> CrossModalModel | Mixture:
    """Return the network of a model folder, in evaluation mode on the CPU.

    It is a `Mixture` if the model has several members. No model hub, packaged body or
    cache is read, unless the folder lacks weights of the body (`Recipe.names_body`).

    Raises UserError if the method is not installed, if the network cannot be built, if
    ``weights`` are not exactly those of `weight_names`, or if the body on this machine
    is not the one that the model was trained with.
    """
    if config.members:
        return _rebuild_ensemble(config, weights)
    return _rebuild_network(config, weights)


def _rebuild_ensemble(config: ModelConfig, weights: Mapping[str, Tensor]) -> Mixture:
    """Return the average of the members' networks.

    Raises UserError if the networks together are much larger than the folder's weights.
    """
    is_named = any(member.body.weights_sha256 is not None for member in config.members)
    # Weights of a named body are not in the folder, but take memory.
    spare_values = _LARGEST_BODY if is_named else _VALUES_OF_BUILDING
    networks = list[CrossModalModel]()
    member_weights = _by_member(weights, len(config.members))
    for number, member in enumerate(config.members):
        try:
            network = _rebuild_network(member, member_weights[number])
        except UserError as error:
            raise UserError(
                f"member {number}, by {shorten(member.method)}: {error}"
            ) from error
        spare_values -= _num_values([*network.parameters(), *network.buffers()])
        spare_values += _num_values(member_weights[number].values())
        if spare_values < 0:
            raise UserError(
                "config.json describes an ensemble that is larger than the weights of"
                " the folder"
            )
        networks.append(network)
    average = averaging(config.task.target, config.task.loss)
    return Mixture(networks, config.member_weights, average, config.temperature).eval()


def _by_member(
    weights: Mapping[str, Tensor], num_members: int
) -> list[dict[str, Tensor]]:
    """Return the weights of each member, which are called ``NUMBER.NAME``, by NAME."""
    parts: dict[str, dict[str, Tensor]] = {str(k): {} for k in range(num_members)}
    for full_name, value in weights.items():
        number, _, name = full_name.partition(".")
        if number not in parts:
            raise UserError(
                f"the weights {shorten(full_name)} belong to no member that config.json"
                " describes"
            )
        parts[number][name] = value
    return list(parts.values())


def _num_values(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _rebuild_network(
    config: ModelConfig, weights: Mapping[str, Tensor]
) -> CrossModalModel:
    """Return the network of a model without members."""
    stored_bytes = sum(weight.nbytes for weight in weights.values())
    _check_input(config, stored_bytes)
    recipe = get_method(config.method)
    model = _build_network(recipe, config, _num_values(weights.values()))
    if config.body.weights_sha256 is not None:
        _check_body(recipe, config, model)
    load_weights(model, weights, weight_names(recipe, model))
    model = model.eval().requires_grad_(False)
    _check_prediction(config, model, stored_bytes)
    return model


def _build_network(
    recipe: Recipe, config: ModelConfig, num_stored: int
) -> CrossModalModel:
    """Return the untrained network that ``config`` describes.

    Raises UserError if it takes many times more memory than the ``num_stored`` values
    of the folder's weights.
    """
    statistics = None
    if config.input_mean is not None and config.input_deviation is not None:
        mean = torch.from_numpy(config.input_mean.array())
        deviation = torch.from_numpy(config.input_deviation.array())
        statistics = mean, deviation
    summary = config.body
    most_values = _ROOM * num_stored
    has_all_weights = summary.weights_sha256 is None
    body: str | BodyArchitecture
    if has_all_weights:
        body = BodyArchitecture(summary.name, summary.values, summary.attention)
        most_values += _VALUES_OF_BUILDING
    else:
        body = summary.name
        most_values += _LARGEST_BODY
    request = network_request(
        config.task.declaration(),
        resolve(config.method, config.hyperparameters),
        body,
        pretrained=recipe.pretrained,
        seed=config.seed,
        statistics=statistics,
    )
    try:
        with ValueLimit(most_values):
            return recipe.network(request)
    except UserError as error:
        if has_all_weights:
            raise
        raise UserError(
            f"this model holds no weights of its body, as {config.method} leaves them:"
            f" {error}"
        ) from error
    except MemoryError:
        raise
    # Constructors raise many types for sizes that do not fit together.
    except Exception as error:
        raise UserError(
            f"config.json describes a network that cannot be built: {shorten(error)}"
        ) from error


def _check_body(recipe: Recipe, config: ModelConfig, model: CrossModalModel) -> None:
    """Raise UserError unless the body's frozen weights are those of the training."""
    body_hash = _hash(_frozen(recipe, model))
    if not recipe.names_body or body_hash != config.body.weights_sha256:
        raise UserError(
            f"the body {config.body.name!r} on this machine is not the one that the"
            f" model was trained with (sha256 of its weights: {body_hash}, expected"
            f" {config.body.weights_sha256}): get the same release of it"
        )


def _check_input(config: ModelConfig, stored_bytes: int) -> None:
    """Raise UserError if inputs are too large for the folder's ``stored_bytes``.

    One input may take a quarter of `max_bytes`, which a tensor of its prediction may
    take.
    """
    shape = config.task.input_shape
    num_bytes = _INPUT_SHARE * math.prod(shape) * torch.float32.itemsize
    if num_bytes > max_bytes(stored_bytes):
        raise _prediction_error(config, num_bytes, stored_bytes)


def _prediction_error(
    config: ModelConfig, num_bytes: int, stored_bytes: int
) -> UserError:
    """Return the error for a prediction with a tensor of ``num_bytes``."""
    return UserError(
        "config.json: predicting one input of task.input_shape"
        f" {config.task.input_shape} takes tensors of {num_bytes / 2**20:,.0f} MiB;"
        f" {stored_bytes / 2**20:,.1f} MiB of weights justify at most"
        f" {max_bytes(stored_bytes) / 2**20:,.0f} MiB: train the model on smaller"
        " inputs"
    )


def _check_prediction(
    config: ModelConfig, model: CrossModalModel, stored_bytes: int
) -> None:
    """Raise UserError unless the model maps the task's inputs to its outputs.

    Also raise it if the prediction of one input makes a tensor of more bytes than
    `max_bytes` allows for the ``stored_bytes`` of the folder's weights.
    """
    try:
        with ResultLimit(max_bytes(stored_bytes)):
            outputs = model(torch.zeros(1, *config.task.input_shape))
    except MemoryError:
        raise
    except TooLargeResult as error:
        raise _prediction_error(config, error.num_bytes, stored_bytes) from error
    # A forward pass raises many types for values that do not fit together.
    except Exception as error:
        raise UserError(
            f"config.json describes a network that cannot predict: {shorten(error)}"
        ) from error
    output_shape = tuple(outputs.shape[1:])
    expected = config.task.target.output_shape
    if output_shape != expected:
        raise UserError(
            f"config.json describes outputs of shape {expected}, not {output_shape}"
        )


def averaging(target: Target, loss: str) -> Average:
    """Return what an ensemble of models with this target and training loss averages."""
    if target.kind == "classes":
        return "softmax"
    if target.kind == "labels" or not get_loss(loss).regression:
        return "sigmoid"
    return "values"


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Return the weights of a verified model folder.

    Raises UserError if they cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = directory / WEIGHTS
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"cannot read the weights in {path}: {shorten(error)}; copy the folder"
            " again"
        ) from error


def load_weights(
    model: CrossModalModel, weights: Mapping[str, Tensor], names: Iterable[str]
) -> None:
    """Load ``weights`` into ``model``.

    Raises UserError unless they are finite, and exactly those of ``names`` in the types
    and shapes of ``model``.
    """
    differences = _differences(model, weights, set(names))
    if differences:
        raise UserError(
            "the weights do not fit the network that config.json describes:"
            f" {differences[0]} ({len(differences)} differences); use the libraries of"
            " its 'versions', or copy the folder again"
        )
    infinite = [name for name, value in weights.items() if not _is_finite(value)]
    if infinite:
        raise UserError(
            f"the weights {infinite[0]} are not finite ({len(infinite)} such): train"
            " the model again"
        )
    model.load_state_dict(dict(weights), strict=False)


def _differences(
    model: CrossModalModel, weights: Mapping[str, Tensor], expected_names: set[str]
) -> list[str]:
    """Return a text for each weight that is missing, foreign or of another shape."""
    state = model.state_dict()
    resized = _resized_names(model)
    missing = sorted(expected_names - weights.keys())
    foreign = sorted(weights.keys() - expected_names)
    differences = [f"{name} is missing" for name in missing]
    differences += [f"{name} is not part of the network" for name in foreign]
    for name in sorted(expected_names & weights.keys()):
        actual = weights[name]
        expected = state[name]
        if name in resized:
            fits = actual.ndim == expected.ndim
        else:
            fits = actual.shape == expected.shape
        if not fits or actual.dtype != expected.dtype:
            differences.append(
                f"{name} is {actual.dtype} {tuple(actual.shape)}, expected"
                f" {expected.dtype} {tuple(expected.shape)}"
            )
    return differences


def _resized_names(model: CrossModalModel) -> set[str]:
    """Return the names of weights whose size follows from training, such as trees."""
    return {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        for name in getattr(module, "resized", ())
    }


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() and not value.is_complex():
        return True
    return bool(torch.isfinite(value).all())


def _stored(array: Tensor | Array | None) -> StoredArray | None:
    if isinstance(array, Tensor):
        array = array.cpu()
    return None if array is None else StoredArray.of(array)


def _describe(trial: Trial) -> BodySummary:
    """Return the summary of a trial's body."""
    recipe = get_method(trial.method)
    body = trial.body
    if not recipe.uses_body or body == NO_BODY:
        return BodySummary(name=NO_BODY)
    architecture = describe_body(body)
    listed = listed_body(body)
    frozen_hash = _hash(_frozen(recipe, trial.model)) if recipe.names_body else None
    return BodySummary(
        name=body,
        values=architecture.values,
        attention=architecture.attention,
        licence=listed.licence if listed else "",
        weights_sha256=frozen_hash,
    )


def _frozen(recipe: Recipe, model: CrossModalModel) -> dict[str, Tensor]:
    """Return the never trained weights of the body, by name in the network."""
    trained = {id(parameter) for parameter in recipe.trainable(model)}
    parameters = dict(model.named_parameters())
    return {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith("body.") and id(parameters.get(name)) not in trained
    }


def _hash(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names (without peft's wrappers), shapes and values."""
    unwrapped = {
        name.replace(".base_layer", ""): value for name, value in weights.items()
    }
    return digest(unwrapped)
