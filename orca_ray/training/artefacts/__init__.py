"""Artefacts, small pictures of what a trained model does: their base in `base`, and our
kinds in `kinds`.
"""
