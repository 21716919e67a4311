"""Our arrays under the protocol ``paper`` against those of the reference's own loader on the same table and split."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data.raw import Workspace
from orca_ray.tasks.openml.tables import build, split
from orca_ray.tasks.task import SPLIT_SEED
from tests.twins._openml_format import TwinTable, write_table
from tests.twins._openml_real import keel, mfeat
from tests.twins.openml import real_wdbc, synthetic

REFERENCE = os.environ.get("ORCA_REFERENCE", "")

pytestmark = pytest.mark.skipif(not REFERENCE, reason="ORCA_REFERENCE names no checkout of the reference")

TABLES: dict[int, Callable[[], TwinTable]] = {
    12: partial(mfeat, 12),
    **{each: partial(keel, each) for each in (23, 31, 54)},
    1510: real_wdbc,
    **{each: partial(synthetic, each) for each in (29, 188, 1464)},
}
"""Numbers alone, standardised twice, or of which some columns stay; categories beside numbers; and missing values."""


@pytest.mark.slow
@pytest.mark.parametrize("dataset_id", TABLES)
def test_arrays_equal_the_reference_s(dataset_id: int, tmp_path: Path) -> None:
    table = TABLES[dataset_id]()
    write_table(tmp_path, dataset_id, table)
    ours = build(dataset_id, Workspace(f"openml/{dataset_id}", tmp_path, tmp_path, protocol="paper"))
    declared = dict(table.columns)[table.target]
    place = [name for name, _ in table.columns].index(table.target)
    labels = np.array([declared.index(row[place]) for row in table.rows])
    train, validation, test = split(labels, SPLIT_SEED)
    places = {"dev": [*train.tolist(), *validation.tolist()], "test": test.tolist()}
    given = {"id": dataset_id, "columns": table.columns, "rows": table.rows, "target": table.target, **places}
    (tmp_path / "table.json").write_text(json.dumps(given))
    script = Path(__file__).with_name("openml_reference.py")
    command = [sys.executable, str(script), REFERENCE, str(tmp_path / "table.json"), str(tmp_path / "theirs.npz")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    theirs = np.load(tmp_path / "theirs.npz")
    for name, parts in (("train", ("train", "validation")), ("test", ("test",))):
        for axis in "xy":
            mine = np.concatenate([np.asarray(ours[f"{part}_{axis}"][:]) for part in parts])
            np.testing.assert_allclose(mine, theirs[f"{name}_{axis}"], rtol=1e-5, atol=1e-5)
