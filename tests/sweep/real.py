"""A sweep small enough for tests that is real all the same: real data, a tiny body,
real training.
"""

from pathlib import Path
from typing import Any

from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.testing.suite import save_bert

TEXT = Path(__file__).with_name("tiny.yaml").read_text()


def tiny_text(directory: Path, text: str = TEXT) -> str:
    """Return the sweep file of a tiny sweep whose body lies in ``directory``."""
    body = directory / "tiny-bert"
    if not body.exists():
        save_bert(body)
    return text + f"bodies: {{sequence: {body}}}\n"


def tiny_spec(directory: Path, text: str = TEXT) -> SweepSpec:
    return parse_spec(tiny_text(directory, text))


def facts(store: ResultsStore, sweep: str = "tiny/full") -> dict[str, dict[str, Any]]:
    """Return what is equal in every run of a sweep, by trial key: columns of its
    record, and its artefacts.
    """
    artefacts = store.artefacts(sweep=sweep)
    return {
        key: {
            **record.reproducible_fields(),
            "artefacts": artefacts[artefacts["trial_key"] == key].to_dict("list"),
        }
        for key, record in store.load(sweep).items()
    }
