"""Choices from synthetic outputs, compared with stored ones.

``stored_choices.json`` holds the description of each choice, by seed. They were made by
the class ``Judge`` of commit 21c5458a. If a change of the policy is meant, store the
choices of today: ``python -m tests.adaptation.test_stored_choices``.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orca_ray.adaptation.choice import Choice
from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.intervals import Interval
from orca_ray.adaptation.judge import Judge
from orca_ray.adaptation.report import make_curve, make_standings, make_verdict
from orca_ray.data.prepared import PreparedData
from orca_ray.errors import UserError
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.tasks.task import Task
from tests.adaptation.choice_scenarios import choose

FILE = Path(__file__).with_name("stored_choices.json")
STORED: dict[str, Any] = json.loads(FILE.read_text())


def describe(
    task: Task, data: PreparedData, records: Sequence[Record], models: StoredModels
) -> dict[str, Any] | str:
    """Return everything that a judge says, as JSON values."""
    try:
        judge = Judge(task, data, records, models)
    except UserError as error:
        return str(error)
    trained = [judge.last_training(configuration) for configuration in judge.ranked]
    return {
        "ranked": [describe_candidate(candidate) for candidate in judge.ranked],
        "leader": judge.leader.identity,
        "single": describe_choice(judge, judge.single(judge.leader)),
        "ensemble": describe_choice(judge, judge.ensemble()),
        "trained": [record and record.trial_key for record in trained],
        "final": sorted(
            [*identity, record.trial_key] for identity, record in judge.final.items()
        ),
        "standings": make_standings(judge),
        "curve": make_curve(judge),
        "verdict": [make_verdict(judge).baseline],
    }


def describe_candidate(configuration: Configuration) -> list[Any]:
    folds = sorted(configuration.records)
    return [*configuration.identity, folds, configuration.has_models]


def describe_choice(judge: Judge, choice: Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    outer = judge.held_out(choice)
    return {
        "parts": [describe_part(*part) for part in choice.parts],
        "score": describe_interval(choice.score),
        "temperature": choice.temperature,
        "outer": choice.outer,
        "num_folds": choice.judged.num_folds,
        "samples": len(choice.judged.y),
        "sum": float(abs(choice.predictions).sum()),
        "held_out": describe_interval(outer),
        "expected": describe_interval(judge.expected(choice, outer)),
    }


def describe_part(configuration: Configuration, weight: float) -> list[Any]:
    return [*configuration.identity, weight]


def describe_interval(interval: Interval | None) -> list[float] | None:
    if interval is None:
        return None
    return [interval.value, interval.low, interval.high]


@pytest.mark.parametrize("seed", STORED)
def test_a_store_gives_the_choice_that_is_stored(seed: str, tmp_path: Path) -> None:
    description = choose(int(seed), tmp_path, describe)
    stored = STORED[seed]
    if isinstance(stored, dict):
        # The sentence of the verdict is left out: its words are in test_report.py.
        stored = {**stored, "verdict": stored["verdict"][:1]}
    assert json.loads(json.dumps(description)) == stored


if __name__ == "__main__":
    choices = {
        seed: choose(int(seed), Path(tempfile.mkdtemp()), describe) for seed in STORED
    }
    FILE.write_text(json.dumps(choices, indent=0))
