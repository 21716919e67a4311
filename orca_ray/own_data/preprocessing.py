"""`Preprocessing`: converts a user's data into model inputs; stored as JSON."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData, read
from orca_ray.own_data.array_inputs import ArrayInputs, AudioInputs
from orca_ray.own_data.tables import TableInputs
from orca_ray.own_data.targets import TargetCoding

logger = logging.getLogger(__name__)

Encoder = TableInputs | ArrayInputs | AudioInputs


class Preprocessing(BaseModel):
    """Reads, checks and encodes a user's data; fitted on the training split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    reading: Options
    """Options with which files are read: columns, keys, axes, colours and rate as in training."""
    encoder: Annotated[Encoder, Field(discriminator="form")]
    target: TargetCoding

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one model input: (C, L) or (C, H, W)."""
        return self.encoder.shape

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes or labels, in the order of the model's outputs; () for numbers and fields."""
        return self.target.label_names

    def read(self, path: Path | str, *, labelled: bool = False) -> UserData:
        """Read a file or folder as the training data were read; without ``labelled``, targets may be missing."""
        return read(path, self.reading, labelled=labelled)

    def inputs(self, data: UserData, warn: Callable[[str], None] = logger.warning) -> Array:
        """Return model inputs, float32 [N, *input_shape], of samples that fit into memory (see `UserData.batches`).

        Raises UserError, with the column, row or file, for data of another kind, shape, type or scale than those of
        training. ``warn`` is called for suspicious samples that can still be predicted.
        """
        return self.encoder.encode(data, warn)

    def targets(self, y: Array) -> Array:
        """Return the target array: int64 [N] for classes, else float32; missing ones are −1 or NaN.

        Raises UserError for an unknown class, or targets of another kind or shape.
        """
        return self.target.encode(y)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, from which `from_json` makes an equal preprocessing."""
        return self.model_dump(mode="json", exclude_defaults=False)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "preprocessing.json") -> Self:
        """Return the preprocessing in a JSON object; raises UserError, which begins with ``where``, if invalid."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise UserError(f"{where}: no valid preprocessing of version 1: {field}: {first['msg']}") from error
