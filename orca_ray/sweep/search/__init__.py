"""The search of one (task, method).

Optuna suggests the configurations of search trials. Confirm trials then run the best
one. Each suggestion is an entry of the journal in the results store, which a sweep that
starts again reads (docs/decisions/0015-journal.md). Own data have another `TrialSource`
(`orca_ray.adaptation.search`), which searches over folds and within a given time.
"""

from orca_ray.sweep.search.history import History
from orca_ray.sweep.search.sampler import (
    NUM_STARTUP,
    Study,
    Suggestion,
    SuggestionSampler,
    TrialAnswer,
)
from orca_ray.sweep.search.search import Search, make_searches
from orca_ray.sweep.search.source import MakeSources, PlanProgress, TrialSource

__all__ = [
    "NUM_STARTUP",
    "History",
    "MakeSources",
    "PlanProgress",
    "Search",
    "Study",
    "Suggestion",
    "SuggestionSampler",
    "TrialAnswer",
    "TrialSource",
    "make_searches",
]
