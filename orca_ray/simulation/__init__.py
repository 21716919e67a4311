"""Simulations that generate data sets in PDEBench's file layout from the published equations, with NumPy and SciPy.

``run`` generates a file, ``simulation`` finds simulations by name and has the layouts of files; each equation has a
module with a ``SIMULATION``.
"""
