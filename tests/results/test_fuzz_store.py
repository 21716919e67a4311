"""Flipped bits of a store: each is reported or changes nothing (`benchmarks.fuzz_store`); the footer has a checksum."""

import itertools
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.fuzz_store import REPORTED, SAME, Fuzzer, make_store
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS, encode, footer_digest, from_rows
from tests.results.factories import files_of, make_point, make_record


@pytest.mark.parametrize(
    "flips", [pytest.param(200, marks=pytest.mark.slow), pytest.param(5000, marks=pytest.mark.exhaustive)]
)
@pytest.mark.timeout(3600)
def test_no_flipped_bit_is_silent(tmp_path: Path, flips: int) -> None:
    fuzzer = Fuzzer(Path(make_store(tmp_path / "results").uri))
    found = [fuzzer.check(flip) for flip in itertools.islice(fuzzer.flips(seed=flips), flips)]
    assert [each for each in found if each.outcome not in (SAME, REPORTED)] == []
    assert sum(each.outcome == REPORTED for each in found) > flips / 2


def test_every_bit_of_a_footer_is_in_its_checksum() -> None:
    content = bytes(encode(from_rows([make_record().to_row()], RECORDS)))
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in (start, *range(start, len(content) - 8, 97), len(content) - 9, *range(len(content) - 8, len(content))):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        assert footer_digest(pa.py_buffer(changed)) != footer_digest(pa.py_buffer(content)), place
    changed = bytearray(content)
    changed[start - 1] ^= 1  # of a page, which has a checksum of its own
    assert footer_digest(pa.py_buffer(changed)) == footer_digest(pa.py_buffer(content))


def test_names_have_the_checksum_and_files_of_older_versions_are_read_without(store: ResultsStore) -> None:
    for key in "ab":
        store.append([make_record(key)], [make_point(key)])
    store.compact()
    store.append([make_record("c")])
    for path in (*files_of(store), *files_of(store, "curves")):
        assert path.name.endswith(f".f{footer_digest(pa.py_buffer(path.read_bytes()))}.parquet")
        path.rename(path.with_name(f"{path.name.partition('.')[0]}.parquet"))
    assert set(ResultsStore(store.uri).load("pocket/quick")) == set("abc")
