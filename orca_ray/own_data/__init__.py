"""Reading of a user's data: samples (`UserData`), options, formats, and `read`.

Reading is safe: no code from a file runs, no pickle is loaded, and sizes are limited.
"""

import functools
import mmap
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orca_ray.data import cache
from orca_ray.data.rows import Array, RowIndex, Rows, TargetKind
from orca_ray.discovery import declared, modules
from orca_ray.errors import UserError, printable, quoted, unknown_name
from orca_ray.paths import expand_user
from orca_ray.yaml_reader import MAX_BYTES, PositionedYaml

TASK_FILE = "task.yaml"
"""Name of the file in a data folder that holds the options of the data."""
TARGET_NAMES = (
    "y",
    "target",
    "targets",
    "label",
    "labels",
    "class",
    "classes",
    "output",
    "outputs",
)
"""Usual names of targets, in lower case.

They name the column or array of targets if no option does.
"""


Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
"""One or more names; a single name may be given as text instead of a list."""

ColumnHow = Literal[
    "number",
    "category",
    "date",
    "drop",
    "day-first",
    "month-first",
    "decimal-point",
    "decimal-comma",
]
"""How a column of a table is read: its kind, or the form of its dates or numbers."""


class Options(BaseModel):
    """Options of a user's data.

    Every field is optional; a field that is "" or None is inferred from the data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = ""
    """In a ``task.yaml`` outside the data: the data's path, relative to the file."""
    target: Names = ()
    """Columns, key or file of the targets."""
    inputs: Names = ()
    """Columns or key of the inputs; default: all columns that no other option names."""
    kind: TargetKind | None = None
    """Kind of the target: ``classes``, ``labels``, ``scalar`` or ``dense``."""
    group: str = ""
    """Column or key of groups; a group is never divided between splits."""
    time: str = ""
    """Column or key of times; the last samples become test, those before them
    validation.
    """
    gap: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Time that is left out between training samples and later ones that judge: in the
    units of the times, or days if the times are dates. If it is given, also as 0, or if
    there are groups beside times, folds are judged on later samples alone.
    """
    split: str = ""
    """Column or key that says the split of each sample: train, validation or test."""
    holdout: bool | None = None
    """Whether a test split is held out; None: if samples are many, dated or declared as
    test.
    """
    columns: dict[str, ColumnHow] = {}
    """How to read columns of a table, by their names."""
    axes: str = Field(default="", pattern="^(N[CLHWF]{0,3})?$")
    """Meaning of an array's axes: N samples, C channels, L steps, H rows, W columns, F
    features; such as NCL or NHWC. NL and NCL read numbered columns of a table as steps.
    """
    colour: Literal["", "grey", "rgb"] = ""
    """Colours that images are converted to."""
    size: int | None = Field(default=None, ge=1, le=2**16)
    """Side in pixels that images are resized to, or number of steps that series are
    padded or cut to.
    """
    mask: bool = False
    """Whether padded series get a channel that is 1 where a step was given and 0 where
    it was padded.
    """
    rate: float | None = Field(default=None, gt=0, le=1e6)
    """Sampling rate in Hz that recordings are converted to."""
    seconds: float | None = Field(default=None, gt=0, le=3600)
    """Length in seconds that recordings are padded or cut to."""
    loss: str = ""
    metric: str = ""
    body: str = ""
    """Name of the pretrained body."""
    fractions: tuple[
        Annotated[float, Field(gt=0, lt=0.5)], Annotated[float, Field(gt=0, lt=0.5)]
    ] = (0.15, 0.15)
    """Shares of all samples that become validation and test."""
    seed: int = Field(default=0, ge=0, le=2**31)
    """Seed of the random split and of the folds."""
    name: str = ""
    title: str = ""
    licence: str = "unknown"
    citation: str = ""
    reference: str = ""

    def over(self, other: Self) -> Self:
        """Return a copy with the options that are not set taken from ``other``."""
        return other.model_copy(
            update={name: getattr(self, name) for name in self.model_fields_set}
        )


def column_option(column: str, how: ColumnHow) -> str:
    """Return the command line's option that says ``how`` to read a column."""
    return f"--columns {shlex.quote(f'{printable(column)}={how}')}"


