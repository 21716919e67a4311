"""Distances: each module defines ``DISTANCE``, a subclass of `Distance` with the name of the module."""
