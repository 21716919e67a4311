"""Records of finished trials, and the results store of Parquet files; imports neither torch nor ray."""

from orca_ray.results.record import PHASES, PROTOCOLS, CurvePoint, Record, Status
from orca_ray.results.store import ResultsStore

__all__ = ["PHASES", "PROTOCOLS", "CurvePoint", "Record", "ResultsStore", "Status"]
