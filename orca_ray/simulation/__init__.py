"""Small data sets solved here from PDEBench's published equations, in PDEBench's own file layout.

``registry`` names what can be generated, ``run`` generates it, ``files`` writes it; there is one module an equation,
and what equations share (initial fields, time steppers, finite volumes) has modules of its own. Only numpy and scipy.
"""
