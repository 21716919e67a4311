"""Simulations that generate the files of PDEBench's tasks from the published equations:
a plug-in of orca-ray.
"""
