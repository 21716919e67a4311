"""Numbers the suggestions of earlier runs, whether the journal has them or only records do."""

import json
from collections.abc import Iterator, Mapping
from itertools import count

from orca_ray.sweep.planning.schema import Scalar
from orca_ray.sweep.planning.searches import SearchPlan
from orca_ray.sweep.search.candidate import Candidate
from orca_ray.sweep.search.history import History
from orca_ray.sweep.search.sampler import NUM_STARTUP, CandidateSampler


def restored(plan: SearchPlan, history: History, sampler: CandidateSampler) -> list[Candidate]:
    """Return the candidates of a search that earlier runs have suggested, by ascending number.

    A suggestion belongs to the search if it leads to the trial key that it led to then: with another body, other data
    or other fixed hyper-parameters, it does not. It keeps its number in the journal. Those without a number (records of
    stores that are older than the journal, and a number 0 that is not the first configuration any more) get free
    ones: that of the start-up with equal values, else the lowest, in the order in which they started.
    """
    if not plan.num_search:
        return []
    numbered: dict[int, Candidate] = {}
    others: dict[str, Candidate] = {}
    seen: set[str] = set()
    first = _key(plan, sampler.draw(0))
    for key, candidate, own in _suggested(plan, history):
        number = candidate.number
        if key in seen and not own:
            continue
        if number < 0 or number in numbered or (number == 0 and key != first):
            others.setdefault(key, candidate)
        else:
            numbered[number] = candidate
            seen.add(key)
    others = {key: candidate for key, candidate in others.items() if key not in seen}
    for number in range(NUM_STARTUP if others else 0):
        if number not in numbered and (key := _key(plan, sampler.draw(number))) in others:
            numbered[number] = others.pop(key)._replace(number=number)
    free = (number for number in count(1) if number not in numbered)
    numbered |= {number: candidate._replace(number=number) for candidate, number in zip(others.values(), free)}  # noqa: B905
    return [numbered[number] for number in sorted(numbered) if number < plan.num_search]


def _suggested(plan: SearchPlan, history: History) -> Iterator[tuple[str, Candidate, bool]]:
    """Yield trial key, candidate (number -1: none) and whether it is in the sweep's own journal."""
    pair, journaled = (plan.task, plan.method), set()
    for entry in history.suggestions.get(pair, ()):
        values = json.loads(entry.values)
        if _key(plan, values) == entry.trial_key:
            journaled.add(entry.trial_key)
            candidate = Candidate(entry.number, values, entry.known)
            yield entry.trial_key, candidate, entry.sweep == plan.spec.sweep_id
    space = plan.spec.space(*pair)
    for record in history.searched.get(pair, ()):
        if record.trial_key in journaled:
            continue
        values = {name: value for name, value in json.loads(record.hyperparameters).items() if name in space}
        if _key(plan, values) == record.trial_key:
            yield record.trial_key, Candidate(-1, values), False


def _key(plan: SearchPlan, values: Mapping[str, Scalar]) -> str:
    """Return the key of the search trial with ``values``; "" if no trial can have them."""
    try:
        return plan.trial(values, plan.spec.file.seed, "search").key
    except (TypeError, ValueError, OverflowError):  # e.g. a number of epochs in a foreign file that is no number
        return ""
