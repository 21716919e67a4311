"""Nine of the 42 OpenML tasks on all their real rows."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.raw import Workspace
from orca_ray.tasks.openml.tables import build
from tests.twins._openml_format import TwinTable, write_table
from tests.twins._openml_real import KEELS, MFEAT, keel, mfeat
from tests.twins.openml import real_wdbc, real_wine

TABLES: list[tuple[int, Callable[[], TwinTable], tuple[int, ...]]] = [
    *((number, partial(mfeat, number), (2000, 1, {12: 216, 18: 6}[number])) for number in MFEAT),
    *((number, partial(keel, number), keel_file.shape) for number, keel_file in KEELS.items()),
    (187, real_wine, (178, 1, 13)),
    (1510, real_wdbc, (569, 1, 30)),
]
SIZES = {12: (1620, 180, 200), 187: (144, 16, 18), 1510: (460, 52, 57)}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "table", "shape"), [pytest.param(*each, id=str(each[0])) for each in TABLES])
def test_real_rows_are_kept_with_their_classes(
    number: int, table: Callable[[], TwinTable], shape: tuple[int, ...], tmp_path: Path
) -> None:
    given = table()
    write_table(tmp_path, number, given)
    arrays = build(number, Workspace(f"openml/{number}", tmp_path, tmp_path))
    x, y = (np.concatenate([np.asarray(arrays[f"{split}_{axis}"][:]) for split in prepared.SPLITS]) for axis in "xy")
    assert x.shape == shape
    declared = dict(given.columns)[given.target]
    assert np.bincount(y).tolist() == [sum(row[-1] == each for row in given.rows) for each in declared]
    if number in SIZES:
        assert tuple(len(arrays[f"{split}_y"]) for split in prepared.SPLITS) == SIZES[number]
    if nominal := KEELS[number].nominal if number in KEELS else ():  # one slot of every column of categories is taken
        np.testing.assert_array_equal(x[:, :, : len(nominal)].sum(axis=1), 1)
