"""Solvers of PDEBench's equations of compressible gases, in 1D and 2D, as a plug-in of orca-ray."""
