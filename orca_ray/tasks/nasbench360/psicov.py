"""PSICOV: distances between all residues of a protein.

They are predicted from features of related sequences. Proteins are in PDNet's format
(Adhikari, 2020, doi:10.1038/s41598-020-70181-0): ``features/ID.pkl`` has the features
of residues and of pairs of residues; ``distance/ID-cb.npy`` has the length L, the
sequence and the distances between Cβ atoms in Å. Maps of all proteins are padded or cut
to 512×512. A model is trained on proteins of DeepCov and scored on those of PSICOV.
Decisions where this task could differ from ORCA's code:

- A protein of more than 502 residues is cut to a random window, drawn once and not
  every epoch. In training, windows of rows and of columns are drawn independently, as
  in ORCA's code. In validation and test they are equal, because the metric computes the
  sequence separation of two residues from their row and column.
- ``held-out``: test is the first half of PSICOV's list and validation the second.
  ``paper``: test is the whole list; validation, on which ``paper`` trains, is held out
  of DeepCov.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from orca_ray.data import safe_pickle
from orca_ray.data.npy import read_npy
from orca_ray.data.prepared import PAPER
from orca_ray.data.readers import check_not_finite, check_shape, read_lines
from orca_ray.data.rows import PairwiseRows
from orca_ray.errors import UserError, quoted
from orca_ray.tasks.arrays import hold_out
from orca_ray.tasks.metrics import MARGIN, PADDING
from orca_ray.tasks.task import SPLIT_SEED, Array, Arrays, Workspace

SIDE = 512
NUM_FEATURES = 27
"""Number of features of a residue: secondary structure 3, position-specific scores 22,
solvent accessibility, entropy.
"""
PAIR_MAPS = ("ccmpred", "freecon", "potential")

_LARGEST_FEATURE = 100.0
_LARGEST_DISTANCE = 500.0
CLIP = 16.0  # Å: larger training targets are set to this
_BATCH = 16  # proteins: about 70 MB


def _features(path: Path) -> tuple[Array, Array]:
    """Return the features of a protein's L residues, and of their pairs.

    They are [27, L] and [3, L, L]. Raises UserError if they are invalid.
    """
    content = safe_pickle.load(path, "features of a protein")
    fields = ("seq", "ss", "pssm", "sa", "entropy", *PAIR_MAPS)
    present = content if isinstance(content, Mapping) else {}
    absent = [field for field in fields if field not in present]
    if absent:
        raise UserError(
            f"{path}: expected a mapping with {', '.join(fields)}, found one without"
            f" {', '.join(absent)}"
        )
    sequence = content["seq"]
    length = len(sequence) if isinstance(sequence, str | list | tuple) else 0
    shapes = {
        "ss": (3, length),
        "pssm": (length, 22),
        "sa": (length,),
        "entropy": (length,),
    }
    shapes |= dict.fromkeys(PAIR_MAPS, (length, length))
    for field, shape in shapes.items():
        values = content[field]
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            raise UserError(
                f"{path}, {field}: expected an array of numbers, found"
                f" {type(values).__name__}"
            )
        check_shape(path, field, values, shape)
        check_not_finite(path, field, values)
        if (largest := float(np.abs(values).max(initial=0))) >= _LARGEST_FEATURE:
            raise UserError(
                f"{path}, {field}: expected values between -100 and 100, found"
                f" ±{largest:g}"
            )
    features = [
        content["ss"],
        content["pssm"].T,
        content["sa"][None],
        content["entropy"][None],
    ]
    return np.concatenate(features).astype(np.float32), np.stack(
        [content[field] for field in PAIR_MAPS]
    )


def _distances(path: Path, length: int) -> Array:
    """Return the distances [L, L] in Å between ``length`` residues.

    Raises UserError if the file is invalid. Distances below 1 Å become 1 Å. Each
    diagonal entry becomes the mean distance to the previous and the next residue.
    """
    content = read_npy(path, pickled=True)
    is_triple = content.dtype == object and content.shape == (3,)
    if not is_triple or not isinstance(content[2], np.ndarray):
        raise UserError(
            f"{path}: expected (length, sequence, map), found {content.dtype}"
            f" {content.shape}"
        )
    stored_length, _, distances = content
    is_number = isinstance(stored_length, int | np.integer)
    if not is_number or stored_length != length or length < 2:
        raise UserError(
            f"{path}, length: expected {length} (at least 2) as in its features, found"
            f" {stored_length}"
        )
    if distances.dtype.kind != "f":
        raise UserError(
            f"{path}, map: expected floating-point numbers, found {distances.dtype}"
        )
    check_shape(path, "map", distances, (length, length))
    check_not_finite(path, "map", distances)
    if distances.max() > _LARGEST_DISTANCE or distances.min() < 0:
        raise UserError(
            f"{path}, map: expected 0 to {_LARGEST_DISTANCE:g} Å, found"
            f" {distances.min():g} to {distances.max():g}"
        )
    levelled: Array = np.maximum(distances, 1)
    after = np.diagonal(levelled, 1)  # to the next residue
    before = np.diagonal(levelled, -1)  # to the previous residue
    inner = (before[:-1] + after[1:]) / 2
    np.fill_diagonal(levelled, np.concatenate([after[:1], inner, before[-1:]]))
    return levelled


def _window(length: int, share: float) -> tuple[slice, slice]:
    """Return two ranges of equal length: positions in a square, and residues there.

    A square shows a window of a protein of ``length`` residues with its margins. The
    first range are the positions along a side that hold residues, the second one is the
    numbers of these residues in the protein. ``share``: start of the window of a long
    protein, as a share in [0, 1) of the possible starts.
    """
    start = int(share * (max(0, length + 2 * MARGIN - SIDE) + 1))
    first = max(0, MARGIN - start)
    end = min(SIDE, length + MARGIN - start)
    return slice(first, end), slice(first + start - MARGIN, end + start - MARGIN)


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of the task.

    Under ``paper``, validation proteins are drawn from DeepCov. Otherwise, half of
    PSICOV's proteins are for validation.
    """
    deepcov = _names(workspace, "deepcov")
    psicov = _names(workspace, "psicov")
    half = len(psicov) // 2
    if workspace.protocol == PAPER:
        listing = workspace.raw / "protein/deepcov.lst"
        train, held_out = hold_out(listing, len(deepcov), half, SPLIT_SEED)
        validation = [deepcov[i] for i in held_out]
        return {
            **_squares(workspace, "train", "deepcov", [deepcov[i] for i in train]),
            **_squares(workspace, "validation", "deepcov", validation),
            **_squares(workspace, "test", "psicov", psicov),
        }
    return {
        **_squares(workspace, "train", "deepcov", deepcov),
        **_squares(workspace, "validation", "psicov", psicov[half:]),
        **_squares(workspace, "test", "psicov", psicov[:half]),
    }


