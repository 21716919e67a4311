"""Simulations that generate data sets in PDEBench's file layout from the published equations, with NumPy and SciPy.

Module ``run`` generates a file and ``simulation`` finds simulations by name. Each equation has a module that defines a
``SIMULATION``.
"""
