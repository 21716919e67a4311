"""``config.json`` of a model folder: how to build the model, and its training.

`ModelConfig` is its content. A hash in the file shows whether it was changed.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from orca_ray.data import cache
from orca_ray.data.rows import Array, ModalityName, Target
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.methods.options import Scalar
from orca_ray.tasks.task import Task
from orca_ray.version import __version__

FORMAT = 1
"""Version of the format; a folder of another version is refused."""
WEIGHTS = "model.safetensors"
"""Name of the file of weights."""
PREPROCESSING = "preprocessing.json"
"""Name of the file that says how to convert raw data to inputs."""
CONFORMAL = "conformal.safetensors"
"""Name of the file with the scores of which intervals of predictions are made."""
CARD = "README.md"
"""Name of the file with the model card."""
MOST_MEMBERS = 200
"""Largest number of models whose predictions are averaged."""
ADVICE = "copy the whole folder again from where it was made, or make it again"
"""What a user can do about a damaged folder."""
_UNUSED: Mapping[str, object] = {
    "members": (),
    "member_weights": (),
    "temperature": 1.0,
    "report": {},
}
"""Default values of later fields. A field with such a value is left out of
``config.json``, so that earlier versions can read the file.
"""
_SELF = "sha256"
"""Key of ``config.json`` with the hash of all its other keys."""
_MOST_ENTRIES = 50_000
"""Largest number of entries of ``config.json``; an ensemble of 200 members has about
20,000.
"""
_MOST_LEVELS = 100
"""Largest number of levels of nested lists and objects in ``config.json``.

