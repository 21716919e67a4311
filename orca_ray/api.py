"""Python interface of adaptation to own data, under its documented path."""

from orca_ray.adaptation.adapt import adapt, as_task
from orca_ray.adaptation.report import Report
from orca_ray.adaptation.sweep import AdaptationSweep, usual_methods

__all__ = [
    "AdaptationSweep",
    "Report",
    "adapt",
    "as_task",
    "usual_methods",
]
