"""Model folders: one directory with all files that predicting needs. This module writes
and verifies such folders.

========================== ===========================================================================
``model.safetensors``      the weights; for methods with `Recipe.names_body`, without
the body's frozen ones ``config.json``            `ModelConfig`: how to build the
network, what it was trained on, SHA-256 of every file ``preprocessing.json``     how to
convert raw data to inputs; absent if the data are arrays already ``README.md``
the model card
========================== ===========================================================================

No file is a pickle or contains code. ``config.json`` is written last: a directory
without it is no model folder.
"""

import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from orca_ray.data import cache
from orca_ray.data.rows import Array, ModalityName, Target
from orca_ray.data.tensor_file import save_tensors
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.methods.options import Scalar
from orca_ray.tasks.task import Task
from orca_ray.version import __version__

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the format; a folder of another version is refused."""
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PREPROCESSING = "preprocessing.json"
CARD = "README.md"
_UNUSED: Mapping[str, object] = {
    "members": (),
    "member_weights": (),
    "temperature": 1.0,
    "report": {},
}
"""Values of fields that are left out of ``config.json``, so that earlier versions read
it.
"""
_SELF = "sha256"
"""Key of ``config.json`` with the hash of all its other keys."""
_MOST_ENTRIES = 50_000
"""Largest number of entries of ``config.json``; an ensemble of 200 members has about
20,000.
"""
_MOST_CONFIG_BYTES = (
    256 * 2**20
)  # statistics of a dense target may have a number for each of its points


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
        """Return the JSON form of a NumPy array or a tensor on the CPU, converted to
        float32.
        """
        values = np.asarray(array, dtype=np.float32)
        return cls(values.shape, tuple(values.ravel().tolist()))

    def array(self) -> Array:
        """Return the float32 array, of shape ``shape``."""
        return np.array(self.values, dtype=np.float32).reshape(self.shape)


_LARGEST = float(np.finfo(np.float32).max)
_MOST_VALUES = 2**27  # of an input or an output
MOST_MEMBERS = 200
"""Largest number of models whose predictions are averaged."""


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """Record of the fields of a `Task` that a model needs, and of the protocol and
    fingerprint of its training data.
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
        names = (
            "name",
            "title",
            "input_shape",
            "target",
            "loss",
            "metric",
            "licence",
            "citation",
            "reference",
        )
        return cls(
            **{name: getattr(task, name) for name in names},
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
    """Record of how to build the body and, if the folder lacks its frozen weights, of
    one hash of all these.
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
    input_deviation: StoredArray | None = None
    """Statistics by which the model standardises inputs, [C, 1] or [C, 1, 1]; None: it
    does not standardise inputs.
    """
    y_mean: StoredArray | None = None
    y_std: StoredArray | None = None
    """Mean and standard deviation that map outputs to the target's units; None: outputs
    are in these units.
    """
    validation_score: float | None = None
    test_score: float | None = None
    trial: str = ""
    sweep: str = ""
    """In a results store: the key of the trial that trained the model, and the name of
    its sweep.
    """
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
    temperature: float = 1.0
    """Number that divides the averaged logits."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `orca_ray.selection.Report`; empty if no adaptation to own data made
    the model.
    """

    def __post_init__(self) -> None:
        if (
            len(self.members) != len(self.member_weights)
            or len(self.members) > MOST_MEMBERS
        ):
            raise ValueError(
                f"{len(self.members)} members with {len(self.member_weights)} weights"
            )
        if not all(0 < weight <= 1 for weight in self.member_weights):
            raise ValueError("the weight of a member must be above 0 and at most 1")
        if self.members and abs(math.fsum(self.member_weights) - 1) > 1e-6:
            raise ValueError(
                "the weights of the members have the sum"
                f" {math.fsum(self.member_weights):g}, not 1"
            )
        if not 0.01 <= self.temperature <= 100 or (
            self.temperature != 1 and not self.members
        ):
            raise ValueError(
                f"temperature {self.temperature:g}: 0.01 to 100, and 1 for a model"
                " without members"
            )
        for number, member in enumerate(self.members):
            if member.members:
                raise ValueError(f"member {number} has members of its own")
            for name in ("input_shape", "target", "loss", "y_mean", "y_std"):
                own, other = (
                    getattr(each if name.startswith("y_") else each.task, name)
                    for each in (self, member)
                )
                if own != other:
                    raise ValueError(
                        f"member {number} is not a model of the same task: its {name}"
                        " differs"
                    )
        channels, *rest = self.task.input_shape
        of_inputs = (channels, *(1 for _ in rest))
        if any(
            each is not None and each.shape != of_inputs
            for each in (self.input_mean, self.input_deviation)
        ):
            raise ValueError(f"the statistics of inputs do not have shape {of_inputs}")
        outputs = self.task.target.output_shape
        for each in (self.y_mean, self.y_std):
            shape = () if each is None else each.shape
            if len(shape) > len(outputs) or any(
                size not in (1, whole)
                for size, whole in zip(shape[::-1], outputs[::-1], strict=False)
            ):
                raise ValueError(
                    f"statistics of shape {shape} are none of outputs of shape"
                    f" {outputs}"
                )
        for centre, spread in (
            (self.input_mean, self.input_deviation),
            (self.y_mean, self.y_std),
        ):
            if (centre is None) != (spread is None):
                raise ValueError("a mean without a deviation, or the reverse")
            if spread is not None and min(spread.values) <= 0:
                raise ValueError("a deviation must be above zero")


def composed(config: ModelConfig) -> str:
    """Return the number of members of an ensemble by method and body, e.g. "5 of
    linear, 10 of nft on minilm-l6".
    """
    bodies = (
        "" if each.body.name in ("", "none") else f" on {each.body.name}"
        for each in config.members
    )
    counts = Counter(
        f"{each.method}{body}"
        for each, body in zip(config.members, bodies, strict=True)
    )
    return ", ".join(f"{count} of {name}" for name, count in counts.most_common())


def read_config(directory: Path) -> ModelConfig:
    """Return the configuration of a model folder, and verify its files.

    Raises UserError if ``directory`` is no model folder, if its format has another
    version, or if a file is missing, damaged or changed. If the model card is missing
    or changed, only a warning is logged: predictions do not use it.
    """
    path = directory / CONFIG
    advice = (
        "give the folder that 'orca-sweep adapt --out' has written, or models/KEY of a"
        " results store"
    )
    if not directory.is_dir():
        found = "is no directory" if directory.exists() else "does not exist"
        raise UserError(f"{directory} {found}: {advice}")
    if not path.is_file():
        raise UserError(
            f"{directory} is no model folder, as it has no {CONFIG}: {advice}"
        )
    config = parse_config(cache.read_bytes(path, _MOST_CONFIG_BYTES), path)
    if WEIGHTS not in config.files:
        raise UserError(f"{path} lists no {WEIGHTS}; {_ADVICE}")
    for name, expected in config.files.items():
        file = directory / name
        if not file.is_file() and name != CARD:
            raise UserError(
                f"the model folder {directory} has no {name}, which its {CONFIG} lists;"
                f" {_ADVICE}"
            )
        found = cache.sha256_file(file) if file.is_file() else "missing"
        if found == expected:
            continue
        if name != CARD:
            raise UserError(
                f"{file} was changed since it was written (sha256 {found}, expected"
                f" {expected}); {_ADVICE}"
            )
        logger.warning("%s is not the model card that was written with the model", file)
    return config


_ADVICE = "copy the whole folder again from where it was made, or make it again"


def parse_config(text: bytes, path: Path | str) -> ModelConfig:
    """Return the configuration in the ``text`` of a ``config.json``; ``path`` is for
    messages.

    Raises UserError if the text is invalid, was changed since it was written, or has
    another version of the format.
    """
    values = cache.parse_json(text, str(path))
    if "orca_ray" not in values:
        raise UserError(
            f"{path} was not written by orca-ray: give a model folder of orca-ray"
        )
    written = values.pop("orca_ray")
    found = values.pop("format", None)
    if found != FORMAT:
        raise UserError(
            f"{path} has format {quoted(found)}, of orca-ray {quoted(written)};"
            f" orca-ray {__version__} reads format {FORMAT}: install the version that"
            " wrote it, or make the model again with this one"
        )
    if values.pop(_SELF, None) != signature(
        {"orca_ray": written, "format": found, **values}
    ):
        raise UserError(f"{path} was changed since it was written; {_ADVICE}")
    try:
        if (count := _num_entries(values)) > _MOST_ENTRIES:
            raise UserError(
                f"{path} has {count:,} entries; no model has more than"
                f" {_MOST_ENTRIES:,}; {_ADVICE}"
            )
        config = TypeAdapter(ModelConfig).validate_python(values)
    except RecursionError as error:
        raise UserError(f"{path} has too many levels; {_ADVICE}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its fields"
        raise UserError(
            f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}; {_ADVICE}"
        ) from error
    if strange := sorted(set(config.files) - {WEIGHTS, PREPROCESSING, CARD}):
        raise UserError(
            f"{path} lists files that a model folder does not have:"
            f" {shorten(', '.join(strange))}"
        )
    return config


def _num_entries(value: Any, name: str = "") -> int:
    """Return the number of entries in a JSON value, except numbers of arrays and what
    `ModelConfig` leaves unchecked.

    An error of pydantic takes a kilobyte, and there may be several for each entry.
    """
    if (
        name == "values"
        and isinstance(value, list)
        and all(isinstance(each, int | float) for each in value)
    ):
        return 0
    pairs = value.items() if isinstance(value, dict) else ()
    parts = [("", each) for each in value] if isinstance(value, list) else list(pairs)
    count = len(parts) + sum(_num_entries(each, key) for key, each in parts)
    return 0 if name in ("values", "report") and isinstance(value, dict) else count


def read_preprocessing(directory: Path, config: ModelConfig) -> dict[str, Any] | None:
    """Return the content of ``preprocessing.json``; None if ``config.files`` does not
    list it (inputs are arrays).
    """
    return (
        cache.read_json(directory / PREPROCESSING)
        if PREPROCESSING in config.files
        else None
    )


def config_text(config: ModelConfig) -> str:
    """Return the text of ``config.json``: ``config``, the versions of orca-ray and of
    the format, and their hash.
    """
    given = {
        name: value
        for name, value in asdict(config).items()
        if name not in _UNUSED or value != _UNUSED[name]
    }
    values = {"orca_ray": __version__, "format": FORMAT, **given}
    values = json.loads(json.dumps(values))  # tuples become lists, as they will be read
    return json.dumps({**values, _SELF: signature(values)}, indent=1) + "\n"


def write_folder(
    directory: Path,
    config: ModelConfig,
    weights: Mapping[str, Any],
    *,
    card: str,
    preprocessing: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Write a model folder, and return a copy of ``config`` whose `ModelConfig.files`
    has the hashes of the files.

    An existing model is replaced; files that are not part of it stay. Readers never see
    a mixture of two models.

    Args:
        directory: the folder, which is created if it does not exist.
        config: configuration; it is not changed, and its `ModelConfig.files` is
            ignored.
        weights: tensors on the CPU by name.
        card: content of ``README.md``.
        preprocessing: content of ``preprocessing.json``; None: there is none.

    Raises UserError if ``directory`` has files and is no model folder, or if it cannot
    be written.
    """
    check_other(directory)
    with cache.scratch_directory(directory) as scratch, cache.disk_errors(directory):
        save_tensors(scratch / WEIGHTS, weights)
        if preprocessing is not None:
            (scratch / PREPROCESSING).write_text(
                json.dumps(preprocessing, indent=1) + "\n", encoding="utf-8"
            )
        (scratch / CARD).write_text(card, encoding="utf-8")
        names = [WEIGHTS, *([] if preprocessing is None else [PREPROCESSING]), CARD]
        config = replace(
            config, files={name: cache.sha256_file(scratch / name) for name in names}
        )
        (directory / CONFIG).unlink(missing_ok=True)
        (directory / PREPROCESSING).unlink(missing_ok=True)
        for name in names:
            cache.replace_file(scratch / name, directory / name)
            os.chmod(directory / name, 0o644)
        cache.write_text(directory / CONFIG, config_text(config), durable=True)
    return config


def check_other(directory: Path) -> None:
    """Raise UserError if ``directory`` is a file, or has files but no ``config.json``
    and so is no model folder.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file: name a directory for the model")
    if (
        directory.is_dir()
        and any(directory.iterdir())
        and not (directory / CONFIG).is_file()
    ):
        raise UserError(
            f"{directory} has files and is no model folder: name a new or empty"
            " directory for the model"
        )


def signature(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of ``values`` in hex; for ``config.json``, pass all values
    except the hash that it stores.
    """
    return hashlib.sha256(
        json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
