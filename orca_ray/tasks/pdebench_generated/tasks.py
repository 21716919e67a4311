"""Every task of :mod:`orca_ray.tasks.pdebench` for a generated file in the same layout."""

from orca_ray.discovery import modules
from orca_ray.tasks import pdebench
from orca_ray.tasks.pdebench._declare import generated

TASKS = tuple(generated(module.PROBLEM) for module in modules(pdebench) if hasattr(module, "PROBLEM"))
