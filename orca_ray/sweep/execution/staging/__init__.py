"""Staging: bringing prepared data, bodies and alignment sources onto a node, once, before its first trial of a task."""

from orca_ray.sweep.execution.staging.errors import StagingError
from orca_ray.sweep.execution.staging.node import stage, staged_data
from orca_ray.sweep.execution.staging.request import StagingRequest
from orca_ray.sweep.execution.staging.stager import InlineStager, Staged, Stager

__all__ = ["InlineStager", "Staged", "Stager", "StagingError", "StagingRequest", "stage", "staged_data"]
