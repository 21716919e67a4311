"""The stages of a trial. The other modules of `orca_ray.methods` do not import torch, so that planning is fast."""
