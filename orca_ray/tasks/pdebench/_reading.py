"""Build the prepared arrays of a PDEBench file, batch by batch.

The module selects frames, splits samples and scales them. As in the reference
implementation of ORCA, test is the first or last tenth of the file. Validation is
another tenth, drawn at random from the rest. PDEBench's HDF5 files have three layouts;
a single frame of several samples is read at a time.

Letters: N samples of a file, b that are read, T frames, C channels. ``grid`` has one or
two spatial axes.
"""

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import readers, splits
from orca_ray.data.prepared import PAPER, SPLITS, Arrays
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError
from orca_ray.tasks.arrays import Scale, pointwise_statistics
from orca_ray.tasks.task import SPLIT_SEED, Array, Workspace

logger = logging.getLogger(__name__)

BATCH_BYTES = 32 * 2**20
"""Size of the samples that are read at once."""
MOST_SAMPLES = 10**7
"""Largest allowed number of samples, 1000 times the published one; a damaged header may
declare too many to index.
"""
PAPER_TEST_FRAME = 100
"""Number of the frame, counted from 1, that ORCA's code takes as test target: the
default of its `t_train`.
"""

Hdf5 = Any
"""Type of an h5py file, group or data set; not named, because h5py is imported only
when a file is opened.
"""


class Simulations(ABC):
    """Abstract base class of the simulations in an open file.

    Each layout of files has a subclass. The constructor raises UserError if the file
    lacks data sets of the layout or has another grid. Except in `stored`, only the
    frames and the points that ``reading`` uses are counted.
    """

    num_samples: int
    num_stored_frames: int
    channels: int
    """Number of channels of a stored frame."""
    chunk_rows: int = 1
    """Number of samples in one chunk of the HDF5 file; h5py always reads whole chunks.
    """

    def __init__(self, file: Hdf5, path: Path, reading: "Reading") -> None:
        self.path = path
        self.reading = reading
        self.grid = reading.grid
        self._file = file

    @abstractmethod
    def stored(self, rows: slice, frame: int) -> Array:
        """Return frame ``frame`` of the samples ``rows``, float32 [b, C, *grid].

        Raises UserError if damaged or not finite.
        """

    @property
    def num_frames(self) -> int:
        """Number of frames used."""
        return len(range(0, self.num_stored_frames, self.reading.time_stride))

    @property
    def batch_size(self) -> int:
        """Number of samples to read at once.

        It is a multiple of the file's chunk size, if a chunk fits `BATCH_BYTES`.
        """
        size = max(1, BATCH_BYTES // (4 * self.channels * int(np.prod(self.grid))))
        if self.chunk_rows > size:
            return size
        return size - size % self.chunk_rows

    def read(self, rows: slice, frame: int) -> Array:
        """Return frame ``frame`` of the samples ``rows``: float32 [b, C, *space].

        It is counted among the frames used.
        """
        stored = self.stored(rows, frame * self.reading.time_stride)
        points = [slice(None, None, self.reading.stride)] * len(self.grid)
        selection: tuple[Any, ...] = (..., *points)
        return np.asarray(stored[selection])

    def read_batches(self, rows: Indices, frame: int) -> Iterator[Array]:
        """Yield frame ``frame`` of the samples ``rows``, in batches [b, C, *space].

        Samples are float32, each once, in the order of the file and not of ``rows``.
        """
        is_chosen = np.zeros(int(rows.max()) + 1, bool)
        is_chosen[rows] = True
        for start in range(0, len(is_chosen), self.batch_size):
            part = slice(start, min(start + self.batch_size, len(is_chosen)))
            if is_chosen[part].any():
                yield self.read(part, frame)[is_chosen[part]]

    def _dataset(self, name: str, expected: tuple[int | None, ...]) -> Hdf5:
        """Return the data set ``name`` of the file.

        Raises UserError unless it has the shape ``expected``, in which None stands for
        any length.
        """
        with self._damage(name):
            dataset = self._file.get(name)
        # It is missing, a group, or an empty data set.
        if getattr(dataset, "shape", None) is None:
            present = ", ".join(sorted(self._file)[:10]) or "nothing"
            raise UserError(
                f"{self.path}: expected a data set {name!r}, found none; the file holds"
                f" {present}"
            )
        if dataset.dtype.kind != "f":
            raise UserError(
                f"{self.path}, {name}: expected floating-point numbers, found"
                f" {dataset.dtype}"
            )
        readers.check_shape(self.path, name, dataset, expected)
        return dataset

    def _values(self, name: str, dataset: Hdf5, part: Any, place: str) -> Array:
        """Return ``dataset[part]`` float32.

        Errors also name ``place``, because their indices are those in ``part``.
        """
        with self._damage(name):
            values = np.asarray(dataset[part])
        readers.check_not_finite(self.path, f"{name} ({place})", values)
        return values.astype(np.float32, copy=False)

    @contextlib.contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        """Convert errors of HDF5 in the block to `UserError`."""
        try:
            yield
        # h5py raises them for a truncated or damaged chunk.
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{self.path}, {name}: expected readable HDF5 data, found a damaged"
                f" block ({error}); get the file again"
            ) from error


