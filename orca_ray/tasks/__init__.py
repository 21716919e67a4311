"""Tasks, one package per benchmark, their losses, metrics and augmentations, and the
registry of tasks by name.
"""
