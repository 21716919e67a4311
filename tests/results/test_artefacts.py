"""Artefacts in the store, and the format of their payloads."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orca_ray.results import store as store_module
from orca_ray.results.artefacts import (
    MAX_BYTES,
    MAX_TRIAL_BYTES,
    Artefact,
    ArtefactRow,
    Image,
    Images,
    Quantised,
    parse_payload,
    rounded,
    within_limits,
)
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import ARTEFACTS, MAX_TABLE_BYTES

from .factories import make_record


def row(key: str = "k0", kind: str = "field", name: str = "first", payload: str = "{}") -> ArtefactRow:
    return ArtefactRow("pocket/quick", key, kind, name, payload)


def test_the_payload_in_the_documentation() -> None:
    values = Quantised.encode([[0.0, 1 / 3], [2 / 3, 1.0]])
    payload = json.loads(Images(title="Test sample 0", panels=(Image("true", values),)).to_json())
    assert payload == {
        "form": "images", "title": "Test sample 0", "caption": "", "panels": [{"title": "true", "scale": "sequential",
        "values": {"shape": [2, 2], "low": 0.0, "high": 1.0, "data": "AFWq/w=="}}],
    }  # fmt: skip
    assert list(base64.b64decode("AFWq/w==")) == [0, 85, 170, 255]


def test_quantised_values_are_right_to_half_a_step() -> None:
    values = np.random.default_rng(0).normal(size=(7, 5))
    step = (values.max() - values.min()) / 255
    np.testing.assert_allclose(Quantised.encode(values).decode(), values, atol=step / 2 + 1e-12)
    np.testing.assert_allclose(Quantised.encode([-1.0, 0.5, 9.0], 0.0, 1.0).decode(), [0, 128 / 255, 1])
    np.testing.assert_array_equal(Quantised.encode([3.0, 3.0]).decode(), [3.0, 3.0])
    for nothing in ([], [1.0, np.nan], [np.inf]):
        with pytest.raises(ValueError, match="finite"):
            Quantised.encode(nothing)


def test_limits() -> None:
    assert [rounded(value) for value in (0.123456, 12345.6, float("nan"))] == [0.1235, 12350.0, None]
    with pytest.raises(ValueError, match=f"more than {MAX_BYTES}"):
        Artefact("field", "first", "x" * (MAX_BYTES + 1))
    full = [Artefact("field", str(number), "x" * MAX_BYTES) for number in range(6)]
    assert within_limits(full) == full[: MAX_TRIAL_BYTES // MAX_BYTES]
    assert within_limits([]) == []


@pytest.mark.parametrize("payload", ["[]", "{", '{"form":"song"}', "[" * 100_000])
def test_a_foreign_payload_is_refused(payload: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_payload(payload)


def test_artefacts_are_stored_with_their_record(store: ResultsStore) -> None:
    store.append([make_record("a")], (), [row("a"), row("a", "confusion_matrix", "test", '{"form":"matrix"}')])
    store.append([make_record("b")], (), [row("b")])
    found = store.artefacts(trial_key="a")
    assert [tuple(values) for values in found.to_numpy()] == [
        ("pocket/quick", "a", "confusion_matrix", "test", '{"form":"matrix"}'),
        ("pocket/quick", "a", "field", "first", "{}"),
    ]
    assert list(store.artefacts(sweep="pocket/quick")["trial_key"]) == ["a", "a", "b"]
    assert store.artefacts(sweep="other").empty


def test_compaction_keeps_files_of_artefacts_small(store: ResultsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merged file never exceeds what a file of a store may take in memory."""
    small = [replace(table, file_rows=2) if table == ARTEFACTS else table for table in store_module._TABLES]
    monkeypatch.setattr(store_module, "_TABLES", small)
    for number in range(5):
        store.append([make_record(str(number))], (), [row(str(number), payload=f'"{number}"')])
    store.compact()
    assert len(list((Path(store.uri) / "artefacts").glob("*.parquet"))) == 3
    assert list(store.artefacts(trial_key=["3", "1"])["payload"]) == ['"1"', '"3"']
    assert ARTEFACTS.file_rows * MAX_BYTES < MAX_TABLE_BYTES
