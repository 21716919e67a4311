"""The new sets: declared as promised, written from small packages, parts disjoint."""

import io
import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.adapt_peers import chosen_sets
from benchmarks.peers import fresh, fresh_fields, fresh_images, fresh_series
from benchmarks.peers.fresh import FRESH
from benchmarks.peers.parts import KINDS, DataSet, Parts
from benchmarks.peers.sets import SETS
from benchmarks.peers.writing import write
from orca_ray.data import packages
from orca_ray.data.packages import Package

NEW = {data.name: data for data in FRESH}
NUM_RESIDUES = 12


def read_rows(parts: Parts) -> tuple[list[bytes], list[bytes]]:
    """Return the inputs of each sample of the two parts as bytes."""
    rows = []
    for x in (parts.train_x, parts.test_x):
        if isinstance(x, pd.DataFrame):
            rows.append([repr(row).encode() for row in x.to_numpy().tolist()])
        else:
            rows.append([sample.tobytes() for sample in x])
    train, test = rows
    return train, test


def test_three_sets_of_each_kind() -> None:
    sources = {data.source: data.kind for data in FRESH}
    assert Counter(sources.values()) == dict.fromkeys(KINDS, 3)


def test_old_and_default_selections_have_none_of_them() -> None:
    old = chosen_sets(["old"])
    assert len(old) == 28
    assert set(old) == set(chosen_sets(["tuning", "held-back"]))
    assert not set(old) & set(FRESH)
    assert not {data for kind in KINDS for data in chosen_sets([kind])} & set(FRESH)
    assert chosen_sets(["new"]) == list(FRESH)


def test_no_package_of_theirs_has_another_set() -> None:
    others = {
        data.package.name for data in SETS.values() if data.package and not data.new
    }
    assert not others & {data.package.name for data in FRESH if data.package}


def test_the_name_of_a_set_selects_all_of_its_splits() -> None:
    names = [data.name for data in chosen_sets(["heart_attack"])]
    assert names == [f"heart_attack_{seed}" for seed in fresh.SPLIT_SEEDS]


def make_diamonds() -> str:
    cuts = np.resize(["Fair", "Good", "Ideal"], 60)
    return pd.DataFrame({"carat": np.arange(60) / 100, "cut": cuts}).to_csv(index=False)


def make_inspections() -> str:
    scores = np.arange(60) % 33
    return pd.DataFrame({"name": range(60), "inspection_score": scores}).to_csv()


def make_patients() -> str:
    names = "age", "lenfol", "fstat"
    header = "\n".join(f"@ATTRIBUTE {name}\tnumeric" for name in names)
    rows = "\n".join(f"{number},9,{number % 2}" for number in range(60))
    return f"{header}\n@DATA\n{rows}\n"


def make_tunes() -> str:
    random = np.random.default_rng(0)
    tunes = ["X:1\nK: D\n" + "".join(random.choice(list("ABcde"), 60))] * 2
    tunes += [
        f"X:{number}\nT: x\nK: G\n{''.join(random.choice(list('ABcde'), 60))}"
        for number in range(20)
    ]
    return "\n".join(tunes)


def make_peptides() -> str:
    random = np.random.default_rng(0)
    sequences = [
        "".join(random.choice(list("ACDEFK"), NUM_RESIDUES)) for _ in range(40)
    ]
    lines = [f"{sequence}, {number % 2}" for number, sequence in enumerate(sequences)]
    return "\n".join(["40,1,a,b", *lines, lines[0], "AXZ, 1"])


def make_weather() -> str:
    hours = pd.date_range("2001-01-01", "2001-12-31 23:00", freq="h")
    frame = pd.DataFrame({"Date (MM/DD/YYYY)": hours.strftime("%m/%d/%Y")})
    for number, name in enumerate(fresh_series._WEATHER):
        frame[name] = np.arange(len(hours)) % (97 + number)
    return "station\n" + frame.to_csv(index=False)


