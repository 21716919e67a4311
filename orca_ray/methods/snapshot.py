"""Snapshots of a trial's network for a model folder, and rebuilding the network from
such a folder.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from orca_ray.alignment.tensor_cache import digest
from orca_ray.data.rows import Array, Target
from orca_ray.errors import UserError, shorten
from orca_ray.methods import model_folder
from orca_ray.methods.model_folder import (
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
from orca_ray.models.weights import AtMost, BodyArchitecture, describe_body
from orca_ray.tasks.losses import get_loss

_LIBRARIES = ("torch", "transformers", "timm", "peft", "lightgbm")

_ROOM = 4
_ROOM_OF_BUILDING = 2 * 10**8
_LARGEST_BODY = 2**31
"""Values that building a network may take: times those of its weights; for tensors that
are dropped, of which the word embedding of the body is the largest (xlm-roberta:
1.9e8); for a named body.
"""


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
    """Return copies of the weights ``names`` of a trial's model, and a description with
    the scores of ``outcome``.

    Raises UserError if the configuration of the body can no longer be read.
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
    return Snapshot(
        config,
        {
            name: state[name].detach().to("cpu", copy=True).contiguous()
            for name in names
        },
    )


def rebuild(
    config: ModelConfig, weights: Mapping[str, Tensor]
) -> CrossModalModel | Mixture:
    """Return the network of a model folder, in evaluation mode on the CPU: a `Mixture`
    if it has several members.

    No model hub, packaged body or cache is read, unless the folder lacks weights of the
    body (`Recipe.names_body`).

    Raises UserError if the method is not installed, if the network cannot be built, if
    ``weights`` are not exactly those of `weight_names`, or if the body on this machine
    is not the one that the model was trained with.
    """
    return (
        _rebuilt_ensemble(config, weights)
        if config.members
        else _rebuilt(config, weights)
    )


def _rebuilt_ensemble(config: ModelConfig, weights: Mapping[str, Tensor]) -> Mixture:
    parts: dict[str, dict[str, Tensor]] = {
        f"{number}": {} for number in range(len(config.members))
    }
    for name, value in weights.items():
        number, _, own = name.partition(".")
        if number not in parts:
            raise UserError(
                f"the weights {shorten(name)} belong to no member that config.json"
                " describes"
            )
        parts[number][own] = value
    named = any(member.body.weights_sha256 is not None for member in config.members)
    networks = list[CrossModalModel]()
    room = _LARGEST_BODY if named else _ROOM_OF_BUILDING
    for (number, part), member in zip(parts.items(), config.members, strict=True):
        try:
            network = _rebuilt(member, part)
        except UserError as error:
            raise UserError(
                f"member {number}, by {shorten(member.method)}: {error}"
            ) from error
        held = sum(
            value.numel() for value in (*network.parameters(), *network.buffers())
        )
        room -= held - sum(value.numel() for value in part.values())
        if room < 0:
            raise UserError(
                "config.json describes an ensemble that is larger than the weights of"
                " the folder"
            )
        networks.append(network)
    average = averaging(config.task.target, config.task.loss)
    return Mixture(networks, config.member_weights, average, config.temperature).eval()


def _rebuilt(config: ModelConfig, weights: Mapping[str, Tensor]) -> CrossModalModel:
    recipe = get_method(config.method)
    statistics = None
    if config.input_mean is not None and config.input_deviation is not None:
        mean, deviation = (
            torch.from_numpy(each.array())
            for each in (config.input_mean, config.input_deviation)
        )
        statistics = mean, deviation
    options = resolve(config.method, config.hyperparameters)
    task = config.task.declaration()
    whole = config.body.weights_sha256 is None
    body = BodyArchitecture(config.body.name, config.body.values, config.body.attention)
    request = network_request(
        task,
        options,
        body if whole else config.body.name,
        pretrained=recipe.pretrained,
        seed=config.seed,
        statistics=statistics,
    )
    stored = sum(value.numel() for value in weights.values())
    try:
        with AtMost(
            _ROOM * stored + (_LARGEST_BODY if not whole else _ROOM_OF_BUILDING)
        ):
            model = recipe.network(request)
    except UserError as error:
        if whole:
            raise
        raise UserError(
            f"this model holds no weights of its body, as {config.method} leaves them:"
            f" {error}"
        ) from error
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # constructors raise many types for sizes that do not fit together
        raise UserError(
            f"config.json describes a network that cannot be built: {shorten(error)}"
        ) from error
    if not whole:
        body_hash = _hash(_frozen(recipe, model))
        if not recipe.names_body or body_hash != config.body.weights_sha256:
            raise UserError(
                f"the body {config.body.name!r} on this machine is not the one that the"
                f" model was trained with (sha256 of its weights: {body_hash}, expected"
                f" {config.body.weights_sha256}): get the same release of it"
            )
    load_weights(model, weights, weight_names(recipe, model))
    model = model.eval().requires_grad_(False)
    try:
        found = tuple(model(torch.zeros(1, *config.task.input_shape)).shape[1:])
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # a forward pass raises many types for values that do not fit together
        raise UserError(
            f"config.json describes a network that cannot predict: {shorten(error)}"
        ) from error
    if found != config.task.target.output_shape:
        raise UserError(
            f"config.json describes outputs of shape {config.task.target.output_shape},"
            f" not {found}"
        )
    return model


