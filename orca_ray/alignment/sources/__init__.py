"""Alignment sources: a module ``<name>.py`` in this package that defines ``SOURCE``, a `Source`, is found by its name.

The modules must be cheap to import: heavy libraries are imported inside ``sample``.
"""
