"""The report of an adaptation, under the path of earlier versions."""

from orca_ray.adaptation.report import Report

__all__ = ["Report"]
