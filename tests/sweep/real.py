"""A small sweep that is real: it has real data, a tiny body and real training."""

from pathlib import Path
from typing import Any

from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.testing.suite import save_bert

TEXT = Path(__file__).with_name("tiny.yaml").read_text()


def make_tiny_text(directory: Path, text: str = TEXT) -> str:
    """Return the sweep file of a tiny sweep whose body lies in ``directory``."""
    body = directory / "tiny-bert"
    if not body.exists():
        save_bert(body)
    return text + f"bodies: {{sequence: {body}}}\n"


def make_tiny_spec(directory: Path, text: str = TEXT) -> SweepSpec:
    return parse_spec(make_tiny_text(directory, text))


def read_facts(
    store: ResultsStore, sweep: str = "tiny/full"
) -> dict[str, dict[str, Any]]:
    """Return what is equal in every run of a sweep, by trial key.

    It is the reproducible part of each record, and the artefacts of the trial.
    """
    artefacts = store.artefacts(sweep=sweep)
    facts = {}
    for key, record in store.load(sweep).items():
        artefacts_of_trial = artefacts[artefacts["trial_key"] == key]
        facts[key] = {
            **record.reproducible_fields(),
            "artefacts": artefacts_of_trial.to_dict("list"),
        }
    return facts
