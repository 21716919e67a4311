"""Simulations of five of PDEBench's tasks, as a plug-in of orca-ray: gases, and those with a group per sample."""
