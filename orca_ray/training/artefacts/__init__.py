"""The kinds of artefacts, one module each; see `orca_ray.training.artefact`."""
