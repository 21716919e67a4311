"""Distances: each module defines the ``DISTANCE`` of its name."""