def make_options(where: str, given: dict[str, Any]) -> Options:
    """Return the options ``given`` by name.

    Raises UserError, which begins with ``where``, for a wrong name or value.
    """
    try:
        return Options(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise UserError(
                f"{where}: {unknown_name('option', name, Options.model_fields)}"
            ) from error
        raise UserError(
            f"{where}: {name}: {first['msg']}, got {first['input']!r}"
        ) from error


def read_options(path: Path) -> Options:
    """Return the options in a ``task.yaml``.

    Raises UserError if the file is missing, no safe YAML, or has a wrong name or value.
    """
    text = cache.read_bytes(path, MAX_BYTES).decode(errors="replace")
    content = PositionedYaml(text, str(path)).data or {}
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected 'option: value' on each line, found a"
            f" {type(content).__name__}"
        )
    return make_options(str(path), content)


_MOST_ROWS = 1024
"""Largest number of samples of a batch."""
_MOST_LISTED = 10_000
"""Largest number of files of a folder that decide its format."""

Kind = Literal["table", "array", "images", "audio"]
KINDS = (
    "a table with a column of targets (cars.csv); series [N, channels, steps], images"
    " [N, H, W, 3] or features [N, F] as x, with y [N] (data.npz); fields x and y [N,"
    " H, W] (flow.h5); images or recordings by class (pets/cat/1.jpg)"
)
"""Kinds of data that can be used, each with an example, for messages."""
Warn = Callable[[str], None]


@dataclass(frozen=True)
class LazySamples:
    """N samples, maybe of unequal shapes, that are read one by one.

    Only those that a caller keeps take memory.
    """

    num_samples: int
    read: Callable[[int], Array]
    """Takes a number from 0 to N - 1, and returns the sample with this number."""

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, part: RowIndex) -> list[Array]:
        """Return the selected samples as a list of arrays."""
        return list(self.select(part))

    def __iter__(self) -> Iterator[Array]:
        """Yield the samples, each of which is read when its turn comes."""
        return map(self.read, range(self.num_samples))

    def select(self, part: RowIndex) -> Self:
        """Return the selected samples, unread."""
        rows = np.arange(self.num_samples)[part]
        return replace(
            self, num_samples=len(rows), read=lambda row: self.read(int(rows[row]))
        )


