"""ECG: four classes of heart rhythm.

They are predicted from 1000 samples (3.3 s) of a single-lead electrocardiogram. Each
record is standardised and cut into windows, which overlap more for rarer classes.
Records are split with scikit-learn's ``train_test_split`` and seed 0, as in ORCA's
code: train, validation and test are 80, 10 and 10 %. The protocol ``paper`` first
splits off 10 % for test, then validation. Windows keep the order of their records.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import safe_pickle
from orca_ray.data.prepared import PAPER, SplitName
from orca_ray.data.readers import check_not_finite
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, quoted
from orca_ray.tasks.nasbench360._shared import check_numbers, get_entries
from orca_ray.tasks.task import SPLIT_SEED, Array, Arrays, Workspace

FILE = "challenge2017.pkl"
LENGTH = 1000
CLASSES: Mapping[str, int] = {"N": 0, "A": 1, "O": 2, "~": 3}
"""Class number by label in the file: N normal, A atrial fibrillation, O another rhythm,
~ too noisy.
"""
STRIDES = (500, 83, 250, 25)
"""Distance in samples from the start of a window to the next, for classes 0 to 3: 500
divided by 1, 6, 2 and 20.
"""
NUM_RECORDS = 8528
"""Number of records of the published file."""
_BATCH = 64
"""Number of records whose windows, some ten MB, are made at a time."""
_FEWEST = 10
"""Least number of records, so that every split has one."""


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of the task: windows of records, and classes of the records."""
    path = workspace.file(FILE)
    records, labels = _records(path)
    workspace.check_count(path, len(records), NUM_RECORDS)
    arrays: dict[str, Array] = {}
    for split, numbers in _splits(len(records), workspace.protocol).items():
        starts = _first_windows([len(records[i]) for i in numbers], labels[numbers])
        if starts[-1] == 0:
            raise UserError(
                f"{path}: no record of the {split} split is longer than {LENGTH}"
                " samples"
            )
        x = workspace.array(f"{split}_x", (int(starts[-1]), 1, LENGTH))
        for part in workspace.batches(split, len(numbers), _BATCH, x):
            for position in range(len(numbers))[part]:
                record = numbers[position]
                windows = _windows(records[record], STRIDES[labels[record]])
                x[starts[position] : starts[position + 1], 0] = windows
        arrays[f"{split}_x"] = x
        arrays[f"{split}_y"] = np.repeat(labels[numbers], np.diff(starts))
    return arrays


def _splits(num_records: int, protocol: str) -> dict[SplitName, Indices]:
    """Return the indices of the records of each split.

    Windows of one record are all in one split.
    """
    from sklearn.model_selection import train_test_split

    def divide(indices: Indices, share: float) -> list[Indices]:
        return list(train_test_split(indices, test_size=share, random_state=SPLIT_SEED))

    everything = np.arange(num_records)
    if protocol == PAPER:
        others, test = divide(everything, share=0.1)
        train, validation = divide(others, share=1 / 9)  # a tenth of all records
    else:
        train, held_out = divide(everything, share=0.2)
        validation, test = divide(held_out, share=0.5)
    return {"train": train, "validation": validation, "test": test}


def _first_windows(lengths: list[int], labels: Array) -> Indices:
    """Return the index [records + 1] of the first window of each record.

    The last entry is the number of windows. Windows are counted in the split. As in
    ORCA's code, a window that would end exactly at the end of its record is left out.
    """
    strides = [STRIDES[label] for label in labels]
    counts = [
        len(range(0, length - LENGTH, stride))
        for length, stride in zip(lengths, strides, strict=True)
    ]
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _windows(record: Array, stride: int) -> Array:
    """Return windows [n, 1000] of a record that is standardised by its own statistics.

    A constant record becomes 0.
    """
    if len(record) <= LENGTH:
        return np.empty((0, LENGTH))
    mean = np.mean(record, dtype=np.float64)
    deviation = np.std(record, dtype=np.float64)
    if deviation == 0:
        deviation = np.float64(1.0)
    standardised = (record - mean) / deviation
    windows = np.lib.stride_tricks.sliding_window_view(standardised, LENGTH)
    return windows[: len(record) - LENGTH : stride]


def _records(path: Path) -> tuple[list[Array], Array]:
    """Return the records of a file, and their classes [N].

    Raises UserError if the file is invalid.
    """
    data, label = get_entries(path, safe_pickle.load(path, str(path)), "data", "label")
    records = _listed(path, "data", data)
    letters = _listed(path, "label", label)
    if len(records) != len(letters) or len(records) < _FEWEST:
        raise UserError(
            f"{path}: data holds {len(records)} records and label {len(letters)}"
            f" labels; expected as many of both, at least {_FEWEST}"
        )
    for i, (record, letter) in enumerate(zip(records, letters, strict=True)):
        if not isinstance(letter, str) or letter not in CLASSES:
            raise UserError(
                f"{path}: label {i} is {quoted(letter)}; allowed: {', '.join(CLASSES)}"
            )
        field = f"data[{i}]"
        check_not_finite(path, field, check_numbers(path, field, record, (None,)))
    return records, np.array([CLASSES[letter] for letter in letters])


def _listed(path: Path, field: str, value: Any) -> list[Any]:
    """Return ``value`` as a list; UserError if it is no list or array."""
    is_scalar = isinstance(value, np.ndarray) and value.ndim == 0
    if is_scalar or not isinstance(value, list | tuple | np.ndarray):
        raise UserError(
            f"{path}: {field} must be a list or an array with an entry a record, found"
            f" {quoted(value)}"
        )
    return list(value)
