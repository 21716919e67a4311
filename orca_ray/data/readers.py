"""Readers of raw files, which execute nothing and name file and field in their errors.

Pickles are read by `orca_ray.data.safe_pickle`, archives by `orca_ray.data.archives`.
"""

from orca_ray.data.checks import refuse_labels, refuse_not_finite, refuse_shape
from orca_ray.data.hdf5 import MatArray, open_hdf5, read_mat, refuse_foreign_data
from orca_ray.data.npy import open_npz, read_npy
from orca_ray.data.text_files import read_csv, read_lines
from orca_ray.data.wav import read_wav

__all__ = [
    "MatArray", "open_hdf5", "open_npz", "read_csv", "read_lines", "read_mat", "read_npy", "read_wav",
    "refuse_foreign_data", "refuse_labels", "refuse_not_finite", "refuse_shape",
]  # fmt: skip
