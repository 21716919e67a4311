"""PDEBench: from the first to a later frame of simulated equations, nine tasks."""
