"""Distances: each module defines ``DISTANCE``, a subclass of `Distance` whose ``name``
is that of the module.
"""
