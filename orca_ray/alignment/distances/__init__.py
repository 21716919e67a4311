"""Distances: a module ``<name>.py`` in this package that defines ``DISTANCE``, a `Distance`, is found by its name."""