def averaging(target: Target, loss: str) -> Average:
    """Return what is averaged in an ensemble of models with this target and training
    loss.
    """
    if target.kind == "classes":
        return "softmax"
    return (
        "sigmoid"
        if target.kind == "labels" or not get_loss(loss).regression
        else "values"
    )


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Return the weights of a verified model folder; raises UserError if they cannot be
    read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = directory / model_folder.WEIGHTS
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
    """Load ``weights``: UserError unless they are finite, and exactly those of
    ``names`` in the shapes of ``model``.
    """
    state = model.state_dict()
    expected = set(names)
    # Weights whose size follows from training, such as trees.
    resized = {
        f"{name}.{own}"
        for name, part in model.named_modules()
        for own in getattr(part, "resized", ())
    }
    wrong = [f"{name} is missing" for name in sorted(expected - weights.keys())]
    wrong += [
        f"{name} is not part of the network"
        for name in sorted(weights.keys() - expected)
    ]
    for name in sorted(expected & weights.keys()):
        found = weights[name]
        wanted = state[name]
        fits = (
            found.ndim == wanted.ndim
            if name in resized
            else found.shape == wanted.shape
        )
        if not fits or found.dtype != wanted.dtype:
            shapes = (
                f"{found.dtype} {tuple(found.shape)}, expected {wanted.dtype}"
                f" {tuple(wanted.shape)}"
            )
            wrong.append(f"{name} is {shapes}")
    if wrong:
        raise UserError(
            f"the weights do not fit the network that config.json describes: {wrong[0]}"
            f" ({len(wrong)} differences); use the libraries of its 'versions', or copy"
            " the folder again"
        )
    infinite = [
        name
        for name, value in weights.items()
        if (value.is_floating_point() or value.is_complex())
        and not bool(torch.isfinite(value).all())
    ]
    if infinite:
        raise UserError(
            f"the weights {infinite[0]} are not finite ({len(infinite)} such): train"
            " the model again"
        )
    model.load_state_dict(dict(weights), strict=False)


def _stored(array: Tensor | Array | None) -> StoredArray | None:
    if array is None:
        return None
    return StoredArray.of(array.cpu() if isinstance(array, Tensor) else array)


def _describe(trial: Trial) -> BodySummary:
    recipe = get_method(trial.method)
    body = trial.body
    if not recipe.uses_body or body == NO_BODY:
        return BodySummary(name=NO_BODY)
    described = describe_body(body)
    listed = listed_body(body)
    return BodySummary(
        name=body,
        values=described.values,
        attention=described.attention,
        licence=listed.licence if listed else "",
        weights_sha256=(
            _hash(_frozen(recipe, trial.model)) if recipe.names_body else None
        ),
    )


def _frozen(recipe: Recipe, model: CrossModalModel) -> dict[str, Tensor]:
    """Return the weights of the body that the method never trains, by name in the
    network.
    """
    trained = {id(parameter) for parameter in recipe.trainable(model)}
    parameters = dict(model.named_parameters())
    return {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith("body.") and id(parameters.get(name)) not in trained
    }


def _hash(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes and values.

    Names are those without peft's wrappers.
    """
    return digest(
        {name.replace(".base_layer", ""): value for name, value in weights.items()}
    )