Inputs = Rows | LazySamples | list[Array] | pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class UserData:
    """N samples of a user, with their targets if there are any.

    Raises UserError if the lengths of the parts differ.
    """

    x: Inputs
    """Inputs: an array [N, ...] (memory-mapped where the format allows it), samples
    that are read when selected, a list of arrays of unequal shapes, or a table.
    """
    y: Array | None = None
    """Targets: [N] numbers or text, [N, K] for several labels or numbers, or fields [N,
    ...]; None: only inputs.
    """
    kind_hint: Kind = "array"
    """Kind of the samples; a data frame is always a table."""
    source: str = "the data"
    """Path that the samples were read from, for messages."""
    names: Sequence[str] = ()
    """Names of the samples, such as paths of files; empty: they are numbered."""
    target_names: tuple[str, ...] = ()
    """Columns or key that the targets were read from."""
    rate: float | None = None
    """Sampling rate in Hz; None: unknown."""
    channels: tuple[str, ...] = ()
    """Names of the channels of signals, in the order of ``x``; empty: unknown."""
    groups: Array | None = None
    """Group of each sample [N]; samples of one group must not be in different splits.
    """
    times: Array | None = None
    """Times of the samples [N], by which the samples are split."""
    splits: Array | None = None
    """Splits that the data declare: [N] of ``train``, ``validation`` and ``test``."""
    keys: Mapping[str, Array] = field(default_factory=dict)
    """Columns [N] of a table to predict that tell its rows apart, such as ids; `select`
    leaves them out.
    """
    notes: tuple[str, ...] = ()
    """One sentence for each choice or omission of the reader."""
    options: Options = field(default_factory=Options)
    """Options that the samples were read with, those of a ``task.yaml`` included."""

    def __post_init__(self) -> None:
        if hasattr(self.x, "columns"):
            object.__setattr__(self, "kind_hint", "table")
        parts = {
            "targets": self.y,
            "groups": self.groups,
            "times": self.times,
            "splits": self.splits,
            "names": self.names or None,
        }
        for what, part in parts.items():
            if part is not None and len(part) != len(self.x):
                raise UserError(
                    f"{self.source}: {len(self.x)} samples but {len(part)} {what}; give"
                    f" one of {what} a sample"
                )

    def __len__(self) -> int:
        return len(self.x)

    def select(self, part: RowIndex) -> Self:
        """Return a copy with the samples ``part``.

        The inputs of the copy are in memory, unless they are `LazySamples`.
        """
        rows = np.arange(len(self))[part]
        return replace(
            self,
            x=_select_inputs(self.x, part),
            y=_select_values(self.y, part),
            groups=_select_values(self.groups, part),
            times=_select_values(self.times, part),
            splits=_select_values(self.splits, part),
            names=[self.names[row] for row in rows] if self.names else (),
            keys={},
        )

    def batches(self, size: int | None = None) -> Iterator[Self]:
        """Yield copies with ``size`` successive samples each, as by `select`.

        None: as many as `batch_size` returns. Memory of a memory-mapped file is
        released after each batch, so that files may be larger than the memory.
        """
        size = size or self.batch_size()
        for start in range(0, len(self), size):
            yield self.select(slice(start, min(start + size, len(self))))
            mapped = getattr(self.x, "_mmap", None)
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def batch_size(self, most_bytes: int = 2**26) -> int:
        """Return how many float32 samples as large as the first fit ``most_bytes``.

        The number is 1 to 1024; for a table, it is 1024.
        """
        if hasattr(self.x, "columns") or not len(self):
            return _MOST_ROWS
        first = np.asarray(next(iter(_select_inputs(self.x, slice(0, 1)))))
        sample_bytes = max(1, 4 * first.size)  # four bytes a float32
        return max(1, min(_MOST_ROWS, most_bytes // sample_bytes))

    def place(self, row: int) -> str:
        """Return the source and the name or number of a sample, for messages."""
        name = self.names[row] if self.names else f"row {row + 1}"
        return f"{self.source}, {name}"


def _select_inputs(x: Inputs, part: RowIndex) -> Any:
    """Return the selected samples of the inputs."""
    if isinstance(x, list):
        return [x[row] for row in np.arange(len(x))[part]]
    if isinstance(x, LazySamples):
        return x.select(part)
    return x.iloc[part] if hasattr(x, "iloc") else x[part]


def _select_values(values: Array | None, part: RowIndex) -> Array | None:
    """Return the selected values of an array [N, ...], if there is one."""
    return None if values is None else np.asarray(values[part])


@dataclass(frozen=True)
class Format:
    """A format of a user's data: one kind of file or folder.

    Modules of this package declare formats as ``FORMATS``.
    """

    name: str
    """Name for messages, such as "NumPy archive (.npz)"."""
    suffixes: tuple[str, ...]
    """Suffixes of the format's files in lower case; for a folder, suffixes of the files
    in it.
    """
    read: Callable[[Path, Options, bool], UserData]
    """Takes path, options, and whether a target is required (see `read`).

    Raises UserError for wrong content.
    """
    folder: bool = False
    """Whether the format is a folder of files with these suffixes."""
    markers: tuple[str, ...] = ()
    """For a folder that is recognised by one of its files: names or patterns of that
    file.
    """


@dataclass(frozen=True)
class Finding:
    """One inferred property of a user's data."""

    what: str
    """The property, such as "target"."""
    value: str
    why: str
    option: str
    """Option of :class:`orca_ray.own_data.Options` that overrides the property, with an
    example; "": none.
    """

    def __str__(self) -> str:
        override = f"; to override: {self.option}" if self.option else ""
        return f"{self.what}: {self.value} ({self.why}{override})"


@dataclass
class Notes:
    """Collects findings and warnings while a task is inferred."""

    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add_finding(self, what: str, value: object, why: str, option: str = "") -> None:
        """Add a `Finding` with these values to ``findings``."""
        self.findings.append(Finding(what, str(value), why, option))

    def warn(self, text: str) -> None:
        """Add a warning, unless it was added before."""
        if text not in self.warnings:
            self.warnings.append(text)


@functools.cache
def all_formats() -> Mapping[str, Format]:
    """Return all formats by name."""
    return declared(Format, "FORMAT", modules(sys.modules[__name__]))


def read(
    path: Path | str, options: Options | None = None, *, labelled: bool = True
) -> UserData:
    """Return the samples in a file or folder.

    Large arrays are memory-mapped, and files of a folder read when selected. ``path``
    is the data, a folder that contains ``task.yaml``, or a YAML file whose ``data`` is
    the path. Options that are not in ``options`` are those in the YAML file.
    ``labelled``: whether a target is required. If not, neither targets nor groups,
    times and splits are read.

    Raises UserError for a missing path, an unknown type, a file of other content than
    its suffix says, a missing or ambiguous column or key, parts of unequal lengths,
    damaged and too large files, and an invalid YAML file.
    """
    path = expand_user(path)
    options = options or Options()
    is_task_file = path.suffix.lower() in (".yaml", ".yml")
    task_file = path if is_task_file else path / TASK_FILE
    if task_file.is_file():
        stored = read_options(task_file)
        if task_file == path and not stored.data:
            raise UserError(
                f"{path}: expected the line 'data: PATH', relative to this file"
            )
        if stored.data:
            path = task_file.parent / stored.data
        options = options.over(stored)
    cache.check_special(path, directories=True)
    form = _folder_format(path) if path.is_dir() else _file_format(path)
    return replace(form.read(path, options, labelled), options=options)


def _file_format(path: Path) -> Format:
    """Return the format of a file, by its suffix."""
    suffix = path.suffix.lower()
    # Formats of files come before formats of folders: those read a single file, such as
    # an image, as a folder with one sample.
    for form in sorted(all_formats().values(), key=lambda form: form.folder):
        if suffix in form.suffixes and not form.markers:
            return form
    raise UserError(f"{path}: unknown type of file {quoted(suffix)}; {_list_allowed()}")


def _folder_format(path: Path) -> Format:
    """Return the format of a folder, by a marker file or the most frequent suffix."""
    folders = [form for form in all_formats().values() if form.folder]
    for form in folders:
        if any(any(path.glob(marker)) for marker in form.markers):
            return form
    suffixes = _count_suffixes(path)
    num_files = {
        form.name: sum(suffixes[suffix] for suffix in form.suffixes) for form in folders
    }
    best = max(folders, key=lambda form: num_files[form.name])
    if num_files[best.name]:
        return best
    listed = ", ".join(suffix or "(none)" for suffix, _ in suffixes.most_common(5))
    content = "no files"
    if listed:
        content = f"files of type {listed}, none of which is known"
    raise UserError(f"{path}: the folder has {content}; {_list_allowed()}")


def _count_suffixes(folder: Path) -> Counter[str]:
    """Return the number of files by suffix, among the first files of a folder.

    Hidden files are not counted.
    """
    counts: Counter[str] = Counter()
    for number, file in enumerate(folder.rglob("*")):
        if not file.name.startswith(".") and file.is_file():
            counts[file.suffix.lower()] += 1
        if number == _MOST_LISTED:
            break
    return counts


def _list_allowed() -> str:
    listed = "; ".join(
        f"{form.name} ({', '.join(form.suffixes)})" for form in all_formats().values()
    )
    return f"data may be {KINDS}. Allowed: {listed}"