That of a model has about ten. Much deeper ones would exceed Python's recursion limit.
"""
_LARGEST = float(np.finfo(np.float32).max)
"""Largest number in a `StoredArray`."""
_MOST_VALUES = 2**27
"""Largest number of values of an input or an output."""


@dataclass(frozen=True)
class StoredArray:
    """Record of a float32 array in a JSON form that keeps the values exactly."""

    shape: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != math.prod(self.shape) or min(self.shape, default=1) < 1:
            raise ValueError(
                f"{len(self.values)} values are no array of shape {self.shape}"
            )
        if not all(abs(value) <= _LARGEST for value in self.values):
            raise ValueError("values must be finite")

    @classmethod
    def of(cls, array: Any) -> "StoredArray":
        """Return the float32 record of a NumPy array or a tensor on the CPU."""
        values = np.asarray(array, dtype=np.float32)
        return cls(values.shape, tuple(values.ravel().tolist()))

    def array(self) -> Array:
        """Return the float32 array, of shape ``shape``."""
        return np.array(self.values, dtype=np.float32).reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """Record of the fields of a `Task` that a model needs.

    It also has the protocol and the fingerprint of the training data.
    """

    name: str
    title: str
    modality: str
    """`Task.domain`, under the name that stored models have for it."""
    input_shape: tuple[int, ...]
    input_kind: ModalityName
    """`Task.modality`."""
    target: Target
    loss: str
    metric: str
    licence: str
    citation: str
    reference: str
    protocol: str
    data_fingerprint: str

    def __post_init__(self) -> None:
        self.declaration()
        for name, shape in (
            ("input", self.input_shape),
            ("output", self.target.output_shape),
        ):
            if min(shape, default=1) < 1 or math.prod(shape) > _MOST_VALUES:
                raise ValueError(
                    f"the {name} has shape {shape}; 1 to {_MOST_VALUES:,} values are"
                    " allowed"
                )

    @classmethod
    def of(cls, task: Task, protocol: str, data_fingerprint: str) -> "TaskSummary":
        """Return the summary of a task whose shapes are known (`Task.resolved`)."""
        assert task.input_shape is not None, "a resolved task knows its shapes"
        return cls(
            name=task.name,
            title=task.title,
            input_shape=task.input_shape,
            target=task.target,
            loss=task.loss,
            metric=task.metric,
            licence=task.licence,
            citation=task.citation,
            reference=task.reference,
            modality=task.domain,
            input_kind=task.modality,
            protocol=protocol,
            data_fingerprint=data_fingerprint,
        )

    def declaration(self) -> Task:
        """Return a `Task` with these fields; its data cannot be built (UserError)."""
        left_out = ("protocol", "data_fingerprint", "modality")
        named = {
            name: value for name, value in vars(self).items() if name not in left_out
        }
        return Task(**named, domain=self.modality, num_samples=None, build=_no_data)


def _no_data(workspace: object) -> NoReturn:
    raise UserError("the task of a model folder has no data")


@dataclass(frozen=True, kw_only=True)
class BodySummary:
    """Record of how to build the body of a model.

    If the folder lacks the body's frozen weights, the record has a hash of them.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    """Values of the configuration, as in `BodyArchitecture`; empty for timm bodies and
    for methods without a body.
    """
    attention: str | None = None
    weights_sha256: str | None = None
    """Hash of the weights that the folder does not have; None: the folder has all
    weights.
    """
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Record of the content of a model folder's ``config.json``."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    task: TaskSummary
    method: str
    body: BodySummary
    hyperparameters: Mapping[str, Scalar]
    """Values of the hyper-parameters that the method uses, by dotted name."""
    seed: int
    input_mean: StoredArray | None = None
    """Means [C, 1] or [C, 1, 1] by which the model standardises inputs; None: it does
    not standardise them.
    """
    input_deviation: StoredArray | None = None
    """Standard deviations of inputs, like ``input_mean``; None if that is None."""
    y_mean: StoredArray | None = None
    """Mean of the target, which maps outputs to the target's units; None: outputs are
    in these units.
    """
    y_std: StoredArray | None = None
    """Standard deviation of the target; None if ``y_mean`` is None."""
    validation_score: float | None = None
    test_score: float | None = None
    trial: str = ""
    """Key of the trial that trained the model; "": it is in no results store."""
    sweep: str = ""
    """Name of the sweep of the trial."""
    command: str = ""
    """The command that made the model."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that trained the model."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of every file of the folder except ``config.json``, by name."""
    members: Annotated["tuple[ModelConfig, ...]", Field(max_length=MOST_MEMBERS)] = ()
    """Models whose predictions are averaged (see `orca_ray.models.mixture.Mixture`);
    (): this is one model. The weights of member k have names that begin with ``k.``.
    Method, body and hyper-parameters are those of the first member.
    """
    member_weights: tuple[float, ...] = ()
    """Weight of each member in the average; the weights have the sum 1."""
    temperature: float = 1.0
    """Number that divides the averaged logits."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `orca_ray.adaptation.report.Report`.

    Empty if no adaptation to own data made the model.
    """

    def __post_init__(self) -> None:
        _check_ensemble(self)
        for number, member in enumerate(self.members):
            _check_member(self, member, number)
        _check_input_statistics(self)
        _check_output_statistics(self)
        _check_pair(self.input_mean, self.input_deviation)
        _check_pair(self.y_mean, self.y_std)


def _check_ensemble(config: ModelConfig) -> None:
    """Raise ValueError for wrong numbers of members, weights or temperature."""
    num_members = len(config.members)
    weights = config.member_weights
    if num_members != len(weights) or num_members > MOST_MEMBERS:
        raise ValueError(f"{num_members} members with {len(weights)} weights")
    if not all(0 < weight <= 1 for weight in weights):
        raise ValueError("the weight of a member must be above 0 and at most 1")
    total = math.fsum(weights)
    if num_members and abs(total - 1) > 1e-6:
        raise ValueError(f"the weights of the members have the sum {total:g}, not 1")
    is_allowed = config.temperature == 1 or num_members > 0
    if not (0.01 <= config.temperature <= 100 and is_allowed):
        raise ValueError(
            f"temperature {config.temperature:g}: 0.01 to 100, and 1 for a model"
            " without members"
        )


def _check_member(config: ModelConfig, member: ModelConfig, number: int) -> None:
    """Raise ValueError unless ``member`` is one model of the ensemble's task."""
    if member.members:
        raise ValueError(f"member {number} has members of its own")
    common = {
        "input_shape": member.task.input_shape == config.task.input_shape,
        "target": member.task.target == config.task.target,
        "loss": member.task.loss == config.task.loss,
        "y_mean": member.y_mean == config.y_mean,
        "y_std": member.y_std == config.y_std,
    }
    for name, is_equal in common.items():
        if not is_equal:
            raise ValueError(
                f"member {number} is not a model of the same task: its {name} differs"
            )


def _check_input_statistics(config: ModelConfig) -> None:
    """Raise ValueError if the inputs' mean or deviation has a wrong shape.

    There is one value for each channel, or none at all.
    """
    num_channels, *size = config.task.input_shape
    expected = (num_channels, *(1 for _ in size))
    for statistic in (config.input_mean, config.input_deviation):
        if statistic is not None and statistic.shape != expected:
            raise ValueError(f"the statistics of inputs do not have shape {expected}")


def _check_output_statistics(config: ModelConfig) -> None:
    """Raise ValueError unless the target's statistics broadcast to outputs."""
    outputs = config.task.target.output_shape
    for statistic in (config.y_mean, config.y_std):
        shape = () if statistic is None else statistic.shape
        sizes = zip(shape[::-1], outputs[::-1], strict=False)
        broadcasts = all(size in (1, whole) for size, whole in sizes)
        if len(shape) > len(outputs) or not broadcasts:
            raise ValueError(
                f"statistics of shape {shape} are none of outputs of shape {outputs}"
            )


