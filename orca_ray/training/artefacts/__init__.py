"""Artefacts, small pictures of what a trained model does.

Their base class is in `base`, and orca-ray's own kinds are in `kinds`.
"""
