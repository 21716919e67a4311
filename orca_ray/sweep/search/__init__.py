"""The search of one (task, method): trials suggested by Optuna, then confirmed.

Each suggestion is an entry of the journal in the results store, which a sweep that
starts again reads (docs/decisions/0015-journal.md). Own data are searched over folds
and within a given time: `orca_ray.adaptation.search`, another `TrialSource`.
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
