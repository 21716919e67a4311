"""Simulations that generate the files of PDEBench's tasks, by published equations."""
