"""The search of one (task, method): hyper-parameters suggested by Optuna, then confirm trials of the best ones.

Each suggestion is an entry of the journal in the results store: its number, its values, and the suggestions whose
answers (results) were known when it was made. A sweep that starts again reads the journal, takes the answers from the
records, and asks Optuna for new suggestions only. Another version of Optuna therefore changes no earlier suggestion
(docs/decisions/0015-journal.md).

`Search` decides which trial runs next, `SuggestionSampler` when the next suggestion may be made and which answers it
uses, `Study` asks Optuna, and `History` is what the store knows of earlier runs.
"""

from orca_ray.sweep.search.history import History
from orca_ray.sweep.search.sampler import NUM_STARTUP, Study, Suggestion, SuggestionSampler, TrialAnswer
from orca_ray.sweep.search.search import Search

__all__ = ["NUM_STARTUP", "History", "Search", "Study", "Suggestion", "SuggestionSampler", "TrialAnswer"]
