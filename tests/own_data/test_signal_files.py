"""Folders of EDF files and WFDB records."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import LazySamples, Options, UserData, read
from orca_ray.own_data.infer_task import infer

NEEDED = "the extra signals reads these files: pip install 'orca-ray[signals]'"
edfio: Any = pytest.importorskip("edfio", reason=NEEDED)
wfdb: Any = pytest.importorskip("wfdb", reason=NEEDED)

RNG = np.random.default_rng(0)
X = np.cumsum(RNG.normal(size=(12, 2, 300)), axis=2) / 20
NAMES = ("ECG I", "ECG II")


def write_edf(
    path: Path, x_CL: Array, names: Sequence[str] = NAMES, rate: float = 100
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    signals = [
        edfio.EdfSignal(x, rate, label=name, physical_range=(-10, 10))
        for x, name in zip(x_CL, names, strict=True)
    ]
    edfio.Edf(signals, data_record_duration=1).write(path)


def write_wfdb(
    path: Path, x_CL: Array, names: Sequence[str] = NAMES, rate: float = 100
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # wfdb 4.3 writes with options that pandas 3.1 deprecates; reading has none
        warnings.simplefilter("ignore", DeprecationWarning)
        wfdb.wrsamp(
            path.stem,
            fs=rate,
            units=["mV"] * len(names),
            sig_name=list(names),
            p_signal=x_CL.T,
            fmt=["16"] * len(names),
            write_dir=str(path.parent),
        )


WRITERS = {"edf": write_edf, "hea": write_wfdb}


def samples(data: UserData) -> list[Array]:
    x = data.x
    assert isinstance(x, LazySamples)
    return list(x)


@pytest.mark.parametrize("suffix", WRITERS)
def test_folders_of_classes_are_series(suffix: str, tmp_path: Path) -> None:
    for number, x_CL in enumerate(X):
        label = "ab"[number % 2]
        WRITERS[suffix](tmp_path / label / f"r{number:02}.{suffix}", x_CL)
    data = read(tmp_path)
    assert data.y is not None
    assert data.y.tolist() == ["a"] * 6 + ["b"] * 6
    assert data.notes == ()  # files of samples belong to their headers
    assert data.rate == 100
    np.testing.assert_allclose(samples(data), [*X[::2], *X[1::2]], atol=1e-3)
    inferred = infer(data, Options(holdout=False))
    assert inferred.task.input_shape == (2, 300)
    assert inferred.preprocessing.reading.inputs == NAMES
    # one new file, with its channels in another order and at another rate
    new = tmp_path / "new" / f"new.{suffix}"
    WRITERS[suffix](new, np.repeat(X[0, ::-1], 2, axis=1), NAMES[::-1], 200)
    (read_again,) = samples(inferred.preprocessing.read(new))
    assert read_again.shape == (2, 300)
    # at the ends, the filter of the conversion takes silence for granted
    middle = slice(20, -20)
    np.testing.assert_allclose(read_again[:, middle], X[0, :, middle], atol=0.2)


@pytest.mark.parametrize("listed", ["r{:02}", "r{:02}.dat", "part/r{:02}.hea"])
def test_a_table_lists_records_by_header_samples_or_name(
    listed: str, tmp_path: Path
) -> None:
    rows = ["file,label"]
    for number, x_CL in enumerate(X):
        write_wfdb(tmp_path / f"r{number:02}.hea", x_CL)
        rows.append(f"{listed.format(number)},{number % 3}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    data = read(tmp_path)
    assert data.y is not None
    assert data.y.tolist() == [number % 3 for number in range(12)]


def test_channels_that_all_files_have(tmp_path: Path) -> None:
    write_edf(tmp_path / "a" / "1.edf", X[0], ("ECG I", "ECG I"))
    write_edf(tmp_path / "b" / "2.edf", X[1], ("Pleth", "ECG I"))
    data = read(tmp_path)
    assert data.channels == ("ECG I",)
    assert data.notes == ("channels that some files lack are left out: ECG I#2, Pleth",)
    np.testing.assert_allclose(samples(data), [X[0, 0], X[1, 1]], atol=1e-3)
    named = read(tmp_path, Options(inputs=("Pleth",)))
    with pytest.raises(UserError, match=r"unknown channel 'Pleth'.*1\.edf"):
        samples(named)
    write_edf(tmp_path / "b" / "3.edf", X[1], ("Pleth", "EMG"))
    with pytest.raises(UserError, match="no channel is in all files"):
        read(tmp_path)


def test_signals_of_another_rate_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "sleep.edf"
    signals = [
        edfio.EdfSignal(x, rate, label=f"s{rate}", physical_range=(-10, 10))
        for x, rate in [(X[0, 0], 100), (X[0, 1, :3], 1)]
    ]
    edfio.Edf(signals, data_record_duration=1).write(path)
    data = read(path, labelled=False)
    assert data.channels == ("s100",)
    assert data.notes == ("signals of another rate than 100 Hz are left out: s1",)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        samples(read(path, labelled=False))
    assert path.name in str(caught.value)
    return str(caught.value)


def test_an_edf_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    write_edf(path, X[0])
    whole = path.read_bytes()
    for length in (0, 100, 300, len(whole) - 400, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(whole[:192] + b"EDF+D" + whole[197:])
    assert "interruptions" in refused(path)


@pytest.mark.parametrize(
    ("found", "changed", "expected"),
    [
        ("r 2 100 300", "r 2 100 300000000", "declares 600,000,000 values"),
        ("r 2 100 300", "r 99999999 100 300", "declares 99999999 signals"),
        ("r 2 100 300", "r 2 0 300", "sampling rate above 0"),
        ("r.dat 16", "r.dat 516", "found 516"),
        ("r.dat 16", "r.dat 16x99999999", "bytes"),
        ("r.dat 16", "r.dat 16:99999999", "skew of 99999999"),
        ("r.dat 16", "r.dat 16+99999999", "a whole WFDB record"),
        ("r.dat 16", "missing.dat 16", "missing.dat"),
        ("r.dat 16", "../r.dat 16", "WFDB header"),
        ("r.dat 16", "pipe.dat 16", "pipe.dat"),
    ],
)
def test_wfdb_headers_that_lie_are_refused(
    found: str, changed: str, expected: str, tmp_path: Path
) -> None:

    os.mkfifo(tmp_path / "pipe.dat")
    path = tmp_path / "r.hea"
    write_wfdb(path, X[0])
    text = path.read_text()
    assert found in text
    path.write_text(text.replace(found, changed))
    with pytest.raises(UserError, match=expected):
        samples(read(path, labelled=False))


def test_a_record_of_several_segments_is_refused(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "r1.hea", X[0])
    path = tmp_path / "r.hea"
    path.write_text("r/2 2 100 600\nr1 300\nr1 300\n")
    assert "several segments" in refused(path)


def test_a_path_that_the_library_takes_for_an_address(tmp_path: Path) -> None:
    path = tmp_path / "zip::x" / "r.hea"
    write_wfdb(path, X[0])
    assert "address" in refused(path)


@pytest.mark.parametrize("suffix", WRITERS)
def test_mutated_files_are_read_or_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"r.{suffix}"
    WRITERS[suffix](path, X[0])
    whole = path.read_bytes()
    for seed in range(150):
        random = np.random.default_rng(seed)
        content = bytearray(whole)
        for place in random.integers(0, min(len(whole), 768), random.integers(1, 4)):
            content[place] = random.integers(32, 127)
        path.write_bytes(content)
        try:
            samples(read(path, labelled=False))
        except UserError as error:
            assert path.stem in str(error)  # noqa: PT017 - some files are still whole
