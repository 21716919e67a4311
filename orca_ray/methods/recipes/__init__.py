"""The methods; their modules do not import torch.

Each module declares a `Recipe` as ``RECIPE``, or several as ``RECIPES``.
"""
