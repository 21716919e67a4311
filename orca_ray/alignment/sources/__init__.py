"""Alignment sources: each module defines a ``SOURCE``.

The modules import torch and other large libraries in functions.
"""
