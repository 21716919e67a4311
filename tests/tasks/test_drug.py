"""Drug responses: rows as the files hold them, a tenth of training held out."""

from pathlib import Path

import numpy as np
import pytest

from orca_ray.tasks import arrays
from orca_ray.tasks.registry import get_task
from tests.raw_files.sketches_and_drugs import write_drug


@pytest.mark.parametrize("name", ["ctrp", "gdsc"])
def test_rows_are_those_of_the_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_BATCH_BYTES", 7 * 4 * 3840)
    write_drug(tmp_path, name=name)
    data = get_task(f"drug/{name}").prepare(raw=tmp_path, out=tmp_path / "out" / "1")
    assert (len(data.train), len(data.validation), len(data.test)) == (27, 3, 8)
    assert data.y_mean is None
    features, labels = (np.load(tmp_path / f"drug_sep/{name}_train_{field}.npy") for field in ("feat", "label"))
    together = np.concatenate([data.train.x[:], data.validation.x[:]])
    order = [int(np.flatnonzero((features == row).all(axis=(1, 2)))[0]) for row in together]
    assert sorted(order) == list(range(30))
    np.testing.assert_array_equal(np.concatenate([data.train.y, data.validation.y]), labels.reshape(-1)[order])
    np.testing.assert_array_equal(data.test.x[:], np.load(tmp_path / f"drug_sep/{name}_test_feat.npy"))
    np.testing.assert_array_equal(data.test.y, np.load(tmp_path / f"drug_sep/{name}_test_label.npy").reshape(-1))


def test_screens_are_read_from_their_own_files_of_any_width_of_numbers(tmp_path: Path) -> None:
    files = {name: {file.path for file in get_task(f"drug/{name}").files} for name in ("ctrp", "gdsc")}
    assert len(files["ctrp"]) == 4
    assert not files["ctrp"] & files["gdsc"]
    write_drug(tmp_path, name="ctrp")
    path = tmp_path / "drug_sep/ctrp_train_feat.npy"
    np.save(path, np.load(path).astype(np.uint8))
    assert get_task("drug/ctrp").prepare(raw=tmp_path, out=tmp_path / "out" / "1").train.x.dtype == np.float32
