"""Variants of configurations, which Optuna suggests."""

from collections import Counter
from collections.abc import Iterator, Sequence

from orca_ray.adaptation.configuration import ALL, Configuration, changed_values
from orca_ray.adaptation.situation import Situation
from orca_ray.sweep.search.sampler import suggest

MOST_REPEATED = 10
"""Largest number of suggestions until one differs from all configurations."""


def suggest_variants(
    bases: Sequence[Configuration], situation: Situation, most_variants: int
) -> Iterator[Configuration]:
    """Yield configurations that Optuna suggests.

    Args:
        bases: configurations to vary, the best first; of each method, the first counts.
        situation: the state of the search.
        most_variants: largest number of suggested configurations of a method.

    Methods with few suggestions and a good score come first.
    """
    best_by_method = dict[str, Configuration]()
    for configuration in bases:
        best_by_method.setdefault(configuration.method, configuration)
    searched = [
        each for each in situation.configurations if each.records.keys() != {ALL}
    ]
    num_suggested = Counter(each.method for each in searched if each.is_suggested)
    places = {method: place for place, method in enumerate(best_by_method, start=1)}
    order = sorted(
        places, key=lambda method: (num_suggested[method] + 1) * places[method]
    )
    for method in order:
        has_space = bool(situation.plans[method].space)
        if not has_space or num_suggested[method] >= most_variants:
            continue
        tried = [each for each in searched if each.method == method]
        variant = _suggest_variant(best_by_method[method], tried, situation)
        if variant is not None:
            yield variant


def _suggest_variant(
    base: Configuration, tried: Sequence[Configuration], situation: Situation
) -> Configuration | None:
    """Return ``base`` with values that Optuna suggests and that were not ``tried``.

    None if every suggestion was tried before. In a space of few choices, Optuna may
    suggest the same values again. They are then added to its history once more, so that
    the next suggestion may differ.
    """
    plan = situation.plans[base.method]
    history = [(each.values, _first_score(each)) for each in tried]
    for _ in range(MOST_REPEATED):
        suggested = suggest(plan.first, plan.space, history)
        values = changed_values({**base.hyperparameters, **suggested}, plan.first)
        equal = next((each for each in tried if each.values == values), None)
        if equal is None:
            return Configuration(base.method, values, base.first, is_suggested=True)
        history.append((values, _first_score(equal)))
    return None


def _first_score(configuration: Configuration) -> float | None:
    """Return the score of the fold that ended first; None: no fold has a score."""
    return next(iter(configuration.scores.values()), None)
