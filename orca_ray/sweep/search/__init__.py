"""The search of one (task, method): hyper-parameters suggested by Optuna, then confirm
trials of the best ones.

Each suggestion is an entry of the journal in the results store, which a sweep that
starts again reads (docs/decisions/0015-journal.md). Own data are searched by a `Race`,
over folds and within a given time; its `FoldSearch` takes the place of a `Search`.
"""

from orca_ray.sweep.search.fold_search import FoldSearch
from orca_ray.sweep.search.history import History
from orca_ray.sweep.search.race import Race
from orca_ray.sweep.search.sampler import (
    NUM_STARTUP,
    Study,
    Suggestion,
    SuggestionSampler,
    TrialAnswer,
)
from orca_ray.sweep.search.search import Search

__all__ = [
    "NUM_STARTUP",
    "FoldSearch",
    "History",
    "Race",
    "Search",
    "Study",
    "Suggestion",
    "SuggestionSampler",
    "TrialAnswer",
]
