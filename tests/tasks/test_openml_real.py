"""Tables of real and of drawn rows against arrays of the reference's own loader, of which a digest is written down."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.raw import Workspace
from orca_ray.tasks.openml.tables import build
from tests.raw_files.openml import SmallTable, real_mfeat_factors, real_wdbc, synthetic, write_table
from tests.tasks.digests import digest

RECORDED: list[tuple[int, Callable[[], SmallTable], tuple[int, ...], tuple[float, ...]]] = [
    # id, table, shape of all rows; digests of x and y of train, validation and test under the protocol `paper`
    (12, real_mfeat_factors, (2000, 1, 216), (0.000264242, 4.53787, -0.00835601, 4.4231, 0.0068199, 4.53864)),
    (1510, real_wdbc, (569, 1, 30), (-0.00629512, 0.402023, 0.0860249, 0.33106, -0.0581354, 0.427271)),
    (29, partial(synthetic, 29), (24, 11, 15), (0.0545808, 0.424651, 0.0523103, 0.861284, 0.0648745, 0.194618)),
    (188, partial(synthetic, 188), (60, 24, 19), (0.0100117, 1.86182, 0.0106709, 0.964518, 0.0122518, 1.24101)),
    (1464, partial(synthetic, 1464), (24, 1, 3), (-0.0624141, 0.428733, -0.0463992, 1.1801, -0.0632233, 0.666667)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "table", "shape", "digests"), RECORDED, ids=[str(each[0]) for each in RECORDED])
def test_arrays_are_those_of_the_reference_and_hold_every_row(
    number: int, table: Callable[[], SmallTable], shape: tuple[int, ...], digests: tuple[float, ...], tmp_path: Path
) -> None:
    given = table()
    write_table(tmp_path, number, given)
    arrays = build(number, Workspace(f"openml/{number}", tmp_path, tmp_path, protocol="paper"))
    parts = {axis: [np.asarray(arrays[f"{split}_{axis}"][:]) for split in prepared.SPLITS] for axis in "xy"}
    widest = max(part.shape[1] for part in parts["x"]), max(part.shape[2] for part in parts["x"])
    assert sum(map(len, parts["x"])) == shape[0]
    assert sorted(widest) == sorted(shape[1:])  # `paper` has columns of numbers as tokens of their own
    declared = dict(given.columns)[given.target]
    counts = [sum(row[-1] == each for row in given.rows) for each in declared]
    assert np.bincount(np.concatenate(parts["y"])).tolist() == counts
    found = [digest(parts[axis][i]) for i in range(3) for axis in "xy"]
    assert found == pytest.approx(digests, rel=1e-4, abs=1e-5)
