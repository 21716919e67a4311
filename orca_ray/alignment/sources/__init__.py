"""Alignment sources: each module defines ``SOURCE``, a `Source` with the name of the module.

The modules must be fast to import, so they import torch and other large libraries inside ``sample``.
"""
