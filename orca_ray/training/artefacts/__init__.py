"""Artefacts, small pictures of what a trained model does.

Their base is in `base`, our kinds in `kinds`.
"""
