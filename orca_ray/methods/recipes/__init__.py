"""The methods: each module declares a `Recipe` as ``RECIPE``, or several as
``RECIPES``. None imports torch.
"""
