"""Data of tasks: raw files, safe readers, splits and prepared arrays.

Raw files are fetched and verified; prepared arrays are memory-mapped and fingerprinted.
"""
