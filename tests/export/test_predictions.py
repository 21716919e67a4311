"""Predictions as tables and of exported networks.

Columns, names, units, large inputs, and what is refused.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from orca_ray.cli.app import run
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.export import Exported, Written, export_model, write_predictions
from orca_ray.own_data import UserData
from orca_ray.predictor import Predictor
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import CLASSES, make_data, make_task
from tests.own_data.writers import self_pointing

from .conftest import Make

FIELD = make_task(Target("dense", shape=(8, 8)), (2, 8, 8))
LABELS = make_task(Target("labels", size=3))
NUMBER = make_task(Target("scalar"))
X = np.asarray(make_data(make_task(CLASSES)).test.x)


def test_classes_have_probabilities(series: Predictor, tmp_path: Path) -> None:
    reported_rows: list[int] = []
    write_predictions(
        series, series.inputs(X), tmp_path / "out.parquet", reported_rows.append
    )
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "prediction", "p_0", "p_1", "p_2"]
    assert table["id"].to_pylist() == list(range(45))
    assert table["prediction"].to_pylist() == series.predict(X).tolist()
    assert np.array_equal(table["p_1"].to_numpy(), series.predict_proba(X)[:, 1])
    assert json.loads(table.schema.metadata[b"orca_ray"])["task"] == "tiny/classes"
    assert reported_rows == [45]


def test_samples_with_names_keep_them(series: Predictor, tmp_path: Path) -> None:
    names = ["a.wav", "=cmd()\x1b"]
    write_predictions(
        series, series.inputs(UserData(x=X[:2], names=names)), tmp_path / "out.csv"
    )
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == '"id","prediction","p_0","p_1","p_2"'
    assert lines[1].startswith('"a.wav",')
    assert lines[2].startswith('"\'=cmd()\\x1b",')


def test_several_labels(make: Make, tmp_path: Path) -> None:
    model = make(LABELS)
    x = np.asarray(make_data(LABELS).test.x)
    write_predictions(model, model.inputs(x), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "prediction", "p_0", "p_1", "p_2"]
    expected = [
        "; ".join(str(k) for k in np.flatnonzero(row)) for row in model.predict(x)
    ]
    assert table["prediction"].to_pylist() == expected


def test_fields_are_nested_lists(make: Make, tmp_path: Path) -> None:
    model = make(FIELD)
    x = np.asarray(make_data(FIELD).test.x)
    write_predictions(model, model.inputs(x), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "prediction"]
    assert np.array_equal(
        np.array(table["prediction"].to_pylist(), dtype=np.float32), model.predict(x)
    )
    with pytest.raises(
        UserError, match=r"do not fit into .*out\.csv: name a file \.npz or \.parquet"
    ):
        write_predictions(model, model.inputs(x), tmp_path / "out.csv")


@pytest.mark.parametrize(
    "task",
    [FIELD, LABELS, NUMBER, make_task(CLASSES)],
    ids=lambda task: task.target.kind,
)
def test_an_archive_has_arrays_that_numpy_reads_in_one_call(
    task: Task, make: Make, tmp_path: Path
) -> None:
    model = make(task)
    x = np.tile(
        np.asarray(make_data(task).test.x), (3, *[1] * len(task.input_shape or ()))
    )
    names = [f"{row}{'x' * (row % 7)}" for row in range(len(x))]
    write_predictions(
        model, model.inputs(UserData(x=x, names=names)), tmp_path / "out.npz"
    )
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["prediction"], model.predict(x))
        assert arrays["id"].tolist() == names
        assert ("probability" in arrays) == model.decides
        if model.decides:
            np.testing.assert_array_equal(arrays["probability"], model.predict_proba(x))


def test_an_archive_that_does_not_fit_into_memory_is_refused(
    series: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_ray.data.cache.free_memory", lambda: 100.0)
    with pytest.raises(
        UserError,
        match=(
            r"predictions as out\.npz: .* GiB of memory are free; write a file"
            r" \.parquet"
        ),
    ):
        write_predictions(series, series.inputs(X), tmp_path / "out.npz")
    assert not list(tmp_path.iterdir())


def test_keys_of_a_table_are_carried_under_their_own_names(
    series: Predictor, tmp_path: Path
) -> None:
    keys = {
        "id": np.array(["=a", "b"], dtype=object),
        "row": np.array([2**60 + 1, 7]),
        "p_1": np.array([1, 2]),
    }
    data = UserData(x=X[:2], keys=keys)
    write_predictions(series, series.inputs(data), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "row", "p_1", "prediction", "p_0", "p_2"]
    assert table["id"].to_pylist() == ["=a", "b"]
    assert table["row"].to_pylist() == [2**60 + 1, 7]
    assert np.array_equal(table["p_1"].to_numpy(), series.predict_proba(X[:2])[:, 1])
    write_predictions(series, series.inputs(data), tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[1].startswith('"\'=a",1152921504606846977,')


def test_a_bad_row_leaves_no_file(series: Predictor, tmp_path: Path) -> None:
    x = np.zeros((5000, 2, 16), np.float32)
    x[4999] = np.inf
    with pytest.raises(UserError, match="row 5000 has values that are not finite"):
        write_predictions(series, series.inputs(x), tmp_path / "out.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command(
    series: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(series.save(tmp_path / "model"))
    x = tmp_path / "new.npy"
    out = tmp_path / "out.parquet"
    np.save(x, X)
    (tmp_path / "dir.parquet").mkdir()
    assert run(["predict", folder, str(x), "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "45 predictions of tiny/classes in" in printed
    assert str(out) in printed
    assert pq.read_table(out)["prediction"].to_pylist() == series.predict(X).tolist()
    for output, message in (
        ("out.xlsx", "must end with .parquet or .npz or .csv"),
        ("dir.parquet", "is a directory"),
    ):
        assert run(["predict", folder, str(x), "-o", str(tmp_path / output)]) == 2, (
            message
        )
        assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("place", ["child", "sibling", "chunks child"])
def test_the_command_names_a_damaged_hdf5_file(
    place: str, series: Predictor, tmp_path: Path
) -> None:
    """The HDF5 library (2.0) would end the process, or never return."""
    folder = series.save(tmp_path / "model")
    data = self_pointing(tmp_path, place, x=X, y=np.arange(len(X)))
    out = tmp_path / "out.parquet"
    code = "from orca_ray.cli.main import entry; entry()"
    arguments = ["predict", str(folder), str(data), "-o", str(out)]
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    message = " ".join(ended.stderr.split())
    assert ended.returncode == 2, message
    assert str(data) in message
    assert "expected a whole HDF5 file" in message
    assert "Traceback" not in message
    assert not out.exists()


# Not getrusage, whose largest size begins with that of the process that started this
# one.
MEASURED = """
import re, sys
from pathlib import Path
from orca_ray.cli.app import run
assert run(["predict", *sys.argv[1:], "--quiet"]) == 0
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(
    sys.platform != "linux", reason="measures memory as Linux reports it"
)
def test_inputs_larger_than_the_limit_of_memory(make: Make, tmp_path: Path) -> None:
    """2 GB (ORCA_RAY_TEST_GB=5: 5 GB) of inputs stay under 1.5 GB of memory.

    The file is sparse and takes no disk.
    """
    gigabytes = float(os.environ.get("ORCA_RAY_TEST_GB", "2"))
    shape = (4, 65536)
    model = make(make_task(CLASSES, shape))
    folder = str(model.save(tmp_path / "model"))
    rows = int(gigabytes * 1e9 / (4 * np.prod(shape)))
    np.lib.format.open_memmap(
        tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(rows, *shape)
    ).flush()
    command = [
        sys.executable,
        "-c",
        MEASURED,
        folder,
        str(tmp_path / "x.npy"),
        "-o",
        str(tmp_path / "out.parquet"),
    ]
    completed = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=280
    )
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.num_rows == rows
    peak = int(completed.stdout.split()[-1]) / 1e6
    assert peak < 1.5, f"{peak} GB"


def test_an_exported_network_takes_raw_inputs_and_returns_units_of_the_target(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[torch.nn.Module] = []

    def keep(network: torch.nn.Module, model: Predictor, path: Path) -> Written:
        networks.append(network)
        return Written(None, "not run")

    # tracing a network takes seconds
    monkeypatch.setattr("orca_ray.export.FORMATS", {"kept": keep})
    model = make(NUMBER)
    exported = export_model(model, "kept", tmp_path / "a")
    assert exported == Exported(tmp_path / "a", None, "not run")
    x = np.asarray(make_data(NUMBER).test.x)
    with torch.no_grad():
        outputs = networks[0](torch.from_numpy(x))
    assert np.allclose(outputs, model.outputs(x), rtol=1e-5)
