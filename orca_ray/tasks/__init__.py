"""Tasks, one package per benchmark, and their registry.

Losses, metrics and augmentations of tasks are here, too.
"""
