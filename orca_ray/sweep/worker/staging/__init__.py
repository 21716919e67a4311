"""Staging: bringing prepared data, bodies and alignment sources onto a node, once, before its first trial of a task."""

from orca_ray.sweep.worker.staging.node import StagingError, StagingRequest, stage, staged_data
from orca_ray.sweep.worker.staging.stager import InlineStager, Staged, Stager

__all__ = ["InlineStager", "Staged", "Stager", "StagingError", "StagingRequest", "stage", "staged_data"]
