"""Solved samples, shared by the tests of one process."""

from functools import cache

from orca_ray.simulation.simulation import Fields, generators, get_simulation


@cache
def solved(task: str, start: int = 0, stop: int = 4) -> Fields:
    """Return samples ``start`` to ``stop`` (exclusive) of seed 0, as the command solves them."""
    return get_simulation(f"pdebench/{task}").solve(generators(0, start, stop))