class Stacked(Simulations):
    """Layout with one data set [N, T, *grid] for each field.

    The ``fields`` become the channels.
    """

    def __init__(
        self, file: Hdf5, path: Path, reading: "Reading", *, fields: tuple[str, ...]
    ) -> None:
        super().__init__(file, path, reading)
        first = self._dataset(fields[0], (None, None, *self.grid))
        self.num_samples, self.num_stored_frames = first.shape[:2]
        self.channels = len(fields)
        self.chunk_rows = _chunk_rows(first)
        self._fields = {name: self._dataset(name, first.shape) for name in fields}

    def stored(self, rows: slice, frame: int) -> Array:
        place = f"frame {frame} from sample {rows.start} on"
        fields = [
            self._values(name, dataset, (rows, frame), place)
            for name, dataset in self._fields.items()
        ]
        return np.stack(fields, axis=1)


class Seeds(Simulations):
    """Layout with one group for each simulation, named by its seed.

    The group has ``data`` [T, *grid, C]. Simulations are sorted by name.
    """

    def __init__(
        self, file: Hdf5, path: Path, reading: "Reading", *, channels: int
    ) -> None:
        super().__init__(file, path, reading)
        self._names = sorted(file)
        self.num_samples = len(self._names)
        self.channels = channels
        self.num_stored_frames = 0
        if self._names:
            self.num_stored_frames = self._seed(self._names[0], None).shape[0]

    def stored(self, rows: slice, frame: int) -> Array:
        names = self._names[rows]
        fields = np.empty((len(names), self.channels, *self.grid), np.float32)
        for field, name in zip(fields, names, strict=True):
            dataset = self._seed(name, self.num_stored_frames)
            values = self._values(f"{name}/data", dataset, frame, f"frame {frame}")
            field[...] = np.moveaxis(values, -1, 0)
        return fields

    def _seed(self, name: str, num_frames: int | None) -> Hdf5:
        return self._dataset(f"{name}/data", (num_frames, *self.grid, self.channels))


class Steady(Simulations):
    """Layout with a coefficient and a steady state.

    They are ``nu`` [N, *grid], frame 0, and ``tensor`` [N, 1, *grid], frame 1.
    """

    num_stored_frames = 2
    channels = 1

    def __init__(self, file: Hdf5, path: Path, reading: "Reading") -> None:
        super().__init__(file, path, reading)
        coefficient = self._dataset("nu", (None, *self.grid))
        self.num_samples = coefficient.shape[0]
        solution = self._dataset("tensor", (self.num_samples, 1, *self.grid))
        self.chunk_rows = _chunk_rows(solution)
        self._frames = (("nu", coefficient), ("tensor", solution))

    def stored(self, rows: slice, frame: int) -> Array:
        name, dataset = self._frames[frame]
        values = self._values(name, dataset, rows, f"from sample {rows.start} on")
        return values.reshape(-1, 1, *self.grid)


def _chunk_rows(dataset: Hdf5) -> int:
    return int(dataset.chunks[0]) if dataset.chunks else 1


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Settings by which a file is read.

    The input is the first of the frames used. The target is frame ``t_train`` of them,
    counted from 1, or the last one if there are fewer.
    """

    layout: Callable[[Hdf5, Path, "Reading"], Simulations]
    """Function that opens the simulations of a file, given the open file, its path and
    this reading.
    """
    grid: tuple[int, ...]
    """Number of points on each axis of the file's fields."""
    stride: int = 1
    """Every ``stride``-th point is used, on each axis."""
    time_stride: int = 1
    """Every ``time_stride``-th frame is used."""
    t_train: int
    test_first: bool
    """True: test is the first tenth of the file; False: the last tenth."""
    input_channels: tuple[int, ...] = (0,)
    """Indices of the input's channels in a frame as `Simulations.stored` returns it."""
    target_channels: tuple[int, ...] = (0,)
    """Indices of the target's channels, as many as the input has."""
    flattened: bool = False
    """Whether the channels are concatenated along the spatial axis to a single channel.
    """
    scaling: (
        Callable[[Simulations, Indices, Iterable[int]], Mapping[int, Scale]] | None
    ) = None
    """`by_inputs` or `by_frame`, which return how to scale inputs and targets; None:
    they are not scaled.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input and of one target."""
        space = tuple(len(range(0, points, self.stride)) for points in self.grid)
        channels = len(self.input_channels)
        if self.flattened:
            return 1, channels * int(np.prod(space))
        return channels, *space

    def frames(self, num_frames: int, protocol: str) -> dict[str, int]:
        """Return the index of the target frame of each split.

        ``num_frames`` is the number of frames used. The frame is the same for all
        splits, except that test may have another target frame under ``paper``, as in
        ORCA's code. This is a defect of ORCA's code: of 101 frames, it trains on frame
        29 or 100, depending on the problem, and tests on frame 99.
        """
        frames: dict[str, int] = {
            split: min(self.t_train, num_frames) - 1 for split in SPLITS
        }
        if protocol == PAPER:
            frames["test"] = min(PAPER_TEST_FRAME, num_frames) - 1
        return frames


