"""Data sets in PDEBench's file layout, simulated on this machine from the published equations; NumPy and SciPy only.

``run`` generates a file, ``simulation`` finds simulations by name; each equation has a module with a ``SIMULATION``.
"""
