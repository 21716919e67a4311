"""Alignment sources: each module defines ``SOURCE``, and imports torch and other large libraries inside functions."""
