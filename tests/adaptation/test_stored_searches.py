"""Decisions of simulated searches, compared with stored ones.

``stored_searches.json`` holds the decisions of each scenario, by seed. They were made
by an earlier implementation (commit 21c5458a). A change of the policy changes the file:
run ``python -m tests.adaptation.test_stored_searches`` to store the decisions of today.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from orca_ray.adaptation.folds import Folds
from orca_ray.adaptation.search import AdaptationSearch
from orca_ray.results.record import Record
from orca_ray.sweep.plan.searches import SearchPlan
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.search import History
from tests.adaptation.search_scenarios import Setting, simulate

FILE = Path(__file__).with_name("stored_searches.json")


class Source:
    """An `AdaptationSearch`, as `simulate` needs it."""

    def __init__(
        self,
        plans: Sequence[SearchPlan],
        records: Mapping[str, Record],
        setting: Setting,
        clock: Callable[[], float],
    ) -> None:
        folds = Folds(
            numbers=setting.folds,
            division_size=setting.division or len(setting.folds),
            num_held=setting.num_held,
            num_classes=setting.num_classes,
            has_outer_test=setting.has_outer_test,
            sizes=setting.sizes,
        )
        self._search = AdaptationSearch(
            plans,
            History(records=records),
            folds,
            deadline=setting.deadline,
            estimates={
                method: seconds for (_, method), seconds in setting.estimates.items()
            },
            final=setting.final,
            clock=clock,
        )

    def take(self) -> TrialSpec | None:
        return self._search.take()

    def finish(self, record: Record) -> None:
        self._search.finish(record, [])

    @property
    def done(self) -> bool:
        return self._search.done


STORED: dict[str, list[str]] = json.loads(FILE.read_text())


@pytest.mark.parametrize("seed", STORED)
def test_a_scenario_has_the_decisions_that_are_stored(seed: str) -> None:
    assert simulate(int(seed), Source) == STORED[seed]


if __name__ == "__main__":
    now = {seed: simulate(int(seed), Source) for seed in STORED}
    FILE.write_text(json.dumps(now, indent=0))