def _names(workspace: Workspace, folder: str) -> list[str]:
    """Return the names of the proteins that the list of ``folder`` contains."""
    path = workspace.file(f"protein/{folder}.lst")
    names = [line.split()[0] for line in read_lines(path)]
    if len(names) < 2:
        raise UserError(
            f"{path}: expected at least 2 proteins, one a line, found {len(names)}"
        )
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(
                f"{path}: expected names of letters, digits, '_', '.' and '-', found"
                f" {quoted(name)}"
            )
    return names


def _squares(workspace: Workspace, split: str, folder: str, names: list[str]) -> Arrays:
    """Return the arrays of one split, both stored on disk.

    They are x [N, 57, SIDE, SIDE] and y [N, SIDE, SIDE].

    Channels of x: 27 features of the row's residue, 27 of the column's, 3 pair maps. In
    ORCA's code, row and column features alternate: channel 27 + f of x is its channel
    2 f, and channel f of x is its channel 2 f + 1.
    """
    num = len(names)
    proteins = workspace.raw / "protein" / folder
    positions, columns = (
        workspace.array(f"{split}_x.{part}", (num, NUM_FEATURES, SIDE))
        for part in ("positions", "columns")
    )
    pairs = workspace.array(f"{split}_x.pairs", (num, len(PAIR_MAPS), SIDE, SIDE))
    extents = workspace.array(f"{split}_x.extents", (num, 2, 2), np.int64)
    y = workspace.array(f"{split}_y", (num, SIDE, SIDE))
    clip = CLIP if folder == "deepcov" else np.inf
    # Starts of the windows of rows and of columns.
    shares = np.random.RandomState(SPLIT_SEED).random_sample((num, 2))
    if folder != "deepcov":
        # These squares lie on the diagonal: rows and columns are the same residues.
        shares[:, 1] = shares[:, 0]
    for part in workspace.batches(
        split, num, _BATCH, positions, columns, pairs, extents, y
    ):
        for index in range(part.start, part.stop):
            features, maps = _features(proteins / "features" / f"{names[index]}.pkl")
            distances = _distances(
                proteins / "distance" / f"{names[index]}-cb.npy", features.shape[1]
            )
            row_share, column_share = shares[index]
            rows, from_rows = _window(len(distances), row_share)
            across, from_across = _window(len(distances), column_share)
            positions[index][:, rows] = features[:, from_rows]
            columns[index][:, across] = features[:, from_across]
            extents[index] = (rows.start, rows.stop), (across.start, across.stop)
            pairs[index][:, rows, across] = maps[:, from_rows, from_across]
            y[index] = min(PADDING, clip)
            y[index][rows, across] = np.minimum(distances[from_rows, from_across], clip)
    x = PairwiseRows(
        {"positions": positions, "columns": columns, "pairs": pairs, "extents": extents}
    )
    return {f"{split}_x": x, f"{split}_y": y}