def by_inputs(
    samples: Simulations, rows: Indices, frames: Iterable[int]
) -> dict[int, Scale]:
    """Return one (mean, deviation) for all frames.

    They are `pointwise_statistics` of the inputs (frame 0) of the samples ``rows``.
    """
    return dict.fromkeys(
        (0, *frames), pointwise_statistics(samples.read_batches(rows, frame=0))
    )


def by_frame(
    samples: Simulations, rows: Indices, frames: Iterable[int]
) -> dict[int, Scale]:
    """Return (mean, deviation) for each frame.

    They are `pointwise_statistics` of the frame over the first hundred of the samples
    ``rows``.
    """
    return {
        frame: pointwise_statistics(samples.read_batches(rows[:100], frame))
        for frame in {0, *frames}
    }


def divide(num_samples: int, test_first: bool) -> dict[str, Indices]:
    """Return sorted sample indices by split.

    Test is the first (``test_first``) or last tenth, rounded as by ORCA.
    """
    boundary = num_samples // 10 if test_first else num_samples * 9 // 10
    first, last = np.split(np.arange(num_samples), [boundary])
    test, others = (first, last) if test_first else (last, first)
    num_held_out = num_samples // 10
    sizes = (len(others) - num_held_out, num_held_out)
    train, validation = splits.split(len(others), sizes, SPLIT_SEED)
    return {
        "train": others[np.sort(train)],
        "validation": others[np.sort(validation)],
        "test": test,
    }


def build(workspace: Workspace, samples: Simulations) -> Arrays:
    """Read the samples in order and return the arrays of all splits.

    Raises UserError for too few or too many samples.
    """
    reading = samples.reading
    _check_counts(samples)
    division = divide(samples.num_samples, reading.test_first)
    frames = reading.frames(samples.num_frames, workspace.protocol)
    scales = _scales(workspace, samples, division, frames)
    arrays = dict[str, Array]()
    for split, rows in division.items():
        for name in (f"{split}_x", f"{split}_y"):
            arrays[name] = workspace.array(name, (len(rows), *reading.shape))
    for part in workspace.batches(
        "samples", samples.num_samples, samples.batch_size, *arrays.values()
    ):
        fields = {
            frame: _scaled(samples.read(part, frame), scales.get(frame))
            for frame in {0, *frames.values()}
        }
        for split, rows in division.items():
            first, last = np.searchsorted(rows, (part.start, part.stop))
            rows_of_part = rows[first:last] - part.start
            place = slice(int(first), int(last))
            x = fields[0][rows_of_part][:, reading.input_channels]
            y = fields[frames[split]][rows_of_part][:, reading.target_channels]
            arrays[f"{split}_x"][place] = x.reshape(-1, *reading.shape)
            arrays[f"{split}_y"][place] = y.reshape(-1, *reading.shape)
    return arrays


def _check_counts(samples: Simulations) -> None:
    """Raise UserError for too few or too many simulations, or too few frames."""
    path = samples.path
    if samples.num_samples < 10:
        raise UserError(
            f"{path}: expected at least 10 simulations, so that each split has one,"
            f" found {samples.num_samples}"
        )
    if samples.num_samples > MOST_SAMPLES:
        raise UserError(
            f"{path}: expected at most {MOST_SAMPLES} simulations, found"
            f" {samples.num_samples}"
        )
    if samples.num_frames < 2:
        raise UserError(
            f"{path}: expected at least 2 frames, an input and a target, found"
            f" {samples.num_frames}"
        )


def _scales(
    workspace: Workspace,
    samples: Simulations,
    division: Mapping[str, Indices],
    frames: Mapping[str, int],
) -> Mapping[int, Scale]:
    """Return how to scale each frame; {}: not at all.

    The statistics are of the training samples, under ``paper`` of those for validation,
    too.
    """
    if samples.reading.scaling is None:
        return {}
    logger.info("%s: statistics of %s", workspace.task, samples.path)
    rows = division["train"]
    if workspace.protocol == PAPER:
        rows = np.concatenate([rows, division["validation"]])
    return samples.reading.scaling(samples, np.sort(rows), frames.values())


def _scaled(fields: Array, scale: Scale | None) -> Array:
    return fields if scale is None else (fields - scale[0]) / scale[1]
