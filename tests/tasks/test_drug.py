"""Drug responses: prepared arrays against the raw files."""

from pathlib import Path

import numpy as np
import pytest

from orca_ray.tasks import arrays
from orca_ray.tasks.registry import get_task
from tests.raw_files.drug import write_drug


@pytest.mark.parametrize("name", ["ctrp", "gdsc"])
def test_rows_are_those_of_the_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_BATCH_BYTES", 7 * 4 * 3840)
    write_drug(tmp_path, name=name)
    data = get_task(f"drug/{name}").prepare(raw=tmp_path, out=tmp_path / "out" / "1")
    assert (len(data.train), len(data.validation), len(data.test)) == (27, 3, 8)
    assert data.y_mean is None

    train_x = np.load(tmp_path / f"drug_sep/{name}_train_feat.npy")
    train_y = np.load(tmp_path / f"drug_sep/{name}_train_label.npy").reshape(-1)
    prepared_x = np.concatenate([data.train.x[:], data.validation.x[:]])
    prepared_y = np.concatenate([data.train.y, data.validation.y])
    order = []
    for row in prepared_x:
        (place,) = np.flatnonzero((train_x == row).all(axis=(1, 2)))
        order.append(int(place))
    assert sorted(order) == list(range(30))
    np.testing.assert_array_equal(prepared_y, train_y[order])

    test_x = np.load(tmp_path / f"drug_sep/{name}_test_feat.npy")
    test_y = np.load(tmp_path / f"drug_sep/{name}_test_label.npy").reshape(-1)
    np.testing.assert_array_equal(data.test.x[:], test_x)
    np.testing.assert_array_equal(data.test.y, test_y)


def test_screens_are_read_from_their_own_files_of_any_width_of_numbers(
    tmp_path: Path,
) -> None:
    ctrp = get_task("drug/ctrp")
    ctrp_files = {file.path for file in ctrp.files}
    gdsc_files = {file.path for file in get_task("drug/gdsc").files}
    assert len(ctrp_files) == 4
    assert not ctrp_files & gdsc_files
    write_drug(tmp_path, name="ctrp")
    path = tmp_path / "drug_sep/ctrp_train_feat.npy"
    np.save(path, np.load(path).astype(np.uint8))
    data = ctrp.prepare(raw=tmp_path, out=tmp_path / "out" / "1")
    assert data.train.x.dtype == np.float32
