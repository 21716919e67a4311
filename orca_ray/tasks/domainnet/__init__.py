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
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from orca_ray.data.prepared import PAPER
from orca_ray.data.readers import read_lines
from orca_ray.data.rows import IMAGENET_STATISTICS
from orca_ray.errors import UserError, quoted
from orca_ray.tasks.arrays import fill_array, hold_out, name_arrays, stack_rows
from orca_ray.tasks.task import SPLIT_SEED, Array, Arrays, Workspace, declared_tasks

NUM_CLASSES = 40
"""Number of classes in SENTRY's lists, out of DomainNet's 345."""
SIDE = 224
"""Height and width of an input, in pixels."""
CROPPED_SIDE = 256
"""Height and width, in pixels, to which a training image is resized before cropping."""
MEAN = np.array(IMAGENET_STATISTICS[0], np.float32)
"""Mean of red, green and blue that ORCA's code subtracts: ImageNet's [3]."""
STD = np.array(IMAGENET_STATISTICS[1], np.float32)
"""Standard deviation of red, green and blue that ORCA's code divides by [3]."""
_MAX_PIXELS = 50_000_000
"""Largest number of pixels of an image file; decoding 50 million takes 150 MB."""


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of the task; UserError for a damaged list or image."""
    paths, labels = _read_list(workspace, "train")
    test_paths, test_labels = _read_list(workspace, "test")
    train, validation = hold_out(
        workspace.raw / "sketch_train_mini.txt",
        labels,
        max(NUM_CLASSES, len(paths) // 10),
        SPLIT_SEED,
    )
    train_paths = [paths[index] for index in train]
    validation_paths = [paths[index] for index in validation]
    train_x = _cropped_images(workspace, "train", train_paths, SPLIT_SEED)
    if workspace.protocol == PAPER:
        validation_x = _cropped_images(
            workspace, "validation", validation_paths, SPLIT_SEED + 1
        )
    else:
        validation_x = _whole_images(workspace, "validation", validation_paths)
    test_x = _whole_images(workspace, "test", test_paths)
    return name_arrays(
        [
            (train_x, labels[train]),
            (validation_x, labels[validation]),
            (test_x, test_labels),
        ]
    )


def _read_list(workspace: Workspace, split: str) -> tuple[list[Path], Array]:
    """Return the paths of the images in the list of ``split``, and their classes.

    The classes are [N] int64. Raises UserError if a line is invalid, or if an image is
    missing.
    """
    listing = workspace.file(f"sketch_{split}_mini.txt")
    paths = []
    labels = []
    for number, line in enumerate(read_lines(listing), start=1):
        entry = _parse_line(line)
        if entry is None:
            raise UserError(
                f"{listing}, line {number}: expected the path of an image below the raw"
                f" directory and its class, 0 to {NUM_CLASSES - 1}, found"
                f" {quoted(line)}"
            )
        name, label = entry
        if not (workspace.raw / name).is_file():
            raise UserError(
                f"{listing}, line {number}: expected {name} in {workspace.raw}, found"
                " no such file"
            )
        paths.append(workspace.raw / name)
        labels.append(label)
    return paths, np.array(labels, np.int64)


def _parse_line(line: str) -> tuple[str, int] | None:
    """Return the relative path and the class in a line of a list; None if invalid."""
    fields = line.split()
    if len(fields) != 2:
        return None
    path, label = fields
    # Three digits at most: int() refuses numbers of thousands of digits.
    if not re.fullmatch("[0-9]{1,3}", label) or int(label) >= NUM_CLASSES:
        return None
    if ".." in Path(path).parts:
        return None
    return path.lstrip("/"), int(label)


def _cropped_images(
    workspace: Workspace, split: str, paths: Sequence[Path], seed: int
) -> Array:
    """Return images [N, 3, 224, 224], each cropped at random from 256×256 pixels.

    Each image is mirrored with probability ½, and normalised.
    """
    random = np.random.RandomState(seed)
    corners = random.randint(CROPPED_SIDE - SIDE + 1, size=(len(paths), 2))
    is_mirrored = random.random_sample(len(paths)) < 0.5

    def crop(index: int) -> Array:
        top, left = corners[index]
        resized = _read_pixels(paths[index], CROPPED_SIDE)
        pixels = resized[top : top + SIDE, left : left + SIDE]
        if is_mirrored[index]:
            pixels = pixels[:, ::-1]
        return _normalise(pixels)

    return _fill(workspace, split, len(paths), crop)


def _whole_images(workspace: Workspace, split: str, paths: Sequence[Path]) -> Array:
    """Return images [N, 3, 224, 224], resized and normalised."""
    return _fill(
        workspace,
        split,
        len(paths),
        lambda index: _normalise(_read_pixels(paths[index], SIDE)),
    )


def _fill(
    workspace: Workspace, split: str, count: int, image: Callable[[int], Array]
) -> Array:
    """Return the inputs of a split; ``image(i)`` returns the image with the index i."""
    return fill_array(
        workspace, f"{split}_x", np.arange(count), stack_rows(image), (3, SIDE, SIDE)
    )


def _read_pixels(path: Path, side: int) -> Array:
    """Return an image as RGB [side, side, 3], 0 to 255; its aspect ratio may change.

    Raises UserError if the file is no image in PNG or JPEG format, or too large.
    """
    from PIL import Image

    # Other formats may start programs: EPS starts Ghostscript.
    formats = ("PNG", "JPEG")
    try:
        with Image.open(path, formats=formats) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise UserError(
                    f"{path}: expected at most {_MAX_PIXELS:,} pixels, found"
                    f" {image.width}×{image.height}"
                )
            resized = image.convert("RGB").resize(
                (side, side), Image.Resampling.BILINEAR
            )
            return np.asarray(resized)
    except UserError:
        raise
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        raise UserError(
            f"{path}: expected a whole JPEG or PNG image, found something else"
            f" ({error})"
        ) from error


def _normalise(pixels: Array) -> Array:
    """Return pixels [H, W, 3] from 0 to 255 as a normalised float32 image [3, H, W]."""
    scaled = (pixels.astype(np.float32) / 255 - MEAN) / STD
    return scaled.transpose(2, 0, 1)


TASK = declared_tasks(__name__)[0]
