"""Trackers that show the trials of a sweep in MLflow and Weights & Biases, as a plug-in
of orca-ray.
"""
