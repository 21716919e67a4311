"""Alignment sources: each module defines a ``SOURCE``, and imports torch and other
large libraries in functions.
"""
