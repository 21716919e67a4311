"""NAS-Bench-360: ten tasks (Tu et al., NeurIPS 2022).

The data of most differ from what bodies were pretrained on. The tasks are declared in
``tasks.toml``; the modules read their raw files.
"""

from dataclasses import replace

from orca_ray.tasks.task import declared_tasks

_PAPER = (
    "Tu et al., NAS-Bench-360: benchmarking neural architecture search on diverse"
    " tasks, NeurIPS 2022"
)
TASKS = tuple(
    replace(task, citation=f"{task.citation}; {_PAPER}")
    for task in declared_tasks(__name__)
)
