"""The methods, of which none imports torch.

Each module declares a `Recipe` as ``RECIPE``, or several as ``RECIPES``.
"""