def _check_pair(mean: StoredArray | None, deviation: StoredArray | None) -> None:
    if (mean is None) != (deviation is None):
        raise ValueError("a mean without a deviation, or the reverse")
    if deviation is not None and min(deviation.values) <= 0:
        raise ValueError("a deviation must be above zero")


def describe_members(config: ModelConfig) -> str:
    """Return the members of an ensemble, counted by method and body, as a text.

    An example is "5 of linear, 10 of nft on minilm-l6".
    """
    counts = Counter(map(_recipe_name, config.members))
    return ", ".join(f"{count} of {name}" for name, count in counts.most_common())


def _recipe_name(config: ModelConfig) -> str:
    has_body = config.body.name not in ("", "none")
    return f"{config.method} on {config.body.name}" if has_body else config.method


def parse_config(text: bytes, path: Path | str) -> ModelConfig:
    """Return the configuration in the ``text`` of a ``config.json``.

    ``path`` is for messages. Raises UserError if the text is invalid, was changed since
    it was written, or has another version of the format.
    """
    values = _signed_values(text, path)
    if _has_more_levels(values, _MOST_LEVELS):
        raise UserError(f"{path} has too many levels; {ADVICE}")
    num_entries = _count_entries(values)
    if num_entries > _MOST_ENTRIES:
        raise UserError(
            f"{path} has {num_entries:,} entries; no model has more than"
            f" {_MOST_ENTRIES:,}; {ADVICE}"
        )
    try:
        config = TypeAdapter(ModelConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its fields"
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {place}: {message}; {ADVICE}") from error
    foreign_files = set(config.files) - {WEIGHTS, PREPROCESSING, CONFORMAL, CARD}
    if foreign_files:
        raise UserError(
            f"{path} lists files that a model folder does not have:"
            f" {shorten(', '.join(sorted(foreign_files)))}"
        )
    return config


def _signed_values(text: bytes, path: Path | str) -> dict[str, Any]:
    """Return the fields of `ModelConfig` in ``text``, once its hash is verified."""
    values = cache.parse_json(text, str(path))
    if "orca_ray" not in values:
        raise UserError(
            f"{path} was not written by orca-ray: give a model folder of orca-ray"
        )
    version = values.pop("orca_ray")
    stored_format = values.pop("format", None)
    if stored_format != FORMAT:
        raise UserError(
            f"{path} has format {quoted(stored_format)}, of orca-ray {quoted(version)};"
            f" orca-ray {__version__} reads format {FORMAT}: install the version that"
            " wrote it, or make the model again with this one"
        )
    stored_hash = values.pop(_SELF, None)
    if stored_hash != signature(
        {"orca_ray": version, "format": stored_format, **values}
    ):
        raise UserError(f"{path} was changed since it was written; {ADVICE}")
    return values


def _has_more_levels(value: Any, most_levels: int) -> bool:
    """Return whether a JSON value has more than ``most_levels`` of nesting.

    A number or text has none, a list of numbers has one.
    """
    containers = [value] if isinstance(value, list | dict) else []
    for _ in range(most_levels):
        containers = [
            part
            for container in containers
            for part in (
                container.values() if isinstance(container, dict) else container
            )
            if isinstance(part, list | dict)
        ]
    return bool(containers)


def _count_entries(value: Any, name: str = "") -> int:
    """Return the number of entries in all lists and objects of a JSON value.

    ``name`` is the name of the value in its object. Numbers of arrays are not counted,
    nor are entries that `ModelConfig` leaves unchecked. Errors of pydantic take a
    kilobyte, and there may be several for each counted entry.
    """
    if isinstance(value, list):
        is_array = all(isinstance(number, int | float) for number in value)
        if name == "values" and is_array:
            return 0
        return len(value) + sum(_count_entries(part) for part in value)
    if isinstance(value, dict):
        num_inside = sum(_count_entries(part, key) for key, part in value.items())
        return 0 if name in ("values", "report") else len(value) + num_inside
    return 0


def config_text(config: ModelConfig) -> str:
    """Return the text of ``config.json``: ``config``, versions, and their hash.

    The versions are those of orca-ray and of the format.
    """
    fields = {
        name: value
        for name, value in asdict(config).items()
        if name not in _UNUSED or value != _UNUSED[name]
    }
    values = {"orca_ray": __version__, "format": FORMAT, **fields}
    values = json.loads(json.dumps(values))  # tuples become lists, as they will be read
    return json.dumps({**values, _SELF: signature(values)}, indent=1) + "\n"


def signature(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of ``values`` in hex.

    For ``config.json``, pass all values except the hash that it stores.
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
