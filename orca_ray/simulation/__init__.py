"""Simulations that generate data sets in PDEBench's file layout from the published equations, with NumPy and SciPy."""
