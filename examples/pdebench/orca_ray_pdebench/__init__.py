"""Solvers of three of PDEBench's equations, as a plug-in of orca-ray: gases in 1D and 2D, diffusion with sorption."""
