"""Variants of configurations, which Optuna suggests."""

from collections.abc import Mapping, Sequence

from orca_ray.adaptation.configuration import Configuration, changed_values
from orca_ray.adaptation.situation import Situation
from orca_ray.sweep.search.sampler import suggest

MOST_VARIANTS = 40
"""Largest number of suggested configurations of a method, so that a search with time to
spare ends.
"""


def suggest_variant(base: Configuration, situation: Situation) -> Configuration | None:
    """Return ``base`` with values that Optuna suggests.

    None if the method has no search space, if `MOST_VARIANTS` of the method were tried,
    or if every suggestion was tried before. In a space of few choices, Optuna may
    suggest the same values again. They are then added to its history once more, so that
    the next suggestion may differ.
    """
    plan = situation.plans[base.method]
    tried = [
        each
        for each in situation.configurations
        if each.method == base.method and each.has_folds
    ]
    num_variants = len(
        {each.values_without_schedule for each in tried if each.is_variant}
    )
    if not plan.space or num_variants >= MOST_VARIANTS:
        return None
    history = [(each.values, _first_score(each)) for each in tried]
    for _ in range(MOST_VARIANTS):
        suggested = suggest(plan.first, plan.space, history)
        values = changed_values({**base.hyperparameters, **suggested}, plan.first)
        equal = _find_equal(tried, values)
        if equal is None:
            return Configuration(base.method, values, base.first)
        history.append((values, _first_score(equal)))
    return None


def _find_equal(
    configurations: Sequence[Configuration], values: Mapping[str, object]
) -> Configuration | None:
    """Return the configuration with these values; None if there is none."""
    return next((each for each in configurations if each.values == values), None)


def _first_score(configuration: Configuration) -> float | None:
    """Return the score of the fold that ended first; None: no fold has a score."""
    return next(iter(configuration.scores.values()), None)
