"""The tasks of PDEBench on simulations made by ``orca-sweep data generate``, a benchmark of their own."""
