"""File names of PDEBench, and the mark of files generated here; tasks read such files, simulations write them."""

from collections.abc import Mapping

MARK = "orca_ray_generated"
"""HDF5 root attribute of a generated file: JSON with task, samples, seed, version, equation and numerics."""

FILES: Mapping[str, str] = {
    "advection": "1D_Advection_Sols_beta0.4.hdf5",
    "burgers": "1D_Burgers_Sols_Nu1.0.hdf5",
    "cfd_1d": "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5",
    "cfd_2d": "2D_CFD_Rand_M1.0_Eta0.1_Zeta0.1_periodic_128_Train.hdf5",
    "darcy": "2D_DarcyFlow_beta0.1_Train.hdf5",
    "diffusion_reaction_1d": "ReacDiff_Nu0.5_Rho1.0.hdf5",
    "diffusion_reaction_2d": "2D_diff-react_NA_NA.h5",
    "diffusion_sorption": "1D_diff-sorp_NA_NA.h5",
    "shallow_water": "2D_rdb_NA_NA.h5",
}
"""File name in PDEBench of each task, e.g. "advection" for the task ``pdebench/advection``."""
