"""DomainNet: sketches of 40 of its classes.

Decisions where this task could differ from ORCA's code:

- Training images are cropped and flipped at random only once, when they are read, as in
  ORCA's code, but with a seed.
- Validation is a stratified tenth of the training list. Validation images are prepared
  like test images, but like training images under ``paper``, which trains on them.
- The lists of images, of 40 classes, are those of SENTRY: they have the file names that
  ORCA's code uses.
- ORCA's URL of the archive, below ``groundtruth/``, is tried last, because DomainNet
  has it one folder up.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from orca_ray.data.prepared import PAPER
from orca_ray.data.readers import read_lines
from orca_ray.data.rows import IMAGENET_STATISTICS
from orca_ray.errors import UserError, quoted
from orca_ray.tasks.arrays import each, filled, hold_out, named
from orca_ray.tasks.task import SPLIT_SEED, Array, Arrays, Workspace, declared_tasks

NUM_CLASSES = 40
SIDE = 224
LARGER = 256
MEAN, STD = (np.array(values, np.float32) for values in IMAGENET_STATISTICS)
_MOST_PIXELS = 50_000_000


def _build(workspace: Workspace) -> Arrays:
    given, given_y = _listed(workspace, "train")
    test, test_y = _listed(workspace, "test")
    listing = workspace.raw / "sketch_train_mini.txt"
    train, validation = hold_out(
        listing, given_y, max(NUM_CLASSES, len(given) // 10), SPLIT_SEED
    )
    x = _drawn(workspace, "train", [given[i] for i in train], SPLIT_SEED)
    held_out = [given[i] for i in validation]
    if workspace.protocol == PAPER:
        x_validation = _drawn(workspace, "validation", held_out, SPLIT_SEED + 1)
    else:
        x_validation = _whole(workspace, "validation", held_out)
    x_test = _whole(workspace, "test", test)
    return named(
        [(x, given_y[train]), (x_validation, given_y[validation]), (x_test, test_y)]
    )


def _listed(workspace: Workspace, split: str) -> tuple[list[Path], Array]:
    """Return the paths of the images in the list of ``split``, and their classes [N]
    int64; UserError if invalid.
    """
    listing = workspace.file(f"sketch_{split}_mini.txt")
    paths = []
    labels = []
    for number, line in enumerate(read_lines(listing), start=1):
        fields = line.split()
        numbered = len(fields) == 2 and re.fullmatch("[0-9]{1,3}", fields[1])
        if (
            not numbered
            or int(fields[1]) >= NUM_CLASSES
            or ".." in Path(fields[0]).parts
        ):
            raise UserError(
                f"{listing}, line {number}: expected the path of an image below the raw"
                f" directory and its class, 0 to {NUM_CLASSES - 1}, found"
                f" {quoted(line)}"
            )
        name = fields[0].lstrip("/")
        if not (workspace.raw / name).is_file():
            raise UserError(
                f"{listing}, line {number}: expected {name} in {workspace.raw}, found"
                " no such file"
            )
        paths.append(workspace.raw / name)
        labels.append(int(fields[1]))
    return paths, np.array(labels, np.int64)


def _drawn(workspace: Workspace, split: str, paths: Sequence[Path], seed: int) -> Array:
    """Return images resized to 256×256, cropped to 224×224 at random, and flipped with
    probability ½, normalised.
    """
    random = np.random.RandomState(seed)
    corners = random.randint(LARGER - SIDE + 1, size=(len(paths), 2))
    mirrored = random.random_sample(len(paths)) < 0.5

    def cut(index: int) -> Array:
        top, left = corners[index]
        pixels = _pixels(paths[index], LARGER)[top : top + SIDE, left : left + SIDE]
        return _normalised(pixels[:, ::-1] if mirrored[index] else pixels)

    return filled(
        workspace, f"{split}_x", np.arange(len(paths)), each(cut), (3, SIDE, SIDE)
    )


def _whole(workspace: Workspace, split: str, paths: Sequence[Path]) -> Array:
    rows = each(lambda index: _normalised(_pixels(paths[index], SIDE)))
    return filled(workspace, f"{split}_x", np.arange(len(paths)), rows, (3, SIDE, SIDE))


def _pixels(path: Path, side: int) -> Array:
    """Return an image as RGB [side, side, 3], 0 to 255; its aspect ratio may change.

    UserError if it is invalid.
    """
    from PIL import Image

    try:
        with Image.open(
            path, formats=("PNG", "JPEG")
        ) as image:  # other formats may start programs: EPS Ghostscript
            if image.width * image.height > _MOST_PIXELS:
                raise UserError(
                    f"{path}: expected at most {_MOST_PIXELS:,} pixels, found"
                    f" {image.width}×{image.height}"
                )
            return np.asarray(
                image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
            )
    except UserError:
        raise
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        raise UserError(
            f"{path}: expected a whole JPEG or PNG image, found something else"
            f" ({error})"
        ) from error


def _normalised(pixels: Array) -> Array:
    scaled = (pixels.astype(np.float32) / 255 - MEAN) / STD
    return scaled.transpose(2, 0, 1)


(TASK,) = declared_tasks(__name__)
