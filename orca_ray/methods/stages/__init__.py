"""The stages of a trial.

They import torch; options, recipes and registry of methods do not: planning must be
fast.
"""
