"""Data of tasks: raw files fetched, verified and read safely; splits; prepared arrays,
mapped and fingerprinted.
"""
