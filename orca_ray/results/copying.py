"""Copies trials from one sweep of a results store to another."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.record import CurvePoint, Record
from orca_ray.results.store import ResultsStore


def copy_trials(store: ResultsStore, records: Sequence[Record], sweep: str) -> None:
    """Add records of other sweeps to ``sweep``, with their learning curves and artefacts."""
    curves: list[CurvePoint] = []
    artefacts: list[ArtefactRow] = []
    for origin in dict.fromkeys(record.sweep for record in records):
        keys = [record.trial_key for record in records if record.sweep == origin]
        curves += [CurvePoint(**row | {"sweep": sweep}) for row in _rows(store.curves(origin, keys))]
        artefacts += [ArtefactRow(**row | {"sweep": sweep}) for row in _rows(store.artefacts(origin, keys))]
    if records:
        store.append([replace(record, sweep=sweep) for record in records], curves, artefacts)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]
