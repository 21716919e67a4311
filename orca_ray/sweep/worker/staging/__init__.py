"""Staging: bringing prepared data, bodies and alignment sources onto a node, once, before its first trial of a task."""

from orca_ray.sweep.worker.staging.node import (
    InlineStager,
    Staged,
    Stager,
    StagingError,
    StagingRequest,
    stage,
    staged_data,
)

__all__ = ["InlineStager", "Staged", "Stager", "StagingError", "StagingRequest", "stage", "staged_data"]
