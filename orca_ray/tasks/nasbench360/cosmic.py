"""Cosmic: which pixels of a Hubble image were hit by a cosmic ray.

The data are deepCR's ACS/WFC data, galaxies, filter F435W. A stamp is a file with a
256×256 cut-out of an exposure. Decisions where this task could differ from ORCA's code:

- The sky brightness times a random factor from -0.9 to 3 is added to training images.
  The factor is drawn once, not every epoch. ORCA's code does so in validation and test,
  too; here, only the protocol ``paper`` does.
- A folder of stamps without ``sky.npy`` is an error where its sky is needed; ORCA's
  code silently adds none.
- Pixels in a stamp's mask ``ignore`` have target -1: loss and metric use logit 0 and
  target 0 (no hit) there.
- Images are counts of electrons, not standardised, as in ORCA's code.
- If no files list the stamps, all stamps of galaxy fields in F435W are used, sorted by
  path.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data.npy import read_npy
from orca_ray.data.prepared import PAPER, SPLITS
from orca_ray.data.readers import check_not_finite
from orca_ray.discovery import tables
from orca_ray.errors import UserError, quoted
from orca_ray.tasks.arrays import hold_out
from orca_ray.tasks.metrics import IGNORED
from orca_ray.tasks.nasbench360._shared import locate_files
from orca_ray.tasks.task import SPLIT_SEED, Array, Arrays, Workspace

SKY_FACTORS = (-0.9, 3.0)
"""Range of the random factor of the sky brightness."""
STAMP = 256
"""Side of a stamp, in pixels."""
SIDE = 128
"""Side of an input, the centre of a stamp, in pixels."""
CORNER = 64
"""First row, and first column, of the centre of a stamp."""
GALAXY_VISITS = tables("orca_ray.tasks.nasbench360", "galaxies.toml")["visits"]
"""Hubble visits that observed galaxies, by proposal number."""
_BATCH = 256  # stamps: 34 MB


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of the task: stamps with added sky, and masks of cosmic rays.

    Under ``held-out``, sky is added to training samples only.
    """
    given = _stamps(workspace, "train")
    test = _stamps(workspace, "test")
    drawn = hold_out(workspace.raw / "cosmic", len(given), len(test), SPLIT_SEED)
    train, validation = ([given[i] for i in part] for part in drawn)
    is_paper = workspace.protocol == PAPER
    skies = _skies([*given, *test] if is_paper else given)
    arrays: dict[str, Array] = {}
    for number, (split, paths) in enumerate(
        zip(SPLITS, (train, validation, test), strict=True)
    ):
        factors = np.random.RandomState(SPLIT_SEED + number).uniform(
            *SKY_FACTORS, len(paths)
        )
        x = arrays[f"{split}_x"] = workspace.array(
            f"{split}_x", (len(paths), 1, SIDE, SIDE)
        )
        y = arrays[f"{split}_y"] = workspace.array(
            f"{split}_y", (len(paths), SIDE, SIDE)
        )
        for part in workspace.batches(split, len(paths), _BATCH, x, y):
            for index in range(part.start, part.stop):
                image, y[index] = _sample(Path(paths[index]))
                sky = skies[paths[index]] if is_paper or split == "train" else 0.0
                x[index, 0] = image + factors[index] * sky
    return arrays


def _stamps(workspace: Workspace, split: str) -> list[str]:
    listing = workspace.optional(f"cosmic/{split}_dirs.npy")
    if listing is None:
        return _galaxies(workspace.file(f"cosmic/npy_{split}"))
    return locate_files(workspace.raw, listing, _names(listing))


def _names(listing: Path) -> list[str]:
    """Return the paths of stamps that are stored in the file ``listing``."""
    listed = read_npy(listing, ndim=1, kind="UO", pickled=True)
    # numpy accepts characters beyond Unicode, which Python cannot read.
    if listed.dtype.kind == "U":
        characters = listed.astype(listed.dtype.newbyteorder("=")).view(np.uint32)
        if (characters > sys.maxunicode).any():
            raise UserError(
                f"{listing}: expected paths of stamps, found characters that do not"
                " exist; write it anew"
            )
    names: list[Any] = listed.tolist()
    for name in names:
        if not (isinstance(name, str) and name.isprintable()):
            raise UserError(
                f"{listing}: expected paths of stamps, found {type(name).__name__}"
                f" {quoted(name)}"
            )
    return names


def _galaxies(tree: Path) -> list[str]:
    """Return the sorted paths of the stamps of galaxy fields below ``tree``."""
    stamps = []
    for path in sorted(map(str, tree.glob("f435w/*/*/*.npy"))):
        proposal, visit, name = Path(path).parts[-3:]
        if name != "sky.npy" and visit in GALAXY_VISITS.get(proposal, ()):
            stamps.append(path)
    if not stamps:
        raise UserError(
            f"{tree}: expected stamps f435w/PROPOSAL/VISIT/*.npy of galaxy fields,"
            " found none"
        )
    return stamps


def _sample(path: Path) -> tuple[Array, Array]:
    """Return the centre of a stamp, [128, 128]: its image, float64, and its target.

    Raises UserError if it is invalid.
    """
    stamp = read_npy(path, ndim=3, kind="fiub")
    if stamp.shape not in ((2, STAMP, STAMP), (3, STAMP, STAMP)):
        raise UserError(
            f"{path}: expected shape [2 or 3, {STAMP}, {STAMP}] (image, cosmic-ray mask"
            f" and perhaps ignore mask), found {list(stamp.shape)}"
        )
    centre = slice(CORNER, CORNER + SIDE)
    planes = np.asarray(stamp[:, centre, centre])
    check_not_finite(path, "", planes)
    if not np.isin(planes[1], (0, 1)).all():
        raise UserError(
            f"{path}, mask: expected only 0 and 1, found {planes[1].min():g} to"
            f" {planes[1].max():g}"
        )
    target = planes[1].astype(np.float32)
    if len(planes) == 3:
        target[planes[2] != 0] = IGNORED
    return planes[0].astype(np.float64), target


def _skies(stamps: Sequence[str]) -> Mapping[str, float]:
    """Return the sky brightness of each of ``stamps``.

    Raises UserError if a folder of stamps has no ``sky.npy``.
    """
    folders = sorted({Path(stamp).parent for stamp in stamps})
    absent = [folder for folder in folders if not (folder / "sky.npy").is_file()]
    if absent:
        raise UserError(
            f"{len(absent)} of {len(folders)} folders of stamps have no sky.npy, which"
            f" holds the sky brightness of each exposure, such as {absent[0]}; unpack"
            " the archives again, or save zeros there to add no sky"
        )
    skies = {
        folder: read_npy(folder / "sky.npy", ndim=1, kind="fiu") for folder in folders
    }
    for folder, values in skies.items():
        check_not_finite(folder / "sky.npy", "", values)
    brightness = {}
    for stamp in stamps:
        folder = Path(stamp).parent
        exposure = Path(stamp).name.split("_")[0]
        most = len(skies[folder])
        if not exposure.isdecimal() or not 1 <= int(exposure) <= most:
            raise UserError(
                f"{stamp}: expected a name that begins with an exposure of"
                f" {folder / 'sky.npy'}, 1 to {most}, and '_', found {exposure!r}"
            )
        brightness[stamp] = float(skies[folder][int(exposure) - 1])
    return brightness
