"""The tasks of PDEBench on simulations that ``orca-sweep data generate`` makes: a benchmark and a board apart."""
