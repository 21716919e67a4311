"""PDEBench: nine tasks that map the first frame of a simulation to a later one."""
