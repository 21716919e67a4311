"""What can be generated: a table of names and the modules that hold them, imported when they are asked for."""

import importlib
from typing import TYPE_CHECKING

from orca_ray.errors import unknown_name

if TYPE_CHECKING:
    from orca_ray.simulation.simulation import Simulation

MODULES = {
    "pdebench/advection": "advection",
    "pdebench/burgers": "burgers",
    "pdebench/cfd_1d": "cfd_1d",
    "pdebench/cfd_2d": "cfd_2d",
    "pdebench/darcy": "darcy",
    "pdebench/diffusion_reaction_1d": "diffusion_reaction_1d",
    "pdebench/diffusion_reaction_2d": "diffusion_reaction_2d",
    "pdebench/diffusion_sorption": "diffusion_sorption",
    "pdebench/shallow_water": "shallow_water",
}


def simulation(name: str) -> "Simulation":
    """Return the simulation of a task; raises UserError for a name that is none, with the nearest that is."""
    if name not in MODULES:
        raise unknown_name("task to generate", name, MODULES)
    module = importlib.import_module(f"orca_ray.simulation.{MODULES[name]}")
    found: Simulation = module.SIMULATION
    return found