CONTENTS = {
    "diamonds": make_diamonds,
    "restaurants": make_inspections,
    "heart_attack_0": make_patients,
    "melodies": make_tunes,
    "peptides": make_peptides,
    "sunshine": make_weather,
}
"""Functions that return a small file in place of the package's, by set."""


@pytest.mark.parametrize("name", CONTENTS)
def test_small_packages_are_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CONTENTS[name]().encode()

    def read_member(package: Package, member: str) -> bytes:
        return content

    monkeypatch.setattr(packages, "read_member", read_member)
    data = NEW[name]
    train, test = read_rows(data.load())
    assert not set(train) & set(test)
    written = write(data, tmp_path)
    about = json.loads((written.folder / "about.json").read_text())
    assert about["test"][0] == len(written.answers) == len(test) > 0
    assert written.digest == write(data, tmp_path / "again").digest


def test_splits_of_one_set_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    content = make_patients().encode()

    def read_member(package: Package, member: str) -> bytes:
        return content

    monkeypatch.setattr(packages, "read_member", read_member)
    tests = []
    for seed in fresh.SPLIT_SEEDS:
        parts = NEW[f"heart_attack_{seed}"].load()
        train, test = read_rows(parts)
        assert len({*train, *test}) == 60
        tests.append(frozenset(test))
        assert "lenfol" not in pd.DataFrame(parts.train_x)
    assert len(set(tests)) == len(tests)


def test_windows_of_sunshine_cross_no_edge_of_a_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = make_weather().encode()

    def read_member(package: Package, member: str) -> bytes:
        return content

    monkeypatch.setattr(packages, "read_member", read_member)
    parts = fresh_series.sunshine()
    assert parts.groups is not None
    assert len(set(parts.groups)) == 24 - fresh_series._NUM_TEST_BLOCKS


def test_notes_of_a_tune() -> None:
    text = "X:1\nT: name\nK: D\nN: abc\nF2 =F F | F/ c3/2 z4 C,\n"
    (notes,) = fresh_series.read_abc(text)
    # F sharp, F natural until the bar ends, F sharp again, C sharp.
    assert notes == [(6, 2.0), (5, 1.0), (5, 1.0), (6, 0.5), (13, 1.5), (-11, 1.0)]


def test_arrays_are_read_from_pickles_without_running_them() -> None:
    array = np.arange(600, dtype=np.int64).reshape(20, 30)
    stream = io.BytesIO()
    pickle.dump(array, stream, protocol=4)
    read = fresh_images._read_pickled_array(stream.getvalue(), "<i8", (20, 30))
    np.testing.assert_array_equal(read, array)


@pytest.mark.slow
@pytest.mark.parametrize("name", fresh_fields.LOADERS)
def test_a_few_fields_are_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_fields, "_NUM_SAMPLES", 4)
    data = NEW[name]
    written = write(data, tmp_path)
    with np.load(written.train) as train, np.load(written.test) as test:
        assert np.isfinite(train["x"]).all()
        assert np.isfinite(train["y"]).all()
        samples = {sample.tobytes() for sample in (*train["x"], *test["x"])}
    assert len(samples) == 4


@pytest.mark.slow
@pytest.mark.parametrize("check", fresh_fields.CHECKS.values(), ids=fresh_fields.CHECKS)
def test_solvers_agree_with_known_solutions(check: fresh_fields.Check) -> None:
    assert check() < 2e-3


@pytest.mark.network
@pytest.mark.parametrize(
    "data", [data for data in FRESH if data.package], ids=lambda data: data.name
)
def test_parts_of_the_packages_are_disjoint(data: DataSet) -> None:
    parts = data.load()
    train, test = read_rows(parts)
    assert not set(train) & set(test)
    assert len(train) + len(test) >= 1000 or data.split_of
    assert (parts.groups is not None) == ("--group" in data.options)
