"""`Options`: settings for own data, given on the command line, in Python or in a ``task.yaml``."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orca_ray.data import cache
from orca_ray.data.rows import TargetKind
from orca_ray.errors import UserError, unknown_name
from orca_ray.yaml_reader import MAX_BYTES, PositionedYaml

TASK_FILE = "task.yaml"
"""Name of the file in a data folder with its options."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One or more names; one may be written without a list."""


class Options(BaseModel):
    """Properties of own data that the user gives. Every field is optional; "" or None: it is inferred."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = ""
    """In a ``task.yaml`` outside the data: the data's path, relative to the file."""
    target: Names = ()
    """Columns, key or file of the targets."""
    inputs: Names = ()
    """Columns or key of the inputs; default: all columns but the others named here."""
    kind: TargetKind | None = None
    """Kind of the target: ``classes``, ``labels``, ``scalar`` or ``dense``."""
    group: str = ""
    """Column or key of groups; a group is never divided between splits."""
    time: str = ""
    """Column or key of times; the last samples become test, those before them validation."""
    split: str = ""
    """Column or key that says the split of each sample: train, validation or test."""
    columns: dict[str, Literal["number", "category", "date", "drop"]] = {}
    """How to read columns of a table."""
    axes: str = Field(default="", pattern="^(N[CLHWF]{0,3})?$")
    """Meaning of an array's axes: N samples, C channels, L steps, H rows, W columns, F features; such as NCL or NHWC"""
    colour: Literal["", "grey", "rgb"] = ""
    """Colours that images are converted to."""
    size: int | None = Field(default=None, ge=1, le=2**16)
    """Side in pixels that images are resized to, or number of steps that series are padded or cut to."""
    mask: bool = False
    """Whether padded series get a channel that is 1 where a step was given and 0 where it was padded."""
    rate: float | None = Field(default=None, gt=0, le=1e6)
    """Sampling rate in Hz that recordings are converted to."""
    seconds: float | None = Field(default=None, gt=0, le=3600)
    """Length in seconds that recordings are padded or cut to."""
    loss: str = ""
    metric: str = ""
    body: str = ""
    """Name of the pretrained body."""
    fractions: tuple[Annotated[float, Field(gt=0, lt=0.5)], Annotated[float, Field(gt=0, lt=0.5)]] = (0.15, 0.15)
    """Shares of validation and of test."""
    seed: int = Field(default=0, ge=0, le=2**31)
    """Seed of the random split."""
    name: str = ""
    title: str = ""
    licence: str = "unknown"
    citation: str = ""
    reference: str = ""

    def over(self, other: Self) -> Self:
        """Return these options; those that are not set come from ``other``."""
        return other.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


def make_options(where: str, given: dict[str, Any]) -> Options:
    """Return options from values by name; raises UserError, which begins with ``where``, for a wrong name or value."""
    try:
        return Options(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise UserError(f"{where}: {unknown_name('option', name, Options.model_fields)}") from error
        raise UserError(f"{where}: {name}: {first['msg']}, got {first['input']!r}") from error


def read_options(path: Path) -> Options:
    """Return the options in a ``task.yaml``; raises UserError if it is not safe YAML, or has a wrong name or value."""
    text = cache.read_bytes(path, MAX_BYTES).decode(errors="replace")
    content = PositionedYaml(text, str(path)).data
    if not isinstance(content or {}, dict):
        raise UserError(f"{path}: expected 'option: value' on each line, found a {type(content).__name__}")
    return make_options(str(path), content or {})
